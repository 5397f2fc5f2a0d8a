"""The parts of a DINO whose amount of work is fixed, run on the meta device.

Deformable attention itself checks values, which are not there, so its projections run one by one. For
the backward pass is saved what the kernels save: values, locations and weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# Of bilinear interpolation four, and one of the weighted sum.
_PER_SAMPLED_VALUE = 5


def run_dino(model: Any, maps: Sequence[Tensor]) -> int:
    """Run encoder, decoder and heads of ``model``, in training mode with the denoising queries.

    Args:
        model: A ``DINODetector`` on the meta device.
        maps: What its neck returns.

    Returns:
        Multiply-adds of sampling, which are in no module's forward pass.
    """
    tokens, sampled = run_deformable_encoder(model.encoder, maps)
    heads = model.bbox_head
    proposals = model.memory_trans_norm(model.memory_trans_fc(tokens))
    heads.cls_branches[-1](proposals)
    heads.reg_branches[-1](proposals)
    count = model.num_queries
    if model.training:
        count += 2 * model.dn_query_generator.num_dn_queries
    queries = tokens.new_zeros(len(tokens), count, tokens.shape[2])
    for number, layer in enumerate(model.decoder.layers):
        model.decoder.ref_point_head(torch.cat([queries, queries], dim=-1))
        rows = queries.transpose(0, 1)
        queries = layer.norms[0](layer.self_attn.attn(rows, rows, rows)[0].transpose(0, 1))
        attended, count = run_deformable(layer.cross_attn, queries, tokens)
        sampled += count
        queries = layer.norms[2](layer.ffn(layer.norms[1](attended)))
        outputs = model.decoder.norm(queries)
        heads.cls_branches[number](outputs)
        heads.reg_branches[number](outputs)
    return sampled


def run_deformable_encoder(encoder: Any, maps: Sequence[Tensor]) -> tuple[Tensor, int]:
    """Tokens that an encoder of deformable attention makes of maps, and the multiply-adds of sampling."""
    tokens = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)
    sampled = 0
    for layer in encoder.layers:
        attended, count = run_deformable(layer.self_attn, tokens, tokens)
        sampled += count
        tokens = layer.norms[1](layer.ffn(layer.norms[0](attended)))
    return tokens, sampled


def run_deformable(attention: Any, queries: Tensor, tokens: Tensor) -> tuple[Tensor, int]:
    """What mmcv's ``MultiScaleDeformableAttention`` gives, and the multiply-adds of sampling."""
    values = attention.value_proj(tokens)
    offsets, weights = attention.sampling_offsets(queries), attention.attention_weights(queries)
    found = _Sampled.apply(values, offsets, weights.softmax(-1))
    samples = attention.num_levels * attention.num_points
    return attention.output_proj(found), _PER_SAMPLED_VALUE * samples * found.numel()


class _Sampled(torch.autograd.Function):
    """Stands for the sampling: saves what it saves, returns what has its shape."""

    @staticmethod
    def forward(ctx, values: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(values, offsets, weights)
        return values.new_zeros(*weights.shape[:2], values.shape[2])

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.zeros_like(saved) for saved in ctx.saved_tensors)
