"""Every file of a data set opened once, in several processes: what is in it and what is odd about it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from backbones.errors import DataError
from downstream.data.duplicates import fingerprint
from downstream.data.findings.masks import counted
from downstream.data.formats.mask_pixels import packed_colors
from downstream.data.images.read import read_header

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
    images: Sequence[Path], masks: Sequence[Path], coloured: bool, workers: int | None = None
) -> dict[Path, FileFacts]:
    """Facts of all files, with a progress bar.

    Args:
        images: Their paths.
        masks: Those of masks, of which the values are counted.
        coloured: Whether the colour of a mask's pixel is its class.
        workers: Processes; None: one for each core, none for few files.
    """
    paths = [*images, *masks]
    functions = [*repeat(image_facts, len(images)), *repeat(mask_facts, len(masks))]
    jobs = list(zip(functions, paths, repeat(coloured)))
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


def _results(jobs: list[tuple], workers: int) -> Iterator[FileFacts]:
    if workers == 1 or len(jobs) < _IN_PROCESS:
        yield from map(_facts, jobs)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(_facts, jobs, chunksize=_BATCH)


def _facts(job: tuple) -> FileFacts:
    function, path, coloured = job
    return function(path) if function is image_facts else function(path, coloured)


def image_facts(path: Path) -> FileFacts:
    """What an image file holds; all of it is decoded."""
    try:
        with Image.open(path) as image:
            problems = list(_odd(path, image))
            grey = image.convert('L')  # which decodes all of the file
            shown = ImageOps.exif_transpose(grey)
            if shown.size != image.size:
                detail = f'is turned to {shown.width} x {shown.height} by its EXIF tag'
                problems.append(('turned', detail))
            darkest, brightest = grey.getextrema()
            if darkest == brightest:
                problems.append(('blank', 'has one colour'))
            return FileFacts(tuple(problems), image.size, shown.size, fingerprint(grey))
    except Exception as error:  # decoders raise many kinds
        return _unreadable(path, error)


def _unreadable(path: Path, error: Exception, is_mask: bool = False) -> FileFacts:
    """What is known of a file that Pillow cannot read."""
    if not path.is_file():
        return FileFacts((('file-missing', 'does not exist'),))
    if not path.stat().st_size:
        return FileFacts((('file-unreadable', 'is empty'),))
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if 'truncated' in text or 'Truncated' in text:
        return FileFacts((('file-cut-off', f'is cut off ({text})'),))
    if isinstance(error, Image.DecompressionBombError):
        return FileFacts((('huge', 'has more pixels than Pillow opens'),))
    try:  # e.g. a TIFF of many bands, or of 16 bits in three channels
        header = None if is_mask else read_header(path)  # mmseg reads masks with Pillow
    except DataError:
        header = None
    if header is None:
        reason = 'is no image' if isinstance(error, OSError) and 'identify' in text else text
        return FileFacts((('file-unreadable', f'cannot be read: {reason}'),))
    problems = []
    if header.dtype.itemsize > 1:
        problems.append(('bits', f'has {header.dtype.itemsize * 8} bits a channel'))
    if header.bands > 4:
        problems.append(('channels', f'has {header.bands} bands'))
    return FileFacts(tuple(problems), header.size, header.shown_size)


def _odd(path: Path, image: Image.Image) -> Iterator[tuple[str, str]]:
    """What is odd about an image, as far as its header tells."""
    if not cv2.haveImageReader(str(path)):
        yield 'file-unreadable', f'is {image.format}, which OpenCV does not load'
    expected = _FORMATS.get(path.suffix.lower())
    if expected and image.format not in (expected, 'MPO'):
        yield 'suffix', f'is {image.format}, whatever its name says'
    if _deep(path, image.mode):
        yield 'bits', 'has more than 8 bits a channel'
    elif image.mode in _KINDS_OF_IMAGES:
        yield 'channels', f'is {_KINDS_OF_IMAGES[image.mode]}'
    if getattr(image, 'n_frames', 1) > 1 and image.format != 'MPO':
        yield 'frames', f'holds {image.n_frames} images'
    if image.width * image.height > _HUGE_PIXELS:
        yield 'huge', f'has {image.width} x {image.height} px'
    if min(image.size) < _TINY_PX:
        yield 'tiny', f'has {image.width} x {image.height} px'


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
        return _unreadable(path, error, is_mask=True)
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
