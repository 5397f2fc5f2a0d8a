"""Running a config: complete it, train it, test it. Importing it registers runner, hook, wrapper."""

from .precision import BFloat16OptimWrapper
from .progress import ProgressHook
from .runner import SuiteRunner

__all__ = ['BFloat16OptimWrapper', 'ProgressHook', 'SuiteRunner']
