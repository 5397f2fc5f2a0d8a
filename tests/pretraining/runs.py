"""Short pre-trainings of a tiny network."""

from pathlib import Path

import torch

from pretraining.train import PretrainOptions, pretrain
from tests.conftest import ROOT

RECIPE = ROOT / 'configs' / 'pretrain' / 'fcmae_convnextv2-atto_shapes.py'
TINY = f"""
_base_ = '{RECIPE}'
arch = dict(depths=(1, 1, 1, 1), dims=(4, 6, 8, 10))
model = dict(backbone=dict(_delete_=True, type='ConvNeXtV2', arch=arch), decoder_dim=8)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCropFlip', size=64),
    dict(type='PackImage'),
]
train_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(pipeline=train_pipeline))
train_cfg = dict(max_epochs=2)
param_scheduler = [
    dict(type='WarmUpCosineLR', warm_up=0.5, end=2, by_epoch=True, convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size=2)
default_hooks = dict(
    checkpoint=dict(interval=9), logger=dict(interval=1), reconstructions=dict(images=3)
)
custom_hooks = []
randomness = dict(seed=7)
"""


def write_config(folder: Path, extra: str = '') -> Path:
    """The config of a run of four steps on four images."""
    path = folder / 'pretraining.py'
    path.write_text(TINY + extra)
    return path


def run(config: Path, data: Path, work_dir: Path, **options):
    """The runner after its training."""
    return pretrain(
        PretrainOptions(str(config), work_dir=str(work_dir), data=(str(data),), **options)
    )


def final_state(runner) -> dict[str, torch.Tensor]:
    """All that a training changed: parameters and the state of the optimizer."""
    state = {f'model.{k}': v for k, v in runner.model.state_dict().items()}
    for index, values in runner.optim_wrapper.state_dict()['state'].items():
        state |= {f'{index}.{k}': torch.as_tensor(v) for k, v in values.items()}
    return state
