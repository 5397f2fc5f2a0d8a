"""Images and masks on their way to the device, against mmdet's and mmseg's own preprocessors."""

import copy

import numpy as np
import pytest
import torch
from mmdet.models import DetDataPreprocessor
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData
from mmseg.models import SegDataPreProcessor
from mmseg.structures import SegDataSample

from downstream.detection import AsyncDetDataPreprocessor
from downstream.detection.preprocessor import DeviceBitmapMasks
from downstream.segmentation import AsyncSegDataPreProcessor

PIXELS = {'mean': [123.675, 116.28, 103.53], 'std': [58.395, 57.12, 57.375]}


def images(*sizes: tuple[int, int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(256, (3, *s), generator=generator, dtype=torch.int).byte() for s in sizes]


def detection_batch() -> dict:
    rng = np.random.default_rng(0)
    samples = []
    for height, width in ((30, 41), (33, 20)):
        sample = DetDataSample(metainfo={'img_shape': (height, width)})
        masks = BitmapMasks(rng.integers(0, 2, (3, height, width), np.uint8), height, width)
        sample.gt_instances = InstanceData(bboxes=torch.rand(3, 4), masks=masks)
        samples.append(sample)
    return {'inputs': images((30, 41), (33, 20)), 'data_samples': samples}


@pytest.mark.parametrize('channels', [{}, {'bgr_to_rgb': True}, {'rgb_to_bgr': True}])
@pytest.mark.parametrize('training', [False, True])
def test_detectors_get_what_mmdets_gives(channels, training):
    options = {**PIXELS, **channels, 'pad_size_divisor': 32, 'pad_mask': True}
    batch = detection_batch()
    theirs = DetDataPreprocessor(**options)(copy.deepcopy(batch), training)
    ours = AsyncDetDataPreprocessor(**options)(copy.deepcopy(batch), training)
    assert torch.equal(ours['inputs'], theirs['inputs'])
    for own, other in zip(ours['data_samples'], theirs['data_samples']):
        assert np.array_equal(own.gt_instances.masks.masks, other.gt_instances.masks.masks)
        assert isinstance(own.gt_instances.masks, DeviceBitmapMasks) == training
        assert own.metainfo == other.metainfo


def test_segmenters_get_what_mmsegs_gives():
    samples = [
        SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 5, (1, 20, 24)))) for _ in range(2)
    ]
    batch = {'inputs': images((20, 24), (20, 24)), 'data_samples': samples}
    options = {**PIXELS, 'bgr_to_rgb': True, 'size': (32, 32), 'seg_pad_val': 255}
    theirs = SegDataPreProcessor(**options)(copy.deepcopy(batch), True)
    ours = AsyncSegDataPreProcessor(**options)(copy.deepcopy(batch), True)
    assert torch.equal(ours['inputs'], theirs['inputs'])
    for own, other in zip(ours['data_samples'], theirs['data_samples']):
        assert torch.equal(own.gt_sem_seg.data, other.gt_sem_seg.data)


@pytest.mark.parametrize('binarize', [True, False])
def test_masks_are_cut_out_as_mmdet_does(binarize, monkeypatch):
    rng = np.random.default_rng(0)
    bitmaps = rng.integers(0, 2, (4, 40, 50), np.uint8)
    theirs, ours = BitmapMasks(bitmaps, 40, 50), DeviceBitmapMasks(bitmaps, 40, 50)
    corners = rng.random((9, 2), np.float32) * 20
    boxes = np.concatenate([corners, corners + 15], 1)
    chosen = rng.integers(0, 4, 9)
    expected = theirs.crop_and_resize(boxes, (28, 28), chosen, binarize=binarize)
    found = ours.crop_and_resize(boxes, (28, 28), chosen, binarize=binarize)
    assert np.array_equal(found.masks, expected.masks)
    assert 0.2 < found.masks.mean() < 0.8
    assert ours.on('cpu') is ours.on('cpu')  # copied once
    nothing = ours.crop_and_resize(boxes[:0], (28, 28), chosen[:0])
    assert len(nothing) == 0
