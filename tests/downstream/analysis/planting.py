"""Faults planted in annotations, and whether a suspect is one of them."""

import copy
from dataclasses import dataclass

import numpy as np

from downstream.analysis.suspects import Suspect


@dataclass(frozen=True)
class Fault:
    kind: str
    image: int
    annotation: int
    box: tuple[float, ...]  # where the object is
    label: str  # what it is


def planted(truth: dict, share: float, seed: int) -> tuple[dict, list[Fault]]:
    """A third of ``share`` of the objects with another class, a third shifted, a third removed."""
    rng = np.random.default_rng(seed)
    wrong = copy.deepcopy(truth)
    names = {one['id']: one['name'] for one in truth['categories']}
    objects = [one for one in wrong['annotations'] if not one['iscrowd']]
    chosen = rng.permutation(len(objects))[: round(share * len(objects))]
    faults, removed = [], set()
    for number, place in enumerate(chosen):
        one = objects[place]
        kind = ('label', 'box', 'missing')[number % 3]
        label = names[one['category_id']]
        faults.append(Fault(kind, one['image_id'], one['id'], tuple(one['bbox']), label))
        if kind == 'label':
            others = [id_ for id_ in names if id_ != one['category_id']]
            one['category_id'] = int(rng.choice(others))
        elif kind == 'box':
            shift(rng, one)
        else:
            removed.add(one['id'])
    wrong['annotations'] = [one for one in wrong['annotations'] if one['id'] not in removed]
    return wrong, faults


def shift(rng, one: dict) -> None:
    """By 40 to 80 % of its sides, in any direction, box and polygons."""
    angle, amount = rng.random() * 2 * np.pi, 0.4 + 0.4 * rng.random()
    x, y, width, height = one['bbox']
    right, down = amount * width * np.cos(angle), amount * height * np.sin(angle)
    one['bbox'] = [x + right, y + down, width, height]
    if not isinstance(one['segmentation'], dict):
        one['segmentation'] = [
            (np.reshape(part, (-1, 2)) + np.array([right, down])).flatten().tolist()
            for part in one['segmentation']
        ]


def is_true(suspect: Suspect, faults: list[Fault]) -> bool:
    """Whether a suspect names a faulty annotation, or the place and class of an object that lacks one."""
    for fault in faults:
        if fault.image == suspect.image:
            if suspect.annotation == fault.annotation:
                return True
            lacks_one = fault.kind in ('missing', 'box') and suspect.annotation is None
            is_there = lacks_one and overlap(suspect.predicted_box, fault.box) >= 0.5
            if is_there and suspect.predicted == fault.label:
                return True
    return False


def overlap(one: tuple, other: tuple) -> float:
    corners = np.array([one, other], float)
    corners[:, 2:] += corners[:, :2]
    sides = np.minimum(*corners[:, 2:]) - np.maximum(*corners[:, :2])
    shared = float(np.prod(np.maximum(sides, 0)))
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)
