"""An exported detector in the place of a model, on pictures in which there is something or nothing."""

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from torch import nn

pytest.importorskip('onnxscript')
pytest.importorskip('onnxruntime')

from downstream.exporting import write
from downstream.exporting.models import ExportedDetector
from downstream.exporting.trace import Shape, trace

FACTS = {
    'format': 1,
    'task': 'detection',
    'classes': ['bright'],
    'outputs': ['boxes', 'scores', 'labels', 'masks'],
    'input': dict(batch=1, height=None, width=None, channels=3, dtype='uint8', order='BGR'),
    'mask_threshold': 0.5,
}


class _BrightRows(nn.Module):
    """Every bright pixel of the first column is an object of 8 x 4 pixels."""

    outputs = ('boxes', 'scores', 'labels', 'masks')

    def forward(self, image):
        rows = (image[0, :, 0, 0] > 200).nonzero().squeeze(1)
        top = rows.float()
        boxes = torch.stack([torch.zeros_like(top), top, top * 0 + 8, top + 4], dim=1)
        masks = (top[:, None, None] * 0 + 1).expand(-1, 28, 28)
        return boxes, top * 0 + 0.9, rows * 0, masks


@pytest.fixture(scope='module', params=['onnx', 'torch'])
def detector(request, tmp_path_factory):
    program = trace(_BrightRows(), Shape(), 32)
    path = tmp_path_factory.mktemp('file') / f'bright{write.FORMATS[request.param][0]}'
    example = Shape().example(96, 64)
    write.write(program, _BrightRows(), FACTS, request.param, path, example)
    return ExportedDetector(str(path))


def found_in(detector, rows):
    """What is found in a picture of 40 x 48 that the pipeline has doubled, bright at some rows."""
    image = torch.zeros(3, 80, 96, dtype=torch.uint8)
    image[:, rows, 0] = 255
    sample = DetDataSample(metainfo=dict(ori_shape=(40, 48), scale_factor=(2.0, 2.0)))
    return detector.predict([image], [sample])[0].pred_instances


def test_objects_are_in_pixels_of_the_original(detector):
    found = found_in(detector, [10, 40])
    assert found.bboxes.tolist() == [[0, 5, 4, 7], [0, 20, 4, 22]]
    assert found.masks.shape == (2, 40, 48)
    rows, columns = np.nonzero(found.masks[1].numpy())
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 21, 0, 3)


def test_a_picture_without_objects(detector):
    found = found_in(detector, [])
    assert {name: tuple(found[name].shape) for name in ('bboxes', 'scores', 'labels', 'masks')} == {
        'bboxes': (0, 4),
        'scores': (0,),
        'labels': (0,),
        'masks': (0, 40, 48),
    }
