"""The papers' rule of counting operations, applied to whole models.

The papers used mmcv's old counter of operations. Its rule, with 1 multiply-add = 1 FLOP and one image:
convolutions with their bias; matrix products of ``Linear`` without it; transposed convolutions; one
operation per element of ReLU, two per element of BatchNorm and LayerNorm modules, one per input element
of a pooling module. Everything else (SyncBN, functional LayerNorm, GELU, GRN, layer scale, interpolation,
RoIAlign) counts as zero, except the two products of Swin's windowed attention, which its authors
added. Source: the FLOPs columns of both papers' tables, which this reproduces.

DINO's and Mask2Former's are counted likewise, with the projections and both products of attention; of
deformable attention with the projections, and five for each value that is sampled: four of the bilinear
interpolation and one of the weighted sum. Of Mask2Former's masks the product of queries and mask features
counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from mmdet.models.dense_heads import Mask2FormerHead
from mmdet.models.detectors import DINO
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn

from backbones import ConvNeXt, ConvNeXtIsotropic
from backbones.errors import UserError
from backbones.layers import LayerNorm2d
from backbones.uninitialised import on_meta, without_initialisation

from .dino import run_dino
from .mask2former import run_mask2former

# Number of RoIs with which box heads and mask heads are counted.
BOX_ROIS, MASK_ROIS = 1000, 100
# Height and width of the image with which detectors are counted.
DETECTOR_SIZE = (1280, 800)


def build_on_meta(cfg: Config) -> nn.Module:
    """The model of ``cfg`` on the meta device, in evaluation mode."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        try:
            with on_meta():
                return MODELS.build(cfg.model).eval()
        except UserError:
            raise
        except Exception:  # it reads numbers while it is built, or a mistake, which will show again
            with without_initialisation():
                return MODELS.build(cfg.model).eval().to('meta')


def parameters(model: nn.Module) -> int:
    """The number of parameters of a model."""
    return sum(p.numel() for p in model.parameters())


def counted_size(cfg: Config) -> tuple[int, int]:
    """Height and width of the image with which the papers count the operations of a model.

    They are 1280 x 800 for detectors, unless these are tested on images padded to one size. For
    segmenters the height is the crop's, and the width is four times as large.
    """
    if 'decode_head' not in cfg.model:
        return padded_size(cfg.get('test_pipeline') or ()) or DETECTOR_SIZE
    side = cfg.crop_size[0]
    return side, 4 * side


def padded_size(pipeline: Sequence[Mapping]) -> tuple[int, int] | None:
    """Height and width to which a pipeline pads every image; None where it does not."""
    sizes = (step['size'] for step in pipeline if step['type'] == 'Pad' and 'size' in step)
    size = next(sizes, None)
    return (size[1], size[0]) if size else None


def gmacs(model: Any, size: Sequence[int]) -> float:
    """Billions of multiply-adds of a detector, or of a segmenter without its auxiliary head.

    Args:
        model: On the meta device.
        size: Height and width of the image.
    """
    channels = getattr(model.backbone, 'input_channels', 3)
    with torch.no_grad(), _counted(model) as total:
        outside = run_parts(model, torch.zeros(1, channels, *size, device='meta'))
    return (sum(total) + outside) / 1e9


def run_parts(model: Any, image: Tensor, rois: tuple[int, int] = (BOX_ROIS, MASK_ROIS)) -> int:
    """Run the parts of a model whose amount of work is fixed: backbone, neck and heads.

    Returns:
        Multiply-adds that are in no module's forward pass.
    """
    maps = model.backbone(image)
    head = getattr(model, 'decode_head', None) or getattr(model, 'panoptic_head', None)
    if isinstance(head, Mask2FormerHead):
        return run_mask2former(head, maps)
    if head is not None:
        head(maps)
        return 0
    maps = model.neck(maps)
    if isinstance(model, DINO):
        return run_dino(model, maps)
    if not hasattr(model, 'rpn_head'):
        model.bbox_head(maps)
        return 0
    model.rpn_head(maps)
    head = model.roi_head
    width = maps[0].shape[1]
    for count, kind in zip(rois, ('bbox', 'mask') if head.with_mask else ('bbox',)):
        extractors = _as_list(getattr(head, f'{kind}_roi_extractor'))
        for extractor, part in zip(extractors, _as_list(getattr(head, f'{kind}_head'))):
            side = extractor.roi_layers[0].output_size
            part(torch.zeros(count, width, *side, device='meta', requires_grad=image.requires_grad))
    return 0


