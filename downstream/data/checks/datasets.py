"""Checks of the data sets against the config before a run starts.

What they find would otherwise surface as a CUDA assert, an mAP of 0 or a crash after hours.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from mmengine.config import ConfigDict
from mmengine.logging import print_log

from backbones.errors import ConfigError
from downstream.data.class_counts import class_counts
from downstream.data.files import shortened

from .agreement import check_class_weights, check_evaluator
from .coco import check_coco
from .masks import check_masks

COCO_TYPES = ('CocoDataset', 'mmdet.CocoDataset')


def check_datasets(cfg: ConfigDict, loaders: Sequence[str], full: bool = False) -> None:
    """Check every data set that ``loaders`` of ``cfg`` read.

    Args:
        cfg: A complete config.
        loaders: ``'train'``, ``'val'``, ``'test'``.
        full: Open every image and mask, however long it takes; a progress bar shows how far it is.

    Raises:
        DataError: Files are missing, cannot be read, or do not match the classes of the config.
        ConfigError: The heads of the model have another number of classes than the data.
    """
    classes_of: dict[str, tuple[str, ...]] = {}
    done: list[ConfigDict] = []
    trained: list[dict] = []
    for loader in loaders:
        for where, dataset in data_sets(cfg, loader):
            if dataset in done:
                continue
            done.append(dataset)
            if loader == 'train':
                trained.append(place_of(dataset))
            elif place_of(dataset) in trained:
                print_log(
                    f'{where} reads the data that are trained on.', 'current', logging.WARNING
                )
            if dataset.type in COCO_TYPES:
                needs_truth = not _formats_only(cfg.get(f'{loader}_evaluator'))
                classes_of[where] = check_coco(where, dataset, full, needs_truth)
                if needs_truth:
                    check_evaluator(loader, dataset, cfg.get(f'{loader}_evaluator'))
            elif cfg.get('default_scope') == 'mmseg':
                classes_of[where] = check_masks(where, dataset, full)
    for where, classes in classes_of.items():
        first = next(iter(classes_of))
        if classes != classes_of[first]:
            raise ConfigError(
                f'{where} has the classes {shortened(classes)}, but {first} has '
                f'{shortened(classes_of[first])}; give both the same metainfo.'
            )
        _check_heads(cfg.model, where, len(classes))
        check_class_weights(cfg.model, where, len(classes))


def data_sets(cfg: ConfigDict, loader: str) -> Iterator[tuple[str, ConfigDict]]:
    """Keys and configs of the data sets that a loader reads, without what repeats or joins them.

    Args:
        cfg: A complete config.
        loader: ``'train'``, ``'val'``, ``'test'``.
    """
    key = f'{loader}_dataloader'
    if cfg.get(key):
        yield from _innermost(f'{key}.dataset', cfg[key].dataset)


def _innermost(where: str, dataset: ConfigDict) -> Iterator[tuple[str, ConfigDict]]:
    if 'dataset' in dataset:
        yield from _innermost(f'{where}.dataset', dataset.dataset)
    elif 'datasets' in dataset:
        for i, one in enumerate(dataset.datasets):
            yield from _innermost(f'{where}.datasets.{i}', one)
    else:
        yield where, dataset


def place_of(dataset: ConfigDict) -> dict:
    """Where the files of a data set are."""
    return {key: dataset.get(key) for key in ('data_root', 'ann_file', 'data_prefix')}


def _formats_only(evaluator: ConfigDict | Sequence[ConfigDict] | None) -> bool:
    """Whether no metric of an evaluator needs annotations."""
    metrics: Sequence = evaluator if isinstance(evaluator, (list, tuple)) else [evaluator]
    return all(metric and metric.get('format_only', False) for metric in metrics)


def _check_heads(model: ConfigDict, where: str, count: int) -> None:
    """ConfigError unless every head has as many classes as the data."""
    model = model.get('module', model)
    for one in class_counts(model):
        if one.value == count or one.key == 'num_stuff_classes':
            continue
        if 'language_model' in model and one.place.startswith('bbox_head'):
            continue  # classes that are words have any number of them
        raise ConfigError(
            f'model.{one.place} has {one.key}={one.value}, but {where} has {count} classes; set it in '
            'every head (downstream.drop_in.num_classes does).'
        )
