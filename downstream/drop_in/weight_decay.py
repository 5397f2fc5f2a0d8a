"""Rules of weight decay that recipes other than ConvNeXt's have, as one line in a config."""

from __future__ import annotations

# Parts of the names of parameters that Swin's official detectors and segmenters spare.
_SPARED_BY_SWIN = ('absolute_pos_embed', 'relative_position_bias_table', 'norm')


def as_in_swin(**optimizer) -> dict:
    """``optim_wrapper`` fields: one learning rate, no weight decay on norms and position tables.

    Unlike under ConvNeXt's rule, biases decay, and so do the BatchNorms of heads, whose names hold no
    ``norm``. Source: the official Swin-Transformer-Object-Detection and -Semantic-Segmentation.
    """
    spared = {name: {'decay_mult': 0.0} for name in _SPARED_BY_SWIN}
    return _one_rate({'custom_keys': spared}, optimizer)


def as_for_resnets(**optimizer) -> dict:
    """``optim_wrapper`` fields: one learning rate, no weight decay on norms.

    The AdamW recipe of the ResNets in Swin's and ConvNeXt's tables was never published in full; that
    norms are spared is what its authors do elsewhere.
    """
    return _one_rate({'norm_decay_mult': 0.0}, optimizer)


def _one_rate(paramwise: dict, optimizer: dict) -> dict:
    return {
        'constructor': 'DefaultOptimWrapperConstructor',
        'optimizer': optimizer,
        'paramwise_cfg': {'_delete_': True, **paramwise},
    }