def _as_list(modules: nn.Module) -> list[Any]:
    return list(modules) if isinstance(modules, nn.ModuleList) else [modules]


@contextmanager
def _counted(model: nn.Module) -> Iterator[list[int]]:
    """Collect the operations of every leaf module of ``model`` while it runs."""
    total: list[int] = []

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        total.append(_operations(module, inputs[0], output))

    # ConvNeXt's official code calls LayerNorm as a function, which hooks on modules do not count.
    functional = set()
    if isinstance(model.backbone, (ConvNeXt, ConvNeXtIsotropic)):
        functional = {m for m in model.backbone.modules() if isinstance(m, nn.LayerNorm)}
    handles = [
        module.register_forward_hook(count)
        for module in model.modules()
        if isinstance(module, tuple(_RULES)) and module not in functional
    ]
    try:
        yield total
    finally:
        for handle in handles:
            handle.remove()


def _operations(module: nn.Module, x: Tensor, y: Tensor) -> int:
    return next(rule for kind, rule in _RULES.items() if isinstance(module, kind))(module, x, y)


def _convolution(module: nn.Conv2d, x: Tensor, y: Tensor) -> int:
    positions = y.shape[0] * prod(y.shape[2:])
    per_position = prod(module.kernel_size) * module.in_channels * module.out_channels
    bias = module.out_channels if module.bias is not None else 0
    return positions * (per_position // module.groups + bias)


def _transposed(module: nn.ConvTranspose2d, x: Tensor, y: Tensor) -> int:
    per_position = prod(module.kernel_size) * module.in_channels * module.out_channels
    count = x.shape[0] * prod(x.shape[2:]) * per_position // module.groups
    if module.bias is not None:
        count += y.numel()
    return count


def _linear(module: nn.Linear, x: Tensor, y: Tensor) -> int:
    return x.numel() * module.out_features


def _window_attention(module: WindowAttention, x: Tensor, y: Tensor) -> int:
    """Queries times keys, and weights times values; x is (windows, positions of a window, channels)."""
    return 2 * x.numel() * x.shape[1]


def _attention(module: nn.MultiheadAttention, x: Tensor, y: tuple[Tensor, ...]) -> int:
    """Four projections, queries times keys and weights times values.

    x is (queries, images, channels), and y has the weights, (images, queries, keys).
    """
    images, keys = x.shape[1], y[1].shape[-1]
    of_keys = 2 * images * keys * module.embed_dim**2
    return x.numel() * (2 * module.embed_dim + 2 * keys) + of_keys


def _norm(module: nn.Module, x: Tensor, y: Tensor) -> int:
    return 2 * x.numel()


def _zero(module: nn.Module, x: Tensor, y: Tensor) -> int:
    return 0


def _elements_in(module: nn.Module, x: Tensor, y: Tensor) -> int:
    return x.numel()


# The first rule whose class a module is an instance of applies.
_RULES: dict[type[nn.Module], Callable[..., int]] = {
    nn.SyncBatchNorm: _zero,
    LayerNorm2d: _zero,
    nn.LayerNorm: _norm,
    WindowAttention: _window_attention,
    nn.MultiheadAttention: _attention,
    nn.Conv2d: _convolution,
    nn.ConvTranspose2d: _transposed,
    nn.Linear: _linear,
    nn.BatchNorm2d: _norm,
    nn.ReLU: _elements_in,
    nn.AdaptiveAvgPool2d: _elements_in,
    nn.MaxPool2d: _elements_in,
}
