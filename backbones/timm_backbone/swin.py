"""timm's Swin Transformers, made equal to the official detection code for maps of any size.

timm shifts a map and then pads it to whole windows. The mask of shifted windows then covers the padding,
and opposite borders of the image attend to each other. The official code pads first.
"""

from __future__ import annotations

import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from torch import Tensor, nn

from backbones.multiples import cells
from backbones.upstream import required

# Without these methods the overrides below would silently have no effect.
for _block in (
    'swin_transformer.SwinTransformerBlock',
    'swin_transformer_v2.SwinTransformerV2Block',
):
    required(f'timm.models.{_block}._attn')


class _PadBeforeShift:
    window_size: tuple[int, int]

    def _attn(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        # In whole windows, not as a remainder: a tracer of any size knows that these have no remainder.
        down, right = (
            cells(size, window) * window - size
            for size, window in zip((height, width), self.window_size)
        )
        padded = F.pad(x, (0, 0, 0, right, 0, down))
        return super()._attn(padded)[:, :height, :width]  # type: ignore[misc]  # the block's


class PaddedSwinBlock(_PadBeforeShift, SwinTransformerBlock):
    """Pads its normalised input, ``(N, H, W, C)``, to whole windows before it shifts them."""


class PaddedSwinV2Block(_PadBeforeShift, SwinTransformerV2Block):
    """Like :class:`PaddedSwinBlock`, for Swin V2."""


_PADDED = {SwinTransformerBlock: PaddedSwinBlock, SwinTransformerV2Block: PaddedSwinV2Block}


def pad_before_shift(model: nn.Module) -> None:
    """Give the blocks of timm's Swin Transformers the padded classes; other models stay as they are.

    timm's models take no class of blocks as an argument. The padded classes only override a method, so
    that a block that changes its class has the same parameters, hooks and attributes.
    """
    for module in model.modules():
        if type(module) in _PADDED:
            module.__class__ = _PADDED[type(module)]
