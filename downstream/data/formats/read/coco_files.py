"""Where the images of a COCO file are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from backbones.errors import DataError
from downstream.data.formats.images import relative_names, sizes

from .coco_repairs import Repairs

_TRIED = 20


class ImageFinder:
    """Finds the folder that the names in a COCO file are relative to.

    Tools write names relative to the file, to a folder of images beside it, or to a server.

    Args:
        ann_file: The COCO file.
        part: Its part of the set; a folder of that name is tried first.
        repairs: Told what is changed.
    """

    def __init__(self, ann_file: Path, part: str, repairs: Repairs) -> None:
        self.ann_file, self.part, self.repairs = ann_file, part, repairs
        self._listed: dict[str, frozenset[str]] = {}

    def resolve(self, images: list[dict]) -> Path:
        """Complete ``images`` in place: names of existing files, and sizes.

        Returns:
            The folder that the names are relative to.

        Raises:
            DataError: Files are missing.
        """
        root, rewrite = self._root_and_rewriting([image['file_name'] for image in images])
        outside = False
        for image in images:
            name = rewrite(image['file_name'])
            outside |= os.path.isabs(name) or '..' in PurePosixPath(name).parts
            if name != image['file_name']:
                self.repairs.changed(self.ann_file, f'file names as they are in {root}')
                image['file_name'] = name
        if outside:
            root, names = relative_names([root / image['file_name'] for image in images])
            for image, name in zip(images, names):
                image['file_name'] = name
            self.repairs.changed(self.ann_file, f'file names relative to {root}')
        self._require_all(root, images)
        self._complete_sizes(root, images)
        return root

    def _root_and_rewriting(self, names: list[str]) -> tuple[Path, Callable[[str], str]]:
        """The first folder, and the first way to read the names, that leads to most of the files."""
        sample = names[:: max(1, len(names) // _TRIED)]
        best = (0, self.ann_file.parent, _REWRITINGS[0])
        for rewrite in _REWRITINGS:
            for folder in self._folders():
                hits = sum(self._exists(folder, rewrite(name)) for name in sample)
                if hits == len(sample):
                    return folder, rewrite
                if hits > best[0]:
                    best = (hits, folder, rewrite)
        return best[1:]

    def _folders(self) -> Iterator[Path]:
        """The folder of the file, those in it, the folder above, those in that; two levels deep."""
        near = self.ann_file.parent
        for folder in (near, near.parent):
            yield folder
            for depth in ('*/', '*/*/'):
                inner = [path for path in folder.glob(depth) if not path.name.startswith('.')]
                yield from sorted(inner, key=lambda p: (self.part not in p.name.lower(), p))

    def _exists(self, folder: Path, name: str) -> bool:
        place, file = os.path.split(os.path.join(folder, name))
        if place not in self._listed:
            there = os.listdir(place) if os.path.isdir(place) else ()
            self._listed[place] = frozenset(there)
        return file in self._listed[place]

    def _require_all(self, root: Path, images: list[dict]) -> None:
        lost = [i['file_name'] for i in images if not self._exists(root, i['file_name'])]
        if lost:
            raise DataError(
                f'{len(lost)} of {len(images)} images of {self.ann_file} are missing, the first: '
                f'{root / lost[0]}. Put the images beside the file, in a folder `images`.'
            )

    def _complete_sizes(self, root: Path, images: list[dict]) -> None:
        without = [
            image
            for image in images
            if not all(
                type(image.get(key)) is int and image[key] > 0 for key in ('width', 'height')
            )
        ]
        for image, (width, height) in zip(
            without, sizes([root / image['file_name'] for image in without])
        ):
            if (image.get('width'), image.get('height')) != (width, height):
                image.update(width=width, height=height)
                self.repairs.changed(self.ann_file, 'missing sizes read from the images')


def _as_written(name: str) -> str:
    return name


def _with_slashes(name: str) -> str:
    return name.replace('\\', '/')


def _unquoted(name: str) -> str:
    return unquote(
        _with_slashes(name).rpartition('?d=')[2]
    )  # Label Studio: /data/local-files/?d=...


def _base_name(name: str) -> str:
    return _unquoted(name).rpartition('/')[2]


_REWRITINGS = (_as_written, _with_slashes, _unquoted, _base_name)
