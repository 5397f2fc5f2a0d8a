"""What a pre-training starts from: an encoder, or an encoder and the decoder that was trained with it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mmengine.logging import print_log
from torch import Tensor, nn

from backbones.convnext.weight_names import (
    FCMAE_DECODER,
    decoder_size,
    describe_decoder,
    fcmae_decoder,
    translate,
)
from backbones.errors import ConfigError, WeightsError
from backbones.weights.load import load_state, read_pretrained


def load_start(model: nn.Module, init_cfg: Mapping) -> None:
    """Load weights into an autoencoder: encoder and decoder, or what a file of an encoder alone has.

    What was loaded is logged, with the licence, and whether the decoder starts from random weights.

    Args:
        model: An :class:`.fcmae.FCMAE`.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` and what else
            :func:`backbones.weights.load.load_pretrained` takes.

    Raises:
        ConfigError: ``init_cfg`` is of another form.
        WeightsError: The checkpoint cannot be found or read, or its encoder or decoder does not match
            ``model``, which is unchanged then.
    """
    words = dict(init_cfg)
    kind, source = words.pop('type', None), words.pop('checkpoint', None)
    if kind != 'Pretrained' or not source:
        raise ConfigError(
            f"model.backbone.init_cfg={dict(init_cfg)!r}: give dict(type='Pretrained', "
            'checkpoint=NAME, PATH or URL), or None to start from random weights.'
        )
    strict = words.pop('strict', True)
    words.pop('map_location', None)  # files are read on the CPU
    state, licence = read_pretrained(source, **words)
    decoder = fcmae_decoder(state, translate(state))
    if decoder and strict:
        _require_same_decoder(model, decoder, source)
    print_log(str(load_state(model, state, source, licence, strict)), 'current')
    if not decoder:
        print_log(
            f'{source} holds an encoder alone: the decoder starts from random weights.', 'current'
        )


def _require_same_decoder(model: nn.Module, found: Mapping[str, Tensor], source: str) -> None:
    """WeightsError unless the decoder of a file has the tensors and sizes of the model's."""
    own = {k: v for k, v in model.state_dict().items() if re.match(FCMAE_DECODER, k)}
    other = list(own.keys() ^ found.keys())
    # The width of the encoder is not the decoder's: load_state compares it.
    other += [
        name
        for name in own.keys() & found.keys()
        if not name.startswith('proj.') and own[name].numel() != found[name].numel()
    ]
    if not other:
        return
    facts = [describe_decoder(tensors) for tensors in (found, own)]
    difference = (
        f'has a decoder of {facts[0]}; the config asks for {facts[1]}'
        if facts[0] != facts[1]
        else f'has another decoder than the config; they differ in {", ".join(sorted(other)[:4])}'
    )
    dim, depth = decoder_size(found)
    same = ''
    if dim and depth and (dim, depth) != decoder_size(own):
        same = (
            f'Take its size, --cfg-options model.decoder_dim={dim} model.decoder_depth={depth}, or '
        )
    raise WeightsError(
        f'{source} {difference}. {same or "Take "}its encoder alone: python tools/weights.py convert '
        f'{source} OUT.safetensors, then --weights OUT.safetensors.'
    )
