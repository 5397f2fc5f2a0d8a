"""The config of a run on one's own data, as text."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf
from pathlib import Path

from mmengine.config import Config

from downstream.data.checks.datasets import COCO_TYPES
from downstream.data.formats.found import Found, Instances
from downstream.data.formats.write import Written
from downstream.data.pipelines import steps_of_dataset
from downstream.running import settings

from .fit import has_mask_branch, levels, proposes
from .joined import Join
from .leaf import Name, assignment, path_of_base
from .recipe import workers
from .schedule import Schedule

# Detections of an image that most recipes keep and that COCO counts.
_DETECTIONS = 100
# Arguments of a data set that one of any class takes, and those that name files.
_OF_ANY_CLASS = (
    'type',
    'pipeline',
    'filter_cfg',
    'test_mode',
    'backend_args',
    'indices',
    'lazy_init',
    'max_refetch',
    'serialize_data',
)
_REPLACED = ('img_suffix', 'seg_map_suffix', 'reduce_zero_label')
_COCO_METRICS = ('CocoMetric', 'CocoInstanceMetric')


@dataclass(frozen=True)
class Plan:
    """What was decided for a run on one's own data.

    Attributes:
        found: The data set, split.
        source: Where it is.
        recipe: The config that is inherited.
        base: That config, read, with one data set where it joins several.
        joins: What it joins.
        left_out: Keys of what it starts from, where that has the backbone that is replaced.
        cfg: The same with schedule, image size and patience of this run.
        boxes: Whether boxes alone are trained.
        processes: How many train.
        schedule: Length, batch, rate and their reasons.
        cores: Of the machine.
        image_size: Given by the user.
        patience: Given by the user.
        start_from: A checkpoint, given by the user.
        bands: Of images that are not 8-bit RGB, given by the user.
        backbone: In the place of the recipe's, given by the user; the config keeps the recipe's.
        work_dir: Of the run.
    """

    found: Found
    source: Path
    recipe: Path
    base: Config
    joins: tuple[Join, ...]
    left_out: Sequence[str]
    cfg: Config
    boxes: bool
    processes: int
    schedule: Schedule
    cores: int
    image_size: int | None
    patience: int | None
    start_from: str | None
    bands: tuple[int, ...] | None
    backbone: str | None
    work_dir: Path


def config_text(plan: Plan, written: Written, config: Path) -> str:
    """The config ``config``: the recipe, and what differs from it with its reason."""
    parts = [_head(plan, config), _model(plan), _data(plan, written), _schedule(plan)]
    return '\n'.join(part for part in parts if part)


def _head(plan: Plan, config: Path) -> str:
    names = ['num_classes', *(['without_masks'] if _drops_masks(plan) else [])]
    imports = f'from downstream.drop_in import {", ".join(names)}\n'
    helpers = [
        *(['boxes_only'] if _drops_masks(plan) else []),
        *(['labels_as_the_data_set_has_them'] if _sets_zero_label(plan.base) else []),
        *(['resized'] if plan.image_size else []),
    ]
    if helpers:
        imports = f'from downstream.data.pipelines import {", ".join(helpers)}\n{imports}'
    if plan.image_size and settings.sized_parts(plan.base.model, 0.5):
        imports += 'from downstream.running.settings import sized_parts\n'
    option = f' --backbone {plan.backbone}' if plan.backbone else ''
    train = f'python tools/train.py {config}{option}'
    own = f'# {config.stem}.complete.py has the backbone in it, for tests and predictions.\n'
    return (
        f'# {plan.recipe.stem} on {plan.source} ({plan.found.format}).\n'
        f'# Edit it and train with it: {train}\n'
        f'{own if plan.backbone else ""}'
        f'_base_ = {path_of_base(plan.recipe, config)!r}\n{imports}\n'
        f'work_dir = {str(plan.work_dir)!r}\n'
        f'{assignment("classes", tuple(plan.found.classes))}{_bands(plan)}'
    )


def _bands(plan: Plan) -> str:
    if not plan.bands:
        return ''
    text = assignment('bands', plan.bands, 'Of every image, as they are (--bands, --channels).')
    # A recipe's own channels would contradict them.
    return text + ('channels = None\n' if plan.base.get('channels') is not None else '')


def _drops_masks(plan: Plan) -> bool:
    """Whether the recipe has masks that this run has not."""
    return plan.boxes and has_mask_branch(plan.base.model)


def _sets_zero_label(base: Config) -> bool:
    """Whether the recipe's own loaders say that 0 stands for no class, as that of ADE20K."""
    loaders = (base.train_dataloader, base.test_dataloader)
    return any('reduce_zero_label' in s for one in loaders for s in steps_of_dataset(one.dataset))


def _factor(plan: Plan) -> str:
    return f'{plan.image_size} / {settings.image_size(plan.base)}'


