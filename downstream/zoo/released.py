"""Names and shapes of the tensors in released files, from other implementations than this suite's.

A file is identified by its address. A library that shares no code with the backbone here builds the
network that it was saved from, on the meta device:

| file | implementation |
|---|---|
| official ConvNeXt V1 and V2 | timm's, its names turned into the official ones below |
| official isotropic ConvNeXt | timm's blocks between a convolution and nothing else |
| timm's ConvNeXt, among them DINOv3's | timm's |
| torchvision's ConvNeXt and ResNet, OpenMMLab's ResNeXt | torchvision's |
| official Swin | mmdetection's, its names turned into the official ones below |

A test compares the official layouts with a record of what the official code itself (ConvNeXt 048efce,
ConvNeXt-V2 2553895, Swin-Transformer f82860b) has: names, shapes and their number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache

import torch
from torch import Tensor, nn

from backbones.errors import WeightsError
from backbones.uninitialised import on_meta
from backbones.weights.sources import weights_table

# Every classifier has these; a dense-prediction network leaves them out.
_CLASSIFIER = re.compile(r'(head|fc|classifier|norm)\.')
# Swin's tables that are computed from the window, not learned.
_COMPUTED = re.compile(r'.*(relative_position_index|attn_mask)')
# Liu et al. 2021, section 3.3: width of the first stage and blocks per stage; a head has 32 channels.
_SWIN = {
    'tiny': (96, (2, 2, 6, 2)),
    'small': (96, (2, 2, 18, 2)),
    'base': (128, (2, 2, 18, 2)),
    'large': (192, (2, 2, 18, 2)),
}
# ConvNeXt's paper, section 3.3, and its training commands: blocks, channels, layer scale.
_ISOTROPIC = {'small': (18, 384, None), 'base': (18, 768, None), 'large': (36, 1024, 1e-6)}
_Renames = tuple[tuple[str, str], ...]
_TIMM_TO_OFFICIAL_BLOCK: _Renames = (
    (r'conv_dw', 'dwconv'),
    (r'mlp\.fc', 'pwconv'),
    (r'mlp\.grn\.weight', 'grn.gamma'),
    (r'mlp\.grn\.bias', 'grn.beta'),
)
_TIMM_TO_OFFICIAL: _Renames = (
    (r'stem\.', 'downsample_layers.0.'),
    (r'stages\.(\d)\.downsample\.', r'downsample_layers.\1.'),
    (r'\.blocks\.', '.'),
    *_TIMM_TO_OFFICIAL_BLOCK,
)
_MMDET_TO_OFFICIAL: _Renames = (
    (r'^stages\.', 'layers.'),
    (r'patch_embed\.projection', 'patch_embed.proj'),
    (r'attn\.w_msa', 'attn'),
    (r'ffn\.layers\.0\.0', 'mlp.fc1'),
    (r'ffn\.layers\.1', 'mlp.fc2'),
)


@cache
def released_tensors(weights: str) -> Mapping[str, Tensor]:
    """The tensors that a dense-prediction network loads from a released file.

    They are on the meta device, under the file's own names, without the classifier's final norm and head.

    Args:
        weights: A name of the table of weights.

    Raises:
        WeightsError: No other implementation of the file's network is known.
    """
    row = weights_table()[weights]
    for pattern, layout, build in _BUILDERS:
        found = re.search(pattern, row['url'])
        if found and layout == row['layout']:
            with on_meta():
                return build(*found.groups())
    raise WeightsError(
        f'{weights}: no other implementation of the network of {row["url"]} is known.'
    )


def shape_lines(tensors: Mapping[str, Tensor]) -> list[str]:
    """``name 96x3x4x4`` of every tensor, sorted."""
    return sorted(f'{name} {"x".join(map(str, t.shape))}' for name, t in tensors.items())


def _tensors(model: nn.Module, renames: _Renames = ()) -> dict[str, Tensor]:
    tensors = {}
    for name, value in model.state_dict().items():
        if _CLASSIFIER.match(name) or _COMPUTED.match(name):
            continue
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        tensors[name] = value
    return tensors


def _official_convnext(family: str, size: str) -> dict[str, Tensor]:
    return {
        name: _official_shape(name, tensor)
        for name, tensor in _timm(f'{family}_{size}', _TIMM_TO_OFFICIAL).items()
    }


def _official_isotropic(size: str) -> dict[str, Tensor]:
    from timm.models.convnext import ConvNeXtBlock

    depth, dim, scale = _ISOTROPIC[size]
    model = nn.Module()
    model.stem = nn.Conv2d(3, dim, kernel_size=16, stride=16)
    model.blocks = nn.Sequential(*(ConvNeXtBlock(dim, ls_init_value=scale) for _ in range(depth)))
    return _tensors(model, _TIMM_TO_OFFICIAL_BLOCK)


def _official_shape(name: str, tensor: Tensor) -> Tensor:
    """The official code works on (N, H, W, C): linear layers where some of timm's models have 1x1
    convolutions, and parameters of GRN of (1, 1, 1, C)."""
    if '.grn.' in name:
        return tensor.reshape(1, 1, 1, -1)
    return tensor.flatten(1) if re.search(r'pwconv\d\.weight', name) else tensor


def _timm(name: str, renames: _Renames = ()) -> dict[str, Tensor]:
    import timm

    return _tensors(timm.create_model(name), renames)


def _torchvision(name: str) -> dict[str, Tensor]:
    import torchvision

    return _tensors(getattr(torchvision.models, name)())


def _resnext101(groups: str, width: str) -> dict[str, Tensor]:
    from torchvision.models.resnet import Bottleneck, ResNet

    blocks = [3, 4, 23, 3]
    return _tensors(ResNet(Bottleneck, blocks, groups=int(groups), width_per_group=int(width)))


def _official_swin(size: str, window: str, side: str) -> dict[str, Tensor]:
    from mmdet.models.backbones import SwinTransformer

    width, depths = _SWIN[size]
    heads = [width // 32 * 2**stage for stage in range(4)]
    with torch.device('cpu'):  # its constructor reads values of a tensor
        model = SwinTransformer(
            pretrain_img_size=int(side),
            embed_dims=width,
            depths=depths,
            num_heads=heads,
            window_size=int(window),
            out_indices=(),
        )
    return {k: v.to('meta') for k, v in _tensors(model, _MMDET_TO_OFFICIAL).items()}


# Pattern of the address, layout of the file, and what builds its tensors from the pattern's groups.
_BUILDERS: tuple[tuple[str, str, Callable[..., dict[str, Tensor]]], ...] = (
    (r'/convnext_iso_([a-z]+)_', 'official', _official_isotropic),
    (r'/(convnext|convnextv2)_([a-z]+)_', 'official', _official_convnext),
    (r'/timm/(convnext_[\w.]+)/', 'timm', _timm),
    (r'/(convnext_[a-z]+|resnet\d+)-', 'torchvision', _torchvision),
    (r'/resnext101_(\d+)x(\d+)d-', 'torchvision', _resnext101),
    (r'/swin_([a-z]+)_patch4_window(\d+)_(\d+)', 'official', _official_swin),
)
