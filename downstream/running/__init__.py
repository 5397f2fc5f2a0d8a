"""Running a config: complete it, train it, test it. Importing it registers runner, hooks, wrapper."""

from downstream.running.hooks.finite import FiniteLossHook
from downstream.running.hooks.hanging import HangHook
from .precision import BFloat16OptimWrapper
from downstream.running.hooks.preemption import PreemptionHook
from downstream.running.hooks.progress import ProgressHook
from .runner import SuiteRunner
from downstream.running.checkpoint.hook import SafeCheckpointHook
from downstream.running.hooks.unreadable import UnreadableImagesHook

__all__ = [
    'BFloat16OptimWrapper',
    'FiniteLossHook',
    'HangHook',
    'PreemptionHook',
    'ProgressHook',
    'SafeCheckpointHook',
    'SuiteRunner',
    'UnreadableImagesHook',
]
