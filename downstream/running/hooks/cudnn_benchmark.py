"""cuDNN's search for the fastest algorithm, for training alone."""

from __future__ import annotations

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class CudnnBenchmarkHook(Hook):
    """Turns ``env_cfg.cudnn_benchmark`` off during validations and tests.

    cuDNN then times its algorithms for every new shape of a convolution. Training crops have one shape;
    images of a validation, and of test-time augmentation, have hundreds.
    """

    def __init__(self) -> None:
        self._of_training = False

    def before_val_epoch(self, runner: Runner) -> None:
        self._of_training = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = False

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        torch.backends.cudnn.benchmark = self._of_training

    def before_test_epoch(self, runner: Runner) -> None:
        self.before_val_epoch(runner)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self.after_val_epoch(runner)
