"""Pictures of findings and of annotated images."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from downstream.data.checks.bands import Loading
from downstream.data.findings.finding import Box, Finding
from downstream.data.images.loading import LoadBands
from downstream.data.images.picture import picture_of_file
from downstream.data.images.read import read_bands, read_header
from downstream.drawing import fitted
from downstream.drawing.shapes import draw_box

_RGB = Loading()
_RED = (255, 40, 40)
_FRAME = 8
# A box of which less is to be seen in the whole picture is shown from near by.
_MIN_SHOWN_PX = 12


def load(path: Path, loading: Loading = _RGB) -> np.ndarray:
    """An image as a run loads it, in colours: RGB ``(H, W, 3)`` of uint8, turned as its EXIF tag says.

    Of an image that a run refuses, the first three bands are shown.

    Raises:
        Exception: It cannot be read; decoders raise many kinds.
    """
    header = read_header(path)
    if not loading.bands or loading.refusal(path, header):
        return picture_of_file(path, header)
    image = read_bands(path.read_bytes(), path)[..., [band - 1 for band in loading.bands]]
    return LoadBands(loading.bands, loading.picture_bands).picture(image)


def picture_of(finding: Finding, longest: int, loading: Loading = _RGB) -> np.ndarray | None:
    """A picture that shows a finding; None without an image that can be read.

    Args:
        finding: Its ``image`` is drawn with its ``boxes``, beside its ``other`` image.
        longest: The longer side of each image in pixels.
        loading: What a run loads of the images.
    """
    images = []
    for path in (finding.image, finding.other):
        if path is not None:
            try:
                images.append(load(path, loading))
            except Exception:  # what is wrong with the file is a finding of its own
                return None
    if not images:
        return None
    images[0] = _with_boxes(images[0], finding.boxes, longest)
    pictures = [fitted(image, longest, enlarge=True)[0] for image in images]
    height = max(picture.shape[0] for picture in pictures)
    return np.hstack(
        [
            cv2.copyMakeBorder(
                picture, 0, height - picture.shape[0], 0, 4, cv2.BORDER_CONSTANT, value=(255,) * 3
            )
            for picture in pictures
        ]
    )


def _with_boxes(image: np.ndarray, boxes: tuple[Box, ...], longest: int) -> np.ndarray:
    """The image with its boxes, room for what sticks out, and cut to the surroundings of small ones."""
    if not boxes:
        return image
    height, width = image.shape[:2]
    low = np.min([box[:2] for box in boxes], axis=0)
    high = np.max([np.add(box[:2], box[2:]) for box in boxes], axis=0)
    # What lies further outside than the image is large would leave nothing of it to see.
    before = np.clip(np.ceil(-low), 0, (width, height)).astype(int)
    after = np.clip(np.ceil(high - (width, height)), 0, (width, height)).astype(int)
    if before.any() or after.any():
        pad = _FRAME + np.stack([before, after])
        (left, top), (right, bottom) = pad.tolist()
        image = cv2.copyMakeBorder(
            image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(210, 210, 210)
        )
        cv2.rectangle(
            image, tuple(pad[0].tolist()), tuple((pad[0] + (width, height)).tolist()), (0, 0, 0), 1
        )
        boxes = tuple((box[0] + pad[0, 0], box[1] + pad[0, 1], *box[2:]) for box in boxes)
    side = max(boxes[0][2:])
    if len(boxes) == 1 and side * longest / max(image.shape[:2]) < _MIN_SHOWN_PX:
        image, boxes = _near(image, boxes[0], longest)
    # Drawn at the size that is looked at: a line of a large image would shrink to nothing.
    picture, factor = fitted(image, longest, enlarge=True)
    picture = np.ascontiguousarray(picture)
    for x, y, width, height in boxes:
        corners = [value * factor for value in (x, y, x + width, y + height)]
        draw_box(picture, corners, _RED)
    return picture


def _near(image: np.ndarray, box: Box, longest: int) -> tuple[np.ndarray, tuple[Box]]:
    """The surroundings of a small box, enlarged."""
    reach = max(16.0, 4 * max(box[2:]))
    height, width = image.shape[:2]
    x, y = box[0] + box[2] / 2, box[1] + box[3] / 2
    left, right = (int(v) for v in np.clip([x - reach, x + reach + 1], 0, width))
    top, bottom = (int(v) for v in np.clip([y - reach, y + reach + 1], 0, height))
    cut, factor = fitted(image[top:bottom, left:right], longest, enlarge=True)
    moved = ((box[0] - left) * factor, (box[1] - top) * factor, box[2] * factor, box[3] * factor)
    return np.ascontiguousarray(cut), (moved,)
