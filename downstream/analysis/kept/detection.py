"""The detections of a test, kept beside its figures.

They are arrays in a file of numpy's format, without pickles: 500,000 boxes are 12 MB and are written in
0.1 s, with masks 96 MB in 1.4 s. Boxes as COCO's JSON would be 78 MB, 23 MB compressed, and take 4 s.
Boxes and scores are stored as the model gave them, so that figures computed from the file are those of
the test to the last bit.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from mmengine.logging import print_log

from backbones.errors import DataError
from backbones.weights.download import sha256
from downstream.atomic import atomic
from downstream.detection.coco_evaluation import Detections, mask_areas
from downstream.detection.completed import read_truth
from downstream.detection.metric import CocoInstanceMetric

from . import files

FILE = 'predictions.npz'
TRUTH = 'truth.json'
# Bytes of a file that a test leaves unasked; a checkpoint of a detector is as large.
MAX_BYTES = 2**28
FORMAT = 1


def prepare(metrics: Sequence) -> None:
    """Let the metric that computes the figures hold on to the detections."""
    for metric in _suitable(metrics):
        metric.keep = True


def write(metrics: Sequence, folder: Path) -> dict:
    """Keep the detections that the metric has been given.

    Args:
        metrics: Those of the test, after it, on the first process.
        folder: Where ``metrics.json`` will be.

    Returns:
        For ``metrics.json``: ``annotations`` and their SHA-256 ``digest``, ``images`` (how many were
        tested), the rules of the evaluation, and ``kept`` (names of files in ``folder``). Empty where
        nothing can be kept; the log says why.
    """
    metric = next(_suitable(metrics), None)
    if metric is None or not metric.kept:
        if metric is None:
            print_log(
                'The detections were not kept for a report: test_evaluator has no CocoInstanceMetric.',
                'current',
            )
        return {}
    categories = list(metric.cat_ids)
    kept = []
    if (arrays := _small_enough(metric.kept)) is not None:
        header = {'images': [one['img_id'] for one in metric.kept], 'categories': categories}
        # Numbers of this kind would shrink by a tenth.
        files.save(folder / FILE, FORMAT, header, arrays, compressed=False)
        kept.append(FILE)
    facts = _annotations(metric, folder)
    if facts['annotations'] == TRUTH:
        kept.append(TRUTH)
    rules = {
        'kinds': list(metric.metrics),
        'iou_thrs': [float(threshold) for threshold in metric.iou_thrs],
        'proposal_nums': list(metric.proposal_nums),
    }
    images = len(metric.kept)
    return {**facts, 'images': images, 'categories': categories, 'rules': rules, 'kept': kept}


def read(path: Path) -> tuple[list[dict], list]:
    """The kept detections of a test.

    Returns:
        One dict for each image as :meth:`.Detections.collected` takes it, and the ids of the categories.

    Raises:
        DataError: The file is damaged or of a later version.
    """
    header, arrays = files.read(path, FORMAT)
    return _by_image(header['images'], arrays), header['categories']


def collected(predictions: Sequence[Mapping], categories: Sequence, kind: str) -> Detections:
    """Kept detections as arrays of the whole data set.

    Args:
        predictions: Of :func:`read`.
        categories: Likewise.
        kind: ``'bbox'`` or ``'segm'``.

    Raises:
        DataError: Masks are asked for, and none were kept.
    """
    if kind == 'segm' and not has_masks(predictions):
        raise DataError('no masks were kept: the model predicts none, or they were too large.')
    return Detections.collected(predictions, categories, masks=kind == 'segm')


def has_masks(predictions: Sequence[Mapping]) -> bool:
    """Whether the kept detections have masks."""
    return bool(predictions) and 'masks' in predictions[0]


def truth(folder: Path, data: Mapping) -> dict:
    """The annotations that the test compared with, as a COCO dict with ids, areas and iscrowd.

    Args:
        folder: That of ``metrics.json``.
        data: Its part ``data``.

    Raises:
        DataError: The file is not there, or is not the one that the test read.
    """
    path = (
        folder / data['annotations'] if data['annotations'] == TRUTH else Path(data['annotations'])
    )
    if not path.is_file():
        raise DataError(
            f'{path}, the annotations of the test in {folder}, is not there; put it back or run the test '
            'again.'
        )
    if sha256(path) != data['digest']:
        raise DataError(
            f'{path} has changed since the test in {folder}: its figures are those of other annotations; '
            'run the test again.'
        )
    return read_truth(str(path)).dataset


def _suitable(metrics: Sequence) -> Iterator[CocoInstanceMetric]:
    return (metric for metric in metrics if isinstance(metric, CocoInstanceMetric))


def _annotations(metric: CocoInstanceMetric, folder: Path) -> dict:
    """Where the truth is. A copy is kept where it is not one file on this machine."""
    path = Path(metric.ann_file) if metric.ann_file else None
    if path is None or not path.is_file():
        with atomic(folder / TRUTH) as file:
            json.dump(metric.truth, file)
        return {'annotations': TRUTH, 'digest': sha256(folder / TRUTH)}
    return {'annotations': str(path.resolve()), 'digest': sha256(path)}


def _small_enough(predictions: Sequence[Mapping]) -> dict[str, np.ndarray] | None:
    """Arrays of all detections, without their masks where these are too large."""
    arrays = {
        'counts': np.array([len(one['labels']) for one in predictions], np.int32),
        'labels': np.concatenate([one['labels'] for one in predictions]).astype(np.int32),
        'boxes': np.concatenate([np.reshape(one['bboxes'], (-1, 4)) for one in predictions]),
        'scores': np.concatenate([one['scores'] for one in predictions]),
    }
    if _bytes(arrays) > MAX_BYTES:
        _say_too_large('detections', _bytes(arrays))
        return None
    if not has_masks(predictions):
        return arrays
    texts = [mask['counts'] for one in predictions for mask in one['masks']]
    size = _bytes(arrays) + sum(map(len, texts)) + 20 * len(texts)
    if size > MAX_BYTES:
        _say_too_large('masks of the detections', size)
        return arrays
    return arrays | _mask_arrays(predictions, texts)


def _mask_arrays(predictions: Sequence[Mapping], texts: list) -> dict[str, np.ndarray]:
    sizes = [mask['size'] for one in predictions for mask in one['masks']]
    encoded = [text.encode('ascii') if isinstance(text, str) else text for text in texts]
    arrays = {
        'mask_sizes': np.array(sizes, np.int32).reshape(-1, 2),
        'mask_bytes': np.array([len(text) for text in encoded], np.int32),
        'masks': np.frombuffer(b''.join(encoded), np.uint8),
        'mask_areas': np.concatenate(
            [one.get('mask_areas', mask_areas(one['masks'])) for one in predictions]
        ),
    }
    if 'mask_scores' in predictions[0]:
        arrays['mask_scores'] = np.concatenate([one['mask_scores'] for one in predictions])
    return arrays


def _by_image(images: Sequence, arrays: Mapping[str, np.ndarray]) -> list[dict]:
    ends = np.cumsum(arrays['counts'])[:-1].tolist() if len(images) else []
    parts: dict[str, list] = {
        key: np.split(arrays[name], ends)
        for key, name in (
            ('bboxes', 'boxes'), ('scores', 'scores'), ('labels', 'labels'),
            ('mask_areas', 'mask_areas'), ('mask_scores', 'mask_scores'),
        )
        if name in arrays
    }  # fmt: skip
    if 'masks' in arrays:
        blob = arrays['masks'].tobytes()
        stops = np.cumsum(arrays['mask_bytes'], dtype=np.int64).tolist()
        codes = [
            {'size': size, 'counts': blob[start:stop]}
            for size, start, stop in zip(arrays['mask_sizes'].tolist(), [0, *stops], stops)
        ]
        firsts = np.cumsum([0, *arrays['counts'].tolist()]).tolist()
        parts['masks'] = [codes[start:stop] for start, stop in pairwise(firsts)]
    return [
        {'img_id': id_, **{key: part[place] for key, part in parts.items()}}
        for place, id_ in enumerate(images)
    ]


def _bytes(arrays: Mapping[str, np.ndarray]) -> int:
    return sum(array.nbytes for array in arrays.values())


def _say_too_large(what: str, size: int) -> None:
    print_log(
        f'The {what} were not kept for a report: they take {size / 2**20:.0f} MB, more than '
        f'{MAX_BYTES / 2**20:.0f}. --out FOLDER writes them.',
        'current',
        logging.WARNING,
    )
