"""What only several files or parts together show: duplicates, leaks, files that nothing uses."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from downstream.data.duplicates import groups
from downstream.data.findings.finding import Finding
from downstream.data.formats.images import SUFFIXES, with_suffix

from .files import FileFacts
from .parts import Part


def duplicate_findings(parts: Sequence[Part], facts: Mapping[Path, FileFacts]) -> list[Finding]:
    """Images that are the same or nearly so, within a part and between training and the others."""
    names_of: dict[Path, list[str]] = defaultdict(list)
    for part in parts:
        for path in part.images:
            names_of[path].append(part.name)
    paths = list(names_of)
    alike = groups([facts[path].fingerprint for path in paths])
    in_group = {i for group in alike for i in group}
    alike += [[i] for i, path in enumerate(paths) if len(names_of[path]) > 1 and i not in in_group]
    found = []
    for group in alike:
        members = sorted((paths[i] for i in group), key=lambda path: 'train' not in names_of[path])
        first, names = members[0], {name for path in members for name in names_of[path]}
        if 'train' in names and len(names) > 1:
            other = next((path for path in members if names_of[path] != ['train']), first)
            where = ' and '.join(sorted(set(names_of[other]) - {'train'}))
            detail = (
                f'is listed in train and in {where}'
                if other == first
                else f'of train is the same or nearly the same as {other} of {where}'
            )
            found.append(Finding('leak', str(first), detail, image=first, other=other))
        if len(members) > 1:
            detail = f'is the same or nearly the same as {members[1]}' + (
                f' and {len(members) - 2} more' if len(members) > 2 else ''
            )
            inside = [path for path in members if names_of[path] == names_of[first]]
            if len(inside) > 1:
                name = names_of[first][0]
                found.append(
                    Finding(
                        'duplicate', str(first), detail, image=first, other=members[1], part=name
                    )
                )
    return found


def unused_findings(parts: Sequence[Part]) -> list[Finding]:
    """Images and masks in the folders of the parts that no part uses."""
    found = []
    used = {path for part in parts for path in part.images}
    masks = {path for part in parts for path in part.image_of}
    folders = {path.parent for path in used}
    for path in _files(folders, SUFFIXES) - used - masks:
        found.append(Finding('image-unused', str(path), 'is in no list of images', image=path))
    for path in (
        _files({path.parent for path in masks}, {path.suffix for path in masks}) - masks - used
    ):
        found.append(Finding('mask-alone', str(path), 'belongs to no image', image=path))
    unique = {finding.file: finding for finding in found}
    return [unique[name] for name in sorted(unique)]


def _files(folders: set[Path], suffixes: Collection[str]) -> set[Path]:
    return {
        folder / name
        for folder in folders
        if folder.is_dir()
        for name in with_suffix(os.listdir(folder), suffixes)
    }
