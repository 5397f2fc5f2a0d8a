"""A detector as one module from the pixels of a picture to its objects."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .detector import DetectorGraph
from .picture import PictureInput, PictureRules


class PictureDetector(nn.Module):
    """What is exported of a detector: a picture, normalised and padded, then :class:`.DetectorGraph`.

    Input ``(1, H, W, C)`` of uint8 or float32; outputs as those of the graph, boxes in its pixels.

    Args:
        model: The detector; with ``half`` it is changed.
        rules: What is done to a picture.
        half: As of :class:`.DetectorGraph`.

    Raises:
        ConfigError: A part of the detector cannot be exported.
    """

    def __init__(self, model: Any, rules: PictureRules, half: bool = False) -> None:
        super().__init__()
        self.picture = PictureInput(rules)
        self.detector = DetectorGraph(model, half)
        self.has_masks = model.roi_head.with_mask
        self.eval()

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what :meth:`forward` returns."""
        names = ('boxes', 'scores', 'labels')
        return (*names, 'masks') if self.has_masks else names

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.detector(self.picture(image), image.shape[1], image.shape[2])
