# What a run does besides training: logs, checkpoints, pictures. detection.py and segmentation.py add
# the scope in which names are looked up.
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='SafeCheckpointHook', interval=1, max_keep_ckpts=3, save_best='auto'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    progress=dict(type='ProgressHook'),
    finite=dict(type='FiniteLossHook', skips=0),
    unreadable=dict(type='UnreadableImagesHook', skips=0),
    preemption=dict(type='PreemptionHook'),
    hanging=dict(type='HangHook', minutes=10),
    cudnn_benchmark=dict(type='CudnnBenchmarkHook'),
    first_batches=dict(type='FirstBatchesHook'),
)
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    # Small messages go through gloo on the host; tensors of the GPU through NCCL. The time-out of both is
    # 30 minutes, longer than default_hooks.hanging.minutes.
    dist_cfg=dict(backend='cpu:gloo,cuda:nccl'),
)
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)
log_level = 'INFO'
load_from = None
resume = False
