"""Videos: their frames, and what was predicted for them as a video and a line of JSON for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from downstream.atomic import atomic_path
from downstream.data.reading import UnreadableError

_DEFAULT_RATE = 25.0
_CODEC = 'mp4v'  # OpenCV's wheels encode it on every platform


@dataclass(frozen=True)
class Frame:
    """A frame ``(H, W, 3)`` of uint8, BGR, with its number, from 0, and its time in seconds."""

    number: int
    time: float
    pixels: np.ndarray


class Video:
    """A video that can be read.

    Args:
        path: Its file.
        name: For messages.

    Raises:
        UnreadableError: OpenCV cannot open the file.
    """

    def __init__(self, path: str | Path, name: str) -> None:
        if not Path(path).is_file():
            raise UnreadableError(f'{name} does not exist.')
        self.name = name
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise UnreadableError(f'{name} cannot be read: it is no video that OpenCV decodes')
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate < 1000 else _DEFAULT_RATE
        self.stated = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def frames(self) -> Iterator[Frame]:
        """Every frame, turned as the file says.

        Raises:
            UnreadableError: There is none.
        """
        number = 0
        try:
            while True:
                there, pixels = self._capture.read()
                if not there:
                    break
                yield Frame(number, number / self.rate, pixels)
                number += 1
        finally:
            self._capture.release()
        if not number:
            raise UnreadableError(f'{self.name} cannot be read: not one frame can be decoded')


@contextmanager
def video_file(path: Path, rate: float) -> Iterator[Callable[[np.ndarray], None]]:
    """An MP4 video to write: a function that takes a frame ``(H, W, 3)``, BGR, all of one size.

    Args:
        path: Where it appears when it is complete.
        rate: Frames per second.

    Raises:
        OSError: The video cannot be written.
    """
    writer = cv2.VideoWriter()
    with atomic_path(path) as aside:

        def add(pixels: np.ndarray) -> None:
            if not writer.isOpened():
                code, size = cv2.VideoWriter.fourcc(*_CODEC), pixels.shape[1::-1]
                if not writer.open(str(aside), code, rate, size):
                    raise OSError(f'{path} cannot be written: OpenCV has no encoder for it.')
            writer.write(pixels)

        try:
            yield add
        finally:
            writer.release()
