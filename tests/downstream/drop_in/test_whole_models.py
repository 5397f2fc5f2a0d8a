"""Released detectors and segmenters of the official code, mmdet and mmseg load whole."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from backbones import WeightsError
from downstream.running.checkpoint.read import matching_tensors, read
from tests.conftest import EXAMPLES, ROOT


def model_of(task: str) -> torch.nn.Module:
    cfg = Config.fromfile(ROOT / EXAMPLES[task])
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model)


def as_official(key: str) -> str:
    return key


def as_mmpretrain(key: str) -> str:
    if not key.startswith('backbone.'):
        return key
    return key.replace('dwconv', 'depthwise_conv').replace('pwconv', 'pointwise_conv')


def as_wrapped(key: str) -> str:
    return f'module.{key}'


@pytest.mark.parametrize('task', EXAMPLES)
@pytest.mark.parametrize('naming', [as_official, as_mmpretrain, as_wrapped])
def test_every_tensor_finds_its_place(task, naming, tmp_path):
    model = model_of(task)
    generator = torch.Generator().manual_seed(0)
    state = {
        k: torch.randn(v.shape, generator=generator) if v.is_floating_point() else v
        for k, v in model.state_dict().items()
    }
    path = tmp_path / 'released.pth'
    torch.save(
        {'meta': {'epoch': 36}, 'state_dict': {naming(k): v for k, v in state.items()}}, path
    )
    found = matching_tensors(read(path)['state_dict'], model, str(path))
    assert len(found) == len(state)
    assert all(torch.equal(found[k], v) for k, v in state.items())


@pytest.mark.parametrize('task', EXAMPLES)
def test_parameter_names_are_those_of_the_mmdet_2_and_mmseg_0_files(task):
    """Names as the released files of 2022 have them, written from the modules of those versions."""
    names = set(model_of(task).state_dict())
    expected = {
        'detection': {
            'backbone.norm3.weight',
            'neck.lateral_convs.0.conv.weight',
            'neck.fpn_convs.3.conv.bias',
            'rpn_head.rpn_conv.weight',
            'rpn_head.rpn_cls.bias',
            'rpn_head.rpn_reg.weight',
            'roi_head.bbox_head.0.shared_convs.0.conv.weight',
            'roi_head.bbox_head.1.shared_convs.3.bn.running_mean',
            'roi_head.bbox_head.2.shared_fcs.0.weight',
            'roi_head.bbox_head.2.fc_cls.weight',
            'roi_head.bbox_head.0.fc_reg.bias',
            'roi_head.mask_head.0.convs.3.conv.weight',
            'roi_head.mask_head.2.upsample.weight',
            'roi_head.mask_head.1.conv_logits.bias',
        },
        'segmentation': {
            'decode_head.conv_seg.weight',
            'decode_head.psp_modules.0.1.conv.weight',
            'decode_head.psp_modules.3.1.bn.bias',
            'decode_head.bottleneck.conv.weight',
            'decode_head.lateral_convs.2.conv.weight',
            'decode_head.fpn_convs.0.bn.running_var',
            'decode_head.fpn_bottleneck.conv.weight',
            'auxiliary_head.conv_seg.bias',
            'auxiliary_head.convs.0.conv.weight',
        },
    }
    assert expected[task] <= names


def test_a_detector_is_no_segmenter():
    with pytest.raises(WeightsError, match='does not fit the model of this config'):
        matching_tensors(
            model_of('detection').state_dict(), model_of('segmentation'), 'detector.pth'
        )
