"""Objects that tiles found -> objects of the picture: each once, and whole where a seam cut it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from .region import Region, united
from .windows import Window

# Intersection over union of two detections of the same object, of what both tiles show if these cut it.
_SAME = 0.5
# The part of a piece that is within its object.
_PIECE = 0.7
# A box that ends so near to a border within the picture, in parts of the tile, is cut there.
_NEAR = 0.005


@dataclass
class FoundObjects:
    """What a detector found in one tile, in coordinates of the picture.

    Attributes:
        window: The tile.
        boxes: ``(N, 4)`` float32, left, top, right, bottom.
        scores: ``(N,)`` float32.
        labels: ``(N,)`` int64.
        regions: The masks; None: boxes alone.
    """

    window: Window
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    regions: list[Region] | None = None


def merge(tiles: Sequence[FoundObjects], height: int, width: int) -> FoundObjects:
    """The objects of all tiles, each once, by descending score.

    Of the detections of one object the best one that no seam cuts is kept, under its own score: a piece
    may look like something else. Where every tile shows but a piece, boxes and masks are united under the
    highest score. Detections of one tile are never merged: the detector has decided that they are
    different objects.

    Args:
        tiles: One or more.
        height: Of the picture in pixels.
        width: The same.
    """
    whole = Window(0, 0, width, height)
    found = _joined(tiles, whole)
    cut = np.concatenate([_is_cut(tile, whole) for tile in tiles])
    matches = _matches(tiles, found, cut)
    order = np.argsort(-found.scores, kind='stable').tolist()
    windows = [tile.window for tile in tiles for _ in tile.boxes]
    complete = _complete(order, matches, cut, found.boxes, windows)
    return _united(found, complete + _in_pieces(order, matches, cut))


def _joined(tiles: Sequence[FoundObjects], whole: Window) -> FoundObjects:
    regions = None
    if tiles[0].regions is not None:
        regions = [region for tile in tiles for region in tile.regions or ()]
    return FoundObjects(
        whole,
        np.concatenate([tile.boxes for tile in tiles]),
        np.concatenate([tile.scores for tile in tiles]),
        np.concatenate([tile.labels for tile in tiles]),
        regions,
    )


def _is_cut(tile: FoundObjects, whole: Window) -> np.ndarray:
    """Whether each object reaches a border of its tile that is within the picture, ``(N,)`` of bool."""
    window, boxes = tile.window, tile.boxes
    near_x, near_y = max(1.0, _NEAR * window.width), max(1.0, _NEAR * window.height)
    return (
        ((boxes[:, 0] <= window.left + near_x) & (window.left > whole.left))
        | ((boxes[:, 1] <= window.top + near_y) & (window.top > whole.top))
        | ((boxes[:, 2] >= window.right - near_x) & (window.right < whole.right))
        | ((boxes[:, 3] >= window.bottom - near_y) & (window.bottom < whole.bottom))
    )


def _matches(
    tiles: Sequence[FoundObjects], found: FoundObjects, cut: np.ndarray
) -> list[list[int]]:
    """For every object those of other tiles that are the same one."""
    matches: list[list[int]] = [[] for _ in cut]
    offsets = np.cumsum([0, *(len(tile.boxes) for tile in tiles)]).tolist()
    for a, b in combinations(range(len(tiles)), 2):
        shared = _common(tiles[a].window, tiles[b].window)
        if shared is None or not len(tiles[a].boxes) or not len(tiles[b].boxes):
            continue
        overlap = _intersections(tiles[a].boxes, tiles[b].boxes)
        overlap[tiles[a].labels[:, None] != tiles[b].labels] = 0
        for i, j in zip(*np.nonzero(overlap)):
            first, second = offsets[a] + int(i), offsets[b] + int(j)
            if _agree(found, first, second, shared, cut, float(overlap[i, j])):
                matches[first].append(second)
                matches[second].append(first)
    return matches


def _agree(
    found: FoundObjects, first: int, second: int, shared: Window, cut: np.ndarray, common: float
) -> bool:
    """Whether two objects of different tiles are the same one.

    Args:
        found: All objects.
        first: Number of one.
        second: Number of the other.
        shared: What both tiles show.
        cut: For each object whether its tile cuts it.
        common: Area that their boxes share.
    """
    pair = (first, second)
    areas: tuple[float, ...]
    visible: tuple[float, ...]
    if found.regions is not None:
        a, b = (found.regions[number] for number in pair)
        common = a.shared(b)
        areas, visible = (a.area(), b.area()), (a.area(shared), b.area(shared))
    else:
        boxes = [found.boxes[number] for number in pair]
        areas = tuple(_area(box) for box in boxes)
        visible = tuple(_area(_clipped(box, shared)) for box in boxes)
    if not common:
        return False
    if not cut[first] and not cut[second]:
        return common >= _SAME * (sum(areas) - common)
    if cut[first] != cut[second]:
        # One tile shows all of the object: the piece must be within it.
        return common >= _PIECE * areas[0 if cut[first] else 1]
    return common >= _SAME * (sum(visible) - common) or common >= _PIECE * min(areas)


def _complete(
    order: list[int],
    matches: list[list[int]],
    cut: np.ndarray,
    boxes: np.ndarray,
    windows: list[Window],
) -> list[list[int]]:
    """Objects that some tile shows whole: the best detection of each.

    Args:
        order: Numbers of all detections, the best first.
        matches: For each detection those of other tiles that are the same object.
        cut: For each detection whether its tile cuts it.
        boxes: Of the detections.
        windows: Their tiles.
    """
    groups, taken = [], np.zeros(len(cut), bool)
    for first in order:
        if cut[first] or taken[first]:
            continue
        window = windows[first]
        taken[[first, *matches[first]]] = True
        for twin in matches[first]:
            for other in matches[twin] if not cut[twin] else ():
                # Only a twin connects it with this one. If it is another object, which this tile shows
                # too, then this tile has a detection of its own for it.
                own = [k for k in (other, *matches[other]) if windows[k] == window]
                if not cut[other] and not own and _is_within(boxes[other], window):
                    taken[other] = True
        groups.append([first])
    return groups


def _in_pieces(order: list[int], matches: list[list[int]], cut: np.ndarray) -> list[list[int]]:
    """Objects that every tile cuts: their pieces, from tile to tile.

    A piece that is within a complete object belongs to it, unless it also continues one of these: then
    it lies where two objects overlap, and leads on to no others of the complete one.
    """
    free = [bool(cut[k]) and all(cut[other] for other in matches[k]) for k in range(len(cut))]
    groups, taken = [], np.zeros(len(cut), bool)
    for first in order:
        if not free[first] or taken[first]:
            continue
        group, known = [first], {first}
        for number in group:
            for other in matches[number]:
                continues = free[number] or free[other]
                if continues and other not in known and not taken[other]:
                    known.add(other)
                    group.append(other)
        taken[group] = True
        groups.append(group)
    return groups


def _united(found: FoundObjects, groups: list[list[int]]) -> FoundObjects:
    """One object for each group, under the score of its first one."""
    groups = sorted(groups, key=lambda group: -float(found.scores[group[0]]))
    firsts = [group[0] for group in groups]
    boxes = [
        np.concatenate([found.boxes[group, :2].min(0), found.boxes[group, 2:].max(0)])
        for group in groups
    ]
    regions = found.regions
    if regions is not None:
        regions = [united([regions[number] for number in group]) for group in groups]
    return FoundObjects(
        found.window,
        np.array(boxes, np.float32).reshape(-1, 4),
        found.scores[firsts],
        found.labels[firsts],
        regions,
    )


def _is_within(box: np.ndarray, window: Window) -> bool:
    return bool((box == _clipped(box, window)).all())


def _common(a: Window, b: Window) -> Window | None:
    """What two windows share; None: nothing."""
    shared = Window(
        max(a.left, b.left), max(a.top, b.top), min(a.right, b.right), min(a.bottom, b.bottom)
    )
    return shared if shared.width > 0 and shared.height > 0 else None


def _intersections(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Areas that boxes ``(N, 4)`` and ``(M, 4)`` share, ``(N, M)``."""
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    return sides.clip(0).prod(-1)


def _clipped(box: np.ndarray, window: Window) -> np.ndarray:
    low, high = [window.left, window.top] * 2, [window.right, window.bottom] * 2
    return np.clip(box, low, high)


def _area(box: np.ndarray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))
