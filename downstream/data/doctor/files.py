"""Every file of a data set opened once, in several processes: what is in it and what is odd about it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from backbones.errors import DataError
from downstream.data.checks.bands import Loading
from downstream.data.duplicates import fingerprint
from downstream.data.findings.masks import counted
from downstream.data.formats.mask_pixels import packed_colors
from downstream.data.images.loading import picture_of_bands
from downstream.data.images.read import ImageHeader, read_bands, read_header
from downstream.data.reading import is_cut_off

Job = Callable[[], 'FileFacts']
_RGB = Loading()
_BATCH = 16
_IN_PROCESS = 64
_PNG = b'\x89PNG'
_PNG_DEPTH_AT = 24
_DEEP_MODES = ('I', 'F')
_KINDS_OF_IMAGES = {
    '1': 'black and white',
    'L': 'grey',
    'LA': 'grey with transparency',
    'P': 'colours of a palette',
    'PA': 'colours of a palette with transparency',
    'RGBA': 'RGB with transparency',
    'CMYK': 'CMYK',
}
_DEEP = ('bits', 'has more than 8 bits a channel')
_HUGE_PIXELS = 40_000_000
_TINY_PX = 32
_FORMATS = {
    '.jpg': 'JPEG',
    '.jpeg': 'JPEG',
    '.png': 'PNG',
    '.bmp': 'BMP',
    '.webp': 'WEBP',
    '.gif': 'GIF',
}


@dataclass(frozen=True)
class FileFacts:
    """What one file holds.

    Attributes:
        problems: Kind of finding and detail, of each thing that is wrong.
        size: Width and height as stored; None if it cannot be read.
        shown_size: The same as its EXIF orientation shows it.
        fingerprint: Of an image; see :func:`downstream.data.duplicates.fingerprint`.
        pixels: How many pixels of a mask have each value; colours are numbers 0xRRGGBB.
    """

    problems: tuple[tuple[str, str], ...] = ()
    size: tuple[int, int] | None = None
    shown_size: tuple[int, int] | None = None
    fingerprint: bytes | None = None
    pixels: Mapping[int, int] = field(default_factory=dict)


def examine_files(
    images: Mapping[Path, Loading],
    masks: Sequence[Path],
    coloured: bool,
    workers: int | None = None,
) -> dict[Path, FileFacts]:
    """Facts of all files, with a progress bar.

    Args:
        images: Their paths, and what is loaded of each.
        masks: Those of masks, of which the values are counted.
        coloured: Whether the colour of a mask's pixel is its class.
        workers: Processes; None: one for each core, none for few files.
    """
    paths = [*images, *masks]
    jobs: list[Job] = [partial(image_facts, path, loading) for path, loading in images.items()]
    jobs += [partial(mask_facts, path, coloured) for path in masks]
    workers = workers or len(os.sched_getaffinity(0))
    return dict(
        zip(
            paths,
            tqdm(
                _results(jobs, workers),
                'opening files',
                len(jobs),
                leave=False,
                disable=len(jobs) < _IN_PROCESS,
            ),
        )
    )


def _results(jobs: list[Job], workers: int) -> Iterator[FileFacts]:
    if workers == 1 or len(jobs) < _IN_PROCESS:
        yield from map(_facts, jobs)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(_facts, jobs, chunksize=_BATCH)


def _facts(job: Job) -> FileFacts:
    return job()


def image_facts(path: Path, loading: Loading = _RGB) -> FileFacts:
    """What an image file holds; all of it is decoded.

    Args:
        path: The file.
        loading: What a run loads of it.
    """
    try:
        header = read_header(path)
        if loading.bands or loading.refusal(path, header):
            return _facts_of_bands(path, header, loading)
        with Image.open(path) as image:
            problems = list(_odd(path, image))
            image.draft('L', image.size)  # of a JPEG the brightness alone, all of it
            grey = image.convert('L')  # which decodes all of the file
            shown = ImageOps.exif_transpose(grey)
            if shown.size != image.size:
                problems.append(_turned(shown.size))
            darkest, brightest = grey.getextrema()
            if darkest == brightest:
                problems.append(('blank', 'has one colour'))
            return FileFacts(tuple(problems), image.size, shown.size, fingerprint(grey))
    except Exception as error:  # decoders raise many kinds
        return _unreadable(path, error, loading)


def _facts_of_bands(path: Path, header: ImageHeader, loading: Loading) -> FileFacts:
    """What an image holds that is read band by band."""
    if is_cut_off(path):  # of which OpenCV makes an image all the same
        return FileFacts((('file-cut-off', 'is cut off'),))
    image = read_bands(path.read_bytes(), path)
    problems = list(_odd_sizes(header.size))
    refusal = loading.refusal(path, header)
    if refusal:
        problems.append(('bands', refusal))
    elif loading.bands:
        image = image[..., [band - 1 for band in loading.bands]]
    wrong = 0 if image.dtype.kind in 'iub' else image.size - int(np.isfinite(image).sum())
    if wrong and not refusal and loading.fill is None:
        problems.append(('not-finite', f'has {wrong} values that are NaN or infinite'))
    elif not wrong and image.min() == image.max():
        problems.append(('blank', 'has one value'))
    if header.turned:
        problems.append(_turned(header.shown_size))
    picture = Image.fromarray(picture_of_bands(image))
    return FileFacts(tuple(problems), header.size, header.shown_size, fingerprint(picture))


def _turned(size: tuple[int, int]) -> tuple[str, str]:
    return 'turned', f'is turned to {size[0]} x {size[1]} by its EXIF tag'


def _unreadable(path: Path, error: Exception, loading: Loading | None) -> FileFacts:
    """What is known of an image that Pillow cannot read; ``loading`` is None of a mask."""
    if not path.is_file():
        return FileFacts((('file-missing', 'does not exist'),))
    if not path.stat().st_size:
        return FileFacts((('file-unreadable', 'is empty'),))
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if 'truncated' in text or 'Truncated' in text:
        return FileFacts((('file-cut-off', f'is cut off ({text})'),))
    if isinstance(error, Image.DecompressionBombError):
        return FileFacts((('huge', 'has more pixels than Pillow opens'),))
    if loading is not None and isinstance(error, UnidentifiedImageError):
        try:  # a TIFF of 16 bits in three channels, which OpenCV reads
            header = read_header(path)
            facts = _facts_of_bands(path, header, loading)
        except DataError as own:
            return FileFacts((('file-unreadable', f'cannot be read: {_without(own, path)}'),))
        deep = [_DEEP] if header.dtype.itemsize > 1 else []
        return replace(facts, problems=(*facts.problems, *deep))
    if 'cannot identify image' in text:
        text = 'is no image'
    elif isinstance(error, DataError):
        text = _without(error, path)
    return FileFacts((('file-unreadable', f'cannot be read: {text}'),))


def _without(error: DataError, path: Path) -> str:
    """What an error says of a file, without its name."""
    text = str(error).removeprefix(f'{path}').lstrip(': ').rstrip('.')
    return text.removeprefix('cannot be read: ').removeprefix('cannot be read as an image: ')


def _odd(path: Path, image: Image.Image) -> Iterator[tuple[str, str]]:
    """What is odd about an image, as far as its header tells."""
    if not cv2.haveImageReader(str(path)):
        yield 'file-unreadable', f'is {image.format}, which OpenCV does not load'
    expected = _FORMATS.get(path.suffix.lower())
    if expected and image.format not in (expected, 'MPO'):
        yield 'suffix', f'is {image.format}, whatever its name says'
    if _deep(path, image.mode):
        yield _DEEP
    elif image.mode in _KINDS_OF_IMAGES:
        yield 'channels', f'is {_KINDS_OF_IMAGES[image.mode]}'
    frames = getattr(image, 'n_frames', 1)
    if frames > 1 and image.format != 'MPO':
        yield 'frames', f'holds {frames} images'
    yield from _odd_sizes(image.size)


def _odd_sizes(size: tuple[int, int]) -> Iterator[tuple[str, str]]:
    if size[0] * size[1] > _HUGE_PIXELS:
        yield 'huge', f'has {size[0]} x {size[1]} px'
    if min(size) < _TINY_PX:
        yield 'tiny', f'has {size[0]} x {size[1]} px'


def _deep(path: Path, mode: str) -> bool:
    if mode.startswith(_DEEP_MODES):
        return True
    with open(path, 'rb') as file:  # Pillow does not tell of the bits of a PNG of three channels
        head = file.read(_PNG_DEPTH_AT + 1)
    return head.startswith(_PNG) and len(head) > _PNG_DEPTH_AT and head[_PNG_DEPTH_AT] > 8


def mask_facts(path: Path, coloured: bool = False) -> FileFacts:
    """What a mask file holds.

    Args:
        path: The file.
        coloured: Whether the colour of a pixel is its class.
    """
    try:
        with Image.open(path) as image:
            lossy = image.format == 'JPEG'
            mask = packed_colors(image) if coloured else np.asarray(image)
    except Exception as error:
        return _unreadable(path, error, None)
    problems = [('mask-lossy', 'is a JPEG file')] if lossy else []
    size = (mask.shape[1], mask.shape[0])
    if not coloured and mask.ndim != 2:
        problems.append(
            ('mask-channels', f'has shape {mask.shape}; a mask has one channel, of class indices')
        )
        return FileFacts(tuple(problems), size, size)
    if not coloured and mask.dtype.itemsize > 1 and mask.max() > 255:
        problems.append(('mask-bits', f'has values up to {mask.max()} ({mask.dtype})'))
    return FileFacts(tuple(problems), size, size, pixels=counted(mask))
