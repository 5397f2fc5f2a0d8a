"""Which detections of each image are right, as COCO's evaluation matches them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from downstream.detection.coco_evaluation import Detections, Rules

# Areas of all objects, in COCO's words.
_ALL = [[0.0, 1e10]]


@dataclass(frozen=True)
class ClassMatches:
    """The ``D`` detections of one class in descending order of their scores."""

    images: np.ndarray
    """``(D,)``, places in :attr:`Matches.images`."""
    right: np.ndarray
    """``(T, D)``, whether a detection matches an object at each threshold of IoU."""
    ignored: np.ndarray
    """``(T, D)``, whether it counts neither as right nor as wrong, e.g. within a crowd."""


@dataclass(frozen=True)
class Matches:
    """The matches of an evaluation of ``N`` images and ``C`` classes at ``T`` thresholds of IoU."""

    images: tuple
    """``N`` ids in ascending order."""
    classes: tuple[str, ...]
    """``C`` names in the order of the labels."""
    objects: np.ndarray
    """``(N, C)`` of int32, objects that count; crowds do not."""
    by_class: tuple[ClassMatches, ...]

    @classmethod
    def of(cls, truth: Mapping[str, Sequence[dict]], found: Detections, rules: Rules) -> Matches:
        """Match ``found`` with ``truth`` as COCO's evaluation does, by hotcoco.

        Args:
            truth: Lists of COCO's format: ``images``, ``annotations``, ``categories``.
            found: Boxes, or masks where it has them. Those of other images and categories are left out.
            rules: What counts; figures are those at the last limit of detections.
        """
        place = {id_: number for number, id_ in enumerate(sorted(set(rules.images)))}
        label = {id_: number for number, id_ in enumerate(rules.categories)}
        annotations = [
            one
            for one in truth.get('annotations', ())
            if one['image_id'] in place and one['category_id'] in label
        ]
        objects, with_objects = np.zeros((2, len(place) * len(label)), np.int32)
        for one in annotations:
            pair = place[one['image_id']] * len(label) + label[one['category_id']]
            objects[pair] += not one.get('iscrowd', 0)
            with_objects[pair] = 1
        pairs = _pairs(found, place, label)
        order = _ranked(pairs, found.scores, rules.limits[-1])
        # A detection of a class that its image lacks is wrong at every threshold: nothing to match.
        matched = np.sort(order[with_objects[pairs[order]] > 0])
        states = np.zeros((2, len(rules.thresholds), len(found)), bool)
        if matched.size:
            numbered = _numbered(truth, annotations, place, label)
            states[:, :, matched] = _match(numbered, found, matched, (pairs, len(label)), rules)
        by_class = []
        for number in range(len(label)):
            own = order[pairs[order] % len(label) == number]
            by_class.append(ClassMatches(pairs[own] // len(label), *states[:, :, own]))
        names = {one['id']: str(one['name']) for one in truth['categories']}
        return cls(
            tuple(place),
            tuple(names[id_] for id_ in label),
            objects.reshape(len(place), len(label)),
            tuple(by_class),
        )


def _pairs(found: Detections, place: dict, label: dict) -> np.ndarray:
    """``(N,)``, a number for each pair of image and category; -1 where one of them is not evaluated."""
    images = np.repeat(
        np.array([place.get(id_, -1) for id_ in found.images], np.int64), found.counts
    )
    labels = np.array([label.get(id_, -1) for id_ in found.categories], np.int64)[found.labels]
    return np.where((images >= 0) & (labels >= 0), images * len(label) + labels, -1)


def _ranked(pairs: np.ndarray, scores: np.ndarray, limit: int) -> np.ndarray:
    """The first ``limit`` detections of each pair; all in COCO's order, which is stable among ties."""
    by_pair = np.lexsort((-scores, pairs))
    by_pair = by_pair[pairs[by_pair] >= 0]
    starts = np.flatnonzero(np.diff(pairs[by_pair], prepend=-1))
    rank = np.arange(len(by_pair)) - np.repeat(starts, np.diff(starts, append=len(by_pair)))
    kept = by_pair[rank < limit]
    return kept[np.argsort(-scores[kept], kind='stable')]


def _numbered(truth: Mapping, annotations: Sequence[dict], place: dict, label: dict) -> dict:
    """The annotations with images and categories numbered from 1, as arrays name them."""
    fields = ('bbox', 'area', 'iscrowd', 'segmentation')
    return {
        'images': [
            {'id': place[one['id']] + 1, 'width': one['width'], 'height': one['height']}
            for one in truth['images']
            if one['id'] in place
        ],
        'annotations': [
            {
                'id': number,
                'image_id': place[one['image_id']] + 1,
                'category_id': label[one['category_id']] + 1,
                **{name: one[name] for name in fields if name in one},
            }
            for number, one in enumerate(annotations, 1)
        ],
        'categories': [{'id': number + 1, 'name': str(number)} for number in label.values()],
    }


def _match(
    truth: dict, found: Detections, chosen: np.ndarray, pairs: tuple[np.ndarray, int], rules: Rules
) -> np.ndarray:
    """Whether detections are right, and ignored: ``(2, T, len(chosen))``."""
    import hotcoco

    images, categories = np.divmod(pairs[0][chosen], pairs[1])
    rows = np.column_stack([images + 1, found.boxes[chosen], found.scores[chosen], categories + 1])
    masks = None if found.masks is None else [found.masks[place] for place in chosen]
    annotations = hotcoco.COCO(truth)
    detections = annotations.load_res(rows, **({} if masks is None else {'segmentation': masks}))
    evaluation = hotcoco.COCOeval(annotations, detections, 'bbox' if masks is None else 'segm')
    evaluation.params.iouThrs = rules.thresholds.tolist()
    evaluation.params.maxDets = [rules.limits[-1]]
    evaluation.params.areaRng, evaluation.params.areaRngLbl = _ALL, ['all']
    evaluation.evaluate()
    states = np.zeros((2, len(rules.thresholds), len(chosen)), bool)
    for one in evaluation.eval_imgs:
        if one is not None and one['dtIds']:
            # load_res numbers detections from 1 in their order.
            own = np.array(one['dtIds']) - 1
            states[1][:, own] = one['dtIgnore']
            states[0][:, own] = np.array(one['dtMatched']) & ~states[1][:, own]
    return states
