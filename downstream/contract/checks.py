"""The contract of a backbone, checked: what detectors, segmenters, optimizers and exporters rely on.

Nothing here needs a network: weights are random unless asked for.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from backbones import ConvNeXt
from backbones.errors import ConfigError, UserError
from backbones.optim.layer_decay import depths_of
from downstream.drop_in.facts import BackboneFacts, inspect_backbone

from .any_size import BackboneGraph, how_it_exports
from .cost import cost_beside, gmacs

# Heights and widths of the images that are tried; the first size serves the checks that need one.
EVEN_SIZES = ((64, 96), (128, 128), (160, 64))
ODD_SIZES = ((75, 107), (97, 65))
# Relative to the largest value. Random deep networks lose about .02 in bfloat16.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.2}
# Where cost is counted: the size at which the papers count detectors, and one that is quick to run.
_COUNTED_SIZE, _TIMED_SIZE = (1280, 800), (256, 256)


@dataclass(frozen=True)
class Finding:
    """The result of one check; ``passed`` is None for a note."""

    check: str
    passed: bool | None
    result: str
    advice: str = ''

    def __str__(self) -> str:
        mark = {True: 'pass', False: 'FAIL', None: '  - '}[self.passed]
        lines = [f'{mark}  {self.check:<22} {self.result}']
        if self.advice and self.passed is False:
            lines.append(f'{"":>29}{self.advice}')
        return '\n'.join(lines)


class CheckFailedError(Exception):
    """A check failed: the result, and how to fix it."""

    def __init__(self, result: str, advice: str) -> None:
        super().__init__(result)
        self.result, self.advice = result, advice


class CannotCheckError(Exception):
    """A check cannot run on this machine."""


def check_backbone(
    name: str | type[nn.Module],
    weights: bool = False,
    device: str = 'cpu',
    speed: bool = True,
    **backbone_args,
) -> Iterator[Finding]:
    """Check the backbone ``name``; yields each finding as soon as it is known.

    Args:
        name: See :mod:`backbones.names`; or a class that can be imported.
        weights: Whether to load the pretrained weights of the name, instead of random ones.
        device: Where to check.
        speed: Measure time and memory too, beside ConvNeXt-T.
        backbone_args: Arguments of the backbone's class.
    """
    if isinstance(name, type):
        name = f'{name.__module__}:{name.__qualname__}'
    try:
        checks = ContractChecks(name, weights, device, backbone_args)
    except UserError as error:
        advice = 'docs/backbones.md shows a complete class.' if ':' in name else ''
        yield Finding('builds', False, str(error), advice)
        return
    yield Finding('builds', True, checks.summary())
    for title, check in checks.all(speed):
        yield _finding(title, check)


def _finding(title: str, check: Callable[[], str | Finding]) -> Finding:
    try:
        result = check()
    except CheckFailedError as failed:
        return Finding(title, False, failed.result, failed.advice)
    except CannotCheckError as reason:
        return Finding(title, None, f'not checked here: {reason}')
    except Exception as error:  # a backbone may fail in any way
        words = (str(error).strip() or 'no message').splitlines()[0]
        return Finding(title, False, f'{type(error).__name__}: {words}', 'See the error.')
    return result if isinstance(result, Finding) else Finding(title, True, result)


class ContractChecks:
    """The checks of one backbone."""

    def __init__(self, name: str, weights: bool, device: str, backbone_args: dict) -> None:
        self.facts: BackboneFacts = inspect_backbone(name, 'detection', **backbone_args)
        self.device = torch.device(device)
        self.config = dict(self.facts.config)
        # As in a detector, but with every parameter trained.
        self.config.pop('frozen_stages', None)
        if not weights:
            self.config.pop('init_cfg', None)
        torch.manual_seed(0)
        self.model = self.build()
        if weights and hasattr(self.model, 'init_weights'):
            self.model.init_weights()

    def build(self) -> Any:
        """A new instance with random weights."""
        return MODELS.build(dict(self.config)).to(self.device)

    def summary(self) -> str:
        """Class, maps and parameters."""
        maps = ', '.join(f'{c}/{s}' for c, s in zip(self.facts.channels, self.facts.strides))
        count = sum(p.numel() for p in self.model.parameters())
        return f'{type(self.model).__name__}, channels/stride {maps}, {count:,} parameters'

    def all(self, speed: bool) -> list[tuple[str, Callable]]:
        """Titles and checks, the cheap ones first."""
        checks = [
            ('states its outputs', self.states_outputs),
            ('multiples of 32', lambda: self.shapes(EVEN_SIZES)),
            ('odd sizes', self.odd_sizes),
            ('batch', self.batch),
            ('train and eval', self.modes),
            ('gradients', self.gradients),
            ('parameter depths', self.depths),
            ('bfloat16', lambda: self.autocast(torch.bfloat16)),
            ('float16', lambda: self.autocast(torch.float16)),
            ('channels_last', self.channels_last),
            ('checkpoint', self.checkpoint),
            ('torch.compile', self.compiled),
            ('torch.export', self.exported),
            ('tools/export.py', self.exported_for_any_size),
            ('GMACs', self.multiply_adds),
        ]
        if speed:
            checks.append(('beside ConvNeXt-T', self.cost))
        return checks

    def image(self, size: Sequence[int], count: int = 1, seed: int = 0) -> Tensor:
        """Normal noise, ``(count, C, *size)``."""
        generator = torch.Generator().manual_seed(seed)
        sides = (count, self.facts.input_channels, *self.allowed(size))
        return torch.randn(*sides, generator=generator).to(self.device)

    def allowed(self, size: Sequence[int]) -> tuple[int, ...]:
        """``size``, rounded up to multiples of the divisor of the backbone."""
        divisor = self.facts.divisor
        return tuple(-(-side // divisor) * divisor for side in size)

    @torch.no_grad()
    def maps(self, image: Tensor, model: nn.Module | None = None) -> tuple[Tensor, ...]:
        """The maps in evaluation mode."""
        model = self.model if model is None else model
        model.eval()
        return tuple(model(image))

    def states_outputs(self) -> Finding:
        missing = [a for a in ('out_channels', 'out_strides') if not getattr(self.model, a, None)]
        if missing:
            words = f'no {" and no ".join(missing)}: read off a forward pass'
            return Finding('states its outputs', None, words)
        words = f'{tuple(self.model.out_channels)} at {tuple(self.model.out_strides)}'
        return Finding('states its outputs', True, words)

    def shapes(self, sizes: Sequence[Sequence[int]]) -> str:
        for size in sizes:
            for count in (1, 2):
                image = self.image(size, count)
                maps = self.maps(image)
                self._require_shapes(maps, image)
        return ', '.join(f'{h}x{w}' for h, w in sizes) + ', batches of 1 and 2'

    def _require_shapes(self, maps: Sequence[Tensor], image: Tensor) -> None:
        if len(maps) != len(self.facts.channels):
            raise CheckFailedError(
                f'{len(maps)} maps, with other sizes {len(self.facts.channels)}',
                'Return the same maps for every image.',
            )
        for i, (m, channels, stride) in enumerate(
            zip(maps, self.facts.channels, self.facts.strides)
        ):
            sizes = [(side // stride, -(-side // stride)) for side in image.shape[-2:]]
            right = all(have in can for have, can in zip(m.shape[-2:], sizes))
            if m.shape[:2] != (image.shape[0], channels) or not right:
                raise CheckFailedError(
                    f'map {i} is {tuple(m.shape)} for an image of {tuple(image.shape[-2:])}',
                    f'It must be ({image.shape[0]}, {channels}, {sizes[0][0]}, {sizes[1][0]}), or '
                    'rounded up.',
                )
            if m.dtype != image.dtype:
                raise CheckFailedError(
                    f'map {i} is {m.dtype} for an image of {image.dtype}',
                    'Do not fix a dtype in forward.',
                )
            if not torch.isfinite(m).all():
                raise CheckFailedError(
                    f'map {i} has values that are not finite', 'Check its initial values.'
                )

    def odd_sizes(self) -> str:
        if self.facts.divisor > 1:
            stated = getattr(self.model, 'size_divisor', None)
            if stated is None and self.facts.divisor > max(self.facts.strides):
                raise CheckFailedError(
                    'fails on them and states no size_divisor',
                    'State size_divisor in the class.',
                )
            return f'not needed: images are padded to multiples of {self.facts.divisor}'
        return self.shapes(ODD_SIZES)

    def batch(self) -> str:
        image = self.image(EVEN_SIZES[0], 3)
        together = self.maps(image)
        for i in range(len(image)):
            alone = self.maps(image[i : i + 1])
            self._require_equal(
                [m[i : i + 1] for m in together],
                alone,
                'an image alone and in a batch give different maps in evaluation mode',
                'Something mixes images: a statistic or a reshape over the batch.',
            )
        return 'an image gives the same maps alone and among others'

    def _require_equal(
        self,
        found: Sequence[Tensor],
        expected: Sequence[Tensor],
        what: str,
        advice: str,
        dtype: torch.dtype = torch.float32,
    ) -> float:
        worst = 0.0
        for a, b in zip(found, expected, strict=True):
            scale = b.float().abs().max().clamp_min(1e-6)
            worst = max(worst, ((a.float() - b.float()).abs().max() / scale).item())
        if not worst <= _TOLERANCE[dtype]:
            raise CheckFailedError(f'{what}: off by {worst:.2g} of the largest value', advice)
        return worst

    def modes(self) -> str:
        self.model.train()
        if not any(module.training for module in self.model.modules()):
            raise CheckFailedError(
                'train() leaves it in evaluation mode', 'Call super().train(mode) in train.'
            )
        self.model.eval()
        still = [n for n, module in self.model.named_modules() if module.training]
        if still:
            raise CheckFailedError(
                f'eval() leaves {still[0]} in training mode', 'Pass mode on in train().'
            )
        buffers = {n: b.clone() for n, b in self.model.named_buffers()}
        image = self.image(EVEN_SIZES[0], 2)
        first = self.maps(image)
        self._require_equal(
            self.maps(image),
            first,
            'two passes in evaluation mode differ',
            'Switch dropout and drop path off where self.training is False.',
        )
        changed = [n for n, b in self.model.named_buffers() if not torch.equal(b, buffers[n])]
        if changed:
            raise CheckFailedError(
                f'evaluation changes {changed[0]}', 'Update statistics only while self.training.'
            )
        return 'modes reach every module; evaluation is deterministic and changes no buffer'

    def gradients(self) -> str:
        self.model.train()
        self.model.zero_grad(set_to_none=True)
        maps = self.model(self.image(EVEN_SIZES[1], 2))
        sum((m.float() * torch.randn_like(m.float())).sum() for m in maps).backward()
        trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        none = [n for n, p in trained.items() if p.grad is None]
        if none:
            raise CheckFailedError(
                f'{len(none)} of {len(trained)} parameters get none: {", ".join(none[:3])}'
                + (', ...' if len(none) > 3 else ''),
                'Remove what no output uses; distributed training stops at such parameters.',
            )
        broken = [
            n for n, p in trained.items() if p.grad is not None and not torch.isfinite(p.grad).all()
        ]
        if broken:
            raise CheckFailedError(
                f'not finite in {broken[0]}', 'Look for a division or a root near zero there.'
            )
        self.model.zero_grad(set_to_none=True)
        return f'reach all {len(trained)} parameters'

    def depths(self) -> str:
        words = []
        trained = [name for name, p in self.model.named_parameters() if p.requires_grad]
        for decay_type in ('layer_wise', 'stage_wise'):
            depth_of = depths_of(self.model, decay_type)
            depths = [depth_of[name] for name in trained]
            groups = len({depth for depth, _ in depths})
            if groups > 1 and min(depths) != depths[0]:
                raise CheckFailedError(
                    f'{decay_type}: the first parameter has depth {depths[0][0]}, another '
                    f'{min(depths)[0]}',
                    'The stem must have the smallest depth: it learns slowest.',
                )
            words.append(f'{groups} {decay_type} groups')
        stated = hasattr(self.model, 'get_layer_depth')
        return ', '.join(words) + ('' if stated else ', by the order of its blocks')

    def autocast(self, dtype: torch.dtype) -> str:
        image = self.image(EVEN_SIZES[1])
        expected = self.maps(image)
        try:
            with torch.autocast(self.device.type, dtype):
                found = self.maps(image)
        except (RuntimeError, NotImplementedError) as error:
            if self.device.type == 'cpu' and 'not implemented' in str(error):
                raise CannotCheckError(
                    f'torch has no {dtype} for a layer of it on the CPU'
                ) from error
            raise
        if not all(torch.isfinite(m).all() for m in found):
            raise CheckFailedError(
                'infinite or no numbers', 'Sum squares and take norms in float32.'
            )
        worst = self._require_equal(
            found,
            expected,
            'maps differ from float32',
            'Keep statistics, norms and positions in float32.',
            dtype,
        )
        return f'off by {worst:.1g} of the largest value'

    def channels_last(self) -> str:
        image = self.image(EVEN_SIZES[0], 2)
        expected = self.maps(image)
        model = copy.deepcopy(self.model).to(memory_format=torch.channels_last)
        found = self.maps(image.to(memory_format=torch.channels_last), model)
        self._require_equal(
            found, expected, 'maps differ', 'Use reshape, not view, on what may be permuted.'
        )
        return 'the same maps'

    def checkpoint(self) -> str:
        image = self.image(EVEN_SIZES[0])
        expected = self.maps(image)
        file = io.BytesIO()
        torch.save(self.model.state_dict(), file)
        size = file.tell()
        file.seek(0)
        again = self.build()
        again.load_state_dict(torch.load(file, weights_only=True))
        advice = 'Register everything that decides the maps as a parameter or a buffer.'
        self._require_equal(self.maps(image, again), expected, 'a reloaded one differs', advice)
        self._require_equal(
            self.maps(image, copy.deepcopy(self.model)), expected, 'a copy differs', advice
        )
        return f'{size / 2**20:.1f} MiB; reloaded and copied it gives the same maps'

    def compiled(self) -> str:
        image = self.image(EVEN_SIZES[0])
        expected = self.maps(image)
        torch.compiler.reset()
        compiled: Any = torch.compile(self.model, backend='aot_eager', fullgraph=True)
        try:
            found = self.maps(image, compiled)
        except Exception as error:
            words = str(error).strip().splitlines()[0]
            raise CheckFailedError(
                f'no single graph: {words[:150]}',
                'torch._dynamo.explain(model)(image) shows where; avoid .item(), print and branches on '
                'values.',
            ) from error
        finally:
            torch.compiler.reset()
        self._require_equal(found, expected, 'the compiled one differs', 'Report it to PyTorch.')
        return 'one graph, the same maps'

    def exported(self) -> str:
        image = self.image(EVEN_SIZES[0])
        expected = self.maps(image)
        try:
            program = torch.export.export(self.model, (image,))
        except Exception as error:
            words = str(error).strip().splitlines()[0]
            raise CheckFailedError(
                f'cannot be exported: {words[:150]}', 'Keep Python side effects out of forward.'
            ) from error
        found = program.module()(image)
        self._require_equal(found, expected, 'the exported one differs', 'Report it to PyTorch.')
        return f'{len(program.graph.nodes)} nodes, the same maps'

    def exported_for_any_size(self) -> Finding:
        self.model.eval()
        graph = BackboneGraph(
            copy.deepcopy(self.model).cpu(),
            self.facts.input_channels,
            self.facts.divisor,
            max(self.facts.strides),
        )
        of_any, words = how_it_exports(graph)
        # Training and testing need none of it.
        return Finding('tools/export.py', of_any or None, words)

    def multiply_adds(self) -> Finding:
        counted = {}
        for size in ((224, 224), _COUNTED_SIZE):
            counted[size] = gmacs(
                self.facts.built, (self.facts.input_channels, *self.allowed(size))
            )
        words = ', '.join(f'{value:.2f} at {h}x{w}' for (h, w), value in counted.items())
        return Finding('GMACs', None, f'{words} (matrix products and convolutions)')

    def cost(self) -> Finding:
        reference = ConvNeXt('tiny', in_channels=self.facts.input_channels).to(self.device)
        image = self.image(_TIMED_SIZE, 2)
        words = cost_beside(self.model, reference, image)
        size = f'{_TIMED_SIZE[0]}x{_TIMED_SIZE[1]}'
        return Finding('beside ConvNeXt-T', None, f'{words} (batch 2, {size}, {self.device})')


def require_all_passed(findings: Sequence[Finding], name: str) -> None:
    """Raise ConfigError with the titles of what failed, if anything did."""
    failed = [finding.check for finding in findings if finding.passed is False]
    if failed:
        raise ConfigError(
            f'backbone {name!r} breaks the contract in {len(failed)} of {len(findings)} checks: '
            f'{", ".join(failed)}.'
        )
