"""What the header of a card says of a model."""

import pytest

from downstream.publishing.card import _task
from downstream.running.config import RunOptions, read_config


@pytest.mark.parametrize(
    ('config', 'task'),
    [
        ('cascade-mask-rcnn_convnext-atto_shapes', 'image-segmentation'),
        ('mask2former_convnext-tiny_in1k_50e-lsj_coco', 'image-segmentation'),
        ('dino_convnext-atto_shapes', 'object-detection'),
        ('upernet_convnext-atto_shapes', 'image-segmentation'),
    ],
)
def test_the_task_is_that_of_the_predictions(config, task):
    assert _task(read_config(RunOptions(config))) == task
