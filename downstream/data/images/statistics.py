"""Mean and standard deviation of the bands of a data set, measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from mmengine.registry import DATASETS, TRANSFORMS, DefaultScope
from tqdm import tqdm

from backbones.errors import ConfigError, DataError
from downstream.quiet import without_coco_output

# As many images, spread evenly over the set, and about as many pixels of each, are looked at.
IMAGES = 500
PIXELS = 1_000_000
_DIGITS = 7


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of every band, from ``images`` images out of ``total``."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    images: int
    total: int


class RunningMoments:
    """Mean and standard deviation of the bands of images that come one by one.

    In float64, and from differences to the mean, such that large values with a small spread lose no
    digits (Chan, Golub, LeVeque 1983).
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.squares = np.zeros(1)

    def add(self, image: np.ndarray) -> None:
        """Add the pixels of ``image``, ``(H, W, C)``."""
        pixels = image.reshape(-1, image.shape[2]).astype(np.float64)
        mean = pixels.mean(axis=0)
        squares = np.square(pixels - mean).sum(axis=0)
        total = self.count + len(pixels)
        difference = mean - self.mean
        self.squares = self.squares + squares + difference**2 * self.count * len(pixels) / total
        self.mean = self.mean + difference * len(pixels) / total
        self.count = total

    @property
    def std(self) -> np.ndarray:
        """Of all pixels: divided by their number."""
        return np.sqrt(self.squares / self.count)


def measure(dataset: Mapping, load: Mapping, scope: str) -> Statistics:
    """Mean and standard deviation of the images of a data set, rounded to seven digits.

    Up to 500 images are read, spread evenly over the set; of large ones every n-th row and column.

    Args:
        dataset: The config of a data set.
        load: The config of the transform that loads its images.
        scope: mmengine's scope, ``'mmdet'`` or ``'mmseg'``.

    Raises:
        ConfigError: The data set does not say where its images are.
        DataError: An image cannot be read, or a band has the same value everywhere.
    """
    with DefaultScope.overwrite_default_scope(scope):
        loader = TRANSFORMS.build(dict(load))
        with without_coco_output():
            paths = _image_paths(dataset)
    chosen = [
        paths[i * len(paths) // min(IMAGES, len(paths))] for i in range(min(IMAGES, len(paths)))
    ]
    moments = RunningMoments()
    for path in tqdm(chosen, desc='measuring mean and std', disable=len(chosen) < 100):
        image = loader({'img_path': path})['img']
        step = max(1, round((image.shape[0] * image.shape[1] / PIXELS) ** 0.5))
        moments.add(image[::step, ::step])
    constant = [number for number, value in enumerate(moments.std, 1) if not value > 0]
    if constant:
        raise DataError(
            f'channel {constant[0]} has the value {moments.mean[constant[0] - 1]:g} in every pixel of '
            f'{len(chosen)} images; leave its band out (--bands).'
        )
    return Statistics(_rounded(moments.mean), _rounded(moments.std), len(chosen), len(paths))


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(f'{value:.{_DIGITS}g}') for value in values)


def _image_paths(dataset: Mapping) -> list[str]:
    """The path of every image of a data set, which is built without its pipeline."""
    built = DATASETS.build(_without_pipeline(dataset))
    if not len(built) or not hasattr(built, 'get_data_info'):
        raise ConfigError(
            f'mean and standard deviation cannot be measured: {type(built).__name__} lists no images; '
            'set model.data_preprocessor.mean and std.'
        )
    return [built.get_data_info(i)['img_path'] for i in range(len(built))]


def _without_pipeline(dataset: Mapping) -> dict:
    changed = {key: value for key, value in dataset.items() if key != 'pipeline'}
    if isinstance(changed.get('dataset'), Mapping):
        changed['dataset'] = _without_pipeline(changed['dataset'])
    if isinstance(changed.get('datasets'), Iterable):
        changed['datasets'] = [_without_pipeline(part) for part in changed['datasets']]
    return changed
