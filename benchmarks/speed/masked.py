"""A step of masked pre-training: the visible cells alone, beside the whole grid with masks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.convnext import Block
from backbones.convnext.visible import VisibleCells
from benchmarks.speed.peers import blocks
from downstream.benchmarking.timing import Timings, interleave
from downstream.contract.saved_memory import saved_activation_bytes
from pretraining import FCMAE

OURS, DENSE, UNMASKED = 'this suite', 'whole grid, masked', 'whole grid, no mask'
SIZE = 224


@dataclass(frozen=True)
class Case:
    """A network, and how many images."""

    arch: str | dict
    count: int

    def __str__(self) -> str:
        return f'ConvNeXt V2 {self.arch}, {self.count}x{SIZE}x{SIZE}'


CASES = (Case('atto', 8), Case('tiny', 4), Case('base', 2))


@dataclass(frozen=True)
class Result:
    """Seconds of a step, bytes kept for its backward pass, largest difference of a gradient."""

    timings: Timings
    kept: dict[str, int]
    error: float


def measure(case: Case, rounds: int) -> Result:
    """A training step each way, on the same masks."""
    torch.manual_seed(0)
    model = FCMAE(dict(type='ConvNeXtV2', arch=case.arch))
    images = torch.randn(case.count, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    visible = VisibleCells.drawn(images, model.cell, model.mask_ratio)
    losses = {
        OURS: lambda: model.loss(images, visible),
        DENSE: lambda: dense_loss(model, images, visible),
        UNMASKED: lambda: _unmasked_loss(model, images),
    }
    gradients = []
    for name in (OURS, DENSE):
        losses[name]().backward()
        gradients.append([p.grad for p in model.parameters()])
        model.zero_grad()
    largest = max(float(b.abs().max()) for b in gradients[1])
    error = max(float((a - b).abs().max()) for a, b in zip(*gradients)) / largest
    kept = {name: saved_activation_bytes(model, loss) for name, loss in losses.items()}

    def step(name: str) -> None:
        losses[name]().backward()
        model.zero_grad()

    steps = {name: (lambda name=name: step(name)) for name in losses}
    return Result(interleave(steps, rounds, title=str(case)), kept, error)


def dense_loss(model: FCMAE, images: Tensor, visible: VisibleCells) -> Tensor:
    """:meth:`FCMAE.loss` on the whole grid, as whoever has no sparse convolution computes it.

    Masked are the input of every depthwise convolution, and of GRN's norm; all else is right where cells
    are visible, and not read elsewhere. The decoder projects and predicts all cells.
    """
    x, encoder = images, model.encoder
    for downsample, stage in zip(encoder.downsample_layers, encoder.stages):
        x = downsample(x)
        side = x.shape[-1] // visible.width
        mask = visible.mask.repeat_interleave(side, 1).repeat_interleave(side, 2)[:, None].to(x)
        for block in blocks(stage):
            x = _masked_block(block, x, mask)
    x = torch.where(visible.mask[:, None], model.proj(x), model.mask_token)
    for block in blocks(model.decoder):
        x = Block.forward(block, x)
    predicted = model.pred(x).permute(0, 2, 3, 1)[~visible.mask]
    patches = images.unfold(2, model.cell, model.cell).unfold(3, model.cell, model.cell)
    target = patches.permute(0, 2, 3, 4, 5, 1)[~visible.mask].flatten(1)
    target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    return (predicted - target).square().mean()


def _masked_block(block: Block, x: Tensor, mask: Tensor) -> Tensor:
    hidden = F.gelu(block.pwconv1(block.norm(block.dwconv(x * mask).permute(0, 2, 3, 1))))
    seen = hidden * mask.permute(0, 2, 3, 1)
    norm = torch.linalg.vector_norm(seen, dim=(1, 2), keepdim=True)
    response = norm / (norm.mean(-1, keepdim=True) + 1e-6)
    assert block.grn is not None  # in every block of V2
    hidden = hidden + block.grn.gamma * (hidden * response) + block.grn.beta
    return x + block.pwconv2(hidden).permute(0, 3, 1, 2)


def _unmasked_loss(model: FCMAE, images: Tensor) -> Tensor:
    """The encoder on all cells, with the suite's fused blocks, and the decoder."""
    x = images
    for downsample, stage in zip(model.encoder.downsample_layers, model.encoder.stages):
        x = stage(downsample(x))
    return model.pred(model.decoder(model.proj(x))).square().mean()
