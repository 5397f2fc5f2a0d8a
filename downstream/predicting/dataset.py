"""Predictions as a data set that tools/train.py --data takes: images, and what was found in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from pycocotools import mask as rle

from backbones.errors import DataError
from downstream.atomic import atomic_path
from downstream.data.formats.convert.parts import place_image
from downstream.data.formats.write import write_mask

from .files import CocoEntries, coco_file
from .results import Detections, LabelMap

_FRAME_QUALITY = 95


class PredictedDataset:
    """Images with a COCO file, or with masks of indices, on their way into a folder.

    Args:
        folder: Where they are written.
        coco: The file of objects; None: there are masks.
        score: The least score of an object.
        copy: Copy the images; otherwise the folder has links to them.
    """

    def __init__(self, folder: Path, coco: CocoEntries | None, score: float, copy: bool) -> None:
        self._folder, self._coco, self._score, self._copy = folder, coco, score, copy
        self._number = 0

    def place(self, name: str, source: Path | np.ndarray, temporary: bool = False) -> None:
        """Put an image into the folder; it may be called in any thread.

        Args:
            name: Of the image, with folders.
            source: Its file, or the pixels of a frame.
            temporary: The file will be deleted, so a copy is made.
        """
        target = self._folder / 'images' / name
        if isinstance(source, np.ndarray):
            target.parent.mkdir(parents=True, exist_ok=True)
            quality = [cv2.IMWRITE_JPEG_QUALITY, _FRAME_QUALITY]
            target.write_bytes(cv2.imencode('.jpg', source, quality)[1].tobytes())
        else:
            place_image(source, target, self._copy or temporary)

    def place_mask(self, name: str, result: LabelMap) -> None:
        """Write the mask of an image; it may be called in any thread."""
        path = PurePosixPath('masks', name).with_suffix('.png')
        write_mask(result.labels.astype(np.uint8), self._folder / path)

    def add(self, name: str, result: Detections, image_id: int) -> None:
        """Add the objects of an image; those that have no pixel are left out."""
        assert self._coco is not None
        annotations = []
        shown = result.above(self._score)
        for place, entry in enumerate(shown.to_coco(image_id)):
            code = shown.masks[place] if shown.masks is not None else None
            if code is not None:
                entry['area'] = int(rle.area(code))
                entry['bbox'] = rle.toBbox(code).tolist()
            else:
                entry['area'] = entry['bbox'][2] * entry['bbox'][3]
            if min(entry['area'], *entry['bbox'][2:]) < 1:
                continue
            self._number += 1
            annotations.append({'id': self._number, 'iscrowd': 0, **entry})
        size = {'width': result.width, 'height': result.height}
        self._coco.add({'id': image_id, 'file_name': f'images/{name}', **size}, annotations)


@contextmanager
def predicted_dataset(
    folder: Path, task: str, classes: Sequence[str], score: float, copy: bool
) -> Iterator[PredictedDataset]:
    """A data set to write, whose folder appears when it is complete.

    Args:
        folder: It must not exist.
        task: ``'detection'`` or ``'segmentation'``.
        classes: Names of the classes.
        score: As for :class:`PredictedDataset`.
        copy: Likewise.

    Raises:
        DataError: The folder exists.
    """
    if folder.exists():
        raise DataError(f'{folder} exists; remove it, or name another folder by --out.')
    with atomic_path(folder) as aside:
        aside.mkdir()
        if task == 'detection':
            with coco_file(aside / 'annotations.json', classes) as coco:
                yield PredictedDataset(aside, coco, score, copy)
        else:
            yield PredictedDataset(aside, None, score, copy)
            names = ''.join(f'{name}\n' for name in classes)
            (aside / 'classes.txt').write_text(names, encoding='utf-8')
