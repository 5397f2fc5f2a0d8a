"""Small models of both tasks with random weights, as checkpoints of the embedded example."""

from functools import cache
from pathlib import Path

import torch
from mmengine.registry import MODELS, DefaultScope

from downstream.running.config import RunOptions, read_config
from tests.conftest import write_tiny_config

CLASSES = {
    'detection': ('circle', 'square', 'triangle'),
    'segmentation': ('background', 'circle', 'square', 'triangle'),
}


@cache
def model(task: str, root: Path, folder: Path, backbone: str | None = None) -> tuple[Path, Path]:
    """A config and a checkpoint in ``folder``; made once."""
    folder = folder / f'{task}-{(backbone or "own").replace(":", "-")}'
    folder.mkdir(parents=True)
    config = write_tiny_config(task, root, folder)
    cfg = read_config(RunOptions(str(config), backbone=backbone))
    cfg.model.backbone.init_cfg = None
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        built = MODELS.build(cfg.model)
    for name, parameter in built.named_parameters():
        # Classifiers start near zero: every pixel would be of one class.
        if any(part in name for part in ('conv_seg.weight', 'fc_cls.weight', 'conv_logits.weight')):
            weights = torch.randn_like(parameter)
            # Features are positive: without their mean it is not one class that wins everywhere.
            parameter.data = weights - weights.mean(1, keepdim=True)
    path = folder / 'model.pth'
    meta = {'dataset_meta': {'classes': CLASSES[task]}}
    torch.save({'state_dict': built.state_dict(), 'meta': meta}, path)
    return config, path
