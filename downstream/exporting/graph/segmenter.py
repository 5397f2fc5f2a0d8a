"""A segmenter as one module from the pixels of a picture to logits or classes at its size."""

from __future__ import annotations

import torch
from mmseg.models.segmentors import EncoderDecoder
from torch import Tensor, nn

from backbones.errors import ConfigError

from .any_size import AnySize
from .half import use_half
from .picture import PictureInput, PictureRules

#: What a file of a segmenter may return.
OUTPUTS = ('logits', 'classes')


class SegmenterGraph(nn.Module):
    """What is exported of a segmenter.

    Input ``(N, H, W, C)`` of uint8 or float32. Output ``(N, classes, H, W)`` of float32, logits as
    ``EncoderDecoder.encode_decode`` gives them, or ``(N, H, W)`` of uint8 (int32 from 257 classes on).

    Args:
        model: The segmenter; with ``half`` it is changed.
        rules: What is done to a picture.
        output: One of :data:`OUTPUTS`.
        half: Whether the network computes in float16.

    Raises:
        ConfigError: The segmenter is none of mmseg's encoders with a decoder.
    """

    def __init__(
        self, model: nn.Module, rules: PictureRules, output: str = 'logits', half: bool = False
    ) -> None:
        super().__init__()
        if not isinstance(model, EncoderDecoder):
            raise ConfigError(
                f'model.type={type(model).__name__} cannot be exported: of segmenters, EncoderDecoder '
                'can be.'
            )
        self.picture = PictureInput(rules)
        self.model = model
        self.output = output
        # Training alone uses it.
        model.auxiliary_head = None
        if half:
            heads = model.decode_head
            heads = list(heads) if isinstance(heads, nn.ModuleList) else [heads]
            use_half([model.backbone, *([model.neck] if model.with_neck else []), *heads])
        self.eval()

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what :meth:`forward` returns."""
        return (self.output,)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[1:3]
        with AnySize():
            x = self.picture(image)
            shape = x.shape[2:]
            metas = [dict(img_shape=shape, pad_shape=shape, ori_shape=shape)]
            logits = self.model.encode_decode(x, metas)
        logits = logits[:, :, :height, :width]
        return logits if self.output == 'logits' else self._classes(logits)

    def _classes(self, logits: Tensor) -> Tensor:
        classes = logits.shape[1]
        if classes == 1:
            return (logits[:, 0].sigmoid() > self.model.decode_head.threshold).to(torch.uint8)
        return logits.argmax(1).to(torch.uint8 if classes <= 256 else torch.int32)
