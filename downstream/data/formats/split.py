"""Training and validation parts of a set that has none."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path, PurePosixPath

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from backbones.errors import ConfigError, DataError
from downstream.data.duplicates import fingerprint, groups
from downstream.data.files import FULL_FILES, IGNORED, shortened

from .found import Found, Instances, Masks
from .mask_pixels import class_of, has_colors, read_pixels

# Roboflow writes several augmented copies of an image: <name>.rf.<hash>.jpg.
_COPY = re.compile(r'\.rf\.[0-9a-f]+$')
_FRAME = re.compile(r'[\W_]*(?:frame|img|image|f)?[\W_]*\d+$', re.IGNORECASE)
_MIN_SEQUENCES = 3
# Candidates that are compared for each place in the validation part.
_WINDOW = 64


def split(found: Found, share: float = 0.2, seed: int = 0) -> Found:
    """Split a set that is in one part.

    Nearly equal images, copies that an export has augmented, and frames of a video (images with the
    same name but for a number at the end) are on one side. Classes are stratified: each has about
    ``share`` of its images in the validation part (greedy version of K. Sechidis et al., "On the
    Stratification of Multi-label Data", ECML PKDD 2011).

    Args:
        found: A set with the one part ``'all'`` or ``'train'``, and perhaps ``'test'``.
        share: Of the images, for validation.
        seed: Of the order in which groups of equal use are taken.

    Returns:
        The set with the parts ``'train'`` and ``'val'``.

    Raises:
        DataError: The images cannot be divided.
        ConfigError: ``share`` is not between 0 and 1, or the set is split already.
    """
    whole = found.parts.get('all') or found.parts.get('train')
    if whole is None or 'val' in found.parts:
        raise ConfigError(f'the set is split already: it has {", ".join(found.parts)}.')
    if not 0 < share < 1:
        raise ConfigError(f'share={share}: it must be between 0 and 1.')
    names = _names(whole)
    if len(names) < 2:
        raise DataError(f'{len(names)} image cannot be split; give a validation set of its own.')
    has_class = _classes_of_images(whole, len(found.classes))
    group_of, notes = _groups(whole, names, has_class)
    chosen = _choose(group_of, has_class, share, np.random.default_rng(seed))
    if not 0 < chosen.sum() < len(names):
        raise DataError(
            f'all {len(names)} images are alike or of one video: give a validation set of its own.'
        )
    rest = {'test': found.parts['test']} if 'test' in found.parts else {}
    parts = {'train': take(whole, ~chosen), 'val': take(whole, chosen), **rest}
    note = (
        f'split with seed {seed}: {(~chosen).sum()} images for training, {chosen.sum()} for '
        'validation'
    )
    return replace(found, parts=parts).with_notes(note, *notes, *_missing(found, has_class, chosen))


def take(part: Instances | Masks, chosen: np.ndarray) -> Instances | Masks:
    """The images of a part where ``chosen`` ``(N,)`` is true, with their objects."""
    if isinstance(part, Instances):
        return _take_instances(part, chosen)
    pairs = tuple(pair for pair, use in zip(part.pairs, chosen) if use)
    instances = _take_instances(part.instances, chosen) if part.instances else None
    return replace(part, pairs=pairs, instances=instances)


def _take_instances(part: Instances, chosen: np.ndarray) -> Instances:
    images = [image for image, use in zip(part.coco['images'], chosen) if use]
    ids = {image['id'] for image in images}
    annotations = [one for one in part.coco['annotations'] if one['image_id'] in ids]
    coco = {**part.coco, 'images': images, 'annotations': annotations}
    return replace(part, coco=coco, file=None)


def _names(part: Instances | Masks) -> list[str]:
    if isinstance(part, Instances):
        return [image['file_name'] for image in part.coco['images']]
    return [image for image, _ in part.pairs]


def _classes_of_images(part: Instances | Masks, classes: int) -> np.ndarray:
    """Which classes an image has, ``(N, classes)`` of bool."""
    has_class = np.zeros((len(_names(part)), classes), bool)
    if isinstance(part, Instances):
        _mark_objects(has_class, part)
        return has_class
    if part.instances is not None:
        _mark_objects(has_class, part.instances)
        return has_class
    colors = has_colors(part.values)
    for place, path in enumerate(part.files()):
        for value in np.unique(read_pixels(path, colors)):
            index = class_of(path, int(value), part.values, colors)
            if index != IGNORED:
                has_class[place, index] = True
    return has_class


def _mark_objects(has_class: np.ndarray, instances: Instances) -> None:
    row = {image['id']: place for place, image in enumerate(instances.coco['images'])}
    # Background, where polygons are drawn as masks, is in front of the categories.
    first = has_class.shape[1] - len(instances.coco['categories'])
    column = {c['id']: first + k for k, c in enumerate(instances.coco['categories'])}
    for one in instances.coco['annotations']:
        has_class[row[one['image_id']], column[one['category_id']]] = True


def _groups(
    part: Instances | Masks, names: Sequence[str], has_class: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """The group of each image, ``(N,)``, and notes."""
    notes = []
    alike = groups(_fingerprints([part.root / name for name in names]))
    duplicates = [pair for group in alike for pair in pairwise(group)]
    if alike:
        count = sum(map(len, alike))
        notes.append(f'{count} images are nearly equal to others: kept together')
    pairs = [*duplicates, *_chain([_COPY.sub('', PurePosixPath(name).stem) for name in names])]
    sequences = sequences_of(names, has_class)
    if sequences is not None:
        pairs += _chain(sequences)
        count = len(set(sequences))
        notes.append(f'images of one name but for a number are kept together: {count} sequences')
    return _connected(len(names), pairs), notes


def _fingerprints(paths: Sequence[Path]) -> list[bytes | None]:
    # Decoding a JPEG releases the interpreter.
    with ThreadPoolExecutor() as pool:
        bar = pool.map(_fingerprint, paths)
        few = len(paths) < FULL_FILES
        return [*tqdm(bar, total=len(paths), desc='comparing images', disable=few)]


def _fingerprint(path: Path) -> bytes | None:
    try:
        return fingerprint(path)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f'{path} cannot be read as an image: {error}') from error


def sequences_of(names: Sequence[str], has_class: np.ndarray) -> list[str] | None:
    """The name of each image without its number, where these are names of videos or scenes.

    They are not if a camera has numbered everything (less than three names, or one for half of the
    images), or if they name classes (most classes are under one name).

    Args:
        names: File names.
        has_class: Which classes an image has, ``(N, classes)`` of bool.
    """
    paths = [
        PurePosixPath(_COPY.sub('', str(PurePosixPath(name).with_suffix('')))) for name in names
    ]
    sequences = [str(path.parent / _FRAME.sub('', path.name)) for path in paths]
    sizes = Counter(sequences)
    if (
        len(sizes) < _MIN_SEQUENCES
        or max(sizes.values()) * 2 > len(names)
        or len(sizes) == len(names)
    ):
        return None
    index = {name: place for place, name in enumerate(sizes)}
    members = np.asarray([index[name] for name in sequences])
    frequent = [k for k in range(has_class.shape[1]) if has_class[:, k].sum() > 1]
    confined = sum(len(np.unique(members[has_class[:, k]])) == 1 for k in frequent)
    return None if confined * 2 > len(frequent) else sequences


def _chain(keys: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs that connect places with the same key."""
    last: dict[str, int] = {}
    pairs = []
    for place, key in enumerate(keys):
        if key in last:
            pairs.append((last[key], place))
        last[key] = place
    return pairs


def _connected(count: int, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """The group of each of ``count`` images, ``(count,)``: images that ``pairs`` connect share one."""
    first, second = np.asarray(pairs, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def _choose(
    group_of: np.ndarray, has_class: np.ndarray, share: float, rng: np.random.Generator
) -> np.ndarray:
    """Images for validation, ``(N,)`` of bool.

    The rarest class is served first, each time by the group that brings all classes nearest to their
    share. No class leaves the training part, unless nothing could be chosen otherwise. Images without
    objects count as a class, and so do all images.
    """
    has_class = np.column_stack([has_class, ~has_class.any(axis=1), np.ones(len(group_of), bool)])
    amounts = np.zeros((int(group_of.max()) + 1, has_class.shape[1]), np.int64)
    np.add.at(amounts, group_of, has_class)
    divisible = (amounts > 0).sum(axis=0) > 1
    order = rng.permutation(len(amounts))
    for kept in (amounts.any(axis=0), divisible, np.arange(len(divisible)) == len(divisible) - 1):
        chosen = _choose_groups(amounts[:, divisible], order, share, amounts[:, kept])
        if chosen.any():
            break
    return chosen[group_of]


def _choose_groups(
    amounts: np.ndarray, order: np.ndarray, share: float, kept: np.ndarray
) -> np.ndarray:
    """Groups for validation, ``(G,)`` of bool.

    Args:
        amounts: How many images of each class a group has, ``(G, classes)``; the last column counts
            all of its images.
        order: Of the groups.
        share: Of each class.
        kept: ``amounts`` of the classes that may not leave the training part.
    """
    totals, left = amounts.sum(axis=0), kept.sum(axis=0)
    wanted = np.maximum(totals * share, 1.0)
    taken = np.zeros_like(wanted)
    chosen = np.zeros(len(amounts), bool)
    for kind in np.argsort(totals, kind='stable'):
        # All images, the last column, count when every class has been served.
        counted = slice(None) if kind == len(totals) - 1 else slice(-1)
        candidates = order[amounts[order, kind] > 0]
        while taken[kind] < wanted[kind]:
            candidates = candidates[~chosen[candidates]]
            window = candidates[:_WINDOW]
            window = window[(kept[window] < left).all(axis=1)]
            if not len(window):
                break
            after = np.concatenate([taken[None], taken + amounts[window]])
            current, *costs = ((after - wanted) ** 2 / wanted)[:, counted].sum(axis=1)
            best = int(np.argmin(costs))
            if costs[best] >= current and taken[kind]:
                break
            taken, left = after[best + 1], left - kept[window[best]]
            chosen[window[best]] = True
    return chosen


def _missing(found: Found, has_class: np.ndarray, chosen: np.ndarray) -> list[str]:
    """A note on classes that are on one side alone."""
    notes = []
    for side, images in (('training', ~chosen), ('validation', chosen)):
        lost = has_class.any(axis=0) & ~has_class[images].any(axis=0)
        if lost.any():
            names = shortened(name for name, is_lost in zip(found.classes, lost) if is_lost)
            notes.append(f'{side} has no image with {names}: all are in one group of images')
    return notes
