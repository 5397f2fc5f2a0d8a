"""Keeps what the libraries print or log and nobody can act on away from the terminal.

Every entry names one message of one module, with the reason. Everything else is shown.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import NamedTuple

from mmengine.logging import MMLogger

# What pycocotools prints for every annotation file, by `print`: no logger or warning filter reaches it.
_COCO_OUTPUT = ('loading annotations into memory', 'Done (t=', 'creating index', 'index created')


class KnownWarning(NamedTuple):
    """A warning that is not shown.

    Attributes:
        message: Regular expression for the start of its text, without a colon: pytest splits at it.
        module: Regular expression for the whole name of the module that warns.
        reason: Why a user need not read it.
    """

    message: str
    module: str
    reason: str


KNOWN_WARNINGS = (
    KnownWarning(
        'Default ``avg_non_ignore`` is False',
        r'mmseg\.models\.losses\.cross_entropy_loss',
        "False is mmseg's default and what the papers' recipes use; a recipe may set True.",
    ),
    KnownWarning(
        'To copy construct from a tensor',
        r'mmdet\.models\.roi_heads\.mask_heads\.fcn_mask_head',
        'mmdet copies the mask logits once more than needed in a test; the values are the same.',
    ),
    KnownWarning(
        r'Warning. The (bbox|polygon) is out of bounds',
        r'mmengine\.visualization\.visualizer',
        'An object at the border of its image is drawn cut off, as it is.',
    ),
    KnownWarning(
        r'Detected call of `scheduler\.step\(\)` before `optimizer\.step\(\)`',
        r'mmengine\.optim\.scheduler\.param_scheduler',
        'With accumulated gradients (--keep-batch) the optimizer steps later; the schedule counts on it.',
    ),
    KnownWarning(
        r'torch\.meshgrid',
        r'torch\.functional',
        "mmdet's DETRs leave out an argument that later releases of torch want.",
    ),
    KnownWarning(
        'Detected pickle protocol',
        r'torch\._weights_only_unpickler',
        'A file that needs more than data is refused with an error in any case.',
    ),
)

# The same for log messages of mmengine, by their start: they go to the log file alone.
KNOWN_LOG_MESSAGES = (
    '"FileClient" will be deprecated',  # mmengine's own CheckpointHook calls it
    '"HardDiskBackend" is the alias',
)


def ignore_known_warnings() -> None:
    """Install the filters of :data:`KNOWN_WARNINGS` in this process."""
    for known in KNOWN_WARNINGS:
        warnings.filterwarnings('ignore', known.message, UserWarning, known.module)


@contextlib.contextmanager
def without_coco_output() -> Iterator[None]:
    """Drop the lines that pycocotools prints when it reads annotations; other lines are printed."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        for line in printed.getvalue().splitlines(keepends=True):
            if not line.startswith(_COCO_OUTPUT):
                sys.stdout.write(line)


@contextlib.contextmanager
def without_log() -> Iterator[None]:
    """Drop what a run has logged already or will log: warnings and errors alone are logged."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def import_quietly(*modules: str) -> None:
    """Import mmdet or mmseg without their reports of optional parts that are not installed."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')
        for module in modules:
            importlib.import_module(module)
