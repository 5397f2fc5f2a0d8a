"""Names that detrex gives the parameters of DINO, as mmdet's; those of detectron2's backbones as ours."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from backbones.base import Backbone

# Patterns of detrex's names and what mmdet has in their place, each applied once, in this order.
_NAMES = (
    (r'^transformer\.', ''),
    (r'^(encoder\.layers\.\d+)\.attentions\.0\.', r'\1.self_attn.'),
    (r'^(decoder\.layers\.\d+)\.attentions\.0\.', r'\1.self_attn.'),
    (r'^(decoder\.layers\.\d+)\.attentions\.1\.', r'\1.cross_attn.'),
    (r'^((?:en|de)coder\.layers\.\d+)\.ffns\.0\.', r'\1.ffn.'),
    (r'^enc_output_norm\.', 'memory_trans_norm.'),
    (r'^enc_output\.', 'memory_trans_fc.'),
    (r'^tgt_embed\.', 'query_embedding.'),
    (r'^level_embeds$', 'level_embed'),
    (r'^label_enc\.', 'dn_query_generator.label_embedding.'),
    (r'^class_embed\.', 'bbox_head.cls_branches.'),
    (r'^(neck\.(?:extra_)?convs\.\d+)\.norm\.', r'\1.gn.'),
)
_BOX_LAYER = re.compile(r'^bbox_embed\.(\d+)\.layers\.(\d+)\.')
# The decoder has the heads of the whole model a second time.
_TWICE = ('transformer.decoder.class_embed.', 'transformer.decoder.bbox_embed.')
_OUTPUT_NORM = re.compile(r'norm\d\.')
_RESNET = (
    (r'^stem\.', ''),
    (r'^res(\d)\.', lambda found: f'layer{int(found[1]) - 1}.'),
    (r'shortcut\.norm\.', 'downsample.1.'),
    (r'shortcut\.', 'downsample.0.'),
    (r'conv(\d)\.norm\.', r'bn\1.'),
)
_DETREX = 'transformer.decoder.ref_point_head.layers.0.weight'


def from_detrex(state: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """The tensors of a DINO of detrex under mmdet's names; those of other files as they are.

    Args:
        state: Of a whole detector.
        backbone: That of the model which takes them.
    """
    if _DETREX not in state:
        return state
    names = [name for name in state if not name.startswith(_TWICE)]
    prefix = 'backbone.'
    own = {name.removeprefix(prefix): state[name] for name in names if name.startswith(prefix)}
    return {
        **{_renamed(name): state[name] for name in names if not name.startswith(prefix)},
        **{prefix + name: value for name, value in _of_backbone(own, backbone).items()},
    }


def _of_backbone(state: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    expected = backbone.state_dict()
    if set(state) == set(expected) or not isinstance(backbone, Backbone):
        return state
    if 'stem.conv1.weight' in state:
        state = _as_in_torchvision(state)
    # Norms of the outputs, which no classifier has, are called alike.
    added = {name: value for name, value in state.items() if _OUTPUT_NORM.match(name)}
    rest = {name: value for name, value in state.items() if name not in added}
    translated = backbone.translate(rest)
    untranslated = {name: rest[name] for name in translated.foreign if name in rest}
    return {**untranslated, **translated.tensors, **added}


def _as_in_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a ResNet of detectron2 under torchvision's names."""
    renamed = {}
    for name, value in state.items():
        for pattern, replacement in _RESNET:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    for name in [name for name in renamed if name.endswith('.running_mean')]:
        # FrozenBN counts no batches.
        counter = name.replace('.running_mean', '.num_batches_tracked')
        renamed.setdefault(counter, torch.zeros((), dtype=torch.long))
    return renamed


def _renamed(name: str) -> str:
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    # mmdet counts the ReLUs between the linear layers.
    return _BOX_LAYER.sub(lambda m: f'bbox_head.reg_branches.{m[1]}.{2 * int(m[2])}.', name)
