"""A row fails its check unless its backbone is the network of the released file, in every family."""

import hashlib
import json
import re
from pathlib import Path

import pytest
from mmengine.config import Config

from backbones import WeightsError, weights_table
from downstream.zoo import complexity, find_row, rows
from downstream.zoo.checks import CHECKS, MismatchError
from downstream.zoo.released import released_tensors, shape_lines

RECORD = json.loads(Path(__file__).with_name('official_files.json').read_text())
OFFICIAL = [name for name, row in weights_table().items() if row['layout'] == 'official']


@pytest.mark.parametrize('name', sorted({name.split('_')[0] for name in OFFICIAL}))
def test_official_files_have_the_tensors_of_the_official_code(name):
    """What other libraries give is what the official repositories' own code has (record_official.py)."""
    weights = next(key for key in OFFICIAL if key.startswith(f'{name}_'))
    tensors = released_tensors(weights)
    lines = shape_lines(tensors)
    assert {
        'tensors': len(lines),
        'values': sum(t.numel() for t in tensors.values()),
        'sha256': hashlib.sha256('\n'.join(lines).encode()).hexdigest(),
    } == RECORD[name]


def test_transformers_agrees_on_dinov3():
    """DINOv3's networks, from a third library: the same shapes as often."""
    import torch
    import transformers

    with torch.device('meta'):
        theirs = transformers.DINOv3ConvNextModel(transformers.DINOv3ConvNextConfig())
    body = {k: v for k, v in theirs.state_dict().items() if not re.search(r'^layer_norm\.', k)}
    released = released_tensors('convnext-tiny_dinov3-lvd1689m')
    assert sorted(t.shape for t in body.values()) == sorted(t.shape for t in released.values())


def test_every_released_file_of_a_row_is_known():
    assert all(released_tensors(row.weights) for row in rows() if row.weights)
    assert all(t.is_meta for t in released_tensors('swin-tiny_in1k').values())


V1 = 'cascade-mask-rcnn_convnext-tiny_in1k_3x_coco'
V2 = 'cascade-mask-rcnn_convnextv2-atto_fcmae_3x_coco'
DINOV3 = 'cascade-mask-rcnn_convnext-small_dinov3-lvd1689m_3x_coco'
SWIN = 'cascade-mask-rcnn_swin-tiny_in1k_3x_coco'
RESNET = 'cascade-mask-rcnn_resnet-50_in1k_3x_coco'
RESNEXT = 'cascade-mask-rcnn_resnext101-32x4d_in1k_3x_coco'
TINY = dict(depths=(1, 1, 1, 1), dims=(8, 16, 32, 64))


def widened(depths: tuple, width: int) -> dict:
    """The last stage a little too wide."""
    return dict(depths=depths, dims=(width, 2 * width, 4 * width, 8 * width + 32))


WRONG = [
    (V1, dict(arch=TINY), 'the weights of ConvNeXt tiny; the config asks for ConvNeXt with depths'),
    (
        V1,
        dict(arch=dict(depths=(3, 3, 10, 3), dims=(96, 192, 384, 768))),
        r'depths \(3, 3, 10, 3\)',
    ),
    (V1, dict(arch=widened((3, 3, 9, 3), 96)), r'dims \(96, 192, 384, 800\)'),
    (V1, dict(layer_scale_init_value=0.0), r'18 unexpected: stages\.0\.0\.gamma'),
    (
        V1,
        dict(type='ConvNeXtV2', layer_scale_init_value=0.0),
        'the config asks for ConvNeXtV2 tiny',
    ),
    (V2, dict(arch=TINY), 'the weights of ConvNeXtV2 atto'),
    (V2, dict(arch=dict(depths=(2, 2, 5, 2), dims=(40, 80, 160, 320))), r'depths \(2, 2, 5, 2\)'),
    (V2, dict(arch=widened((2, 2, 6, 2), 40)), r'dims \(40, 80, 160, 352\)'),
    (V2, dict(type='ConvNeXt', layer_scale_init_value=0.0), 'the config asks for ConvNeXt atto'),
    (V2, dict(layer_scale_init_value=1.0), r'12 missing: stages\.0\.0\.gamma'),
    (DINOV3, dict(arch=TINY), 'the weights of ConvNeXt small'),
    (DINOV3, dict(arch='tiny'), 'the config asks for ConvNeXt tiny'),
    (DINOV3, dict(arch=widened((3, 3, 27, 3), 96)), r'dims \(96, 192, 384, 800\)'),
    (SWIN, dict(model_args=dict(embed_dim=24, depths=(1, 1, 1, 1))), '0 tensors loaded'),
    (SWIN, dict(model_args=dict(depths=(2, 2, 8, 2))), r'26 missing: model\.layers\.2\.blocks\.6'),
    (SWIN, dict(model_args=dict(window_size=8)), r'shape 2 x \(169, 3\)'),
    (SWIN, dict(model_args=dict(num_heads=(2, 4, 8, 16))), r'\(169, 3\)'),
    (SWIN, dict(model='swin_small_patch4_window7_224'), r'156 missing'),
    (SWIN, dict(model='swinv2_tiny_window8_256'), 'does not match'),
    (RESNET, dict(model='resnet101'), r'255 missing: model\.layer3\.6'),
    (RESNET, dict(model='resnet50d'), 'mismatched|missing'),
    (RESNET, dict(model='wide_resnet50_2'), r'mismatched: model\.layer1\.0\.conv1'),
    (RESNEXT, dict(model='resnext101_64x4d'), r'mismatched: model\.layer1\.0\.conv1'),
    (RESNEXT, dict(model='resnext101_32x4d', model_args=dict(cardinality=64)), 'mismatched'),
    (RESNEXT, dict(model='resnext50_32x4d'), r'306 unexpected'),
]


@pytest.mark.parametrize(('name', 'changes', 'message'), WRONG)
def test_another_architecture_fails(name, changes, message):
    row = find_row(name)
    cfg = Config.fromfile(row.path)
    backbone = cfg.model.backbone
    if changes.get('type'):
        backbone.setdefault('arch', 'tiny')
    for key, value in changes.items():
        backbone[key] = value
    model = complexity.build_on_meta(cfg)
    with pytest.raises(MismatchError, match=message):
        CHECKS['weights'](row, cfg, model)


def test_weights_without_another_implementation_are_an_error(monkeypatch):
    monkeypatch.setitem(
        weights_table(), 'x', {'url': 'https://a.org/net.pth', 'layout': 'official'}
    )
    with pytest.raises(WeightsError, match='no other implementation of the network of'):
        released_tensors('x')
