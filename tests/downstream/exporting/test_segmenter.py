"""A segmenter as a file equals the model, picture by picture, at every size."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip('onnxscript')
pytest.importorskip('onnxruntime')
pytest.importorskip('openvino')

import onnx

from backbones.convnext.block import GRN
from downstream.exporting import write
from downstream.exporting.files import open_exported
from downstream.exporting.graph.picture import PictureRules
from downstream.exporting.graph.segmenter import SegmenterGraph
from downstream.exporting.trace import Shape, trace
from downstream.running.config import RunOptions, read_config

from .detectors import BACKBONES, CHANNELS
from .models import CLASSES, built, write_config

STRIDE = 32
SHAPE = Shape(batch=None)
FACTS = {
    'format': 1,
    'task': 'segmentation',
    'classes': list(CLASSES),
    'output': 'logits',
    'outputs': ['logits'],
    'input': dict(batch=None, height=None, width=None, channels=3, dtype='uint8', order='BGR'),
    'inference': {'mode': 'whole'},
    'resize': None,
    'threshold': None,
}
SIZES = [(1, 64, 64), (1, 1, 1), (2, 33, 97), (1, 100, 130), (1, 288, 160), (1, 5, 70)]


def pictures(count, height, width):
    return np.random.default_rng(height).integers(0, 256, (count, height, width, 3), np.uint8)


@pytest.fixture(scope='module')
def config(shapes, tmp_path_factory):
    path = write_config(shapes, tmp_path_factory.mktemp('config'), (96, 80))
    return read_config(RunOptions(str(path)))


@pytest.fixture(scope='module')
def model(config):
    return built(config)


@pytest.fixture(scope='module')
def rules(config):
    return PictureRules.of(config.model.data_preprocessor, STRIDE)


@pytest.fixture(scope='module')
def files(model, rules, tmp_path_factory):
    """One trace in all formats."""
    graph = SegmenterGraph(copy.deepcopy(model), rules)
    program = trace(graph, SHAPE, STRIDE)
    folder = tmp_path_factory.mktemp('files')
    found = {}
    for name, (suffix, _) in write.FORMATS.items():
        found[name] = folder / f'model{suffix}'
        program = copy.copy(program)
        write.write(program, graph, FACTS, name, found[name], SHAPE.example(96, 128))
    return found


def logits_of(model, rules, images):
    """What the model itself computes: channels exchanged, normalised, padded where it could not run."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).flip(1).float()
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (rules.mean, rules.std))
    x = (x - mean) / std
    height, width = x.shape[2:]
    x = F.pad(x, (0, max(STRIDE - width, 0), 0, max(STRIDE - height, 0)))
    meta = dict(img_shape=x.shape[2:], pad_shape=x.shape[2:], ori_shape=x.shape[2:])
    with torch.no_grad():
        return model.encode_decode(x, [meta])[:, :, :height, :width].numpy()


@pytest.mark.parametrize('name', list(write.FORMATS))
def test_a_file_equals_the_model_at_every_size(files, model, rules, name):
    file = open_exported(files[name])
    for size in SIZES:
        images = pictures(*size)
        found, expected = file.run(images)['logits'], logits_of(model, rules, images)
        assert found.shape == (size[0], len(CLASSES), *size[1:])
        assert np.abs(found - expected).max() < 1e-4 * max(np.abs(expected).max(), 1)
    assert {int(c) for c in np.unique(expected.argmax(1))} != {0}


