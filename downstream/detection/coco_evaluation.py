"""COCO's figures of detections, computed by hotcoco or by pycocotools from the same arrays."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, compress, repeat
from typing import TYPE_CHECKING, Any

import numpy as np
from mmengine.logging import print_log
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

if TYPE_CHECKING:
    import hotcoco

# Position of an area range in the arrays of an evaluation.
_AREAS = {'all': 0, 's': 1, 'm': 2, 'l': 3}


@dataclass(frozen=True)
class Detections:
    """All detections of a data set, image by image, as the model ranked them."""

    images: Sequence
    """Id of each image."""
    counts: Sequence[int]
    """How many detections each image has; ``N`` are all of them."""
    labels: np.ndarray
    """``(N,)``, places in ``categories``."""
    categories: Sequence
    """Ids of categories."""
    boxes: np.ndarray
    """``(N, 4)`` of float64: x, y, width, height in pixels."""
    scores: np.ndarray
    """``(N,)`` of float64."""
    masks: list[dict] | None = None
    """Run-length codes, where masks are evaluated."""
    areas: np.ndarray | None = None
    """``(N,)``, pixels of the masks."""

    @classmethod
    def collected(
        cls, predictions: Sequence[Mapping], categories: Sequence, masks: bool
    ) -> Detections:
        """The detections that mmdet's ``CocoMetric.process`` stored.

        Args:
            predictions: One for each image: ``img_id``, ``bboxes`` ``(n, 4)`` as left, top, right and
                bottom, ``scores``, ``labels`` and, for masks, ``masks``, their ``mask_areas`` and maybe
                ``mask_scores``.
            categories: Ids of the labels 0, 1, ...
            masks: Whether these are detections of masks.
        """
        boxes = np.concatenate([np.reshape(one['bboxes'], (-1, 4)) for one in predictions])
        # Widths are differences of float64, as they are when boxes become lists of Python's numbers.
        boxes = boxes.astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        key = 'mask_scores' if masks and 'mask_scores' in predictions[0] else 'scores'
        scores = np.concatenate([one[key] for one in predictions]).astype(np.float64)
        _demote_broken(boxes, scores)
        return cls(
            images=[one['img_id'] for one in predictions],
            counts=[len(one['labels']) for one in predictions],
            labels=np.concatenate([one['labels'] for one in predictions]).astype(np.int64),
            categories=categories,
            boxes=boxes,
            scores=scores,
            masks=[code for one in predictions for code in one['masks']] if masks else None,
            areas=np.concatenate([one['mask_areas'] for one in predictions]) if masks else None,
        )

    def __len__(self) -> int:
        return len(self.scores)

    def chosen(self, which: np.ndarray) -> Detections:
        """Some of the detections, on the same images; ``which`` is ``(N,)`` of bool."""
        parts = np.split(which, np.cumsum(self.counts)[:-1]) if len(self.counts) else []
        return replace(
            self,
            counts=[int(part.sum()) for part in parts],
            labels=self.labels[which],
            boxes=self.boxes[which],
            scores=self.scores[which],
            masks=self.masks and list(compress(self.masks, which)),
            areas=None if self.areas is None else self.areas[which],
        )

    def as_dicts(self) -> list[dict]:
        """In COCO's result format; masks are without boxes, whose areas pycocotools would take."""
        images = chain.from_iterable(map(repeat, self.images, self.counts))
        key, shapes = ('segmentation', self.masks) if self.masks else ('bbox', self.boxes.tolist())
        return [
            {'image_id': image, 'category_id': self.categories[label], 'score': score, key: shape}
            for image, label, score, shape in zip(
                images, self.labels.tolist(), self.scores.tolist(), shapes
            )
        ]


@dataclass(frozen=True)
class Rules:
    """What an evaluation counts; the defaults are COCO's.

    Figures are those at the last limit.
    """

    images: Sequence
    """Ids."""
    categories: Sequence
    """Ids."""
    thresholds: np.ndarray
    """Of IoU."""
    limits: Sequence[int] = (1, 10, 100)
    """Detections per image and category, ascending."""

    def apply(self, params: object, images: Sequence, categories: Sequence) -> None:
        """Set them on the parameters of an evaluation of either library, whose ids may be others."""
        values = {
            'imgIds': images, 'catIds': categories, 'iouThrs': self.thresholds, 'maxDets': [*self.limits]
        }  # fmt: skip
        for name, value in values.items():
            setattr(params, name, value)


def with_pycocotools(truth: COCO, found: Detections, rules: Rules) -> dict[str, np.ndarray]:
    """``precision`` and ``recall`` by pycocotools, the reference.

    Returns:
        ``precision`` is (IoU threshold, recall, category in ascending order of ids, area range, limit of
        detections per image), ``recall`` the same without the second axis; -1 where there are no objects.
    """
    kind = 'bbox' if found.masks is None else 'segm'
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(found.as_dicts()), kind)
        rules.apply(evaluation.params, _ordered(rules.images), _ordered(rules.categories))
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval


