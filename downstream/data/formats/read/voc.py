"""Pascal VOC: an XML file of boxes for each image."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from tqdm import tqdm

from backbones.errors import DataError
from downstream.data.files import FULL_FILES, shortened
from downstream.data.formats.candidate import Candidate
from downstream.data.formats.found import Found, Instances
from downstream.data.formats.images import files_below, part_of_path, read_text
from downstream.data.formats.instances import InstancesBuilder, image_entries

_POINT = re.compile(r'x(\d+)')


@dataclass(frozen=True)
class _Object:
    name: str
    corners: tuple[float, float, float, float]
    polygon: tuple[float, ...]
    difficult: bool


@dataclass(frozen=True)
class _File:
    path: Path
    image_name: str
    size: tuple[int, int]
    database: str
    objects: list[_Object]


def recognise(source: Path) -> list[Candidate]:
    """A folder with XML files of boxes somewhere in it."""
    if source.is_file():
        return []
    files = files_below(source, ['.xml'])
    if not any('<annotation' in read_text(path)[:2000] for path in files[:5]):
        return []
    return [Candidate('Pascal VOC', source, partial(read, source, files))]


def read(source: Path, files: list[Path]) -> Found:
    """A set from its XML files; parts by ``ImageSets/Main``, else by the names of folders.

    Raises:
        DataError: A file is damaged, or its image is missing or of another size.
    """
    bar = tqdm(files, desc='reading XML', disable=len(files) < FULL_FILES)
    parsed = [parse(path) for path in bar]
    classes = _class_names(source, parsed)
    notes: list[str] = []
    from_one = _counts_from_one(parsed, notes)
    images = _images(source, parsed)
    places = _parts(source, parsed, notes)
    parts = {
        name: _read_part(
            [parsed[i] for i in chosen], [images[i] for i in chosen], classes, from_one
        )
        for name, chosen in places.items()
    }
    difficult = sum(o.difficult for file in parsed for o in file.objects)
    if difficult:
        notes.append(
            f'{difficult} objects are marked difficult: they count neither in the loss nor in the '
            "figures, as in VOC's own evaluation"
        )
    return Found('Pascal VOC', 'detection', classes, parts, tuple(notes))


def parse(path: Path) -> _File:
    """The content of an XML file.

    Raises:
        DataError: It is damaged, or an object lacks its name or box.
    """
    text = path.read_bytes()
    if b'<!ENTITY' in text:
        raise DataError(f'{path} declares entities, which annotations have no need of: refused.')
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DataError(f'{path} is no XML or is cut off ({error}).') from error
    try:
        width, height = (
            int(float(root.findtext(f'size/{key}') or 0)) for key in ('width', 'height')
        )
    except (ValueError, OverflowError):
        raise DataError(f'{path}: width and height in size are no numbers.') from None
    objects = [_parse_object(path, element) for element in root.findall('object')]
    database = root.findtext('source/database') or ''
    return _File(path, root.findtext('filename') or '', (width, height), database, objects)


def _parse_object(path: Path, element: ElementTree.Element) -> _Object:
    name = (element.findtext('name') or '').strip()
    if not name:
        raise DataError(f'{path}: an object has no name.')
    try:
        left, top, right, bottom = (
            float(element.findtext(f'bndbox/{key}', '')) for key in ('xmin', 'ymin', 'xmax', 'ymax')
        )
    except ValueError:
        raise DataError(
            f'{path}: the object {name} has no bndbox with xmin, ymin, xmax and ymax.'
        ) from None
    corners = left, top, right, bottom
    if right < left or bottom < top:
        raise DataError(f'{path}: the box of {name} ends before it begins: {corners}.')
    polygon = element.find('polygon')
    points = _parse_points(path, name, polygon) if polygon is not None else ()
    difficult = (element.findtext('difficult') or '0').strip() in ('1', 'True', 'true')
    return _Object(name, corners, points, difficult)


def _parse_points(path: Path, name: str, polygon: ElementTree.Element) -> tuple[float, ...]:
    points: list[float] = []
    try:
        for child in polygon:
            if match := _POINT.fullmatch(child.tag):
                points += [float(child.text or ''), float(polygon.findtext(f'y{match[1]}', ''))]
    except ValueError:
        raise DataError(
            f'{path}: the polygon of {name} has points that are no x and y of numbers.'
        ) from None
    return tuple(points)


def _class_names(source: Path, files: list[_File]) -> tuple[str, ...]:
    names = sorted({o.name for file in files for o in file.objects})
    listed = source / 'classes.txt'
    if listed.is_file():
        given = [line.strip() for line in read_text(listed).splitlines() if line.strip()]
        unknown = [name for name in names if name not in given]
        if unknown:
            raise DataError(f'{listed} lacks {shortened(unknown)}, which annotations name.')
        names = given
    if not names:
        raise DataError(f'{source}: no XML file has an object.')
    return tuple(names)


def _counts_from_one(files: list[_File], notes: list[str]) -> bool:
    """Whether pixels count from 1 and the last belongs to the box.

    VOC's own files and supervision's are so. What other tools write are coordinates from 0.
    """
    own = re.compile(r'the voc20\d\d database|roboflow\.ai')
    if not all(own.fullmatch(file.database.strip().lower()) for file in files):
        return False
    if any(min(o.corners[:2]) < 1 for file in files for o in file.objects):
        return False
    notes.append("pixels of boxes count from 1 and include the last, as in VOC's own files")
    return True


def _images(source: Path, files: list[_File]) -> list[Path]:
    """The image of each file: of the same stem, or as ``filename`` names it."""
    by_stem: dict[str, list[Path]] = {}
    by_name: dict[str, list[Path]] = {}
    root = source.parent if source.name == 'Annotations' else source
    for path in files_below(root):
        if path.parent.name in ('SegmentationClass', 'SegmentationObject'):
            continue
        by_stem.setdefault(path.stem, []).append(path)
        by_name.setdefault(path.name, []).append(path)
    found = []
    for file in files:
        near = [p for p in by_stem.get(file.path.stem, ()) if p.parent == file.path.parent]
        stated = by_name.get(Path(file.image_name.replace('\\', '/')).name, [])
        choice = near or by_stem.get(file.path.stem) or stated
        if len(choice) != 1:
            problem = (
                f'{len(choice)} images fit: {shortened(choice, 2)}' if choice else 'is missing'
            )
            raise DataError(
                f'{file.path}: its image {problem}; it is {file.image_name or file.path.stem} in '
                f'{root}.'
            )
        found += choice
    return found


def _parts(source: Path, files: list[_File], notes: list[str]) -> dict[str, list[int]]:
    """Part -> places in the list of files."""
    root = source.parent if source.name == 'Annotations' else source
    lists = {
        path.stem: [line.split()[0] for line in read_text(path).splitlines() if line.split()]
        for path in sorted((root / 'ImageSets' / 'Main').glob('*.txt'))
        if path.stem in ('train', 'val', 'test')
    }
    place_of = {file.path.stem: place for place, file in enumerate(files)}
    if lists:
        listed: dict[str, list[int]] = {}
        for part, stems in lists.items():
            lost = [stem for stem in stems if stem not in place_of]
            if lost and part != 'test':
                raise DataError(
                    f'{root}/ImageSets/Main lists {lost[0]} for {part}, which has no XML file.'
                )
            if chosen := [place_of[stem] for stem in stems if stem in place_of]:
                listed[part] = chosen
        left = len(files) - len({place for chosen in listed.values() for place in chosen})
        if left:
            notes.append(f'{left} of {len(files)} XML files are in no list of ImageSets/Main')
        return listed
    parts: dict[str, list[int]] = {}
    for place, file in enumerate(files):
        parts.setdefault(part_of_path(file.path, source) or 'all', []).append(place)
    if 'all' in parts and len(parts) > 1:
        first = files[parts['all'][0]].path
        raise DataError(f'{first} is in no folder of train, val or test, but others are.')
    return parts


def _read_part(
    files: list[_File], images: list[Path], classes: tuple[str, ...], from_one: bool
) -> Instances:
    builder = InstancesBuilder(*image_entries(images), classes)
    index = {name: place for place, name in enumerate(classes)}
    for image, file in enumerate(files):
        size = builder.size(image)
        if min(file.size) > 0 and file.size != size:
            raise DataError(
                f'{images[image]} is {size[0]} x {size[1]} as loaded, but {file.path} says '
                f'{file.size[0]} x {file.size[1]}.'
            )
        for one in file.objects:
            x0, y0, x1, y1 = one.corners
            x0, y0 = x0 - from_one, y0 - from_one
            polygon = [value - from_one for value in one.polygon]
            builder.add(
                image,
                index[one.name],
                [x0, y0, x1 - x0, y1 - y0],
                [polygon] if len(polygon) >= 6 else None,
                one.difficult,
            )
    return builder.result()