@pytest.mark.slow
@pytest.mark.parametrize('backbone', ['swin', 'resnet', 'resnet-d'])
def test_a_file_of_another_backbone_at_every_size(config, rules, tmp_path, backbone):
    """Windows that a map does not fill; maps that are rounded up."""
    cfg = copy.deepcopy(config)
    channels = CHANNELS.get(backbone, [8, 8, 16, 16])
    cfg.model.backbone = BACKBONES[backbone]
    cfg.model.decode_head.in_channels = channels
    cfg.model.auxiliary_head.in_channels = channels[2]
    model = built(cfg)
    for parameter in model.backbone.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    graph = SegmenterGraph(copy.deepcopy(model), rules)
    program = trace(graph, SHAPE, STRIDE)
    files = []
    for name in ('onnx', 'torch'):
        path = tmp_path / f'model{write.FORMATS[name][0]}'
        write.write(copy.copy(program), graph, FACTS, name, path, SHAPE.example(96, 128))
        files.append(open_exported(path))
    for size in SIZES:
        images = pictures(*size)
        expected = logits_of(model, rules, images)
        for file in files:
            found = file.run(images)['logits']
            assert np.abs(found - expected).max() < 1e-4 * max(np.abs(expected).max(), 1)


def test_one_file_of_a_recent_opset_with_facts(files):
    loaded = onnx.load(files['onnx'])
    assert sorted(path.name for path in files['onnx'].parent.iterdir()) == [
        'model.bin',
        'model.onnx',
        'model.pt2',
        'model.xml',
    ]
    assert loaded.opset_import[0].version >= 20
    for path in files.values():
        assert open_exported(path).facts == FACTS


def with_large_maps(model):
    """A copy whose GRN adds up squares to more than float16 holds."""
    model = copy.deepcopy(model)
    block = model.backbone.stages[0][0]
    block.norm.weight.data *= 40
    # Responses are ratios: what follows sees ordinary numbers.
    block.pwconv2.weight.data /= 40
    sums = []
    block.grn.register_forward_pre_hook(
        lambda _, x: sums.append(x[0].float().pow(2).sum((1, 2)).max())
    )
    return model, sums


def naive(self, x):
    """GRN as other implementations have it: a norm in the dtype of its input."""
    norm = (x * x).sum(dim=(1, 2), keepdim=True).sqrt()
    return x + self.gamma * (x * (norm / (norm.mean(dim=-1, keepdim=True) + 1e-6))) + self.beta


def test_float16_with_sums_beyond_float16(model, rules, tmp_path, monkeypatch):
    large, sums = with_large_maps(model)
    images = pictures(1, 128, 96)
    expected = logits_of(large, rules, images)
    assert max(sums) > 65504
    large.backbone.stages[0][0].grn._forward_pre_hooks.clear()
    graph = SegmenterGraph(copy.deepcopy(large), rules, half=True)
    program = trace(graph, SHAPE, STRIDE)
    path = tmp_path / 'half.onnx'
    write.write(program, graph, FACTS, 'onnx', path, SHAPE.example(96, 128))
    found = open_exported(path).run(images)['logits']
    assert np.abs(found - expected).max() < 0.01 * np.abs(expected).max()
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.99
    nodes = onnx.load(path).graph.node
    casts = {name for node in nodes if node.op_type == 'Cast' for name in node.output}
    sums = [n for n in nodes if n.op_type in ('ReduceL2', 'LayerNormalization')]
    assert sums
    assert all(node.input[0] in casts for node in sums)

    monkeypatch.setattr(GRN, 'forward', naive)
    graph = SegmenterGraph(copy.deepcopy(large), rules, half=True)
    with torch.no_grad():
        assert not graph(torch.from_numpy(images)).isfinite().all()


def test_fixed_sizes_take_no_others(model, rules, tmp_path):
    shape = Shape(64, 96, 1)
    graph = SegmenterGraph(copy.deepcopy(model), rules, 'classes')
    program = trace(graph, shape, STRIDE)
    path = tmp_path / 'fixed.onnx'
    facts = {**FACTS, 'output': 'classes', 'outputs': ['classes']}
    facts['input'] = {**FACTS['input'], 'batch': 1, 'height': 64, 'width': 96}
    write.write(program, graph, facts, 'onnx', path, shape.example(0, 0))
    file = open_exported(path)
    images = pictures(1, 64, 96)
    expected = logits_of(model, rules, images).argmax(1)
    assert (file.run(images)['classes'] == expected).mean() > 0.999
    with pytest.raises(ValueError, match=r'takes \(1, 64, 96, 3\) of uint8'):
        file.run(pictures(1, 96, 64))
