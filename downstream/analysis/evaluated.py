"""One evaluation of detections by hotcoco, and what each detection and object has become in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from pycocotools import mask as rle

from backbones.errors import DataError
from downstream.data.run_lengths import encoded
from downstream.detection.coco_evaluation import (
    Detections,
    HotcocoTruth,
    Rules,
    hotcoco_evaluation,
)

# Sides in pixels of the squares whose areas divide the objects; COCO's own limits are among them.
SIDES = (0, 16, 32, 64, 96, 192, 384, 10**5)
# COCO's ranges, of which figures_of reads the first four.
COCO_SIDES = ((0, 10**5), (0, 32), (32, 96), (96, 10**5))


@dataclass(frozen=True)
class ImageOverlaps:
    """Detections and annotations of an image, ``n`` and ``m``."""

    image: dict
    """Of the annotations."""
    places: np.ndarray
    """``(n,)``, of detections in the arrays of the data set, by falling score."""
    annotations: list[dict]
    """``m``, crowds among them."""
    labels: np.ndarray
    """``(m,)``, places of their classes."""
    crowd: np.ndarray
    """``(m,)`` of bool."""
    iou: np.ndarray
    """``(n, m)``; the part of the detection that is covered, for crowds."""


class Evaluated:
    """One evaluation, from which figures and errors are read.

    Args:
        truth: A COCO dict whose annotations have ids, areas and iscrowd.
        found: The detections; with masks, masks are compared.
        rules: What is counted.
        classes: Names in the order of ``rules.categories``.

    Attributes:
        iou: The IoU threshold of ``right``, ``counted``, ``finder``: 0.5, else the first one.
        right: ``(N,)`` of bool, detections that found an object.
        counted: ``(N,)`` of bool, those that count: not in a crowd, not beyond the limit of an image.
        finder: Id of an annotation -> place of the detection that found it.
        objects: Annotations that are no crowds.
        object_labels: Places of their classes.

    Raises:
        DataError: There is no image, or a detection is on one that is not in ``truth``.
    """

    def __init__(
        self, truth: Mapping, found: Detections, rules: Rules, classes: Sequence[str]
    ) -> None:
        self.classes, self.found = list(classes), found
        chosen, images = set(rules.categories), set(rules.images)
        self.truth_images = [one for one in truth['images'] if one['id'] in images]
        if not images:
            raise DataError('there is no image to analyse: the annotations list none.')
        if strange := set(found.images) - {image['id'] for image in truth['images']}:
            raise DataError(
                f'image {min(strange, key=str)} has detections and is not in the annotations.'
            )
        self.annotations = [
            one
            for one in truth['annotations']
            if one['category_id'] in chosen and one['image_id'] in images
        ]
        self.truth = counted = HotcocoTruth(
            {
                'images': truth['images'],
                'categories': [one for one in truth['categories'] if one['id'] in chosen],
                'annotations': self.annotations,
            }
        )
        self.rules, self.images = rules, counted.images
        ranges = [*COCO_SIDES, *pairwise(SIDES)]
        self.evaluation = hotcoco_evaluation(
            counted, found, rules, [(low**2, high**2) for low, high in ranges]
        )
        arrays = self.evaluation.eval
        assert arrays is not None  # it is accumulated
        self.arrays = arrays
        # hotcoco has the classes in the order of their ids.
        self.order = [counted.categories[id_] - 1 for id_ in rules.categories]
        self.place = {id_: place for place, id_ in enumerate(rules.categories)}
        at = np.isclose(rules.thresholds, 0.5)
        self.iou = float(rules.thresholds[at.argmax()])
        self._set_status()

    def _set_status(self) -> None:
        """Which detections are right, and which one finds an object, at the IoU threshold."""
        status = self.evaluation.image_diagnostics(iou_thr=self.iou)
        self.right = np.zeros(len(self.found), bool)
        self.counted = np.zeros(len(self.found), bool)
        for number, word in status['dt_status'].items():
            self.counted[number - 1] = word in ('tp', 'fp')
            self.right[number - 1] = word == 'tp'
        self.finder = {gt: number - 1 for gt, number in status['gt_match'].items()}
        self.objects = [one for one in self.annotations if not one.get('iscrowd')]
        self.object_labels = np.array(
            [self.place[one['category_id']] for one in self.objects], np.int64
        )

    def overlaps(self, min_score: float) -> Iterator[ImageOverlaps]:
        """Image by image, detections with scores of at least ``min_score`` and all annotations."""
        annotations: dict = {id_: [] for id_ in self.images}
        for one in self.annotations:
            annotations[one['image_id']].append(one)
        starts = np.cumsum([0, *self.found.counts])
        parts = {
            id_: np.arange(*limits) for id_, limits in zip(self.found.images, pairwise(starts))
        }
        scores = self.found.scores
        for image in self.truth_images:
            rows = annotations[image['id']]
            places = parts.get(image['id'], np.zeros(0, np.int64))
            places = places[scores[places] >= min_score]
            places = places[np.argsort(-scores[places], kind='stable')]
            yield ImageOverlaps(
                image=image,
                places=places,
                annotations=rows,
                labels=np.array([self.place[one['category_id']] for one in rows], np.int64),
                crowd=np.array([bool(one.get('iscrowd')) for one in rows], bool),
                iou=self._iou(image, places, rows),
            )

    def _iou(self, image: Mapping, places: np.ndarray, rows: Sequence[Mapping]) -> np.ndarray:
        if not len(places) or not rows:
            return np.zeros((len(places), len(rows)))
        crowd = [int(bool(one.get('iscrowd'))) for one in rows]
        if self.found.masks is None:
            boxes = np.array([one['bbox'] for one in rows], np.float64)
            return rle.iou(self.found.boxes[places], boxes, crowd)
        size = image['height'], image['width']
        shapes = [encoded(one['segmentation'], *size) for one in rows]
        return rle.iou([self.found.masks[place] for place in places], shapes, crowd)