class HotcocoTruth:
    """Annotations as hotcoco holds them: what figures depend on, images and categories numbered from 1.

    Ids may be texts.

    Args:
        content: Lists of COCO's format: ``images``, ``annotations``, ``categories``.
    """

    def __init__(self, content: Mapping[str, list[dict]]) -> None:
        import hotcoco

        self.images, self.categories = (
            {
                id_: number
                for number, id_ in enumerate(_ordered(one['id'] for one in content[key]), 1)
            }
            for key in ('images', 'categories')
        )
        fields = ('id', 'bbox', 'area', 'iscrowd', 'segmentation')
        self.coco = hotcoco.COCO(
            {
                'images': [
                    {'id': self.images[one['id']], 'width': one['width'], 'height': one['height']}
                    for one in content['images']
                ],
                'annotations': [
                    {
                        'image_id': self.images[one['image_id']],
                        'category_id': self.categories[one['category_id']],
                        **{name: one[name] for name in fields if name in one},
                    }
                    for one in content.get('annotations', ())
                    if one['image_id'] in self.images and one['category_id'] in self.categories
                ],
                'categories': [{'id': n, 'name': str(n)} for n in self.categories.values()],
            }
        )


def with_hotcoco(truth: HotcocoTruth, found: Detections, rules: Rules) -> dict[str, np.ndarray]:
    """The same by hotcoco, which equals pycocotools to the last bit."""
    arrays = hotcoco_evaluation(truth, found, rules).eval
    assert arrays is not None  # it is accumulated
    return arrays


def hotcoco_evaluation(
    truth: HotcocoTruth,
    found: Detections,
    rules: Rules,
    areas: Sequence[tuple[float, float]] | None = None,
) -> hotcoco.COCOeval:
    """An evaluation by hotcoco, evaluated and accumulated.

    It takes arrays and run-length codes as they are: lists and JSON would take longer than counting.

    Args:
        truth: The annotations.
        found: The detections; the id of each is its place, counted from 1.
        rules: What is counted.
        areas: Ranges of areas in place of COCO's, the first of which must hold all objects.
    """
    import hotcoco

    images = np.repeat([truth.images[id_] for id_ in found.images], found.counts)
    categories = np.array([truth.categories[id_] for id_ in found.categories])[found.labels]
    rows = np.column_stack([images, found.boxes, found.scores, categories])
    if found.masks is None:
        detections = truth.coco.load_res(rows)
    else:
        detections = truth.coco.load_res(rows, segmentation=[*found.masks])
        # It takes the areas of the boxes; those of the masks decide what is small or large.
        detections.update_anns(ids=np.arange(1, len(found) + 1), area=found.areas)
    evaluation = hotcoco.COCOeval(truth.coco, detections, 'bbox' if found.masks is None else 'segm')
    rules.apply(
        evaluation.params,
        sorted(truth.images[id_] for id_ in set(rules.images)),
        sorted(truth.categories[id_] for id_ in set(rules.categories)),
    )
    if areas is not None:
        evaluation.params.areaRng = [list(limits) for limits in areas]
        names = ['all', 'small', 'medium', 'large', *map(str, range(4, len(areas)))]
        evaluation.params.areaRngLbl = names[: len(areas)]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def mask_areas(masks: Sequence[dict]) -> np.ndarray:
    """Pixels ``(N,)`` of run-length codes, as pycocotools counts them."""
    # pycocotools numbers the masks of a call in 8 bits.
    parts = [rle.area(masks[i : i + 255]) for i in range(0, len(masks), 255)]
    return np.concatenate([np.empty(0, np.uint32), *parts])


def figures_of(arrays: Mapping[str, np.ndarray], rules: Rules, names: Mapping[Any, str]) -> dict:
    """AP, AP50, AP75, APs, APm, APl, AR and ``per_class`` of an evaluation.

    The definitions are those of COCOeval's ``summarize``, which has fixed limits of detections.

    Args:
        arrays: Of :func:`with_pycocotools` or :func:`with_hotcoco`.
        rules: By which they were computed.
        names: Id of a category -> its name, in the order of ``per_class``.
    """
    precision = np.asarray(arrays['precision'])[..., -1]
    recall = np.asarray(arrays['recall'])[..., -1]
    report: dict = {'AP': _mean(precision[..., 0])}
    for threshold in (0.5, 0.75):
        at = np.isclose(rules.thresholds, threshold)
        report[f'AP{threshold * 100:.0f}'] = _mean(precision[at][..., 0])
    report |= {f'AP{a}': _mean(precision[..., i]) for a, i in _AREAS.items() if i}
    report['AR'] = _mean(recall[..., 0])
    places = {category: place for place, category in enumerate(_ordered(rules.categories))}
    report['per_class'] = {
        name: _mean(precision[:, :, places[category], 0]) for category, name in names.items()
    }
    return report


def _demote_broken(boxes: np.ndarray, scores: np.ndarray) -> None:
    """Make wrong detections, of the lowest rank, of those that are not numbers, in place.

    How these are ranked is undefined, and hotcoco refuses them.
    """
    broken = ~(np.isfinite(boxes).all(1) & np.isfinite(scores))
    if broken.any():
        print_log(
            f'{broken.sum()} of {len(scores)} detections have a box or a score that is not finite; '
            'they count as wrong.',
            'current',
            logging.WARNING,
        )
        boxes[broken], scores[broken] = 0, -1


def _ordered(ids: Iterable) -> list:
    """In the order of COCOeval's arrays."""
    return sorted(set(ids))


def _mean(values: np.ndarray) -> float | None:
    """The mean of what could be computed; the rest is marked with -1."""
    known = values[values > -1]
    return float(known.mean()) if known.size else None
