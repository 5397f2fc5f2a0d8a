"""Everyday settings change all of a config that depends on them, and nothing else."""

import math

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope

from backbones import ConfigError
from downstream.data.pipelines import pipeline_switches
from downstream.paths import CONFIGS, find_config
from downstream.running import settings
from downstream.running.config import TrainOptions, read_config, training_config
from downstream.running.options.batch_probe import largest_size
from downstream.running.resume.seeded_data import exact_dataloader
from tests.conftest import EXAMPLES, ROOT, write_tiny_config
from tests.support.schedules import learning_rates

CASCADE = CONFIGS / 'det/cascade-mask-rcnn_convnext-tiny_in1k_3x_coco.py'
UPERNET = CONFIGS / 'seg/upernet_convnext-tiny_in1k_160k_ade20k-512x512.py'
UPERNET_640 = CONFIGS / 'seg/upernet_swin-base_in22k_160k_ade20k-640x640.py'

RTMDET = CONFIGS / 'det/rtmdet-l_convnext-base_in22k-in1k-384_100e_coco.py'


def read(path) -> Config:
    return Config.fromfile(path)


def test_without_options_a_row_stays_as_it_is():
    for path in (CASCADE, UPERNET):
        plain = read(path)
        cfg = training_config(TrainOptions(str(path)))
        plain.optim_wrapper.type = cfg.optim_wrapper.type  # the device's precision
        for key in plain:
            if key not in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
                assert cfg[key] == plain[key], key


def test_the_crop_of_640_is_the_papers_other_recipe():
    """Swin's and ConvNeXt's recipes for 640 pixels, which were written down by hand."""
    cfg, expected = read(UPERNET), read(UPERNET_640)
    settings.set_image_size(cfg, 640)
    for key in ('train_pipeline', 'test_pipeline', 'tta_pipeline', 'crop_size', 'image_scale'):
        assert cfg[key] == expected[key], key
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        assert cfg[loader] == expected[loader]
    assert cfg.model.data_preprocessor.size == (640, 640)
    assert cfg.model.test_cfg == {'mode': 'slide', 'crop_size': (640, 640), 'stride': (426, 426)}
    settings.set_image_size(cfg, 512)
    assert cfg.train_dataloader == read(UPERNET).train_dataloader


