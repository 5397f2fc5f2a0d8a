"""From a data set and a recipe to a config in the work dir, and what was decided on the way."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from backbones.errors import ConfigError, DataError
from downstream.data.formats.find import find
from downstream.data.formats.found import Found, counts
from downstream.data.formats.split import split
from downstream.data.formats.write import write
from downstream.distributed.processes import is_first_process, process_count
from downstream.paths import read_file
from downstream.running import settings
from downstream.running.config import TrainOptions, training_config
from downstream.running.options.batch_probe import largest_batch, require_one_process
from downstream.running.options.channels import chosen_bands
from downstream.running.stock.parts import starts_of_whole_model

from . import leaf
from .fit import dropped_class_weights, has_mask_branch, learns_masks, proposes, require_trainable
from .joined import Join, without_joins
from .objects import choose_objects
from .recipe import TASKS, apply, read_schedule, recipe_file, task_of_recipe
from .schedule import Schedule, schedule
from .text import Plan, config_text

# What of the command line is in the config that is written.
_WRITTEN = ('epochs', 'lr', 'batch_size', 'image_size', 'patience', 'channels', 'bands')


@dataclass(frozen=True)
class DataOptions:
    """What the command line says of one's own data.

    Attributes:
        source: Folder or file of the data set.
        objects: ``'boxes'``, ``'masks'``, or None: masks if every object has one.
    """

    source: str
    objects: str | None = None


def prepare(options: TrainOptions, data: DataOptions) -> TrainOptions:
    """Write a config that trains ``options.config`` on a data set of one's own, and say what is in it.

    Every process of a run does this and writes the same files.

    Args:
        options: The command line of training; ``config`` may be ``'det'`` or ``'seg'``.
        data: The data set.

    Returns:
        The options that train the config, in which everyday settings and the start are.

    Raises:
        UserError: The data, the recipe or an option is not possible.
    """
    probes = options.batch_size == 'auto'
    if probes:
        require_one_process(process_count(options.launcher))
    plan = _plan(replace(options, batch_size=None) if probes else options, data)
    config = plan.work_dir / f'{plan.work_dir.resolve().name}.py'
    written = write(plan.found, plan.work_dir / 'data')
    leaf.write(config, config_text(plan, written, config))
    in_config: dict[str, Any] = dict.fromkeys(_WRITTEN)
    ready = replace(options, config=str(config), work_dir=str(plan.work_dir), **in_config)
    if probes:
        # The model that is trained decides: its backbone, its classes, its precision.
        with redirect_stdout(io.StringIO()):  # the report follows, when the run starts
            probed = training_config(ready)
        most, images = largest_batch(probed, plan.processes), _trained(plan.found)
        batch = min(most, images)
        fitting = replace(options, batch_size=batch)
        chosen, fitted = _schedule(fitting, plan.base, plan.found, plan.processes)
        reason = 'the largest that fits the memory' if most < images else 'all images of training'
        fits = replace(chosen.batch, reason=reason)
        plan = replace(plan, schedule=replace(chosen, batch=fits), cfg=fitted)
        leaf.write(config, config_text(plan, written, config))
    if is_first_process():
        print('\n'.join(_summary(plan, config)), flush=True)
    return ready


def _plan(options: TrainOptions, data: DataOptions) -> Plan:
    source = Path(data.source)
    found = _with_validation(
        find(source, TASKS.get(options.config) or task_of_recipe(options.config)), source
    )
    boxes, found = choose_objects(found, data.objects)
    recipe = recipe_file(options.config, boxes)
    cfg = read_file(recipe, imports=False)
    require_trainable(cfg, recipe.name)
    joins = without_joins(cfg, recipe.name)
    if found.task == 'detection':
        boxes, found = _objects_of_recipe(cfg, recipe.name, boxes, found, data.objects)
    # As without --data: that of a config of one's own may have the new backbone.
    replaces = options.backbone and not options.start_from and '::' in options.config
    left_out = starts_of_whole_model(cfg) if replaces else {}
    found = found.with_notes(*_notes_of_recipe(cfg, joins, found), *_left_in_words(left_out))
    processes = process_count(options.launcher)
    chosen, fitted = _schedule(options, cfg, found, processes)
    return Plan(
        found=found,
        source=source,
        recipe=recipe,
        base=cfg,
        joins=joins,
        left_out=list(left_out),
        cfg=fitted,
        boxes=boxes,
        processes=processes,
        schedule=chosen,
        cores=os.cpu_count() or 1,
        image_size=options.image_size,
        patience=options.patience,
        start_from=options.start_from,
        bands=chosen_bands(Config(dict(channels=options.channels, bands=options.bands))),
        backbone=options.backbone,
        work_dir=Path(options.work_dir or f'work_dirs/{_name(recipe, source, options.backbone)}'),
    )


def _notes_of_recipe(cfg: Config, joins: Sequence[Join], found: Found) -> list[str]:
    """What a recipe makes of a set, besides what it states."""
    notes = [
        f'{join.loader}: takes the place of the {join.count} data sets that the recipe joins'
        for join in joins
    ]
    if proposes(cfg.model):
        notes.append('the recipe is an RPN alone: it learns where objects are, not of what class')
    dropped = dropped_class_weights(cfg.model, len(found.classes))
    if dropped:
        notes.append(f"weights of the recipe's own classes are left out: {', '.join(dropped)}")
    return notes


def _left_in_words(left_out: Mapping[str, str]) -> list[str]:
    return [
        f'{checkpoint} is left out ({key}): a whole model with the backbone that is replaced'
        for key, checkpoint in left_out.items()
    ]


def _objects_of_recipe(
    cfg: Config, name: str, boxes: bool, found: Found, wanted: str | None
) -> tuple[bool, Found]:
    """Whether boxes alone are trained by a recipe, and the set with a note of why."""
    if boxes and learns_masks(cfg) and not has_mask_branch(cfg.model):
        raise ConfigError(
            f'--data: {name} learns masks, and there is no part of it that could be left out to train '
            'boxes alone; take another recipe.'
        )
    if not boxes and not learns_masks(cfg):
        if wanted == 'masks':
            raise ConfigError(f'--masks: {name} has no mask head; take another recipe.')
        return True, found.with_notes('the recipe has no mask head: boxes alone are trained')
    return boxes, found


def _with_validation(found: Found, source: Path) -> Found:
    """The set with the parts ``train`` and ``val``.

    Raises:
        DataError: There is nothing to train.
    """
    if 'val' in found.parts and 'train' in found.parts:
        return found
    if 'train' in found.parts or 'all' in found.parts:
        return split(found)
    raise DataError(
        f'{source} has no part to train on; it has {", ".join(found.parts)}. Name one train.'
    )


def _schedule(
    options: TrainOptions, cfg: Config, found: Found, processes: int
) -> tuple[Schedule, Config]:
    """The schedule for a set, and the recipe with it."""
    images = _trained(found)
    fitted = deepcopy(cfg)
    assert options.batch_size != 'auto'  # which is tried afterwards
    if options.image_size is not None:
        settings.set_image_size(fitted, options.image_size)
    chosen = schedule(
        read_schedule(cfg),
        images,
        counts(found)['val'].images,
        processes,
        fine_tuned=options.start_from is not None,
        epochs=options.epochs,
        batch=options.batch_size,
        rate=options.lr,
    )
    apply(chosen, fitted, images, processes)
    if options.patience is not None:
        settings.set_patience(fitted, options.patience)
    return chosen, fitted


def _trained(found: Found) -> int:
    """How many images are trained on."""
    part = counts(found)['train']
    images = part.images
    if found.task == 'detection':  # CocoDataset leaves images without objects out (filter_empty_gt)
        images -= part.empty
    if not images:
        raise DataError('no image for training has an object; nothing can be learned from them.')
    return images


def _name(recipe: Path, source: Path, backbone: str | None) -> str:
    """Of a run: method, backbone, weights and data set."""
    parts = recipe.stem.split('_')
    model = '_'.join(parts[:3] if len(parts) > 3 else parts)
    if backbone:
        model = f'{parts[0]}_{backbone}'
    source = source.resolve()
    data = source.name if source.is_dir() else source.stem
    if data in ('data', 'dataset', '_annotations.coco') and source.parent.name:
        data = source.parent.name
    return re.sub(r'[^\w.-]+', '-', f'{model}_{data}')


def _summary(plan: Plan, config: Path) -> list[str]:
    """Every decision, a line each."""
    found, chosen, parts = plan.found, plan.schedule, counts(plan.found)
    sizes = ', '.join(f'{part.images} {name}' for name, part in parts.items())
    again = f' with --backbone {plan.backbone}' if plan.backbone else ''
    lines = [
        ('data', f'{plan.source}: {found.format}, {len(found.classes)} classes, images: {sizes}'),
        ('recipe', plan.recipe.stem),
        ('length', f'{chosen.epochs.value} epochs: {chosen.epochs.reason}; {chosen.steps:,} steps'),
        ('batch', f'{chosen.batch.value}: {chosen.batch.reason}'),
        ('rate', f'{chosen.rate.value:g}: {chosen.rate.reason}'),
        ('warm-up', f'{chosen.warm_up.value} steps: {chosen.warm_up.reason}'),
        (
            'evaluation',
            f'every {chosen.evaluate_every.value} epochs: {chosen.evaluate_every.reason}',
        ),
        *(('note', note) for note in found.notes),
        ('config', f'{config}, to read, edit and train again{again}'),
    ]
    if not torch.cuda.is_available():
        lines.append(
            ('device', 'the CPU; --epochs, --image-size and --backbone make a run shorter')
        )
    return [f'{name:>12}  {text}' for name, text in lines]
