"""In which dtype operators compute."""

from __future__ import annotations

import torch


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """At least float32: float16 and bfloat16 round pixel coordinates."""
    return torch.promote_types(dtype, torch.float32)
