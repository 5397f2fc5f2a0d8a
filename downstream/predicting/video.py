"""Videos: their frames, and what was predicted for them as a video and a line of JSON for each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

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


class VideoWriter:
    """An MP4 video that appears when it is complete.

    Args:
        path: Where it appears; its folder is made.
        rate: Frames per second.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate = path, rate
        path.parent.mkdir(parents=True, exist_ok=True)
        self._aside = path.with_name(f'.{os.getpid()}.{path.name}')
        self._writer: cv2.VideoWriter | None = None

    def add(self, pixels: np.ndarray) -> None:
        """Write a frame ``(H, W, 3)``, BGR; all have the size of the first one.

        Raises:
            OSError: The video cannot be written.
        """
        if self._writer is None:
            code = cv2.VideoWriter.fourcc(*_CODEC)
            size = pixels.shape[1::-1]
            self._writer = cv2.VideoWriter(str(self._aside), code, self.rate, size)
            if not self._writer.isOpened():
                raise OSError(f'{self.path} cannot be written: OpenCV has no encoder for it.')
        self._writer.write(pixels)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._writer is not None:
            self._writer.release()
        if kind is None and self._writer is not None:
            self._aside.replace(self.path)
        else:
            self._aside.unlink(missing_ok=True)
