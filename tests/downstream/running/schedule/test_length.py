"""What moves with the length of a run: YOLOX's schedule of three parts and its last epochs."""

import pytest
from mmengine.config import Config

from downstream.paths import find_config
from downstream.running import settings
from tests.support.schedules import learning_rates

YOLOX = 'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py'
RATE = 0.01


def rates(epochs: int, images: int) -> list[float]:
    """Of every step, in batches of eight."""
    cfg = Config.fromfile(find_config(YOLOX))
    settings.set_epochs(cfg, epochs, images, 8)
    steps = -(-images // 8)
    return learning_rates(cfg, RATE, epochs * steps, steps)


def test_the_last_epochs_of_yolox_follow_the_length():
    cfg = Config.fromfile(find_config(YOLOX))
    settings.set_epochs(cfg, 40, 800, 8)
    assert [h.num_last_epochs for h in cfg.custom_hooks if 'num_last_epochs' in h] == [2]
    settings.set_epochs(cfg, 4, 800, 8)
    assert [h.num_last_epochs for h in cfg.custom_hooks if 'num_last_epochs' in h] == [0]


@pytest.mark.parametrize('epochs', [60, 20, 7])
def test_a_schedule_of_three_parts_keeps_its_parts(epochs):
    """Warm-up to 1/60 of the run, cosine to 19/20, then a constant rate of a twentieth."""
    found, whole = rates(epochs, 800), rates(300, 800)
    assert len(found) == 100 * epochs
    assert max(found) == pytest.approx(RATE, rel=0.02)
    for part in (0.1, 0.3, 0.5, 0.7, 0.9, 0.97):
        expected = whole[int(part * len(whole))]
        assert found[int(part * len(found))] == pytest.approx(expected, rel=0.05), part
    assert found[-1] == pytest.approx(RATE * 0.05, rel=0.02)


def test_a_part_that_is_shorter_than_a_step_is_left_out():
    found = rates(3, 16)  # six steps
    assert len(found) == 6
    assert found[0] == pytest.approx(RATE)
    assert found[-1] < found[0] / 5


def test_the_size_of_yolox_follows_in_borders_and_batches():
    cfg = Config.fromfile(find_config(YOLOX))
    former = settings.image_size(cfg)
    settings.set_image_size(cfg, former // 2)
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert (former, steps['Mosaic'].img_scale) == (416, (320, 320))  # trained at 640
    assert steps['RandomAffine'].border == (-160, -160)
    assert cfg.model.data_preprocessor.batch_augments[0].random_size_range == (160, 320)
    assert cfg.model.data_preprocessor.batch_augments[0].size_divisor == 32