def _model(plan: Plan) -> str:
    arguments = '_base_.model, len(classes)'
    text = ''
    if plan.image_size and settings.sized_parts(plan.base.model, 0.5):
        arguments += f', sized_parts(_base_.model, {_factor(plan)})'
    text += f'model = num_classes({arguments})\n'
    if _drops_masks(plan):
        text += 'model = without_masks(_base_.model, model)\n'
    if plan.start_from:
        text += assignment(
            'load_from',
            os.path.abspath(plan.start_from) if '://' not in plan.start_from else plan.start_from,
            'Classes of the same name keep what this model learned of them (--from).',
        )
        text += "model['backbone'] = dict(init_cfg=None)  # its weights are in load_from\n"
    elif plan.backbone:
        text += _without_whole_model(plan)
    most, kept = _most_objects(plan), _recipes_detections(plan)
    # A DETR has no more detections than queries.
    wanted = min(_kept_detections(most), plan.base.model.get('num_queries', inf))
    if most > kept < wanted and not proposes(plan.base.model):
        testing = dict(max_per_img=wanted)
        text += assignment(
            "model['test_cfg']",
            dict(rcnn=testing) if plan.base.model.get('roi_head') else testing,
            f'An image has up to {most} objects; the recipe keeps {kept} detections.',
        )
    return text


def _without_whole_model(plan: Plan) -> str:
    """Lines that leave out a trained model with another backbone, which the recipe starts from."""
    names = {'load_from': 'load_from', 'model.init_cfg': "model['init_cfg']"}
    return ''.join(
        f"{names[key]} = None  # the recipe's has its own backbone\n" for key in plan.left_out
    )


def _recipes_detections(plan: Plan) -> int:
    """How many detections of an image the recipe keeps."""
    testing = plan.base.model.get('test_cfg') or {}
    return (testing.get('rcnn') or testing).get('max_per_img', _DETECTIONS)


def _most_objects(plan: Plan) -> int:
    """The most objects that an image has, 0 in a segmentation set."""
    count: dict = {}
    for part in plan.found.parts.values():
        for one in part.coco['annotations'] if isinstance(part, Instances) else ():
            count[one['image_id']] = count.get(one['image_id'], 0) + 1
    return max(count.values(), default=0)


def _kept_detections(most: int) -> int:
    return ceil(most / _DETECTIONS) * _DETECTIONS


def _data(plan: Plan, written: Written) -> str:
    text, pipelines = '', {}
    for loader in ('train', 'test'):
        lines, pipelines[loader] = _pipelines(plan, loader)
        text += lines
    if pipelines['test'] and plan.base.get('tta_pipeline'):
        text += f'tta_pipeline = {_pipeline(plan, "_base_.tta_pipeline")}\n'
    for key in ('crop_size', 'image_scale', 'image_size') if plan.image_size else ():
        if plan.base.get(key):
            text += assignment(key, plan.cfg[key])
    last = 'test' if 'test' in written.datasets else 'val'
    train = _dataset(plan, 'train', written.datasets['train'], pipelines['train'])
    val = _dataset(plan, 'val', written.datasets['val'], pipelines['test'])
    test = _dataset(plan, 'test', written.datasets[last], pipelines['test'])
    count, why = workers(plan.processes, plan.cores)
    join = _join(plan, 'train')
    text += assignment(
        'train_dataloader',
        dict(
            batch_size=plan.cfg.train_dataloader.batch_size,
            num_workers=count,
            dataset=train,
        ),
        f'Batch: {plan.schedule.batch.value} images, {plan.schedule.batch.reason}. Workers: {why}.',
        *([f'One data set in the place of {join.count} that the recipe joins.'] if join else []),
    )
    text += assignment('val_dataloader', dict(num_workers=count, dataset=val))
    same = last == 'val'
    text += (
        'test_dataloader = val_dataloader\n'
        if same
        else assignment('test_dataloader', dict(num_workers=count, dataset=test))
    )
    if plan.found.task == 'detection':
        text += assignment('val_evaluator', _evaluator(plan, 'val', written.datasets['val']))
        text += (
            'test_evaluator = val_evaluator\n'
            if same
            else assignment('test_evaluator', _evaluator(plan, 'test', written.datasets['test']))
        )
    return text


def _pipelines(plan: Plan, loader: str) -> tuple[str, dict[int, Name]]:
    """Lines that change the pipelines of a loader's data set, and their names by its levels."""
    text, names = '', dict[int, Name]()
    for depth, level in enumerate(levels(plan.base[f'{loader}_dataloader'].dataset)):
        where = _pipeline_of_recipe(plan, loader, depth)
        changed = _pipeline(plan, where) if 'pipeline' in level else ''
        if changed:
            name = f'{loader}_pipeline' if not names else f'{loader}_pipeline_{depth}'
            names[depth] = Name(name)
            text += f'{name} = {changed}\n'
    return text, names


def _pipeline_of_recipe(plan: Plan, loader: str, depth: int) -> str:
    """The code for the pipeline of a level of a loader's data set."""
    join = _join(plan, loader)
    if join and depth == join.depth:
        return f'_base_.{join.first}.pipeline'
    return f'_base_.{loader}_dataloader{".dataset" * (depth + 1)}.pipeline'


def _join(plan: Plan, loader: str) -> Join | None:
    return next((join for join in plan.joins if join.loader == loader), None)


