"""Running a config: complete it, train it, test it. Importing it registers runner, hooks, wrapper."""

from .averaging import ForeachExponentialMovingAverage
from downstream.running.hooks.cudnn_benchmark import CudnnBenchmarkHook
from downstream.running.hooks.finite import FiniteLossHook
from downstream.running.hooks.first_batches import FirstBatchesHook
from downstream.running.hooks.hanging import HangHook
from downstream.running.loggers import MLflowLogger, TensorboardLogger, TrackioLogger, WandbLogger
from .options.precision import BFloat16OptimWrapper
from downstream.running.hooks.patience import PatienceHook
from downstream.running.hooks.pictures import DetectionPicturesHook, SegmentationPicturesHook
from downstream.running.hooks.preemption import PreemptionHook
from downstream.running.hooks.progress import ProgressHook
from .runner import SuiteRunner
from downstream.running.checkpoint.hook import SafeCheckpointHook
from downstream.running.hooks.unreadable import UnreadableImagesHook

__all__ = [
    'BFloat16OptimWrapper',
    'CudnnBenchmarkHook',
    'DetectionPicturesHook',
    'FiniteLossHook',
    'FirstBatchesHook',
    'ForeachExponentialMovingAverage',
    'HangHook',
    'MLflowLogger',
    'PatienceHook',
    'PreemptionHook',
    'ProgressHook',
    'SafeCheckpointHook',
    'SegmentationPicturesHook',
    'SuiteRunner',
    'TensorboardLogger',
    'TrackioLogger',
    'UnreadableImagesHook',
    'WandbLogger',
]
