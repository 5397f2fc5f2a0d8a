"""mmcv's multi-scale deformable attention, on :mod:`backbones.kernels.detection.deform_attention`.

mmcv's Python code calls its extension on CUDA alone, for float32 and float16, with locations rounded to
float16. Elsewhere it samples with autograd, which keeps seven times the memory, and in reduced precision
on a CPU gives NaN or 1e38 for one image. :func:`replace_in` therefore also replaces the two functions of
mmcv's module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from backbones.kernels.detection import deform_attention

# mmcv's own function, for comparisons.
REPLACED: dict[str, Callable[..., Tensor]] = {}


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Multi-scale deformable attention (Zhu et al. 2021, arXiv 2010.04159).

    Args:
        value: ``(B, K, heads, D)``.
        value_spatial_shapes: Height and width of each level, ``(L, 2)``.
        value_level_start_index: Not read: levels follow each other.
        sampling_locations: x, y from 0 to 1, ``(B, Q, heads, L, P, 2)``.
        attention_weights: ``(B, Q, heads, L, P)``.
        im2col_step: Not read.

    Returns:
        ``(B, Q, heads * D)``.
    """
    shapes = _sizes(value_spatial_shapes)
    return deform_attention.forward(value, shapes, sampling_locations, attention_weights)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Write the gradients of :func:`ms_deform_attn_forward` to the three tensors named ``grad_``."""
    shapes = _sizes(value_spatial_shapes)
    grads = deform_attention.backward(
        value, shapes, sampling_locations, attention_weights, grad_output
    )
    for into, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads):
        into.copy_(grad)


def replace_in(module: Any) -> None:
    """Have ``mmcv.ops.multi_scale_deform_attn`` compute on every device with the suite's operator."""
    REPLACED['pytorch'] = module.multi_scale_deformable_attn_pytorch
    module.multi_scale_deformable_attn_pytorch = multi_scale_deformable_attn
    module.MultiScaleDeformableAttnFunction = MultiScaleDeformableAttnFunction


def multi_scale_deformable_attn(
    value: Tensor,
    value_spatial_shapes: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """:func:`ms_deform_attn_forward`, differentiable."""
    shapes = _sizes(value_spatial_shapes)
    return deform_attention.deform_attention(value, shapes, sampling_locations, attention_weights)


class MultiScaleDeformableAttnFunction:
    """Takes the place of mmcv's autograd function of this name, which rounds locations."""

    @staticmethod
    def apply(
        value: Tensor,
        value_spatial_shapes: Tensor,
        value_level_start_index: Tensor,
        sampling_locations: Tensor,
        attention_weights: Tensor,
        im2col_step: int,
    ) -> Tensor:
        """See :func:`ms_deform_attn_forward`; differentiable."""
        return multi_scale_deformable_attn(
            value, value_spatial_shapes, sampling_locations, attention_weights
        )


def _sizes(value_spatial_shapes: Tensor) -> list[tuple[int, int]]:
    """Height and width of each level; waits for a GPU."""
    return [(int(height), int(width)) for height, width in value_spatial_shapes.tolist()]
