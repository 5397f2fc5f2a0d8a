"""What models are timed on: noise, or pictures of a size that all models get alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from mmengine.config import Config
from PIL import ImageOps

from backbones.errors import ConfigError, DataError
from downstream.data.files import open_image
from downstream.data.pipelines import innermost, padded_size, resize_scales
from downstream.predicting.sources import find_sources
from downstream.running.options.channels import chosen_bands
from downstream.zoo.complexity import counted_size

# Batches of noise that differ, for caches to have no share in a figure.
_NOISE = 4


@dataclass(frozen=True)
class Pictures:
    """Batches of pictures of one size.

    Attributes:
        size: Height and width in pixels.
        batches: Of each the pictures ``(H, W, bands)`` of uint8, colours in the order B, G, R.
        what: In a few words.
    """

    size: tuple[int, int]
    batches: tuple[tuple[np.ndarray, ...], ...]
    what: str


def size_of_test(cfg: Config) -> tuple[int, int]:
    """Height and width of what a model sees in its test.

    A segmenter's is its crop. A detector's is the shape that a landscape picture has after the test's
    resizing and padding.

    Raises:
        ConfigError: The test pipeline sets no size.
    """
    crop = cfg.get('crop_size')
    if cfg.default_scope == 'mmseg' and crop:
        return (crop, crop) if isinstance(crop, int) else tuple(crop)
    scales = resize_scales(innermost(cfg.test_dataloader.dataset).get('pipeline') or ())
    if not scales:
        raise ConfigError('the test of this config sets no size of pictures: give --size H W.')
    short, long = max((min(scale), max(scale)) for scale in scales)
    if cfg.default_scope == 'mmseg':
        return short, short
    return padded_size((short, long), cfg.model.data_preprocessor)


def papers_size(cfg: Config) -> tuple[int, int]:
    """The size with which the papers count operations: :func:`downstream.zoo.complexity.counted_size`.

    Raises:
        ConfigError: The config is of a segmenter without crops.
    """
    try:
        return counted_size(cfg)
    except AttributeError as error:
        raise ConfigError(
            '--fps-as-papers: the config has no crop_size, from which the papers derive the size of a '
            'segmenter; give --size H W and --batch 1 instead.'
        ) from error


def make_pictures(
    cfg: Config, size: tuple[int, int], batch: int, count: int, words: Sequence[str] = ()
) -> Pictures:
    """Pictures to time models on.

    Args:
        cfg: The config of a model.
        size: Height and width.
        batch: Pictures at once.
        count: How many batches are needed, at most.
        words: Files, folders or patterns of pictures, which are resized; none: noise.

    Raises:
        ConfigError: The model is for other bands than R, G and B, and pictures are given.
        DataError: A picture cannot be read.
    """
    bands = len(chosen_bands(cfg) or 'RGB')
    if not words:
        random = np.random.default_rng(0)
        batches = tuple(
            tuple(random.integers(0, 256, (*size, bands), dtype=np.uint8) for _ in range(batch))
            for _ in range(min(_NOISE, count))
        )
        return Pictures(size, batches, 'noise')
    if bands != 3:
        raise ConfigError(f'--images has pictures of three colours, the model takes {bands} bands.')
    sources = find_sources(words)
    unusable = next((one for one in sources if one.is_url or one.is_video), None)
    if unusable is not None:
        raise DataError(f'--images {unusable.place}: give files of pictures.')
    places = [source.place for source in sources][: batch * count]
    needed = -(-len(places) // batch) * batch
    pictures = [_read(place, size) for place in islice(cycle(places), needed)]
    batches = tuple(tuple(pictures[i : i + batch]) for i in range(0, needed, batch))
    return Pictures(size, batches, f'{len(places)} pictures, resized')


def _read(place: str, size: tuple[int, int]) -> np.ndarray:
    try:
        image = ImageOps.exif_transpose(open_image(Path(place))).convert('RGB')
    except OSError as error:
        raise DataError(f'{place} cannot be read as an image: {error}') from error
    return np.ascontiguousarray(np.asarray(image.resize((size[1], size[0])))[..., ::-1])
