"""Whether parts of a config that state the same fact agree: loader and evaluator, weights and classes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mmengine.config import ConfigDict
from mmengine.logging import print_log

from backbones.errors import ConfigError, DataError

from .coco import FULL_JSON_BYTES


def check_evaluator(loader: str, dataset: ConfigDict, evaluator: object) -> None:
    """DataError unless an evaluator knows every image that its loader reads.

    Args:
        loader: ``'val'`` or ``'test'``.
        dataset: Config of a ``CocoDataset``.
        evaluator: Config of its metric or metrics; None if there is none.
    """
    own = (Path(dataset.get('data_root') or '') / dataset.ann_file).resolve()
    for metric in evaluator if isinstance(evaluator, (list, tuple)) else [evaluator]:
        given = metric.get('ann_file') if isinstance(metric, Mapping) else None
        if not given or '://' in str(given) or Path(given).resolve() == own:
            continue
        where = f'{loader}_evaluator.ann_file={given}'
        if not Path(given).is_file():
            raise DataError(f'{where} does not exist; {loader}_dataloader reads {own}.')
        wanted, known = _image_ids(own), _image_ids(Path(given))
        if wanted is None or known is None:
            continue
        missing = wanted - known
        if missing:
            raise DataError(
                f'{where} lacks {len(missing)} of the {len(wanted)} images of {own}, which '
                f'{loader}_dataloader reads; give both the same file.'
            )
        print_log(
            f'{where} is another file than {own}, which {loader}_dataloader reads.', 'current'
        )


def _image_ids(path: Path) -> set | None:
    """Ids of the images of a COCO file; None if it is too large to be read for that, or is none."""
    try:
        if path.stat().st_size > FULL_JSON_BYTES:
            return None
        return {image['id'] for image in json.loads(path.read_text())['images']}
    except (OSError, ValueError, KeyError, TypeError):  # what is wrong with it is said elsewhere
        return None


def check_class_weights(model: Mapping, where: str, classes: int) -> None:
    """ConfigError unless every loss with weights of classes has one for each.

    Args:
        model: Config of a detector or segmenter.
        where: The data set's key in the config.
        classes: How many it has; what classifies boxes or queries also weighs the background.
    """
    heads = ('bbox_head', 'decode_head', 'auxiliary_head', 'panoptic_head')
    for key, loss in weighted_losses(model, 'model'):
        if not any(head in key for head in heads):
            continue
        weights = loss.get('class_weight')
        if not isinstance(weights, Sequence) or isinstance(weights, str):
            continue
        wanted = classes + 1 if key.endswith('loss_cls') else classes
        if len(weights) != wanted:
            background = ' and the background' if wanted > classes else ''
            raise ConfigError(
                f'{key}.class_weight has {len(weights)} values; {where} has {classes} classes'
                f'{background}, so give {wanted}.'
            )


def weighted_losses(node: object, key: str) -> Iterator[tuple[str, Mapping]]:
    """Configs with ``class_weight`` within a config, and their keys."""
    if isinstance(node, Mapping):
        if 'class_weight' in node:
            yield key, node
        for name, value in node.items():
            yield from weighted_losses(value, f'{key}.{name}')
    elif isinstance(node, (list, tuple)):
        for place, value in enumerate(node):
            yield from weighted_losses(value, f'{key}.{place}')
