"""What a model predicts for one picture: objects, or the class of every pixel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as rle

from backbones.errors import ConfigError
from downstream.atomic import atomic
from downstream.data.run_lengths import as_json
from downstream.drawing import draw_detections, draw_segmentation, file_content

# The least score of what is drawn, and of what counts as found, where nobody says another one.
SHOWN_SCORE = 0.3
_NOTEBOOK_WIDTH = 1280
_COUNTED_PIXELS = 4_000_000


@dataclass(frozen=True)
class Result:
    """What is common to the results of both tasks.

    Attributes:
        name: The path or URL of the picture, or a text that says which array it was.
        height: Of the picture in pixels, as it is shown.
        width: The same.
        classes: Names of the classes.
        picture: Returns the picture, ``(H, W, 3)`` of uint8, BGR; it may read the file again.
    """

    name: str
    height: int
    width: int
    classes: tuple[str, ...]
    picture: Callable[[], np.ndarray] = field(repr=False, compare=False)

    def draw(self) -> np.ndarray:
        """The picture with what was predicted, ``(H, W, 3)`` of uint8, BGR as OpenCV has it."""
        raise NotImplementedError

    def to_coco(self, image_id: int) -> list[dict]:
        """What was predicted in COCO's result format, ready for JSON; category ids count from 1."""
        raise NotImplementedError

    def save(self, path: str | Path, **options) -> Path:
        """Write :meth:`draw` to a file; its folder is made.

        Args:
            path: With a suffix of pictures.
            options: Those of :meth:`draw`.

        Raises:
            ConfigError: OpenCV writes no files of this suffix.
        """
        path = Path(path)
        picture = self.draw(**options)
        try:
            content = file_content(picture, path.suffix or '.')
        except cv2.error as error:
            raise ConfigError(f'{path}: pictures are written as .jpg, .png or .webp.') from error
        with atomic(path, 'wb') as file:
            file.write(content)
        return path

    def _repr_jpeg_(self) -> bytes:
        """What a notebook shows."""
        drawn = self.draw()
        factor = min(1.0, _NOTEBOOK_WIDTH / max(drawn.shape[:2]))
        if factor < 1:
            drawn = cv2.resize(drawn, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        return file_content(drawn)


@dataclass(frozen=True)
class Detections(Result):
    """The objects of a picture, by descending score as the detector orders them.

    Attributes:
        boxes: ``(N, 4)`` float32: left, top, right, bottom in pixels of the picture.
        labels: ``(N,)`` int64: places in ``classes``.
        scores: ``(N,)`` float32, 0 to 1.
        masks: COCO's compressed run lengths, N of them; None: the model predicts boxes alone.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    masks: list[Mapping] | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def mask_arrays(self) -> np.ndarray:
        """The masks as pixels, ``(N, H, W)`` of bool.

        Raises:
            ConfigError: The model predicts no masks.
        """
        if self.masks is None:
            raise ConfigError('the model predicts boxes alone, no masks.')
        if not self.masks:
            return np.zeros((0, self.height, self.width), bool)
        return rle.decode(self.masks).transpose(2, 0, 1).astype(bool)

    def above(self, score: float) -> Detections:
        """Those of at least this score."""
        kept = np.flatnonzero(self.scores >= np.float32(score))
        masks = None if self.masks is None else [self.masks[i] for i in kept]
        return replace(
            self,
            boxes=self.boxes[kept],
            labels=self.labels[kept],
            scores=self.scores[kept],
            masks=masks,
        )

    def names(self) -> list[str]:
        """The class of each object."""
        return [self.classes[label] for label in self.labels]

    def areas(self) -> list[int] | None:
        """Pixels of each mask; None: the model predicts boxes alone."""
        if self.masks is None:
            return None
        return [int(rle.area(code)) for code in self.masks]

    def draw(self, score: float = SHOWN_SCORE) -> np.ndarray:
        """The picture with boxes, masks, classes and scores, ``(H, W, 3)`` of uint8, BGR.

        Args:
            score: The least score of what is drawn.
        """
        shown = self.above(score)
        return draw_detections(
            self.picture(), shown.boxes, shown.labels, shown.scores, shown.masks, self.classes
        )

    def to_coco(self, image_id: int) -> list[dict]:
        """The objects in COCO's result format, ready for JSON; category ids count from 1."""
        entries = []
        for place, box in enumerate(self.boxes.tolist()):
            entry = {
                'image_id': image_id,
                'category_id': int(self.labels[place]) + 1,
                'bbox': [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                'score': float(self.scores[place]),
            }
            if self.masks is not None:
                entry['segmentation'] = as_json(self.masks[place])
            entries.append(entry)
        return entries


@dataclass(frozen=True)
class LabelMap(Result):
    """The class of every pixel.

    Attributes:
        labels: ``(H, W)`` of int: places in ``classes``.
        shift: What is added to a label in a mask file, 1 for sets whose 0 is unlabelled.
    """

    labels: np.ndarray
    shift: int = 0

    def pixels(self) -> dict[str, int]:
        """Class -> its number of pixels, for every class that occurs."""
        # Some rows at a time: numpy counts in a copy of 64 bits.
        step = max(1, _COUNTED_PIXELS // self.width)
        counts = np.zeros(len(self.classes), int)
        for top in range(0, self.height, step):
            counts += np.bincount(
                self.labels[top : top + step].ravel(), minlength=len(self.classes)
            )
        return {self.classes[k]: int(counts[k]) for k in np.flatnonzero(counts)}

    def values(self) -> np.ndarray:
        """The mask as a file of the data set has it, ``(H, W)`` of uint8, uint16 for many classes."""
        fits = len(self.classes) + self.shift <= 256
        return (self.labels + self.shift).astype(np.uint8 if fits else np.uint16)

    def save_mask(self, path: str | Path) -> Path:
        """Write :meth:`values` as a PNG; its folder is made."""
        path = Path(path)
        with atomic(path, 'wb') as file:
            Image.fromarray(self.values()).save(file, 'PNG', compress_level=1)
        return path

    def draw(self, alpha: float = 0.5) -> np.ndarray:
        """The picture under its classes' colours, ``(H, W, 3)`` of uint8, BGR.

        Args:
            alpha: How opaque the colours are, 0 to 1.
        """
        return draw_segmentation(self.picture(), self.labels, self.classes, alpha)

    def to_coco(self, image_id: int) -> list[dict]:
        """One run-length code for each class that occurs, ready for JSON; ids count from 1."""
        entries = []
        for k in np.unique(self.labels).tolist():
            code = rle.encode(np.asfortranarray(self.labels == k, np.uint8))
            entries.append(
                {
                    'image_id': image_id,
                    'category_id': k + 1,
                    'segmentation': as_json(code),
                    'area': int(rle.area(code)),
                }
            )
        return entries


def encoded_masks(masks: np.ndarray) -> list[Mapping]:
    """Masks ``(N, H, W)`` as compressed run lengths."""
    return [rle.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]
