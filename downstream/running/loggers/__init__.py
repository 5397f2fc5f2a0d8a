"""Figures, pictures and config of a run for TensorBoard, W&B, MLflow and Trackio, beside its training.

Importing it registers the back ends for visualizers; the packages that they need are imported when a
training begins.
"""

from .background import BackgroundLogger
from .mlflow_service import MLflowLogger
from .tensorboard_service import TensorboardLogger
from .trackio_service import TrackioLogger
from .wandb_service import WandbLogger

__all__ = [
    'BackgroundLogger',
    'MLflowLogger',
    'TensorboardLogger',
    'TrackioLogger',
    'WandbLogger',
]
