"""Which images and classes a YOLO set names: ``data.yaml``, lists, files of class names."""

from __future__ import annotations

from pathlib import Path

import yaml

from backbones.errors import DataError
from downstream.data.formats.images import SUFFIXES, files_below, read_text

_PARTS = {'train': 'train', 'val': 'val', 'valid': 'val', 'validation': 'val', 'test': 'test'}
_CLASS_FILES = (
    'classes.txt',
    'obj.names',
    'labels/classes.txt',
    'data/obj.names',
    'predefined_classes.txt',
)


def read_yaml(path: Path) -> tuple[tuple[str, ...], dict[str, list[Path]], list[str]]:
    """Classes, the images of each part, and notes from a ``data.yaml``.

    Raises:
        DataError: It lacks names or images, or names folders that are not there.
    """
    content = _yaml_content(path)
    classes = _names(path, content)
    lists: dict[str, list[Path]] = {}
    for key, part in _PARTS.items():
        stated = content.get(key)
        if not stated:
            continue
        places = stated if isinstance(stated, list) else [stated]
        root = str(content.get('path') or '')
        lists[part] = [image for place in places for image in _images(path, root, str(place))]
    if 'test' in lists and not lists['test']:
        del lists['test']
    if not lists:
        raise DataError(f'{path} names no images: train, val or test.')
    return classes, lists, []


def _yaml_content(path: Path) -> dict:
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise DataError(f'{path} is no YAML: {str(error).splitlines()[-1].strip()}.') from error
    if not isinstance(content, dict) or not content.get('names'):
        raise DataError(f'{path} has no `names`; a YOLO set names its classes there.')
    if content.get('kpt_shape'):
        raise DataError(f'{path} is of key points (kpt_shape); boxes or polygons are needed.')
    return content


def _names(path: Path, content: dict) -> tuple[str, ...]:
    names = content['names']
    if isinstance(names, dict):
        keys = sorted(int(key) for key in names if str(key).isdecimal())
        if keys != list(range(len(names))):
            raise DataError(f'{path}: the keys of `names` must be 0 to {len(names) - 1}.')
        names = [names[key] if key in names else names[str(key)] for key in keys]
    if not isinstance(names, list):
        raise DataError(f'{path}: `names` must be a list, or a number: name a line.')
    stated = content.get('nc', len(names))
    if stated != len(names):
        raise DataError(f'{path}: nc is {stated}, but `names` has {len(names)} classes.')
    return unique_names(path, [str(name) for name in names])


def unique_names(path: Path, names: list[str]) -> tuple[str, ...]:
    """``names``; DataError if one is there twice."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f'{path}: the class {twice!r} is there twice.')
    return tuple(names)


def _images(yaml_file: Path, root: str, place: str) -> list[Path]:
    """The images of a folder or list that a ``data.yaml`` names."""
    folder = yaml_file.parent
    # Roboflow writes ../train/images for a folder beside the file; `path` is often that of
    # another machine.
    tails = [place, place.removeprefix('../')]
    for base in (folder / root, folder, folder / Path(root).name):
        for tail in tails:
            target = base / tail
            if target.is_dir():
                return files_below(target)
            if target.is_file():
                return images_of_list(target, base)
    raise DataError(
        f'{yaml_file} names {place!r}, which is neither in {folder / root} nor beside the file.'
    )


def images_of_list(path: Path, base: Path) -> list[Path]:
    """The images in a list, one path a line, relative to ``base`` or to the list.

    Raises:
        DataError: A line names no image.
    """
    images = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        text = line.strip()
        if not text:
            continue
        tail = Path(*Path(text).parts[1:])  # darknet's data/obj_train_data/..., without its first
        tried = [place / name for name in (text, tail) for place in (base, path.parent)]
        found = next((image for image in tried if image.is_file()), None)
        if found is None or found.suffix.lower() not in SUFFIXES:
            raise DataError(f'{path}:{number}: there is no image {tried[0]}.')
        images.append(found)
    if not images:
        raise DataError(f'{path} lists no images.')
    return images


def class_names(folder: Path) -> tuple[str, ...]:
    """Class names of a set whose ``data.yaml`` names no images, or that has none.

    They are in a YAML file, or in a text file: a name a line, the first is class 0.

    Raises:
        DataError: There is no such file, or there are several that differ.
    """
    files = [folder / name for name in _CLASS_FILES if (folder / name).is_file()]
    files += [path for path in sorted(folder.glob('*.names')) if path not in files]
    found = {path: unique_names(path, _lines(path)) for path in files}
    for path in sorted(folder.glob('*.y*ml')):
        if 'names' in read_text(path):
            found[path] = _names(path, _yaml_content(path))
    if len(set(found.values())) != 1:
        problem = f'{len(found)} files of class names that differ' if found else 'no class names'
        raise DataError(
            f'{folder} has YOLO labels, but {problem}; write a name a line into {folder}/classes.txt, '
            'or name a data.yaml.'
        )
    return next(iter(found.values()))


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]
