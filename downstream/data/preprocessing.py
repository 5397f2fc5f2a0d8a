"""Moving images to the device without waiting for it."""

from __future__ import annotations

from torch import Tensor


class AsyncInputs:
    """A mixin for OpenMMLab's data preprocessors: the host does not wait for the images of a batch.

    Copies are asynchronous where the data loader pins memory, and the channels are exchanged by a flip:
    mmengine's list of indices is copied from the host for every image.

    Args:
        args: Those of the preprocessor.
        bgr_to_rgb: Exchange the first and the third channel.
        rgb_to_bgr: The same.
        kwargs: Those of the preprocessor.
    """

    def __init__(self, *args, bgr_to_rgb: bool = False, rgb_to_bgr: bool = False, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.exchanges_channels = bgr_to_rgb or rgb_to_bgr

    def forward(self, data: dict, training: bool = False) -> dict:
        """``data``: ``inputs`` of images ``(3, H, W)`` and ``data_samples``, as the loader gives them."""
        data = self.cast_data(data)
        if self.exchanges_channels:
            inputs = data['inputs']
            flipped = (
                _flipped(inputs) if isinstance(inputs, Tensor) else list(map(_flipped, inputs))
            )
            data = {**data, 'inputs': flipped}
        return super().forward(data, training)

    def cast_data(self, data: object) -> object:
        """``data`` with its tensors on the device of the model."""
        if isinstance(data, Tensor):
            return data.to(self.device, non_blocking=True)
        return super().cast_data(data)


def _flipped(images: Tensor) -> Tensor:
    return images.flip(-3) if images.shape[-3] == 3 else images