def _pipeline(plan: Plan, code: str) -> str:
    """How a pipeline of the recipe is changed, '' if it is not."""
    changed = code
    if plan.image_size:
        changed = f'resized({changed}, {_factor(plan)})'
    if _drops_masks(plan):
        changed = f'boxes_only({changed})'
    if _sets_zero_label(plan.base):
        changed = f'labels_as_the_data_set_has_them({changed})'
    return '' if changed == code else changed


def _dataset(plan: Plan, loader: str, arguments: dict, pipelines: dict[int, Name]) -> dict:
    """What a data set's config differs in from the recipe's.

    Args:
        plan: Of the run.
        loader: ``'train'``, ``'val'`` or ``'test'``.
        arguments: Where its files are.
        pipelines: Of the levels whose pipelines change.
    """
    *outer, base = levels(plan.base[f'{loader}_dataloader'].dataset)
    # Keys of the recipe's that the classes do not replace, such as a palette, are for its own classes.
    own = dict(_delete_=True) if base.get('metainfo') else {}
    changes = dict(metainfo=dict(**own, classes=Name('classes')), **arguments)
    if plan.found.task != 'detection':
        changes = dict(type='BaseSegDataset', **changes)
    elif base.get('type') not in COCO_TYPES:
        changes = dict(type='CocoDataset', **changes)
    if len(outer) in pipelines:
        changes['pipeline'] = pipelines[len(outer)]
    strange = 'type' in changes and set(base) - {*_OF_ANY_CLASS, *changes, *_REPLACED}
    if strange or _join(plan, loader):
        changes = _in_the_place_of(base, plan, loader, len(outer), changes)
    for depth, level in reversed(list(enumerate(outer))):
        changes = dict(dataset=changes)
        if 'times' in level:
            changes = dict(times=1, **changes)  # an epoch sees every image once
        if depth in pipelines:
            changes['pipeline'] = pipelines[depth]
    return changes


def _in_the_place_of(base: Mapping, plan: Plan, loader: str, depth: int, changes: dict) -> dict:
    """A data set that inherits nothing: what the recipe has there is a join, or of a class of its own."""
    kept = {key: base[key] for key in _OF_ANY_CLASS if key in base}
    pipeline = Name(_pipeline_of_recipe(plan, loader, depth))
    changes['metainfo'].pop('_delete_', None)
    return dict(
        _delete_=True, **{'type': base.get('type'), **kept, 'pipeline': pipeline, **changes}
    )


def _evaluator(plan: Plan, loader: str, arguments: dict) -> dict:
    """Of a part of a detection set; it reads the file that its loader reads."""
    fields: dict = dict(ann_file=arguments['ann_file'])
    base = plan.base[f'{loader}_evaluator']
    if not isinstance(base, Mapping) or base.get('type') not in _COCO_METRICS:
        metric = 'bbox' if plan.boxes else ['bbox', 'segm']
        fields = dict(_delete_=True, type='CocoMetric', metric=metric, **fields)
    elif _drops_masks(plan):
        fields['metric'] = 'bbox'
    most = _most_objects(plan)
    if most > _DETECTIONS and not proposes(plan.base.model):
        fields['proposal_nums'] = (1, 10, _kept_detections(most))
    return fields


def _schedule(plan: Plan) -> str:
    cfg, chosen = plan.cfg, plan.schedule
    keys = ('max_epochs', 'max_iters', 'dynamic_intervals')
    loop = {k: cfg.train_cfg[k] for k in keys if k in cfg.train_cfg}
    text = assignment(
        'train_cfg',
        dict(**loop, val_interval=cfg.train_cfg.val_interval),
        f'Length: {chosen.epochs.value} epochs ({chosen.epochs.reason}), {chosen.steps:,} steps.',
        f'Evaluation every {chosen.evaluate_every.value} epochs: {chosen.evaluate_every.reason}.',
    )
    text += assignment(
        'optim_wrapper',
        dict(optimizer=dict(lr=cfg.optim_wrapper.optimizer.lr)),
        f'Learning rate: {chosen.rate.reason}.',
    )
    text += assignment('auto_scale_lr', dict(base_batch_size=cfg.auto_scale_lr.base_batch_size))
    text += assignment(
        'param_scheduler',
        [s.to_dict() for s in cfg.param_scheduler],
        f'Warm-up: {chosen.warm_up.value} steps, {chosen.warm_up.reason}. An `end` is one past the '
        'last step.',
    )
    hooks = dict(
        logger=dict(interval=cfg.default_hooks.logger.interval),
        checkpoint=dict(interval=cfg.default_hooks.checkpoint.interval),
    )
    if plan.patience is not None:
        hooks['patience'] = cfg.default_hooks.patience.to_dict()
    text += assignment('default_hooks', hooks)
    if cfg.get('custom_hooks') != plan.base.get('custom_hooks'):
        text += assignment(
            'custom_hooks',
            [hook.to_dict() for hook in cfg.custom_hooks],
            'What differs in the last epochs begins at the same part of the run as in the recipe.',
        )
    return text + assignment('log_processor', dict(window_size=cfg.log_processor.window_size))
