"""Plans keep the published batch, and memory is estimated within a third of what others log."""

import copy

import pytest

from backbones import ConfigError
from downstream.zoo import find_row
from downstream.zoo.plan import MemoryEstimate, describe_plan, plan_training

CASCADE = 'cascade-mask-rcnn_convnext-base_in1k_3x_coco'
# GB that mmdetection and mmsegmentation log for the same recipe, and images per GPU.
LOGGED = {
    'cascade-mask-rcnn_convnext-tiny_in1k_3x_coco': (9.0, 2),
    'cascade-mask-rcnn_convnext-small_in1k_3x_coco': (12.3, 2),
    'mask-rcnn_convnext-tiny_in1k_3x_coco': (7.3, 2),
    'mask-rcnn_convnextv2-base_fcmae_3x-lsj_coco': (22.5, 4),
    'upernet_convnext-tiny_in1k_160k_ade20k-512x512': (4.23, 2),
    'upernet_convnext-small_in1k_160k_ade20k-512x512': (5.16, 2),
    'upernet_convnext-base_in1k_160k_ade20k-512x512': (6.33, 2),
    'upernet_convnext-base_in22k_160k_ade20k-640x640': (8.53, 2),
    'upernet_convnext-large_in22k_160k_ade20k-640x640': (12.08, 2),
}


@pytest.mark.parametrize(('name', 'logged'), LOGGED.items())
def test_memory_is_estimated_within_a_third(name, logged):
    cfg = find_row(name).cfg.copy()
    cfg.optim_wrapper.type = 'AmpOptimWrapper'  # they use it for L and XL, too
    cfg.model_wrapper_cfg = dict(gradient_as_bucket_view=False)  # mmengine's default
    gigabytes, batch = logged
    assert MemoryEstimate(cfg)(batch) == pytest.approx(gigabytes, rel=1 / 3)


def test_the_batch_is_kept():
    row = find_row(CASCADE)
    for gpus in (1, 2, 4, 8, 16):
        found = plan_training(row, gpus)
        assert found.batch_per_gpu * found.gpus * found.accumulation == 16
        assert found.steps == 36 * 7330
        assert found.accumulation == 1
    small = plan_training(row, 2, memory=10)
    assert (small.batch_per_gpu, small.accumulation) == (1, 8)
    assert small.memory <= 10
    text = describe_plan(row, small)
    assert '--keep-batch' in text
    assert 'train_dataloader.batch_size=1' in text
    assert '--keep-batch' not in describe_plan(row, plan_training(row, 8))


def test_a_segmenters_single_gpu_sees_two_images():
    assert (
        plan_training(
            find_row('upernet_convnext-tiny_in1k_160k_ade20k-512x512'), 1, 6
        ).batch_per_gpu
        == 2
    )


def test_frozen_backbones_take_less():
    frozen, trained = (
        MemoryEstimate(find_row(f'cascade-mask-rcnn_convnext-large_dinov3-lvd1689m_{s}_coco').cfg)(
            2
        )
        for s in ('3x-frozen', '3x')
    )
    assert frozen < 0.6 * trained


@pytest.mark.parametrize(
    ('gpus', 'memory', 'message'),
    [(3, None, '3 GPUs cannot share'), (0, None, 'at least 1'), (8, 2, 'with_cp=True')],
)
def test_what_cannot_be_is_one_clear_error(gpus, memory, message):
    with pytest.raises(ConfigError, match=message):
        plan_training(find_row(CASCADE), gpus, memory)


def test_buckets_and_temporaries_of_the_step_are_counted():
    """16 bytes a trained parameter; 4 for copies in buckets; 4 in a step that outweighs a batch."""
    cfg = find_row('mask-rcnn_convnextv2-huge_fcmae_3x-lsj_coco').cfg
    one = MemoryEstimate(cfg, 1)
    assert MemoryEstimate(cfg, 8).fixed == one.fixed
    cfg.model_wrapper_cfg = dict(gradient_as_bucket_view=False)
    several = MemoryEstimate(cfg, 8)
    trained = find_row('mask-rcnn_convnextv2-huge_fcmae_3x-lsj_coco').params
    assert several.fixed - one.fixed == 4 * trained
    assert several(0) * 2**30 == pytest.approx((16 + 4 + 4) * trained + 0.5 * 2**30, rel=0.12)
    fused = copy.deepcopy(cfg)
    fused.optim_wrapper.optimizer.fused = True  # without temporaries
    assert MemoryEstimate(fused, 1).step == 0 < one.step
