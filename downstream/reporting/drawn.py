"""Ground truth beside prediction, as small pictures inside the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from backbones.errors import DataError
from downstream.analysis import kept
from downstream.analysis.kept import TestRun
from downstream.data.checks.bands import Loading
from downstream.data.doctor.pictures import load
from downstream.detection.coco_evaluation import Detections
from downstream.drawing import beside, draw_detections, draw_segmentation, fitted
from downstream.drawing.masks import pixels_of
from downstream.drawing.shapes import draw_box
from downstream.markup import inline

# Of each of the two pictures.
_LONGEST_PX = 400
_QUALITY = 70
# How much of the surroundings of an object is shown, as a multiple of its longer side.
_SURROUNDINGS = 1.5
_LEAST_PX = 64
_MARK = (40, 40, 255)


@dataclass(frozen=True)
class _Objects:
    """Objects of an image: boxes ``(n, 4)`` as left, top, right, bottom; run lengths or nothing."""

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None
    masks: list | None
    crowds: list[bool] | None = None


class DetectionPictures:
    """Pictures of a test of detection.

    Args:
        test: With predictions and the folder of its images.

    Raises:
        DataError: Predictions or annotations are not there.
    """

    def __init__(self, test: TestRun) -> None:
        self._open = _Opener(test)
        self._classes = test.classes
        truth = kept.truth_of(test)
        self._files = {image['id']: image.get('file_name', '') for image in truth['images']}
        self._truth: dict = {}
        for one in truth['annotations']:
            self._truth.setdefault(one['image_id'], []).append(one)
        self._place = {id_: n for n, id_ in enumerate(test.data['categories'])}
        kinds = test.data['rules']['kinds']
        self._found = _detections(test, 'segm' if 'segm' in kinds else 'bbox')
        starts = np.cumsum([0, *self._found.counts])
        self._rows = {id_: slice(*ends) for id_, ends in zip(self._found.images, pairwise(starts))}

    def classes_in(self, image: object, min_score: float) -> list[str]:
        """Names of what is annotated or detected in an image."""
        parts = (self._annotated(image), self._detected(image, min_score))
        return sorted({self._classes[n] for part in parts for n in part.labels.tolist()})

    def pair(
        self, image: object, min_score: float, around: Sequence[Sequence[float]] = ()
    ) -> str | None:
        """Annotations left, detections right, as a data URL; None where the image cannot be read.

        Args:
            image: Its id.
            min_score: Detections below it are left out.
            around: Boxes (x, y, width, height): only their surroundings are shown, with the first of them
                marked.
        """
        pixels = self._open(self._files[image])
        if pixels is None:
            return None
        height, width = pixels.shape[:2]
        place = _window(around, width, height) if around else (0, 0, width, height)
        titles = ('annotated', f'detected, score from {min_score:.2f}')
        parts = (self._annotated(image), self._detected(image, min_score))
        drawn = [self._draw(pixels, part, place, around[:1]) for part in parts]
        return inline(beside(drawn, titles)[..., ::-1], _QUALITY)

    def _draw(
        self, pixels: np.ndarray, objects: _Objects, place: tuple, marked: Sequence
    ) -> np.ndarray:
        left, top, right, bottom = place
        cut = np.ascontiguousarray(pixels[top:bottom, left:right])
        small, factor = fitted(cut, _LONGEST_PX, enlarge=True)
        shift = np.array([left, top, left, top])
        masks = objects.masks and [_part(code, place, small.shape) for code in objects.masks]
        picture = draw_detections(
            small,
            (objects.boxes - shift) * factor,
            objects.labels,
            objects.scores,
            masks or None,
            self._classes,
            crowds=objects.crowds,
        )
        for x, y, width, height in marked:
            corners = (np.array([x, y, x + width, y + height]) - shift) * factor
            draw_box(picture, corners + np.array([-3, -3, 3, 3]), _MARK)
        return picture

    def _annotated(self, image: object) -> _Objects:
        rows = [one for one in self._truth.get(image, ()) if one['category_id'] in self._place]
        codes = [one.get('segmentation') for one in rows]
        whole = bool(rows) and all(isinstance(code, dict) for code in codes)
        return _Objects(
            boxes=_corners(np.array([one['bbox'] for one in rows], float).reshape(-1, 4)),
            labels=np.array([self._place[one['category_id']] for one in rows], int),
            scores=None,
            masks=codes if whole else None,
            crowds=[bool(one.get('iscrowd')) for one in rows],
        )

    def _detected(self, image: object, min_score: float) -> _Objects:
        rows = self._rows.get(image, slice(0, 0))
        chosen = np.flatnonzero(self._found.scores[rows] >= min_score) + rows.start
        masks = self._found.masks
        return _Objects(
            boxes=_corners(self._found.boxes[chosen]),
            labels=self._found.labels[chosen],
            scores=self._found.scores[chosen],
            masks=[masks[row] for row in chosen] if masks else None,
        )


class SegmentationPictures:
    """Pictures of a test of segmentation.

    Args:
        test: With counts and label maps.

    Raises:
        DataError: They were not kept.
    """

    def __init__(self, test: TestRun) -> None:
        counts = kept.counts_of(test)
        self._open = _Opener(test, Path(counts.root))
        self._names, self._classes = counts.names, test.classes
        self._maps = (kept.annotated_masks_of(test), kept.predicted_masks_of(test))

    def pair(self, place: int) -> str | None:
        """Annotation left, prediction right, as a data URL; None where the image cannot be read.

        Args:
            place: Of the image in the test's counts.
        """
        pixels = self._open(self._names[place])
        if pixels is None:
            return None
        small, _ = fitted(pixels, _LONGEST_PX, enlarge=True)
        size = small.shape[1::-1]
        drawn = []
        for maps in self._maps:
            labels = cv2.resize(maps[place], size, interpolation=cv2.INTER_NEAREST)
            drawn.append(draw_segmentation(small, labels, self._classes))
        return inline(beside(drawn, ('annotated', 'predicted'))[..., ::-1], _QUALITY)


class _Opener:
    """Reads the images of a test, as its pipeline does; BGR, or None."""

    def __init__(self, test: TestRun, folder: Path | None = None) -> None:
        recorded = folder or test.data.get('folder')
        if not recorded:
            raise DataError(f'{test.folder} does not say where its images are.')
        self._folder = Path(recorded)
        self._loading = Loading.of((test.data.get('protocol') or {}).get('pipeline') or ())

    def __call__(self, name: str) -> np.ndarray | None:
        try:
            return np.ascontiguousarray(load(self._folder / name, self._loading)[..., ::-1])
        except Exception:  # the page says how many could not be read; decoders raise many kinds
            return None


def _detections(test: TestRun, kind: str) -> Detections:
    try:
        return kept.detections_of(test, kind)
    except DataError:
        if kind == 'bbox':
            raise
        return kept.detections_of(test, 'bbox')  # masks were too large to be kept


def _corners(boxes: np.ndarray) -> np.ndarray:
    """``(n, 4)``: left, top, right, bottom of x, y, width, height."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def _window(around: Sequence[Sequence[float]], width: int, height: int) -> tuple:
    """What is shown of an image: left, top, right, bottom."""
    corners = _corners(np.array(around, float).reshape(-1, 4))
    low, high = corners[:, :2].min(0), corners[:, 2:].max(0)
    reach = max(_LEAST_PX, float((high - low).max()) * _SURROUNDINGS) / 2
    middle = np.clip((low + high) / 2, 0, (width, height))
    reach = max(reach, float((high - low).max()) / 2 + 8)
    left, top = (int(v) for v in np.clip(middle - reach, 0, (width - 1, height - 1)))
    right, bottom = (int(v) for v in np.clip(np.ceil(middle + reach), 1, (width, height)))
    return left, top, max(right, left + 1), max(bottom, top + 1)


def _part(code: dict, place: tuple, shape: Sequence[int]) -> np.ndarray:
    """A mask's pixels in a window, at the size ``shape`` of the picture."""
    left, top, right, bottom = place
    pixels, (x, y) = pixels_of(code)
    cut = np.zeros((bottom - top, right - left), np.uint8)
    low = np.maximum((x, y), (left, top))
    high = np.minimum((x + pixels.shape[1], y + pixels.shape[0]), (right, bottom))
    if (high > low).all():
        inner = pixels[low[1] - y : high[1] - y, low[0] - x : high[0] - x]
        cut[low[1] - top : high[1] - top, low[0] - left : high[0] - left] = inner
    return cv2.resize(cut, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST)
