"""What can be verified of a row before anyone spends a GPU-week on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from math import isclose
from typing import Any, TypedDict

from mmengine.config import Config
from torch import Tensor, nn

from backbones.errors import UserError, WeightsError
from backbones.weights.load import load_state

from . import complexity
from .released import released_tensors
from .table import Row

# Images that training sees: those of train2017 with an annotation, and all of ADE20K's.
IMAGES = {'coco': 117_266, 'ade20k': 20_210}
# Both papers trained on nodes of this many GPUs.
GPUS = 8


class _Schedule(TypedDict, total=False):
    epochs: int
    iterations: int
    drops: list[int] | int
    batch: int


_PUBLISHED: dict[str, _Schedule] = {
    '1x': {'epochs': 12, 'drops': [8, 11], 'batch': 16},
    '3x': {'epochs': 36, 'drops': [27, 33], 'batch': 16},
    '3x-frozen': {'epochs': 36, 'drops': [27, 33], 'batch': 16},
    '3x-lsj': {'epochs': 36, 'drops': [27, 33], 'batch': 32},
    '12e': {'iterations': 90_000, 'drops': [82_500], 'batch': 16},
    '50e-lsj': {'iterations': 368_750, 'drops': [327_778, 355_092], 'batch': 16},
    '100e-lsj': {'iterations': 737_500, 'drops': [655_556, 710_184], 'batch': 16},
    # the rate falls from the 50th epoch on
    '100e': {'epochs': 100, 'drops': 50, 'batch': 128},
    '160k': {'iterations': 160_000, 'batch': 16},
    '40k-frozen': {'iterations': 40_000, 'batch': 16},
}


class MismatchError(Exception):
    """A recipe differs from what was published."""


def check_row(row: Row) -> dict[str, str]:
    """Check a row; the result of each check by title, starting with ``FAIL`` where it failed."""
    try:
        cfg = row.cfg
        model = complexity.build_on_meta(cfg)
    except UserError as error:
        return {'config': f'FAIL {error}'}
    results = {}
    for title, check in CHECKS.items():
        try:
            results[title] = check(row, cfg, model)
        except (MismatchError, UserError) as error:
            results[title] = f'FAIL {error}'
    return results


def _parameters(row: Row, cfg: Config, model: nn.Module) -> str:
    found = complexity.parameters(model)
    if found != row.params:
        raise MismatchError(f'{found:,}, not {row.params:,}')
    printed = row.printed.get('params')
    if printed is not None and round(found / 1e6) != printed:
        raise MismatchError(f'{found:,}, but {printed} M are printed')
    return f'{found:,}'


def _gmacs(row: Row, cfg: Config, model: nn.Module) -> str:
    found = complexity.gmacs(model, complexity.counted_size(cfg))
    if not isclose(found, row.gmacs, rel_tol=1e-3):
        raise MismatchError(f'{found:.2f}, not {row.gmacs}')
    printed = row.printed.get('gmacs')
    if printed is not None and round(found) != printed and not row.note:
        raise MismatchError(f'{found:.2f}, but {printed} are printed')
    return f'{found:.2f}'


def _weights(row: Row, cfg: Config, model: Any) -> str:
    """Load the tensors of the released file, as another implementation has them, into the backbone."""
    named = (cfg.model.backbone.get('init_cfg') or {}).get('checkpoint')
    if named != row.weights:
        raise MismatchError(f'the config starts from {named}, the row from {row.weights}')
    if named is None:
        return 'not released'
    released = released_tensors(named)
    try:
        report = load_state(model.backbone, released, named)
    except WeightsError as error:
        raise MismatchError(' '.join(str(error).split())) from error
    # Loading may resize a tensor: timm resamples Swin's tables to another window; no row needs that.
    own = model.backbone.state_dict()
    file_shapes, own_shapes = _shapes(released.values()), _shapes(own[k] for k in report.loaded)
    if file_shapes != own_shapes:
        raise MismatchError(
            f'{named} has tensors of shape {_listed(file_shapes - own_shapes)} where the backbone has '
            f'{_listed(own_shapes - file_shapes)}'
        )
    return f'{named}, {len(report.loaded)} tensors'


def _shapes(tensors: Iterable[Tensor]) -> Counter[tuple[int, ...]]:
    """How many tensors there are of each shape; sides of 1, in which layouts differ, are left out."""
    return Counter(tuple(side for side in t.shape if side != 1) for t in tensors)


def _listed(shapes: Counter[tuple[int, ...]]) -> str:
    return ', '.join(f'{count} x {shape}' for shape, count in shapes.items()) or 'none'


def _schedule(row: Row, cfg: Config, model: nn.Module) -> str:
    published = _PUBLISHED[row.schedule]
    batch = cfg.train_dataloader.batch_size * GPUS
    if not batch == published['batch'] == cfg.auto_scale_lr.base_batch_size:
        raise MismatchError(
            f'{batch} images a step on {GPUS} GPUs, {cfg.auto_scale_lr.base_batch_size} for scaling, '
            f'not {published["batch"]}'
        )
    last = cfg.param_scheduler[-1]
    if 'epochs' in published:
        found = (cfg.train_cfg.max_epochs, last.get('milestones', last.begin))
        wanted = (published['epochs'], published['drops'])
    elif 'drops' in published:
        found = (cfg.train_cfg.max_iters, last.milestones)
        wanted = (published['iterations'], published['drops'])
    else:
        # a scheduler's `end` is one past its last step
        found = (cfg.train_cfg.max_iters, last.end - 1)
        wanted = (published['iterations'],) * 2
    if found != wanted:
        raise MismatchError(f'{found}, not {wanted}')
    return f'{iterations(row):,} steps of {batch}'


def iterations(row: Row, batch: int | None = None) -> int:
    """Optimizer steps of the published schedule, at its own batch or another."""
    published = _PUBLISHED[row.schedule]
    if 'iterations' in published:
        return published['iterations']
    return published['epochs'] * -(-IMAGES['coco'] // (batch or published['batch']))


CHECKS: dict[str, Callable[[Row, Config, nn.Module], str]] = {
    'parameters': _parameters,
    'GMACs': _gmacs,
    'weights': _weights,
    'schedule': _schedule,
}
