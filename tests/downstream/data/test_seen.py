"""Pictures of what a model sees: the tensors it gets, normalisation undone, with their targets."""

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from downstream.data.images.loading import LoadBands
from downstream.data.pictures.seen import BatchPictures
from downstream.data.reading import CheckedLoader
from downstream.detection.preprocessor import AsyncDetDataPreprocessor
from downstream.drawing import class_color
from downstream.segmentation.preprocessor import AsyncSegDataPreProcessor

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


class Data:
    """A data set as far as pictures ask it."""

    def __init__(self, classes: tuple, pipeline: list = ()) -> None:
        self.metainfo = {'classes': classes}
        self.pipeline = list(pipeline)


def image_of(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def rows_of_image(picture: np.ndarray, height: int) -> np.ndarray:
    return picture[-height:]  # the name is above


def test_pixels_of_a_detector_are_those_of_the_file():
    image = image_of(3, 50, 60)
    sample = DetDataSample(metainfo=dict(img_path='a/b.jpg', img_shape=(50, 60)))
    sample.gt_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=int))
    own = AsyncDetDataPreprocessor(mean=MEAN, std=STD, bgr_to_rgb=True, pad_size_divisor=32)
    batch = own({'inputs': [image], 'data_samples': [sample]}, training=True)
    (picture,) = BatchPictures(Data(('cat',)), own).draw(batch)
    shown = rows_of_image(picture, 64)
    assert shown.shape == (64, 64, 3)  # padded, as the model gets it
    assert (shown[:50, :60] == image.permute(1, 2, 0).numpy()).all()


def test_objects_and_crowds_are_drawn():
    sample = DetDataSample(metainfo=dict(img_path='b.jpg', img_shape=(128, 128)))
    mask = np.zeros((1, 128, 128), np.uint8)
    mask[0, 40:60, 40:60] = 1
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[30.0, 30, 70, 70]]),
        labels=torch.tensor([1]),
        masks=BitmapMasks(mask, 128, 128),
    )
    sample.ignored_instances = InstanceData(
        bboxes=torch.tensor([[90.0, 90, 120, 120]]), labels=torch.tensor([0])
    )
    own = AsyncDetDataPreprocessor(mean=MEAN, std=STD, pad_mask=True)
    black = torch.zeros(3, 128, 128, dtype=torch.uint8)
    batch = own({'inputs': [black], 'data_samples': [sample]}, training=True)
    (picture,) = BatchPictures(Data(('cat', 'dog')), own).draw(batch)
    shown = rows_of_image(picture, 128)[..., ::-1]
    assert tuple(shown[50, 30]) == class_color(1)  # the box
    assert shown[50, 50].any()
    assert not shown[65, 50].any()
    assert tuple(shown[105, 90]) == class_color(0)  # the crowd, in the colour of its class


def test_label_maps_are_drawn_on_the_crop():
    image, label_map = image_of(3, 32, 48), torch.full((1, 32, 48), 255)
    label_map[:, 8:24, 8:24] = 0
    sample = SegDataSample(metainfo=dict(img_path='c.png', img_shape=(32, 48)))
    sample.gt_sem_seg = PixelData(data=label_map)
    own = AsyncSegDataPreProcessor(mean=MEAN, std=STD, bgr_to_rgb=True, size=(32, 48))
    batch = own({'inputs': [image], 'data_samples': [sample]}, training=True)
    (picture,) = BatchPictures(Data(('x',)), own).draw(batch)
    shown = rows_of_image(picture, 32).astype(int)
    same = (shown == image.permute(1, 2, 0).numpy()).all(2)
    assert same[0].all()
    assert same[:, -1].all()
    assert not same[10:20, 9:12].any()


@pytest.mark.parametrize('deep', [False, True])
def test_bands_are_shown_as_pictures_of_them_are(deep):
    image = image_of(4, 20, 20)
    pixels = image.float() * 100 if deep else image
    loader = LoadBands(bands=(1, 2, 3, 4), picture_bands=(4, 2, 1))
    own = AsyncDetDataPreprocessor(mean=[1.0] * 4, std=[2.0] * 4)
    sample = DetDataSample(metainfo=dict(img_id=7, img_shape=(20, 20)))
    batch = own({'inputs': [pixels], 'data_samples': [sample]}, training=False)
    pictures = BatchPictures(Data(('x',), [CheckedLoader(loader, ())]), own)
    (picture,) = pictures.draw(batch)
    expected = loader.picture(pixels.permute(1, 2, 0).numpy())
    away = np.abs(rows_of_image(picture, 20)[..., ::-1].astype(int) - expected)
    assert away.max() <= 1  # float32
    assert cv2.imencode('.jpg', picture)[0]
