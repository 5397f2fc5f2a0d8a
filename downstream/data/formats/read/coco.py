"""COCO instance annotations, as the tools that export them write them."""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path

from backbones.errors import DataError
from downstream.data.formats.candidate import Candidate, refusing_empty
from downstream.data.formats.found import Found, Instances
from downstream.data.formats.images import files_below, part_of

from .coco_files import ImageFinder
from .coco_repairs import Repairs, read_coco, repair, unify_categories

_KEY = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
_ENDS = 2**16
_MAX_SNIFFED_WHOLE = 2**22


def recognise(source: Path) -> list[Candidate]:
    """COCO files in a folder and its subfolders, or the file itself."""
    searched = [source] if source.is_file() else files_below(source, ['.json'])
    files = [path for path in searched if path.suffix.lower() == '.json' and _is_coco(path)]
    named = files[0] if len(files) == 1 else source
    reading = refusing_empty(partial(read, files), files, searched)
    return [Candidate('COCO', named, reading)] if files else []


def _is_coco(path: Path) -> bool:
    """Whether a JSON file has lists of images and categories; of a large one the ends are read."""
    with open(path, 'rb') as file:
        text = file.read(_ENDS)
        # labelme embeds images: thousands of large files.
        if not _KEY.search(text) and b'"shapes"' in text:
            return False
        if os.fstat(file.fileno()).st_size > _MAX_SNIFFED_WHOLE:
            file.seek(-_ENDS, os.SEEK_END)
            return bool(_KEY.search(text + file.read()))
        keys = set(_KEY.findall(text + file.read()))
    return b'images' in keys and (b'categories' in keys or b'annotations' in keys)


def read(files: list[Path]) -> Found:
    """A set from its COCO files, one for each part.

    Raises:
        DataError: A file is damaged, contradicts itself, or it is unclear which part it is.
    """
    repairs = Repairs()
    parts = {name: _read_part(path, name, repairs) for name, path in _parts(files, repairs).items()}
    parts, classes = unify_categories(parts, repairs)
    return Found('COCO', 'detection', classes, parts, repairs.notes())


def _parts(files: list[Path], repairs: Repairs) -> dict[str, Path]:
    """Part -> its file."""
    if len(files) == 1:
        return {'all': files[0]}
    by_part: dict[str | None, list[Path]] = {}
    for path in files:
        by_part.setdefault(part_of(path.stem) or part_of(path.parent.name), []).append(path)
    chosen = {}
    for part, paths in by_part.items():
        # COCO's own folder also has captions_ and person_keypoints_ of the same images.
        instances = [path for path in paths if path.name.startswith('instances_')]
        if len(paths) > 1 and len(instances) == 1:
            others = ', '.join(path.name for path in paths if path not in instances)
            repairs.say(f'{instances[0].name} is read, {others} not')
            paths = instances
        if part is None or len(paths) > 1:
            names = ', '.join(str(path) for path in files[:6])
            raise DataError(
                f'{len(files)} COCO files, and it is not clear which is training and which is '
                f'validation: {names}. Name one with --data, or put train, val or test into the '
                'names of all.'
            )
        chosen[part] = paths[0]
    return chosen


def _read_part(path: Path, part: str, repairs: Repairs) -> Instances:
    before = repairs.count
    content = read_coco(path, repairs)
    repair(path, content, repairs)
    root = ImageFinder(path, part, repairs).resolve(content['images'])
    changed = repairs.count > before
    return Instances(root, content, None if changed else path)
