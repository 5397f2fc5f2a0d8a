"""Narrow detectors of every kind, with random weights whose scores lie apart."""

from __future__ import annotations

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor, nn

from tests.conftest import ROOT

CLASSES = 3
WIDTH = 16
BACKBONES = {
    'v1': dict(type='ConvNeXt', arch=dict(depths=(1, 1, 1, 1), dims=(8, 8, 16, 16))),
    'v2': dict(type='ConvNeXtV2', arch=dict(depths=(1, 1, 1, 1), dims=(8, 8, 16, 16))),
    'resnet': dict(
        type='TimmBackbone',
        model='resnet18',
        model_args=dict(layers=(1, 1, 1, 1), channels=(8, 8, 16, 16), stem_width=8),
    ),
    'resnet-d': dict(type='mmseg.ResNetV1d', depth=18, stem_channels=8, base_channels=4),
    'swin': dict(
        type='TimmBackbone',
        model='swin_tiny_patch4_window7_224',
        model_args=dict(depths=(2, 1, 1, 1), embed_dim=8, num_heads=(1, 2, 2, 2), window_size=4),
    ),
}
CHANNELS = {'swin': [8, 16, 32, 64], 'resnet-d': [4, 8, 16, 32]}
# Larger ones saturate the scores, and saturated scores tie.
SPREAD = {'rpn_cls': 0.1, 'fc_cls': 0.2, 'conv_logits': 0.3}
# Portrait, landscape, none a multiple of the stride; a single pixel.
SIZES = [(128, 128), (97, 171), (200, 130), (1, 1)]


def model_config(
    method: str,
    backbone: str = 'v1',
    box_head: dict | None = None,
    mask_head: dict | None = None,
    rcnn: dict | None = None,
) -> ConfigDict:
    """The config of a detector by one of the methods of ``configs/_base_/methods``.

    Args:
        method: Name of the file.
        backbone: Of :data:`BACKBONES`.
        box_head: Changes of every box head.
        mask_head: Changes of the mask head.
        rcnn: Changes of ``test_cfg.rcnn``.
    """
    config = Config.fromfile(ROOT / f'configs/_base_/methods/{method}.py').model
    config.backbone = ConfigDict(BACKBONES[backbone])
    config.neck.update(in_channels=CHANNELS.get(backbone, [8, 8, 16, 16]), out_channels=WIDTH)
    config.rpn_head.update(in_channels=WIDTH, feat_channels=WIDTH)
    roi_head = config.roi_head
    heads = roi_head.bbox_head if isinstance(roi_head.bbox_head, list) else [roi_head.bbox_head]
    for head in heads:
        head.update(in_channels=WIDTH, fc_out_channels=32, num_classes=CLASSES, **(box_head or {}))
        if 'conv_out_channels' in head:
            head.conv_out_channels = WIDTH
    roi_head.bbox_roi_extractor.out_channels = WIDTH
    if roi_head.get('mask_head'):
        roi_head.mask_roi_extractor.out_channels = WIDTH
        roi_head.mask_head.update(in_channels=WIDTH, conv_out_channels=WIDTH, num_classes=CLASSES)
        roi_head.mask_head.update(mask_head or {})
    config.test_cfg.rpn.update(nms_pre=60, max_per_img=50)
    config.test_cfg.rcnn.update(score_thr=0.3, max_per_img=20)
    config.test_cfg.rcnn.update(rcnn or {})
    return config


def build(config: ConfigDict, seed: int = 0) -> nn.Module:
    """A detector in evaluation mode whose scores spread and whose boxes move."""
    torch.manual_seed(seed)
    model = MODELS.build(config).eval()
    for name, parameter in model.named_parameters():
        layer = name.rsplit('.', 2)[-2]
        if layer in SPREAD and name.endswith('weight'):
            # Features are positive: without their mean it is not one class that wins everywhere.
            noise = torch.randn_like(parameter)
            parameter.data = SPREAD[layer] * (noise - noise.mean(1, keepdim=True))
        elif layer in ('rpn_reg', 'fc_reg') and name.endswith('weight'):
            parameter.data = 0.05 * torch.randn_like(parameter)
        elif parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter)
    return model


def image(height: int, width: int, seed: int = 0) -> Tensor:
    """A normalised random image of noisy patches, padded to the stride, ``(1, 3, H, W)``."""
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn(1, 3, -(-height // 16), -(-width // 16), generator=generator)
    whole = nn.functional.interpolate(patches, (height, width), mode='nearest')
    whole = whole + 0.3 * torch.randn(whole.shape, generator=generator)
    return nn.functional.pad(whole, (0, -width % 32, 0, -height % 32))


@torch.no_grad()
def by_mmdet(model: nn.Module, padded: Tensor, height: int, width: int) -> InstanceData:
    """What mmdet detects, without pasting of masks."""
    shapes = dict(img_shape=(height, width), ori_shape=(height, width), scale_factor=(1.0, 1.0))
    sample = DetDataSample(metainfo=dict(shapes, batch_input_shape=tuple(padded.shape[2:])))
    return model.predict(padded, [sample], rescale=True)[0].pred_instances


def assert_equal(found: list[np.ndarray], expected: InstanceData) -> None:
    """Boxes to 0.01 px, scores to 1e-4, counts and labels exactly."""
    boxes, scores, labels = (torch.as_tensor(np.asarray(array)) for array in found[:3])
    assert len(boxes) == len(expected)
    torch.testing.assert_close(boxes, expected.bboxes.float(), atol=1e-2, rtol=0)
    torch.testing.assert_close(scores, expected.scores.float(), atol=1e-4, rtol=0)
    assert labels.tolist() == expected.labels.tolist()
