"""Annotations drawn on images: one way, whoever draws them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from downstream.data.pictures.seen import BatchPictures
from downstream.data.pictures.truth import draw_truth
from downstream.detection.preprocessor import AsyncDetDataPreprocessor
from downstream.drawing import draw_detections
from downstream.running import DetectionPicturesHook, SegmentationPicturesHook
from downstream.segmentation.preprocessor import AsyncSegDataPreProcessor

CLASSES = ('cat', 'dog', 'owl')
SIDE = 128


def objects(boxes: list, labels: list, with_masks: bool) -> InstanceData:
    made = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels=torch.tensor(labels)
    )
    if with_masks:
        masks = np.zeros((len(boxes), SIDE, SIDE), np.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes):
            mask[top + 4 : bottom - 4, left + 4 : right - 4] = 1
        made.masks = BitmapMasks(masks, SIDE, SIDE)
    return made


def detection_sample(with_masks: bool, with_crowd: bool) -> DetDataSample:
    size = {'img_shape': (SIDE, SIDE), 'ori_shape': (SIDE, SIDE), 'img_path': 'a.png'}
    sample = DetDataSample(metainfo=size)
    sample.gt_instances = objects([[20, 30, 60, 70]], [1], with_masks)
    crowd = ([[70, 40, 110, 100]], [2]) if with_crowd else ([], [])
    sample.ignored_instances = objects(*crowd, with_masks)
    sample.pred_instances = objects([], [], False)
    sample.pred_instances.scores = torch.zeros(0)
    return sample


def segmentation_sample() -> SegDataSample:
    sample = SegDataSample(metainfo={'img_shape': (SIDE, SIDE), 'img_path': 'a.png'})
    truth = torch.full((1, SIDE, SIDE), 255)
    truth[:, 20:90, 30:60], truth[:, 20:90, 60:] = 0, 2
    sample.gt_sem_seg = sample.pred_sem_seg = PixelData(data=truth)
    return sample


@pytest.mark.parametrize('with_masks', [False, True])
def test_objects_and_crowds(with_masks):
    image = np.full((SIDE, SIDE, 3), 120, np.uint8)
    sample = detection_sample(with_masks, True)
    masks = None
    if with_masks:
        masks = [*sample.gt_instances.masks.masks, *sample.ignored_instances.masks.masks]
    boxes = [[20, 30, 60, 70], [70, 40, 110, 100]]
    expected = draw_detections(
        image, boxes, [1, 2], masks=masks, classes=CLASSES, captions=['dog', 'owl crowd']
    )
    assert (draw_truth(image, sample, CLASSES) == expected).all()


def test_crowds_without_masks_beside_objects_that_have_them():
    sample = detection_sample(True, True)
    del sample.ignored_instances.masks
    image = np.full((SIDE, SIDE, 3), 120, np.uint8)
    drawn = draw_truth(image, sample, CLASSES)
    assert (drawn[62, 40] == drawn[58, 40]).all()  # the tint of the object
    assert (drawn[62, 40] != 120).any()
    assert (drawn[90, 90] == 120).all()  # within the crowd's box


def test_samples_without_annotations():
    image = np.full((SIDE, SIDE, 3), 120, np.uint8)
    assert draw_truth(image, DetDataSample(), CLASSES) is None
    assert draw_truth(image, SegDataSample(), CLASSES) is None


@pytest.mark.parametrize('kind', ['boxes', 'masks', 'no crowd', 'pixels'])
def test_batches_and_tests_show_the_same(kind, tmp_path):
    """The picture of a batch, below its name, is the ground truth of a test."""
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    if kind == 'pixels':
        sample, hook = segmentation_sample(), SegmentationPicturesHook()
        own = AsyncSegDataPreProcessor(mean=[0.0] * 3, std=[1.0] * 3, size=(SIDE, SIDE))
    else:
        sample, hook = (
            detection_sample(kind == 'masks', kind != 'no crowd'),
            DetectionPicturesHook(),
        )
        own = AsyncDetDataPreprocessor(mean=[0.0] * 3, std=[1.0] * 3, pad_mask=True)
    truth = hook.panels(pixels, sample, CLASSES)['ground truth']
    image = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    batch = own({'inputs': [image], 'data_samples': [sample]}, training=True)
    dataset = SimpleNamespace(metainfo={'classes': CLASSES}, pipeline=[])
    (seen,) = BatchPictures(dataset, own).draw(batch)
    assert (seen[-SIDE:] == truth).all()
