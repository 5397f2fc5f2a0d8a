"""Running a config: complete it, train it, test it. Importing it registers runner, hooks, wrapper."""

from .guard import FiniteGuardHook
from .hanging import HangHook
from .precision import BFloat16OptimWrapper
from .preemption import PreemptionHook
from .progress import ProgressHook
from .runner import SuiteRunner
from .saving import SafeCheckpointHook
from .unreadable import UnreadableImagesHook

__all__ = [
    'BFloat16OptimWrapper',
    'FiniteGuardHook',
    'HangHook',
    'PreemptionHook',
    'ProgressHook',
    'SafeCheckpointHook',
    'SuiteRunner',
    'UnreadableImagesHook',
]
