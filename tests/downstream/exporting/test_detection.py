"""An exported detector finds what its model finds in the pixels of a picture."""

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

pytest.importorskip('onnxscript')
pytest.importorskip('onnxruntime')

from downstream.exporting import write
from downstream.exporting.files import open_exported
from downstream.exporting.graph.detection import PictureDetector
from downstream.exporting.graph.picture import PictureRules
from downstream.exporting.standalone import pasted, placed_objects
from downstream.exporting.trace import Shape, trace

from .detectors import assert_equal, build, by_mmdet, model_config
from .pictures import STRIDE, picture

FACTS = {
    'format': 1,
    'task': 'detection',
    'classes': ['a', 'b', 'c'],
    'input': dict(batch=1, height=None, width=None, channels=3, dtype='uint8', order='BGR'),
    'resize': None,
    'mask_threshold': 0.5,
}


def normalised(image, rules):
    """As mmdet's preprocessor: RGB, normalised, padded to the stride."""
    x = torch.from_numpy(image).permute(2, 0, 1).flip(0)[None].float()
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (rules.mean, rules.std))
    x = (x - mean) / std
    return F.pad(x, (0, -x.shape[3] % STRIDE, 0, -x.shape[2] % STRIDE))


def sloped(_, args, logits):
    """Logits that rise from cell to cell: those in the padding would be equal, and in no order."""
    rows, columns = (torch.arange(size) for size in logits.shape[-2:])
    return logits + 0.003 * (rows[:, None] + 2**0.5 * columns)


def exported(config, path, formats):
    """The model, its rules, its graph and its files, from one trace."""
    model = build(config)
    model.rpn_head.rpn_cls.register_forward_hook(sloped)
    rules = PictureRules.of(config.data_preprocessor, STRIDE)
    graph = PictureDetector(copy.deepcopy(model), rules)
    program = trace(graph, Shape(), STRIDE)
    facts = {**FACTS, 'outputs': list(graph.outputs)}
    example = torch.from_numpy(picture(128, 96))[None]
    files = []
    for name in formats:
        out = path.with_suffix(write.FORMATS[name][0])
        write.write(copy.copy(program), graph, facts, name, out, example)
        files.append(open_exported(out))
    return model, rules, graph, files


def compare(file, model, rules, height, width, seed):
    """Compare a file with mmdet on one picture; returns how many objects there are."""
    image = picture(height, width, seed)
    found = file.run(image[None])
    expected = by_mmdet(model, normalised(image, rules), height, width)
    assert_equal([found[name] for name in ('boxes', 'scores', 'labels')], expected)
    placed = placed_objects(found, image.shape[:2], image.shape[:2], FACTS)
    assert placed['masks'].shape == (len(expected), height, width)
    assert (placed['masks'] != expected.masks.numpy()).mean() < 1e-3 if len(expected) else True
    return len(expected)


def test_files_find_what_the_model_finds(tmp_path):
    config = model_config('mask-rcnn', 'v2')
    model, rules, _, files = exported(config, tmp_path / 'a.onnx', ['onnx', 'torch'])
    for file in files:
        counts = [
            compare(file, model, rules, height, width, seed)
            for seed, (height, width) in enumerate([(128, 96), (97, 171), (1, 1), (200, 130)])
        ]
        assert max(counts) > 3
        blank = file.run(np.full((1, 64, 64, 3), 114, np.uint8))
        assert len(blank['boxes']) == len(blank['masks'])


@pytest.mark.parametrize('backbone', ['v1', 'resnet', 'swin'])
@pytest.mark.slow
def test_files_take_every_size(tmp_path, backbone):
    """Even and odd numbers of cells, a single one, lengths around multiples of the stride."""
    config = model_config('mask-rcnn', backbone)
    _, _, graph, files = exported(config, tmp_path / 'a.pt2', ['torch', 'onnx'])
    lengths = (1, 32, 33, 64, 65, 97, 160)
    counts = []
    for height, width in itertools.product(lengths, lengths[::2]):
        image = picture(height, width, height + width)[None]
        expected = write.outputs_of(graph, torch.from_numpy(image))
        for file in files:
            for name, found in file.run(image).items():
                np.testing.assert_allclose(found, expected[name], atol=1e-3)
        counts.append(len(expected['boxes']))
    assert sum(count > 0 for count in counts) > 10


def test_masks_are_pasted_as_mmdet_pastes_them():
    generator = np.random.default_rng(0)
    boxes = [(3.2, 4.7, 40.1, 33.3), (-10.5, -3, 20, 80), (50, 10, 50, 30), (30, 30, 31.5, 30.2)]
    boxes += [(100, 100, 120, 120), (0, 0, 64, 48), (60.5, 2, 70, 50)]
    for box in boxes:
        mask = generator.random((28, 28), np.float32)
        box = np.array(box, np.float32)
        found = pasted(mask, box, 48, 64, 0.5)
        expected = np.zeros((48, 64), bool)
        if (
            box[0] < 64 and box[1] < 48
        ):  # mmdet's own function fails for a box outside of the picture
            part, where = _do_paste_mask(
                torch.from_numpy(mask)[None, None], torch.from_numpy(box)[None], 48, 64, True
            )
            expected[where] = part[0].numpy() >= 0.5
        assert found.shape == (48, 64)
        assert (found != expected).sum() <= 1, box
