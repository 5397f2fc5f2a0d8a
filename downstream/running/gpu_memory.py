"""What to do where a GPU's memory does not suffice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from backbones.errors import UserError

TRAINING = (
    'Take --amp, fewer images (train_dataloader.batch_size=N with --keep-batch), '
    'model.backbone.with_cp=True, or sharded=True on several GPUs'
)
TESTING = 'Take test_dataloader.batch_size=1, or smaller images'
PREDICTING = 'Take --batch 1, tiles (--tile 1024), --amp, or smaller pictures'
# From torch 2.9 on the variable has a shorter name too; all versions read this one.
_FRAGMENTS = (
    'if much memory is "reserved but unallocated", set '
    'PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True'
)


class GPUMemoryError(UserError, RuntimeError):
    """The memory of a GPU does not suffice."""


@contextmanager
def explain_full_gpu(advice: str) -> Iterator[None]:
    """Raise a GPUMemoryError with PyTorch's numbers and ``advice`` where a GPU's memory is full."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        # PyTorch's first sentences have the sizes; the others repeat the advice.
        numbers = str(error).partition(' If reserved but')[0].rstrip('. ')
        raise GPUMemoryError(f'{numbers}. {advice}; {_FRAGMENTS}.') from error
