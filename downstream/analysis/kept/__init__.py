"""What a test keeps beside its figures: written by ``tools/test.py``, found and read again."""

from .runs import (
    REPORT,
    TestRun,
    annotated_masks_of,
    counts_of,
    detections_of,
    evaluation_of,
    find_tests,
    path_of,
    predicted_masks_of,
    predictions_of,
    prepare,
    rules_of,
    truth_of,
    write,
)
from .segmentation import KeptCounts

__all__ = [
    'REPORT',
    'KeptCounts',
    'TestRun',
    'annotated_masks_of',
    'counts_of',
    'detections_of',
    'evaluation_of',
    'find_tests',
    'path_of',
    'predicted_masks_of',
    'predictions_of',
    'prepare',
    'rules_of',
    'truth_of',
    'write',
]
