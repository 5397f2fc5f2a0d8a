"""Names that detrex gives the parameters of DINO, as mmdet's."""

from __future__ import annotations

import re

from torch import Tensor

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
_DETREX = 'transformer.decoder.ref_point_head.layers.0.weight'


def from_detrex(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a DINO of detrex under mmdet's names; others as they are."""
    if _DETREX not in state:
        return state
    return {_renamed(name): value for name, value in state.items() if not name.startswith(_TWICE)}


def _renamed(name: str) -> str:
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    # mmdet counts the ReLUs between the linear layers.
    return _BOX_LAYER.sub(lambda m: f'bbox_head.reg_branches.{m[1]}.{2 * int(m[2])}.', name)
