"""A tiny segmenter with random weights that tell classes apart, as a config and a checkpoint."""

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from downstream.running.config import RunOptions, read_config
from tests.conftest import write_tiny_config

CLASSES = ('background', 'circle', 'square', 'triangle')
_TINY = """
test_pipeline = [
    _base_.test_pipeline[0],
    dict(type='Resize', scale={scale}, keep_ratio=True),
    *_base_.test_pipeline[1:],
]
test_dataloader = dict(val_dataloader, dataset=dict(data_root=data_root, pipeline=test_pipeline))
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(
        _delete_=True, type='{kind}', arch=dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))
    ),
    decode_head=dict(in_channels=[8, 16, 24, 32], channels=16),
    auxiliary_head=dict(in_channels=24, channels=8),
)
"""


def write_config(root: Path, folder: Path, scale: tuple, kind: str = 'ConvNeXtV2') -> Path:
    """The config of the tiny segmenter, whose test resizes pictures to ``scale``."""
    path = write_tiny_config('segmentation', root, folder)
    path.write_text(path.read_text() + _TINY.format(scale=scale, kind=kind))
    return path


def built(cfg: Config) -> nn.Module:
    """The model of a config with weights that make every class win somewhere."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    for name, parameter in model.named_parameters():
        if 'conv_seg.weight' in name:
            weights = torch.randn_like(parameter)
            parameter.data = weights - weights.mean(1, keepdim=True)
        elif 'grn' in name:
            nn.init.normal_(parameter, std=0.5)
        elif 'pwconv' in name and name.endswith('weight'):
            nn.init.normal_(parameter, std=0.2)
    return model.eval()


def segmenter(root: Path, folder: Path, scale: tuple = (96, 80)) -> tuple[Path, Path]:
    """A config and a checkpoint."""
    config = write_config(root, folder, scale)
    model = built(read_config(RunOptions(str(config))))
    path = folder / 'model.pth'
    meta = {'dataset_meta': {'classes': CLASSES}}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, path)
    return config, path
