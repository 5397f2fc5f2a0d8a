"""The names that ConvNeXt's parameters have in other libraries, translated into the official ones.

Sources: the official repositories facebookresearch/ConvNeXt and ConvNeXt-V2 (whose names are kept
here), timm, torchvision, transformers, mmpretrain, and DINOv3's own and transformers' exports.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from backbones.weights.translation import Translation, prefixes_of

from .archs import CONVNEXT_ARCHS, CONVNEXTV2_ARCHS, Arch

# Every name that an official classifier or dense-prediction backbone has.
OFFICIAL = re.compile(
    r'downsample_layers\.[0-3]\.[01]\.(weight|bias)'
    r'|stages\.[0-3]\.\d+\.((dwconv|norm|pwconv1|pwconv2)\.(weight|bias)|gamma|grn\.(gamma|beta))'
    r'|(norm[0-3]?|head)\.(weight|bias)'
)
_OUTSIDE_THE_STAGES = re.compile(r'(norm[0-3]?|head)\.(weight|bias)')
_IN_A_STAGE = re.compile(r'(?:downsample_layers|stages)\.(\d)\.')
# What masked autoencoding (FCMAE) has beside the encoder.
FCMAE_DECODER = r'(decoder|proj|pred)\.|mask_token$'


Rename = tuple[str, str | Callable[[re.Match], str]]


@dataclass(frozen=True)
class Layout:
    """One way of naming: ``renames`` are regular expressions and their replacements, in order."""

    name: str
    renames: tuple[Rename, ...] = ()
    drop: str | None = None

    def official_name(self, key: str) -> str | None:
        """The official name of ``key``, or None for a tensor that this network does not have."""
        if self.drop and re.match(self.drop, key):
            return None
        for pattern, replacement in self.renames:
            key = re.sub(pattern, replacement, key)
        return key


def _torchvision_part(match: re.Match) -> str:
    index = int(match['index'])
    return f'stages.{index // 2}.' if index % 2 else f'downsample_layers.{index // 2}.'


_MMPRETRAIN_BLOCK = (
    (r'\.depthwise_conv\.', '.dwconv.'),
    (r'\.pointwise_conv([12])\.', r'.pwconv\1.'),
)
LAYOUTS = (
    # DINOv3's own files hold the final norm twice, those of a whole pre-training a decoder.
    Layout('official', drop=rf'norms\.\d\.|{FCMAE_DECODER}'),
    Layout(
        'sparse FCMAE (MinkowskiEngine)',
        (
            (r'\.(ln|linear)\.', '.'),
            (r'\.kernel$', '.weight'),
        ),
        drop=FCMAE_DECODER,
    ),
    Layout(
        'timm',
        (
            (r'^stem[._](\d)\.', r'downsample_layers.0.\1.'),
            (r'^stages[._](\d)\.downsample\.', r'downsample_layers.\1.'),
            (r'^stages[._](\d)\.blocks\.', r'stages.\1.'),
            (r'\.conv_dw\.', '.dwconv.'),
            (r'\.mlp\.fc([12])\.', r'.pwconv\1.'),
            (r'\.mlp\.grn\.weight$', '.grn.gamma'),
            (r'\.mlp\.grn\.bias$', '.grn.beta'),
            (r'^(head\.norm|norm_pre)\.', 'norm.'),
            (r'^head\.fc\.', 'head.'),
        ),
    ),
    Layout(
        'torchvision',
        (
            (r'^features\.(?P<index>\d)\.', _torchvision_part),
            (r'\.block\.0\.', '.dwconv.'),
            (r'\.block\.2\.', '.norm.'),
            (r'\.block\.3\.', '.pwconv1.'),
            (r'\.block\.5\.', '.pwconv2.'),
            (r'\.layer_scale$', '.gamma'),
            (r'^classifier\.0\.', 'norm.'),
            (r'^classifier\.2\.', 'head.'),
        ),
    ),
    Layout(
        'transformers',
        (
            (r'^(convnext|convnextv2)\.', ''),
            (r'^embeddings\.patch_embeddings\.', 'downsample_layers.0.0.'),
            (r'^embeddings\.layernorm\.', 'downsample_layers.0.1.'),
            (r'^(encoder\.)?stages\.(\d)\.downsampling_layer\.', r'downsample_layers.\2.'),
            (r'^(encoder\.)?stages\.(\d)\.layers\.', r'stages.\2.'),
            (r'^layernorm\.', 'norm.'),
            (r'\.layernorm\.', '.norm.'),
            (r'\.layer_scale_parameter$', '.gamma'),
            (r'\.grn\.weight$', '.grn.gamma'),
            (r'\.grn\.bias$', '.grn.beta'),
            (r'^hidden_states_norms\.stage(\d)\.', lambda m: f'norm{int(m[1]) - 1}.'),
            (r'^classifier\.', 'head.'),
        ),
    ),
    Layout(
        'transformers DINOv3',
        (
            (r'^(model\.)?stages\.(\d)\.downsample_layers\.', r'downsample_layers.\2.'),
            (r'^(model\.)?stages\.(\d)\.layers\.', r'stages.\2.'),
            *_MMPRETRAIN_BLOCK,
            (r'\.layer_norm\.', '.norm.'),
            (r'^layer_norm\.', 'norm.'),
        ),
    ),
    Layout('mmpretrain', (*_MMPRETRAIN_BLOCK, (r'^head\.fc\.', 'head.'))),
)


def translate(state: Mapping[str, Tensor]) -> Translation:
    """``state`` in official names, by the layout that explains most of it."""
    candidates = [
        _translated(state, layout, prefix) for prefix in prefixes_of(state) for layout in LAYOUTS
    ]
    best = max(candidates, key=lambda c: (len(c.tensors), -len(c.foreign)))
    if best.layout == 'mmpretrain' and 'norm0.weight' not in best.tensors:
        # Its classifiers call the final norm norm3; its detectors have a norm on every output.
        for part in ('weight', 'bias'):
            if f'norm3.{part}' in best.tensors:
                best.tensors[f'norm.{part}'] = best.tensors.pop(f'norm3.{part}')
    return best


def translate_backbone(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Translation:
    """:func:`translate` for a dense-prediction backbone with the tensors ``own``.

    The classifier's final norm and head, and norms of outputs and stages that the backbone does not have,
    move to ``dropped``.
    """
    found = translate(state)
    built = {match[1] for k in own if (match := _IN_A_STAGE.match(k))}
    unneeded = [
        k
        for k in found.tensors
        if k not in own
        and (
            _OUTSIDE_THE_STAGES.fullmatch(k)
            or ((match := _IN_A_STAGE.match(k)) and match[1] not in built)
        )
    ]
    tensors = {k: v for k, v in found.tensors.items() if k not in unneeded}
    return replace(found, tensors=tensors, dropped=(*found.dropped, *unneeded))


def fcmae_decoder(state: Mapping[str, Tensor], encoder: Translation) -> dict[str, Tensor]:
    """What a file of a pre-training holds beside its encoder, under the official names.

    Args:
        state: The file's tensors.
        encoder: What :func:`translate` has found in it.

    Returns:
        Tensors by name; empty for a file of an encoder alone.
    """
    outer = encoder.prefix.removesuffix('encoder.')
    inside = {k.removeprefix(outer): v for k, v in state.items() if k.startswith(outer)}
    return {name: value for name, value in inside.items() if re.match(FCMAE_DECODER, name)}


def describe_decoder(tensors: Mapping[str, Tensor]) -> str:
    """The size of a decoder, e.g. ``512 channels, 1 block with GRN, patches of 3072 values``."""
    dim, depth = decoder_size(tensors)
    blocks = f'{depth} block{"" if depth == 1 else "s"}'
    grn = ' with GRN' if any('.grn.' in name for name in tensors) else ''
    bias = tensors.get('pred.bias')
    patch = 'no prediction' if bias is None else f'patches of {bias.numel()} values'
    return f'{dim} channels, {blocks}{grn}, {patch}'


def decoder_size(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """Channels and blocks of a decoder; 0 where there are none."""
    biases = [tensors[name] for name in ('proj.bias', 'mask_token') if name in tensors]
    blocks = {match[1] for name in tensors if (match := re.match(r'decoder\.(\d+)\.', name))}
    return (biases[0].numel() if biases else 0), len(blocks)


def describe(tensors: Mapping[str, Tensor]) -> str | None:
    """The architecture that tensors in official names belong to.

    Returns:
        ``'ConvNeXt tiny'``, ``'ConvNeXtV2 with depths (...) and dims (...)'``, or None if a stage is
        missing.
    """
    arch = arch_of(tensors)
    if arch is None:
        return None
    is_v2 = any('.grn.' in name for name in tensors)
    family = 'ConvNeXtV2' if is_v2 else 'ConvNeXt'
    for size, known in (CONVNEXTV2_ARCHS if is_v2 else CONVNEXT_ARCHS).items():
        if known == arch:
            return f'{family} {size}'
    return f'{family} with depths {arch.depths} and dims {arch.dims}'


def arch_of(tensors: Mapping[str, Tensor]) -> Arch | None:
    """Depths and widths of tensors in official names; None if a stage is missing."""
    depths, dims = [], []
    for stage in range(4):
        bias = tensors.get(f'stages.{stage}.0.dwconv.bias')
        if bias is None:
            return None
        block = re.compile(rf'stages\.{stage}\.\d+\.dwconv\.bias')
        dims.append(bias.numel())
        depths.append(sum(block.fullmatch(name) is not None for name in tensors))
    return Arch(tuple(depths), tuple(dims))


def _translated(state: Mapping[str, Tensor], layout: Layout, prefix: str) -> Translation:
    tensors, dropped, foreign = {}, [], []
    for key, value in state.items():
        if not key.startswith(prefix):
            # A classifier is saved beside the network, without its prefix.
            name = layout.official_name(key)
            if name in ('head.weight', 'head.bias') and prefix:
                tensors[name] = value
            elif name is None:
                dropped.append(key)
            else:
                foreign.append(key)
            continue
        name = layout.official_name(key.removeprefix(prefix))
        if name is None:
            dropped.append(key)
        elif OFFICIAL.fullmatch(name) and name not in tensors:
            tensors[name] = _dense(value) if 'FCMAE' in layout.name else value
        else:
            foreign.append(key)
    return Translation(layout.name, prefix, tensors, tuple(dropped), tuple(foreign))


def _dense(kernel: Tensor) -> Tensor:
    """A MinkowskiEngine tensor as a dense layer's.

    Kernels are ``(k * k, in, out)``, depthwise ones ``(k * k, C)``, and enumerate their offsets with
    the first spatial axis fastest; biases are ``(1, C)``.
    """
    side = round(kernel.shape[0] ** 0.5)
    if kernel.ndim == 3 and side * side == kernel.shape[0]:
        return kernel.permute(2, 1, 0).unflatten(2, (side, side)).transpose(2, 3)
    if kernel.ndim == 2 and kernel.shape[0] == 49:
        return kernel.t().unflatten(1, (7, 7)).transpose(1, 2).unsqueeze(1)
    return kernel
