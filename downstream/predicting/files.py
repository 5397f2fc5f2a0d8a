"""Files of results that are written picture by picture and appear when they are complete."""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from downstream.atomic import atomic


@contextmanager
def csv_file(path: Path, columns: Sequence[str]) -> Iterator[Callable[[Iterable[Sequence]], None]]:
    """A table to write: a function that takes rows."""
    with atomic(path) as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(columns)
        yield writer.writerows


@contextmanager
def json_lines(path: Path) -> Iterator[Callable[[dict], object]]:
    """A file with a JSON object a line to write: a function that takes one."""
    with atomic(path) as file:
        yield lambda entry: file.write(f'{json.dumps(entry, ensure_ascii=False)}\n')


class CocoEntries:
    """Images and annotations on their way into a file: see :func:`coco_file`."""

    def __init__(self, annotations: IO[str], images: IO[str]) -> None:
        self._annotations, self._images = annotations, images
        self._begun: set[IO[str]] = set()

    def add(self, image: dict, annotations: Iterable[dict]) -> None:
        """Write an image and what was found in it."""
        self._write(self._images, image)
        for annotation in annotations:
            self._write(self._annotations, annotation)

    def _write(self, file: IO[str], entry: dict) -> None:
        comma = ',' if file in self._begun else ''
        file.write(f'{comma}\n{json.dumps(entry, ensure_ascii=False)}')
        self._begun.add(file)


@contextmanager
def coco_file(path: Path, classes: Sequence[str]) -> Iterator[CocoEntries]:
    """A file of COCO's JSON to write: ``annotations``, ``images`` and ``categories``.

    Args:
        path: Where it appears.
        classes: Names of the categories, whose ids count from 1.
    """
    with (
        atomic(path) as file,
        tempfile.TemporaryFile('w+', encoding='utf-8', dir=path.parent) as images,
    ):
        # A file cannot grow in two places: the images wait in one that has no name.
        file.write('{"annotations": [')
        yield CocoEntries(file, images)
        file.write('],\n"images": [')
        images.seek(0)
        shutil.copyfileobj(images, file)
        categories = [{'id': k, 'name': name} for k, name in enumerate(classes, 1)]
        file.write(f'],\n"categories": {json.dumps(categories, ensure_ascii=False)}}}\n')
