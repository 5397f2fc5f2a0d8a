"""Moving images to the device without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mmengine.model import ImgDataPreprocessor as _Preprocessor
else:
    _Preprocessor = object


class AsyncInputs(_Preprocessor):
    """A mixin for OpenMMLab's data preprocessors: the host does not wait for the images of a batch.

    Copies are asynchronous where the data loader pins memory, and the channels are exchanged by a flip:
    mmengine's list of indices is copied from the host for every image.

    Images may have any number of channels; mmengine's preprocessor has one or three.

    Args:
        args: Those of the preprocessor.
        mean: Of each channel; None: images are not normalised.
        std: Of each channel.
        bgr_to_rgb: Exchange the first and the third channel.
        rgb_to_bgr: The same.
        kwargs: Those of the preprocessor.
    """

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        *args,
        bgr_to_rgb: bool = False,
        rgb_to_bgr: bool = False,
        **kwargs,
    ) -> None:
        if mean is None or std is None or len(mean) in (1, 3):
            super().__init__(mean, std, *args, **kwargs)
        else:
            super().__init__((0.0,), (1.0,), *args, **kwargs)
            # buffers of mmengine's preprocessor, which asserts that they have one or three values
            self.mean = torch.tensor(mean).view(-1, 1, 1)
            self.std = torch.tensor(std).view(-1, 1, 1)
        self.exchanges_channels = bgr_to_rgb or rgb_to_bgr

    def forward(self, data: dict, training: bool = False) -> dict:
        """``data``: ``inputs`` of images ``(C, H, W)`` and ``data_samples``, as the loader gives them."""
        data = self.cast_data(data)
        if self.exchanges_channels:
            inputs = data['inputs']
            flipped = (
                _flipped(inputs) if isinstance(inputs, Tensor) else list(map(_flipped, inputs))
            )
            data = {**data, 'inputs': flipped}
        return super().forward(data, training)

    def cast_data(self, data: Any) -> Any:
        """``data`` with its tensors on the device of the model."""
        if isinstance(data, Tensor):
            return data.to(self.device, non_blocking=True)
        return super().cast_data(data)


def _flipped(images: Tensor) -> Tensor:
    return images.flip(-3) if images.shape[-3] == 3 else images
