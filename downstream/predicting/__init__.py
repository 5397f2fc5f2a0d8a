"""Predicting on pictures without annotations: from Python (``Predictor``), or for tools/predict.py."""

from .predictor import Predictor
from .results import Detections, LabelMap

__all__ = ['Detections', 'LabelMap', 'Predictor']
