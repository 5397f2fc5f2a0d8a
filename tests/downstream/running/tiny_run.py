"""A run of seconds: a small model on noise, with everything of a run that is random."""

import os
import time
from pathlib import Path

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from mmengine.structures import BaseDataElement

from downstream.running.checkpoint import files
from downstream.running.runner import SuiteRunner


@MODELS.register_module()
class TinyRegressor(BaseModel):
    """A model with random numbers of its own, small enough to be killed often."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(8, 32), torch.nn.BatchNorm1d(32), torch.nn.Dropout(0.3),
            torch.nn.Linear(32, 1),
        )  # fmt: skip

    def forward(self, inputs, mode='loss'):
        if mode == 'predict':
            return [BaseDataElement()]
        return {'loss': (self.net(torch.stack(inputs)) ** 2).mean()}


@DATASETS.register_module()
class NoiseDataset(torch.utils.data.Dataset):
    metainfo: dict = {}

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index):
        return {'inputs': torch.from_numpy(np.random.rand(8).astype('float32')) + index}


@HOOKS.register_module()
class SlowHook(Hook):
    """Stretches steps, so that kills come in all parts of a run."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        time.sleep(0.02)


@METRICS.register_module()
class ScriptedMetric(BaseMetric):
    """Figures that are given beforehand."""

    def __init__(self, figures: list[float]) -> None:
        super().__init__()
        self.figures = iter(figures)

    def process(self, data_batch, data_samples) -> None:
        self.results.append(0)

    def compute_metrics(self, results) -> dict[str, float]:
        return {'mIoU': next(self.figures)}


REGULAR = dict(
    checkpoint=dict(type='SafeCheckpointHook', interval=1, by_epoch=False, max_keep_ckpts=1),
    logger=dict(type='LoggerHook', interval=1000),
)
ADAMW = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.01))


def tiny_run(work_dir, resume: bool = False, epochs: int = 5, **changes) -> SuiteRunner:
    """A short run; ``resume`` names the newest checkpoint, ``request`` leaves that to the runner."""
    found = files.newest_whole(work_dir) if resume else None
    request = changes.pop('request', bool(found))
    runner = SuiteRunner(
        model=changes.pop('model', dict(type='TinyRegressor')),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=dict(type='NoiseDataset'),
            sampler=dict(type='DefaultSampler', shuffle=True),
            batch_size=4,
            num_workers=0,
        ),
        optim_wrapper=changes.pop('optim_wrapper', ADAMW),
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=epochs),
        default_hooks=changes.pop('default_hooks', REGULAR),
        custom_hooks=changes.pop('custom_hooks', [dict(type='SlowHook')]),
        randomness=dict(seed=11) | changes.pop('randomness', {}),
        load_from=str(found[0]) if found else None,
        resume=request,
        cfg=dict(
            max_epochs=epochs,
            sharded=changes.pop('sharded', False),
            find_unused_parameters=changes.pop('find_unused_parameters', False),
            model_wrapper_cfg=changes.pop('model_wrapper_cfg', None),
        ),
        launcher='pytorch' if 'WORLD_SIZE' in os.environ else 'none',
        experiment_name=Path(work_dir).name,
        **changes,
    )
    runner.train()
    return runner
