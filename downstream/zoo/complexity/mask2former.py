"""The parts of a Mask2Former's head whose amount of work is fixed, run on the meta device.

As in :mod:`.dino`, deformable attention is run projection by projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .dino import run_deformable_encoder


def run_mask2former(head: Any, maps: Sequence[Tensor]) -> int:
    """Run pixel decoder, transformer decoder and predictions of ``head``.

    Args:
        head: mmdet's or mmseg's ``Mask2FormerHead`` on the meta device.
        maps: Of the backbone, strides 4 to 32.

    Returns:
        Multiply-adds that are in no module's forward pass: sampling, and queries times mask features.
    """
    levels, mask_features, outside = _run_pixel_decoder(head.pixel_decoder, maps)
    tokens = [m.flatten(2).transpose(1, 2) for m in levels]
    queries = head.query_feat.weight[None].repeat(len(maps[0]), 1, 1)
    outside += _predict(head, queries, mask_features)
    for number, layer in enumerate(head.transformer_decoder.layers):
        memory = tokens[number % len(tokens)]
        mask = torch.zeros(
            len(queries) * head.num_heads,
            queries.shape[1],
            memory.shape[1],
            dtype=torch.bool,
            device=memory.device,
        )
        attended = _attend(layer.cross_attn.attn, queries, memory, attn_mask=mask)
        queries = layer.norms[0](queries + attended)
        queries = layer.norms[1](queries + _attend(layer.self_attn.attn, queries, queries))
        queries = layer.norms[2](layer.ffn(queries))
        outside += _predict(head, queries, mask_features)
    return outside


def _run_pixel_decoder(decoder: Any, maps: Sequence[Tensor]) -> tuple[list[Tensor], Tensor, int]:
    """Maps of the encoder, the coarsest first, mask features, and the multiply-adds of sampling."""
    coarse = [conv(m) for conv, m in zip(decoder.input_convs, reversed(maps))]
    tokens, sampled = run_deformable_encoder(decoder.encoder, coarse)
    split = tokens.split([m.shape[2] * m.shape[3] for m in coarse], dim=1)
    outs = [part.transpose(1, 2).reshape(m.shape) for part, m in zip(split, coarse)]
    finer = maps[: len(maps) - len(coarse)]
    for lateral, output, m in zip(decoder.lateral_convs, decoder.output_convs, reversed(finer)):
        size = m.shape[-2:]
        outs.append(output(lateral(m) + F.interpolate(outs[-1], size, mode='bilinear')))
    return outs[: decoder.num_outs], decoder.mask_feature(outs[-1]), sampled


def _attend(attention: Any, queries: Tensor, memory: Tensor, **options: Tensor) -> Tensor:
    rows, keys = queries.transpose(0, 1), memory.transpose(0, 1)
    return attention(rows, keys, keys, **options)[0].transpose(0, 1)


def _predict(head: Any, queries: Tensor, mask_features: Tensor) -> int:
    """Classes and masks of the queries; the multiply-adds of the product that gives the masks."""
    queries = head.transformer_decoder.post_norm(queries)
    head.cls_embed(queries)
    masks = torch.einsum('bqc,bchw->bqhw', head.mask_embed(queries), mask_features)
    return masks.numel() * mask_features.shape[1]
