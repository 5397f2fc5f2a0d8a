"""What operators sample, in Python's floats."""

import math

import torch


def bilinear(plane: torch.Tensor, y: float, x: float) -> float:
    """The value of ``(H, W)`` at a place in pixels, zero outside, pixels outside being zero."""
    total = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * plane[row, column].item()
    return total


def clamped_bilinear(plane: torch.Tensor, y: float, x: float) -> float:
    """As RoIAlign does: up to a pixel beyond the border the value is that of the border, then zero."""
    height, width = plane.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    return bilinear(plane, min(max(y, 0), height - 1), min(max(x, 0), width - 1))


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Normally distributed numbers that require gradients."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
