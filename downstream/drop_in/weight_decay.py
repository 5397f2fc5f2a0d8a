"""Weight decay of Swin's and ResNets' recipes, as one line in a config."""

from __future__ import annotations

# Parameters whose names contain these are exempt in Swin's official detectors and segmenters.
_EXEMPT_IN_SWIN = ('absolute_pos_embed', 'relative_position_bias_table', 'norm')


def as_in_swin(**optimizer) -> dict:
    """``optim_wrapper`` fields: one learning rate, no weight decay on norms and position tables.

    Unlike in ConvNeXt's recipe, weight decay applies to biases, and to the BatchNorms of heads, whose
    names do not contain ``norm``.

    Source: the official Swin-Transformer-Object-Detection and -Semantic-Segmentation.
    """
    exempt = {name: {'decay_mult': 0.0} for name in _EXEMPT_IN_SWIN}
    return _one_rate({'custom_keys': exempt}, optimizer)


def as_for_resnets(**optimizer) -> dict:
    """``optim_wrapper`` fields: one learning rate, no weight decay on norms.

    The AdamW recipe of the ResNets in Swin's and ConvNeXt's tables was never published in full; that
    norms are exempt is what its authors do elsewhere.
    """
    return _one_rate({'norm_decay_mult': 0.0}, optimizer)


def of_swin_in_detrex() -> dict:
    """``paramwise_cfg`` fields: Swin at a tenth of the rate, no weight decay on norms.

    Its position tables have weight decay. Source: detrex, whose Swin has torch's LayerNorm.
    """
    keys = {'backbone': {'lr_mult': 0.1}}
    norms = ('patch_embed.norm', 'downsample.norm', 'backbone.norm')
    # Of the keys in a name the longest applies; the transformer has norms of these names nowhere.
    of_blocks = [f'.norm{i}.{name}' for i in (1, 2) for name in ('weight', 'bias')]
    for key in (*norms, *of_blocks):
        keys[key] = {'lr_mult': 0.1, 'decay_mult': 0.0}
    return {'custom_keys': keys}


def of_swin_in_mask2former() -> dict:
    """``paramwise_cfg`` fields: as :func:`of_swin_in_detrex`, and no weight decay on position tables.

    Source: facebookresearch/Mask2Former, ``train_net.py``.
    """
    keys = of_swin_in_detrex()['custom_keys']
    keys['relative_position_bias_table'] = {'lr_mult': 0.1, 'decay_mult': 0.0}
    return {'custom_keys': keys}


def _one_rate(paramwise: dict, optimizer: dict) -> dict:
    return {
        'constructor': 'DefaultOptimWrapperConstructor',
        'optimizer': optimizer,
        'paramwise_cfg': {'_delete_': True, **paramwise},
    }
