"""What a model sees of a batch: images after augmentation, with what it is to learn from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from downstream.data.images.loading import LoadBands
from downstream.data.reading import loaders_of
from downstream.drawing import captioned

from .truth import draw_truth


class BatchPictures:
    """Draws what a data preprocessor hands to the model.

    Args:
        dataset: Where the images come from: its classes, and how its bands are shown.
        preprocessor: Of the model. Images are shown without its normalisation.
    """

    def __init__(self, dataset: object, preprocessor: nn.Module) -> None:
        meta = getattr(dataset, 'metainfo', None) or {}
        self.classes = tuple(meta.get('classes') or ())
        self.preprocessor = preprocessor
        found = [loader.transform for loader in loaders_of(dataset)]
        self._bands = next((one for one in found if isinstance(one, LoadBands)), None)

    def draw(self, batch: Mapping) -> list[np.ndarray]:
        """A picture of each image of a batch, BGR, with the name of its file above it.

        Args:
            batch: What the preprocessor returns: ``inputs`` ``(N, C, H, W)`` and ``data_samples``.
        """
        samples = batch['data_samples']
        return [self._one(image, sample) for image, sample in zip(batch['inputs'], samples)]

    def _one(self, image: Tensor, sample: Any) -> np.ndarray:
        picture = self.shown(image)
        annotated = draw_truth(picture, sample, self.classes)
        picture = picture if annotated is None else annotated
        name = str(sample.metainfo.get('img_path') or sample.metainfo.get('img_id', ''))
        height, width = image.shape[-2:]
        return captioned(picture, f'{name.rpartition("/")[2]}  {width}x{height}')

    def shown(self, image: Tensor) -> np.ndarray:
        """An image ``(C, H, W)`` as the model gets it as a picture, BGR ``(H, W, 3)`` of uint8."""
        image = image.detach().float().cpu()
        mean, std = (getattr(self.preprocessor, name, None) for name in ('mean', 'std'))
        normalised = getattr(self.preprocessor, '_enable_normalize', True)
        if normalised and mean is not None and std is not None:
            image = image * std.cpu() + mean.cpu()
        pixels = image.permute(1, 2, 0).numpy()
        if self._bands is not None:
            if pixels.min() >= -0.5 and 1.5 < pixels.max() < 255.5:  # 8 bits
                pixels = pixels.round().astype(np.uint8)
            return np.ascontiguousarray(self._bands.picture(pixels)[..., ::-1])
        pixels = pixels.round().clip(0, 255).astype(np.uint8)
        if pixels.shape[2] != 3:
            return np.ascontiguousarray(np.broadcast_to(pixels[..., :1], (*pixels.shape[:2], 3)))
        # OpenMMLab loads BGR; a preprocessor of RGB networks exchanges the channels.
        return np.ascontiguousarray(pixels[..., ::-1] if self._exchanges() else pixels)

    def _exchanges(self) -> bool:
        own = getattr(self.preprocessor, 'exchanges_channels', False)
        return own or getattr(self.preprocessor, '_channel_conversion', False)
