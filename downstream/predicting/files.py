"""Files of results that grow picture by picture and appear when they are complete."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO


class Whole:
    """What appears under its name when it is complete: left without an error, or not at all."""

    def finish(self) -> None:
        """Complete it under its name."""
        raise NotImplementedError

    def discard(self) -> None:
        """Remove what was written."""
        raise NotImplementedError

    def __enter__(self):
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self.discard()


class _Growing(Whole):
    """A file that is written under a hidden name and renamed by :meth:`finish`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._aside = path.with_name(f'.{path.name}.{os.getpid()}')
        self._file: IO[str] = self._aside.open('w', encoding='utf-8', newline='')

    def finish(self) -> None:
        """Complete the file under its name."""
        self._file.close()
        self._aside.replace(self.path)

    def discard(self) -> None:
        """Remove what was written, unless it is complete."""
        self._file.close()
        self._aside.unlink(missing_ok=True)


class CsvFile(_Growing):
    """A table.

    Args:
        path: Where it appears.
        columns: Their names.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        super().__init__(path)
        self._writer = csv.writer(self._file, lineterminator='\n')
        self._writer.writerow(columns)

    def add(self, rows: Iterable[Sequence]) -> None:
        """Write rows."""
        self._writer.writerows(rows)


class JsonLines(_Growing):
    """A JSON object a line."""

    def add(self, entry: dict) -> None:
        """Write a line."""
        self._file.write(f'{json.dumps(entry, ensure_ascii=False)}\n')


class CocoFile(_Growing):
    """COCO's JSON: ``annotations``, ``images`` and ``categories``.

    Args:
        path: Where it appears.
        classes: Names of the categories, whose ids count from 1.
    """

    def __init__(self, path: Path, classes: Sequence[str]) -> None:
        super().__init__(path)
        self._classes = classes
        # A file cannot grow in two places: the images wait in one of their own.
        self._images_aside = self._aside.with_name(f'{self._aside.name}.images')
        self._images = self._images_aside.open('w+', encoding='utf-8')
        self._file.write('{"annotations": [')
        self._empty = {'images': True, 'annotations': True}

    def add(self, image: dict, annotations: Iterable[dict]) -> None:
        """Write an image and what was found in it."""
        self._write(self._images, 'images', image)
        for annotation in annotations:
            self._write(self._file, 'annotations', annotation)

    def _write(self, file: IO[str], key: str, entry: dict) -> None:
        comma = '' if self._empty[key] else ','
        file.write(f'{comma}\n{json.dumps(entry, ensure_ascii=False)}')
        self._empty[key] = False

    def finish(self) -> None:
        self._file.write('],\n"images": [')
        self._images.seek(0)
        shutil.copyfileobj(self._images, self._file)
        categories = [{'id': k, 'name': name} for k, name in enumerate(self._classes, 1)]
        self._file.write(f'],\n"categories": {json.dumps(categories, ensure_ascii=False)}}}\n')
        self._close_images()
        super().finish()

    def discard(self) -> None:
        self._close_images()
        super().discard()

    def _close_images(self) -> None:
        self._images.close()
        self._images_aside.unlink(missing_ok=True)
