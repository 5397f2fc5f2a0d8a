"""Which image a mask belongs to: by folders and names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backbones.errors import DataError
from downstream.data.files import shortened
from downstream.data.formats.images import files_below, part_of

_MASK_WORDS = frozenset(
    [
        'mask',
        'masks',
        'annotation',
        'annotations',
        'ann',
        'anns',
        'annot',
        'annots',
        'label',
        'labels',
        'gt',
        'groundtruth',
        'truth',
        'segmentation',
        'segmentations',
        'segmentationclass',
        'segmentationclasspng',
        'seg',
        'segs',
        'segmap',
        'segmaps',
        'target',
        'targets',
    ]
)
_IMAGE_WORDS = frozenset(
    [
        'image',
        'images',
        'img',
        'imgs',
        'jpegimages',
        'picture',
        'pictures',
        'photo',
        'photos',
        'rgb',
        'input',
        'inputs',
    ]
)
_NEITHER = frozenset(
    ['segmentationobject', 'segmentationobjectpng', 'instance', 'instances', 'overlay']
)
_PART_WORDS = ('training', 'train', 'validation', 'valid', 'val', 'testing', 'test')
_MASK_ENDING = re.compile(r'[_\-. ](?:masks?|labels?|seg|segmentation|gt|annotation|L)$')
_MASK_START = re.compile(r'^(?:mask|label|gt|seg)[_\-. ]')
_IMAGE_ENDING = re.compile(r'[_\-. ](?:sat|image|img|rgb)$')
_UNPAIRED_SHARE = 0.1


@dataclass(frozen=True)
class Pairs:
    """Images with their masks.

    Attributes:
        pairs: Image, mask and the part that their folders speak of, ``'all'`` if of none.
        images_alone: Images without a mask.
        masks_alone: Masks without an image.
    """

    pairs: Sequence[tuple[Path, Path, str]]
    images_alone: Sequence[Path]
    masks_alone: Sequence[Path]


@dataclass(frozen=True)
class _Place:
    """What the folders of a file say."""

    is_mask: bool
    is_neither: bool
    part: str
    others: tuple[str, ...]


def find_pairs(source: Path) -> Pairs:
    """Pair the images below ``source`` with their masks.

    Raises:
        DataError: An image has several masks, or a mask several images.
    """
    images: dict[tuple, list[Path]] = {}
    masks: dict[tuple, list[Path]] = {}
    places: dict[Path, _Place] = {}
    for path in files_below(source):
        folder = path.parent.relative_to(source)
        place = places.setdefault(folder, _place(folder))
        if place.is_neither:
            continue
        key = (place.part, place.others)
        if place.is_mask:
            masks.setdefault((*key, _mask_stem(path.stem)), []).append(path)
        else:
            images.setdefault((*key, path.stem), []).append(path)
    if not masks:
        images, masks = _masks_beside_images(images)
    images = _with_short_stems(images, masks)
    paired = [key for key in images if key in masks]
    for files, what in ((masks, 'masks'), (images, 'images')):
        several = next((files[key] for key in paired if len(files[key]) > 1), None)
        if several:
            raise DataError(
                f'{source}: {shortened(several, 3)} are {what} of the same name; keep one folder of '
                'them, or one suffix.'
            )
    return Pairs(
        [(images[key][0], masks[key][0], key[0]) for key in paired],
        [path for key, paths in images.items() if key not in masks for path in paths],
        [path for key, paths in masks.items() if key not in images for path in paths],
    )


def require_paired(source: Path, pairs: Pairs) -> list[str]:
    """Notes on files without a partner; DataError if they are many."""
    notes = []
    for kind, other, alone in (
        ('images', 'mask', pairs.images_alone),
        ('masks', 'image', pairs.masks_alone),
    ):
        if not alone:
            continue
        total = len(alone) + len(pairs.pairs)
        text = f'{len(alone)} of {total} {kind} of {source} have no {other}'
        if len(alone) > _UNPAIRED_SHARE * total:
            image, mask, _ = pairs.pairs[0]
            raise DataError(
                f'{text}, the first: {alone[0]}. A mask has the name of its image, e.g. {image} and '
                f'{mask}; remove files that do not belong to the set.'
            )
        notes.append(f'{text} and are left out, the first: {alone[0]}')
    return notes


def _place(folder: Path) -> _Place:
    is_mask = is_neither = False
    part, others = 'all', []
    for name in folder.parts:
        words = _words(name)
        is_mask |= bool(_MASK_WORDS & set(words))
        is_neither |= bool(_NEITHER & set(words))
        stated = part_of(' '.join(words))
        part = stated or part
        speaks = _MASK_WORDS | _IMAGE_WORDS | {'dir', 'folder', 'class', 'png', 'data'}
        if not (words and set(words) <= speaks | set(_PART_WORDS)):
            others.append(name)
    return _Place(is_mask, is_neither, part, tuple(others))


def _words(name: str) -> list[str]:
    """``'train_masks'``, ``'trainannot'`` -> the part and the kind."""
    words = []
    for word in re.findall('[a-z]+', name.lower()):
        start = next((p for p in _PART_WORDS if word.startswith(p)), '')
        rest = word[len(start) :]
        glued = start and rest in _MASK_WORDS | _IMAGE_WORDS
        words += [start, rest] if glued else [word]
    return words


def _mask_stem(stem: str) -> str:
    return _MASK_START.sub('', _MASK_ENDING.sub('', stem))


def _masks_beside_images(
    files: dict[tuple, list[Path]],
) -> tuple[dict[tuple, list[Path]], dict[tuple, list[Path]]]:
    """Images and masks of one folder: ``x.jpg`` with ``x_mask.png``, else with ``x.png``."""
    images: dict[tuple, list[Path]] = {}
    masks: dict[tuple, list[Path]] = {}
    for key, paths in files.items():
        short = (*key[:2], _mask_stem(key[2]))
        bare = _IMAGE_ENDING.sub('', key[2])
        has_image = short in files or any(
            (*key[:2], f'{short[2]}{ending}') in files for ending in ('_sat', '_image', '_img')
        )
        if short != key and has_image:
            masks.setdefault(short, []).extend(paths)
        elif len(paths) == 2 and {p.suffix.lower() for p in paths} in _LOSSY_AND_LOSSLESS:
            lossy = [p for p in paths if p.suffix.lower() in _LOSSY]
            images.setdefault((*key[:2], bare), []).extend(lossy)
            masks.setdefault((*key[:2], bare), []).extend(p for p in paths if p not in lossy)
        else:
            images.setdefault(key, []).extend(paths)
    return images, masks


_LOSSY = frozenset(('.jpg', '.jpeg'))
_LOSSY_AND_LOSSLESS = [{a, b} for a in ('.jpg', '.jpeg') for b in ('.png', '.gif', '.bmp', '.tif')]


def _with_short_stems(
    images: dict[tuple, list[Path]], masks: dict[tuple, list[Path]]
) -> dict[tuple, list[Path]]:
    """Images by the stem that their mask has: ``1_sat.jpg`` belongs to ``1_mask.png``."""
    renamed: dict[tuple, list[Path]] = {}
    for key, paths in images.items():
        short = (*key[:2], _IMAGE_ENDING.sub('', key[2]))
        renamed.setdefault(short if key not in masks and short in masks else key, []).extend(paths)
    return renamed
