"""The first convolution of weights that were trained on RGB images, for images of other channels.

The rule is timm's (``timm.models.adapt_input_conv``): the weights of R, G and B are repeated in turn, cut
off at the number of channels, and scaled by 3 / channels, such that the activations keep their size; for
one channel they are added up. So an image whose channels are R, G, B, R, G, B gives the same feature maps
as the RGB image, and a grey image as the same values in R, G and B.
"""

from __future__ import annotations

from torch import Tensor, nn

RGB = 3


def is_rgb_stem(value: Tensor, expected: Tensor, model: nn.Module) -> bool:
    """Whether ``value`` is an RGB image's first convolution, and ``expected`` one for other channels.

    Both are ``(out, in, height, width)``. A stem that first moves pixels into channels has a multiple of
    the image's channels as ``in``.

    Args:
        value: A tensor of a checkpoint.
        expected: The tensor of the same name in ``model``.
        model: A backbone; it may state its ``input_channels``.
    """
    if value.ndim != 4 or expected.ndim != 4 or value.shape[1] % RGB:
        return False
    groups = value.shape[1] // RGB
    channels = getattr(model, 'input_channels', expected.shape[1] // groups)
    wanted = (value.shape[0], channels * groups, *value.shape[2:])
    return channels != RGB and tuple(expected.shape) == wanted


def adapted_stem(value: Tensor, expected: Tensor) -> Tensor:
    """The weights ``value`` of an RGB stem in the shape of ``expected``; see the module."""
    from timm.models import adapt_input_conv

    channels = expected.shape[1] * RGB // value.shape[1]
    return adapt_input_conv(channels, value).to(value.dtype)


def describe_adaptation(value: Tensor, expected: Tensor) -> str:
    """What :func:`adapted_stem` does, for a log."""
    channels = expected.shape[1] * RGB // value.shape[1]
    how = 'added up' if channels == 1 else f'repeated in turn, times {RGB}/{channels}'
    return f'the weights of R, G and B {how}, for {channels} channels'