def test_a_detector_at_half_its_size():
    cfg = read(CASCADE)
    settings.set_image_size(cfg, 400)
    choice = cfg.train_dataloader.dataset.pipeline[3].transforms
    assert choice[0][0].scales == [(side // 2, 667) for side in range(480, 801, 32)]
    assert choice[1][1].crop_size == (192, 300)
    assert cfg.test_dataloader.dataset.pipeline[1].scale == (667, 400)
    assert [r.scale for r in cfg.tta_pipeline[1].transforms[0]] == [
        (667, 320),
        (667, 400),
        (800, 480),
    ]
    assert cfg.model == read(CASCADE).model
    assert largest_size(cfg) == (416, 672)


def test_large_scale_jitter_pads_to_the_new_size():
    cfg = read(CONFIGS / 'det/mask-rcnn_convnextv2-base_fcmae_3x-lsj_coco.py')
    assert largest_size(cfg) == (1024, 1024)
    settings.set_image_size(cfg, 400)
    assert cfg.model.data_preprocessor.batch_augments[0]['size'] == (512, 512)
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert steps['RandomResize'].scale == steps['RandomCrop'].crop_size == (512, 512)
    assert steps['RandomResize'].ratio_range == (0.1, 2.0)


def test_the_last_pipeline_of_rtmdet_follows_length_and_size():
    cfg = read(RTMDET)
    settings.set_epochs(cfg, 20, 1280, 128)
    settings.set_image_size(cfg, 320)
    (switch,) = pipeline_switches(cfg)
    assert switch.switch_epoch == 18
    assert cfg.train_cfg.dynamic_intervals == [(18, 1)]
    for pipeline in (switch.switch_pipeline, cfg.train_dataloader.dataset.pipeline):
        steps = {step.type: step for step in pipeline}
        assert steps['RandomCrop'].crop_size == steps['Pad']['size'] == (320, 320)
    assert steps['CachedMosaic'].img_scale == steps['CachedMixUp'].img_scale == (320, 320)


def test_a_pipeline_that_sets_no_size_is_said():
    cfg = read(ROOT / EXAMPLES['detection'])
    with pytest.raises(ConfigError, match='does not set the size of images; add a Resize'):
        settings.set_image_size(cfg, 128)


def rates(cfg: Config, steps_per_epoch: int) -> list[float]:
    """Learning rate at every step, by torch's and mmengine's own schedulers."""
    by_epoch = 'max_epochs' in cfg.train_cfg
    length = cfg.train_cfg.max_epochs * steps_per_epoch if by_epoch else cfg.train_cfg.max_iters
    return learning_rates(cfg, cfg.optim_wrapper.optimizer.lr, length, steps_per_epoch)


def test_fewer_epochs_move_milestones_and_shorten_the_warm_up():
    cfg = read(CASCADE)
    settings.set_epochs(cfg, 12, images=160)  # ten steps of 16
    assert cfg.train_cfg.max_epochs == 12
    assert cfg.train_cfg.val_interval == 1
    found = rates(cfg, 10)
    assert len(found) == 120
    base = 2e-4
    assert found[0] == pytest.approx(base * 1e-3)
    assert [r == pytest.approx(base) for r in (found[11], found[12], found[89])] == [
        False,
        True,
        True,
    ]
    assert found[90] == found[109] == pytest.approx(base / 10)  # after 9 of 12, as after 27 of 36
    assert found[110] == found[119] == pytest.approx(base / 100)  # after 11 of 12, as 33 of 36


def test_the_recipes_own_number_of_epochs_changes_nothing():
    cfg = read(CASCADE)
    settings.set_epochs(cfg, 36, images=117_266)
    assert cfg.param_scheduler == read(CASCADE).param_scheduler
    assert cfg.train_cfg == read(CASCADE).train_cfg


def test_epochs_of_a_segmenter_are_counted_in_iterations():
    cfg = read(UPERNET)
    settings.set_epochs(cfg, 10, images=1601)
    steps = 10 * math.ceil(1601 / 16)
    assert cfg.train_cfg.max_iters == steps == 1010
    assert cfg.train_cfg.val_interval == cfg.default_hooks.checkpoint.interval == 101
    found = rates(cfg, 101)
    assert found[101] == pytest.approx(1e-4 * (1 - 101 / steps))
    assert found[100] < found[101]
    assert found[-1] == pytest.approx(1e-4 / steps)


def test_the_rate_follows_the_batch_unless_it_is_given():
    cfg = read(CASCADE)
    settings.set_batch(cfg, 4, processes=2)
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(2e-4 / 4)
    assert cfg.auto_scale_lr.base_batch_size == 4
    settings.set_batch(cfg, 16, processes=8, scale_lr=False)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(2e-4 / 4)
    with pytest.raises(ConfigError, match='multiple of the 2 processes'):
        settings.set_batch(cfg, 3, processes=2)


def test_the_rate_that_a_decay_ends_with_follows():
    cfg = read(RTMDET)
    former, lowest = cfg.optim_wrapper.optimizer.lr, cfg.param_scheduler[1].eta_min
    assert lowest == pytest.approx(former / 20)
    settings.set_batch(cfg, 16, processes=1)
    assert cfg.param_scheduler[1].eta_min == pytest.approx(former / 8 / 20)
    settings.set_rate(cfg, 0.1)
    assert cfg.param_scheduler[1].eta_min == pytest.approx(0.1 / 20)


def test_one_scheduler_may_stand_without_a_list(tmp_path):
    name = 'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py'
    cfg = read_config(TrainOptions(name, work_dir=str(tmp_path)))
    settings.set_rate(cfg, 1e-3)
    assert cfg.optim_wrapper.optimizer.lr == 1e-3
    assert [scheduler.type for scheduler in cfg.param_scheduler] == ['MultiStepLR']


@pytest.mark.parametrize(
    ('name', 'size'),
    [
        ('retinanet/retinanet_r50_fpn_ms-640-800-3x_coco.py', (800, 1344)),
        ('yolox/yolox_s_8xb8-300e_coco.py', (800, 800)),
    ],
)
def test_the_largest_size_of_a_stock_recipe(name, size):
    assert largest_size(read(find_config(f'mmdet::{name}'))) == size


def test_a_segmenter_sees_as_many_images_at_another_batch():
    cfg = read(UPERNET)
    settings.set_batch(cfg, 8, processes=1)
    assert cfg.train_cfg.max_iters == 320_000
    assert cfg.train_cfg.val_interval == 32_000
    assert cfg.param_scheduler[1].end == 320_001
    assert cfg.param_scheduler[0] == read(UPERNET).param_scheduler[0]
    with pytest.raises(ConfigError, match='at least 2'):
        settings.set_batch(cfg, 1, processes=1)


def test_options_work_together_on_the_command_line(shapes, tmp_path):
    config = str(write_tiny_config('detection', shapes, tmp_path))
    cfg = training_config(
        TrainOptions(config, batch_size=2, lr=3e-4, epochs=5, patience=3, work_dir=str(tmp_path))
    )
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.optim_wrapper.optimizer.lr == 3e-4
    assert cfg.train_cfg.max_epochs == 5
    assert cfg.param_scheduler[0].end == 2  # a tenth of 5 x 2 steps
    hook = cfg.default_hooks.patience
    assert (hook.type, hook.monitor, hook.patience) == ('PatienceHook', 'coco/bbox_mAP', 3)


@pytest.mark.parametrize('keep_batch', [False, True])
def test_epochs_are_those_of_this_run_on_fewer_gpus_too(keep_batch, shapes, tmp_path):
    """4 images, 2 in a step of one process; the recipe's batch is 16."""
    path = tmp_path / 'small.py'
    path.write_text(
        f"_base_ = '{ROOT / EXAMPLES['segmentation']}'\ndata_root = '{shapes}/'\n"
        'train_dataloader = dict(batch_size=2, dataset=dict(data_root=data_root))\n'
    )
    cfg = training_config(
        TrainOptions(str(path), epochs=10, keep_batch=keep_batch, work_dir=str(tmp_path))
    )
    passes = cfg.train_cfg.max_iters
    assert passes == (80 if keep_batch else 20)  # a step of 16 takes eight passes of 2
    assert cfg.optim_wrapper.get('accumulative_counts', 1) == (8 if keep_batch else 1)


def test_the_data_set_whose_images_are_counted_is_trained_on(shapes, tmp_path, monkeypatch):
    from mmdet.datasets import CocoDataset

    read = []
    load = CocoDataset.load_data_list
    monkeypatch.setattr(
        CocoDataset, 'load_data_list', lambda self: read.append(self.ann_file) or load(self)
    )
    config = str(write_tiny_config('detection', shapes, tmp_path))
    cfg = training_config(TrainOptions(config, epochs=5, work_dir=str(tmp_path)))
    assert len(read) == 1
    with DefaultScope.overwrite_default_scope('mmdet'):
        loaders = [exact_dataloader(cfg.train_dataloader, seed) for seed in (0, 1)]
        assert len(read) == 2  # the second run has a data set of its own
        cfg.train_dataloader.dataset.indices = 2
        settings.training_images(cfg)
        cfg.train_dataloader.dataset.indices = 3  # which is another one
        loaders.append(exact_dataloader(cfg.train_dataloader, 0))
    assert [len(loader['dataset'].dataset) for loader in loaders] == [4, 4, 3]


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(epochs=0), '--epochs 0'),
        (dict(lr=0.0), '--lr 0'),
        (dict(batch_size=0), '--batch-size 0'),
        (dict(image_size=8), '--image-size 8'),
        (dict(patience=0), '--patience 0'),
        (dict(batch_size=4, keep_batch=True), 'leave --keep-batch out'),
        (dict(batch_size=4, auto_scale_lr=True), 'leave --auto-scale-lr out'),
    ],
)
def test_impossible_values_are_one_line(options, words, shapes, tmp_path):
    config = str(write_tiny_config('detection', shapes, tmp_path))
    with pytest.raises(ConfigError, match=words):
        training_config(TrainOptions(config, **options))


class Hub(dict):
    """As much of mmengine's MessageHub as the hook uses."""

    runtime_info = property(lambda self: self)
    get_info = dict.__getitem__
    update_info = dict.__setitem__


class Run:
    def __init__(self, hub):
        self.message_hub = hub
        self.train_loop = type('Loop', (), {'stop_training': False})()
        self.logger = type('Logger', (), {'info': print})()


def test_patience_ends_a_run_and_survives_a_resume():
    from downstream.running import PatienceHook

    run = Run(Hub())
    for figure in (0.1, 0.2, 0.2):
        PatienceHook('mIoU', 3).after_val_epoch(run, {'mIoU': figure})
    run = Run(run.message_hub)  # resumed
    hook = PatienceHook('mIoU', 3)
    hook.after_val_epoch(run, {'mIoU': 0.15})
    assert not run.train_loop.stop_training
    hook.after_val_epoch(run, {'mIoU': float('nan')})
    assert run.train_loop.stop_training
    with pytest.raises(
        ConfigError, match="'mIoU' is no figure of the evaluation; it reports mDice"
    ):
        hook.after_val_epoch(run, {'mDice': 1.0})
