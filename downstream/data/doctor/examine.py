"""All findings of a data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from downstream.data.files import exif_advice
from downstream.data.findings.boxes import box_findings, small_findings, trained_factor
from downstream.data.findings.classes import class_findings, object_counts
from downstream.data.findings.finding import Finding
from downstream.data.findings.masks import set_findings, value_finding
from downstream.data.findings.segments import segment_findings

from .between import duplicate_findings, unused_findings
from .files import FileFacts, examine_files
from .parts import Part


def examine(parts: Sequence[Part], workers: int | None = None) -> list[Finding]:
    """All findings of the parts of a data set. Every file is opened.

    Args:
        parts: As read.
        workers: Processes that open files; None: one for each core.
    """
    images = {path: part.loading for part in parts for path in part.images}
    masks = list(dict.fromkeys(path for part in parts for path in part.image_of))
    facts = examine_files(images, masks, any(part.coloured for part in parts), workers)
    found = []
    for part in parts:
        own = [*part.findings, *_files(part, facts)]
        if part.content is not None:
            own += _instances(part, part.content)
        elif part.image_of:
            own += _masks(part, facts)
        found += [replace(finding, part=part.name) for finding in own]
    return [*found, *duplicate_findings(parts, facts), *unused_findings(parts)]


def _files(part: Part, facts: Mapping[Path, FileFacts]) -> Iterator[Finding]:
    """What the files of a part show each for itself, and beside what is stated of them."""
    stated = {}
    if part.content is not None:
        stated = {part.folder / one['file_name']: one for one in part.content['images']}
    for path in part.images:
        own = facts[path]
        readable = path if own.size else None
        for kind, detail in own.problems:
            yield Finding(kind, str(path), detail, image=readable)
        size = own.shown_size if part.turns else own.size
        entry = stated.get(path)
        if size and entry and size != (entry['width'], entry['height']):
            detail = (
                f'is {size[0]} x {size[1]}, but {part.file} says {entry["width"]} x {entry["height"]}.'
                + exif_advice(size != own.size)
            )
            yield Finding('size', str(path), detail.rstrip('.'), image=path)
    for path, image in part.image_of.items():
        own = facts[path]
        for kind, detail in own.problems:
            kind = 'mask-missing' if kind == 'file-missing' else kind
            yield Finding(kind, str(path), detail, image=image if own.size else None)
        size = facts[image].shown_size if part.turns else facts[image].size
        if own.size and size and own.size != size:
            detail = (
                f'is {own.size[0]} x {own.size[1]}, but {image} is {size[0]} x {size[1]}.'
                + exif_advice(size != facts[image].size)
            )
            yield Finding('size-mask', str(path), detail.rstrip('.'), image=image)
    without = set(part.images) - set(part.image_of.values()) if part.content is None else ()
    for image in sorted(without):
        yield Finding('mask-missing', str(image), 'has no mask', image=image)


def _instances(part: Part, content: dict) -> list[Finding]:
    """What the annotations of a part, ``content``, show."""
    file, folder = part.file, part.folder
    found = [
        *box_findings(file, content, folder),
        *segment_findings(file, content, folder),
        *small_findings(file, content, folder, part.scale, part.stride),
        *class_findings(file, part.classes, object_counts(content)),
    ]
    annotated = {one['image_id'] for one in content['annotations']}
    empty = sum(one['id'] not in annotated for one in content['images'])
    if empty:
        detail = f'has {empty} images without annotations among {len(content["images"])}'
        found.append(Finding('no-annotations', part.file, detail))
    return found


def _masks(part: Part, facts: Mapping[Path, FileFacts]) -> list[Finding]:
    """What the masks of a part show, each and together."""
    pixels = {path: facts[path].pixels for path in part.image_of if facts[path].pixels}
    found = []
    if part.unlabelled is not None:
        reduced = 0 not in part.values
        for path, own in pixels.items():
            wrong = value_finding(path, own, len(part.values), reduced)
            found += [replace(wrong, image=part.image_of[path])] if wrong else []
    if pixels:
        found += set_findings(part.file, pixels, part.classes, part.values, part.trained)
    for path, own in pixels.items():
        size = facts[path].size
        factor = trained_factor(size, part.scale) if size else 1.0
        small = {
            part.classes[part.values[value]]: count
            for value, count in own.items()
            if value in part.values and count**0.5 * factor < part.stride
        }
        if small:
            shown = ', '.join(f'{count} px of {name}' for name, count in small.items())
            detail = f'has {shown}, less than a cell of the finest feature map ({part.stride} px)'
            found.append(Finding('mask-small', str(path), detail, image=part.image_of[path]))
    return found
