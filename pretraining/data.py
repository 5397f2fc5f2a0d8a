"""Unlabelled images for pre-training: found in folders, cropped at random, handed to the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.dataset import BaseDataset
from mmengine.model import ImgDataPreprocessor
from mmengine.registry import DATASETS, MODELS, TRANSFORMS
from mmengine.structures import BaseDataElement
from PIL import Image
from torchvision.transforms import v2

from backbones.errors import ConfigError, DataError
from downstream.data.files import some
from downstream.data.images.read import UnreadableError, read_header
from downstream.data.preprocessing import AsyncInputs

from .sources import images_of


@DATASETS.register_module()
class UnlabelledImages(BaseDataset):
    """Images without what is on them.

    Args:
        sources: What the images come from; see :func:`.sources.images_of`. They are listed anew in every
            run, in the order of their names.
        pipeline: As in mmengine's.
        kwargs: Those of mmengine's.
    """

    METAINFO: dict = {}

    def __init__(self, sources: str | Sequence[str], pipeline: Sequence = (), **kwargs) -> None:
        self.sources = [sources] if isinstance(sources, str) else list(sources)
        super().__init__(pipeline=list(pipeline), data_root='/', **kwargs)

    def load_data_list(self) -> list[dict]:
        """``{'img_path': path}`` for each image.

        Raises:
            DataError: A source does not exist or has no images.
        """
        return [{'img_path': str(path)} for path in images_of(self.sources)]


@TRANSFORMS.register_module()
class RandomResizedCropFlip(BaseTransform):
    """Torchvision's random crop of an image, resized, and flipped half of the time.

    Pixels are resized by Pillow, as in the released code of FCMAE.

    Args:
        size: Height and width of the result in pixels.
        area: Least and largest part of the image that a crop covers.
        flip: Probability of a flip.
        smallest: Images with a shorter side than this are refused.
    """

    def __init__(
        self,
        size: int | Sequence[int] = 224,
        area: Sequence[float] = (0.2, 1.0),
        flip: float = 0.5,
        smallest: int = 32,
    ) -> None:
        self.size, self.area, self.smallest = size, tuple(area), smallest
        bicubic = v2.InterpolationMode.BICUBIC
        crop = v2.RandomResizedCrop(size, scale=self.area, interpolation=bicubic)
        self._random = v2.Compose([crop, v2.RandomHorizontalFlip(flip)])
        sides = (size, size) if isinstance(size, int) else size
        resize = v2.Resize(max(sides), interpolation=bicubic)
        self._centred = v2.Compose([resize, v2.CenterCrop(sides)])

    def transform(self, results: dict) -> dict:
        """Replace ``img`` ``(H, W, 3)`` of uint8.

        Raises:
            UnreadableError: It is smaller than ``smallest``.
        """
        return self._by(self._random, results)

    def centred(self, results: dict) -> dict:
        """The same with the middle of the image, nothing at random, for pictures."""
        return self._by(self._centred, results)

    def _by(self, steps: v2.Compose, results: dict) -> dict:
        height, width = results['img'].shape[:2]
        require_size(results['img_path'], width, height, self.smallest)
        results['img'] = np.asarray(steps(Image.fromarray(results['img'])))
        results['img_shape'] = results['img'].shape[:2]
        return results


@TRANSFORMS.register_module()
class PackImage(BaseTransform):
    """The image as a tensor ``(C, H, W)``, and a sample that knows its file."""

    def transform(self, results: dict) -> dict:
        """``{'inputs': tensor, 'data_samples': BaseDataElement}``."""
        image = np.ascontiguousarray(results['img'].transpose(2, 0, 1))
        keys = ('img_path', 'ori_shape', 'img_shape')
        sample = BaseDataElement(metainfo={key: results[key] for key in keys})
        return {'inputs': torch.from_numpy(image), 'data_samples': sample}


@MODELS.register_module()
class AsyncImgDataPreprocessor(AsyncInputs, ImgDataPreprocessor):
    """mmengine's ``ImgDataPreprocessor`` that copies images asynchronously."""


def require_size(path: str | Path, width: int, height: int, smallest: int) -> None:
    """UnreadableError unless both sides of an image have ``smallest`` pixels."""
    if min(width, height) < smallest:
        raise UnreadableError(
            f'{path} has {width} x {height} pixels; both sides need {smallest}, a cell of the mask.'
        )


def check_images(paths: Sequence[str], batch: int, smallest: int) -> None:
    """Check the images of a pre-training before it begins: all of them, or a sample of very many.

    Args:
        paths: Their files.
        batch: Images of a step, of all processes together.
        smallest: Side in pixels that they need.

    Raises:
        ConfigError: There are fewer than a batch.
        DataError: Some are too small or cannot be read; the first of them is named.
    """
    if len(paths) < batch:
        raise ConfigError(
            f'{len(paths)} images are fewer than a batch of {batch}: give more, or a smaller batch '
            f'(--batch-size {len(paths)} at most).'
        )
    first, wrong = None, 0
    for path in some([Path(path) for path in paths], full=False, what='images'):
        try:
            require_size(path, *read_header(path).shown_size, smallest)
        except DataError as error:
            first, wrong = first or error, wrong + 1
    if first is not None:
        more = f' {wrong} such files were found.' if wrong > 1 else ''
        raise DataError(
            f'{first}{more} Remove them, or let others take their place: --cfg-options '
            f'default_hooks.unreadable.skips={max(wrong, 10)}.'
        )
