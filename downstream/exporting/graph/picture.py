"""The first part of an exported file: a picture as it was read becomes what the network takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class PictureRules:
    """What a test does to a picture between its pipeline and the network.

    Attributes:
        mean: Of each channel of the network's input, in levels of the picture; empty: not normalised.
        std: Likewise.
        exchanges_channels: Whether the network takes the three channels in reverse.
        divisor: Height and width are padded to a multiple of it.
        least: Height and width are padded to at least these.
        pad_value: What the padding holds after normalisation.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    exchanges_channels: bool
    divisor: int = 1
    least: tuple[int, int] = (1, 1)
    pad_value: float = 0.0

    @classmethod
    def of(cls, preprocessor: Mapping, stride: int) -> PictureRules:
        """Those of a model.

        Args:
            preprocessor: The config of its data preprocessor, mmdet's or mmseg's.
            stride: The coarsest stride of the backbone. A smaller picture has no coarsest map, and is
                padded to it.
        """
        testing = preprocessor.get('test_cfg') or {}
        least = testing.get('size') or (1, 1)
        return cls(
            tuple(map(float, preprocessor.get('mean') or ())),
            tuple(map(float, preprocessor.get('std') or ())),
            bool(preprocessor.get('bgr_to_rgb') or preprocessor.get('rgb_to_bgr')),
            int(preprocessor.get('pad_size_divisor') or testing.get('size_divisor') or 1),
            (max(stride, least[0]), max(stride, least[1])),
            float(preprocessor.get('pad_value', preprocessor.get('pad_val', 0))),
        )


class PictureInput(nn.Module):
    """Channels in the network's order, normalised, padded at the bottom and on the right.

    Input ``(N, H, W, C)`` of uint8 or float32, as a picture is read; output ``(N, C, H', W')``, float32.

    Args:
        rules: What is done.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, rules: PictureRules) -> None:
        super().__init__()
        self.rules = rules
        self.register_buffer('mean', torch.tensor(rules.mean).view(-1, 1, 1))
        self.register_buffer('std', torch.tensor(rules.std).view(-1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        x = image.permute(0, 3, 1, 2)
        if self.rules.exchanges_channels and x.shape[1] == 3:
            x = x.flip(1)
        x = x.float()
        if self.rules.mean:
            x = (x - self.mean) / self.std
        below, right = (
            _padding(size, least, self.rules.divisor)
            for size, least in zip(x.shape[2:], self.rules.least)
        )
        return F.pad(x, (0, right, 0, below), value=self.rules.pad_value)


def _padding(size: int, least: int, divisor: int) -> int:
    """How much is missing of a length, which may be symbolic."""
    # A multiple is no less than the divisor; the tracer compares sizes faster without a maximum in them.
    wanted = size if least <= divisor else torch.sym_max(size, least)
    return (wanted + divisor - 1) // divisor * divisor - size
