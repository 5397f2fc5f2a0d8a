"""ConvNeXt's speed and memory beside other implementations with the same weights."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from backbones import ConvNeXt, ConvNeXtV2
from benchmarks.speed.peers import peers
from downstream.benchmarking.timing import Timings, interleave

OURS, BASE = 'this suite', 'FAIR form'


@dataclass(frozen=True)
class Case:
    """One row of the table; targets are speeds as multiples of the FAIR form's and of the best peer's."""

    name: str
    v2: bool
    size: tuple[int, int, int]
    training: bool = False
    drop_path_rate: float = 0.0
    arch: str = 'tiny'
    threads: int = 2
    targets: tuple[float, float] = (1.0, 1.0)


_LARGE, _CROP, _PAIR = (1, 800, 1344), (1, 512, 512), (2, 512, 512)
CASES = (
    Case('V1 inference', False, _LARGE, targets=(1.35, 1.30)),
    Case('V2 inference', True, _LARGE, targets=(2.0, 1.9)),
    Case('V1 inference', False, _CROP, targets=(1.2, 1.15)),
    Case('V1 training', False, _PAIR, True, targets=(1.15, 1.05)),
    Case('V1 training, drop path 0.4', False, _PAIR, True, 0.4, targets=(1.45, 1.1)),
    Case('V2 training', True, _PAIR, True, targets=(1.45, 1.2)),
)
MORE = tuple(
    Case(
        f'V{2 if v2 else 1} {arch} {"training" if training else "inference"}',
        v2,
        (1, 640, 640),
        training,
        arch=arch,
        threads=1,
    )
    for arch, v2, training in (
        ('tiny', False, False),
        ('small', False, False),
        ('base', False, False),
        ('tiny', True, False),
        ('base', True, False),
        ('tiny', False, True),
        ('tiny', True, True),
    )
)


@dataclass(frozen=True)
class Result:
    """What was measured of a case."""

    case: Case
    timings: Timings
    error: float
    """Largest relative difference of outputs (and gradients) to the FAIR form's."""


def build(case: Case) -> dict[str, nn.Module]:
    """Ours and the peers, all with the same weights."""
    torch.manual_seed(0)
    cls = ConvNeXtV2 if case.v2 else ConvNeXt
    model = cls(case.arch, drop_path_rate=case.drop_path_rate).train(case.training)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return {OURS: model, **peers(model, case.arch, case.drop_path_rate)}


def step(model: nn.Module, x: Tensor, training: bool) -> Callable[[], list[Tensor]]:
    """What is timed: outputs, or outputs and a backward pass that reaches the image."""
    if not training:

        def infer() -> list[Tensor]:
            with torch.inference_mode():
                return list(model(x))

        return infer

    def train() -> list[Tensor]:
        model.zero_grad(set_to_none=True)
        outputs = list(model(x))
        sum(y.square().mean() for y in outputs).backward()
        return outputs

    return train


def inference(case: Case, name: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """For :func:`benchmarks.memory.peak`: an inference of one implementation, and a smaller one."""
    torch.set_num_threads(case.threads)
    model = build(case)[name]
    count, height, width = case.size
    x = torch.randn(count, 3, height, width)
    return step(model, x, False), step(model, x[..., :64, :64], False)


def difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference, relative to the largest value of each tensor."""
    return max(
        float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True)
    )


def _grad(parameter: nn.Parameter) -> Tensor:
    """A copy of its gradient."""
    assert parameter.grad is not None, 'the backward pass did not reach a parameter'
    return parameter.grad.clone()


def measure(case: Case, rounds: int) -> Result:
    """Time all implementations of ``case`` in turn, after comparing what they compute."""
    torch.set_num_threads(case.threads)
    models = build(case)
    count, height, width = case.size
    x = torch.randn(count, 3, height, width)
    steps = {name: step(model, x, case.training) for name, model in models.items()}
    reference = {}
    for name in (BASE, OURS):
        torch.manual_seed(1)  # of drop path
        outputs = steps[name]()
        named = dict(models[name].named_parameters())
        grads = [_grad(named[key]) for key in sorted(named)] if case.training else []
        reference[name] = [y.detach() for y in outputs], grads
    error = max(
        difference(found, expected)
        for found, expected in zip(reference[OURS], reference[BASE])
        if expected
    )
    del reference
    gc.collect()
    return Result(case, interleave(steps, rounds, title=case.name), error)
