"""Pretrained weights: find a checkpoint, load it into a backbone, and fail if it does not fit.

A load that matches nothing is this field's most expensive bug: training goes on for days from random
values. Here every tensor that the checkpoint must provide is there with its shape, or it is an error.
"""

from __future__ import annotations

import json
import pickle
from functools import cache
from pathlib import Path
from urllib.error import URLError

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from .errors import WeightsError

_TABLE = Path(__file__).with_name('weights.json')
_WRAPPERS = ('model', 'state_dict')
# Official files end in a classifier, which dense prediction drops, and know no norm per output,
# which starts at weight 1 and bias 0 (official detection code).
_CLASSIFIER = ('norm.', 'head.')
_OUTPUT_NORMS = ('norm0.', 'norm1.', 'norm2.', 'norm3.')


@cache
def weights_table() -> dict[str, dict]:
    """Every published checkpoint by name: ``url``, ``licence``, ``resolution``, ImageNet ``top1``."""
    return json.loads(_TABLE.read_text())


def load_pretrained(model: nn.Module, checkpoint: str, prefix: str = '') -> None:
    """Load ``checkpoint`` into the backbone ``model``, completely or not at all.

    Args:
        model: A backbone with the official ConvNeXt parameter names.
        checkpoint: A name of :func:`weights_table`, a path, or a URL.
        prefix: Leading part of the keys to take, e.g. ``'backbone.'`` of a whole detector.

    Raises:
        WeightsError: The checkpoint cannot be found or read, or its tensors do not fit ``model``.
    """
    state, licence = _read(checkpoint)
    source = {
        key.removeprefix(prefix): value
        for key, value in state.items()
        if key.startswith(prefix) and not key.removeprefix(prefix).startswith(_CLASSIFIER)
    }
    target = model.state_dict()
    matched, misfits = {}, []
    for key, expected in target.items():
        value = source.pop(key, None)
        if value is None:
            if not key.startswith(_OUTPUT_NORMS):
                misfits.append(f'{key}: missing')
        elif value.shape == expected.shape:
            matched[key] = value
        elif value.numel() == expected.numel() and '.grn.' in key:
            # Official code and its exports store GRN as (C), (1, C) or (1, 1, 1, C).
            matched[key] = value.reshape(expected.shape)
        else:
            misfits.append(f'{key}: shape {tuple(value.shape)}, wanted {tuple(expected.shape)}')
    misfits += [f'{key}: not a parameter of {type(model).__name__}' for key in source]
    if misfits:
        shown = '\n  '.join(misfits[:5])
        raise WeightsError(
            f'{checkpoint} does not fit {type(model).__name__} ({len(matched)} of {len(target)} '
            f'tensors match, {len(misfits)} do not):\n  {shown}'
            + ('\n  ...' if len(misfits) > 5 else '')
            + '\nCheck arch, and prefix if the file holds a whole model.'
        )
    model.load_state_dict(matched, strict=False)
    print_log(
        f'Pretrained weights {checkpoint}: {len(matched)} tensors loaded, '
        f'{len(target) - len(matched)} output norms start fresh; licence: {licence}',
        logger='current',
    )


def _read(checkpoint: str) -> tuple[dict[str, Tensor], str]:
    """The state dict in ``checkpoint`` and the licence of its weights."""
    row = weights_table().get(checkpoint)
    location = row['url'] if row else checkpoint
    try:
        if location.startswith(('http://', 'https://')):
            data = torch.hub.load_state_dict_from_url(
                location, map_location='cpu', weights_only=True
            )
        else:
            if not Path(location).is_file():
                raise WeightsError(
                    f'{checkpoint!r} is neither a file nor a name of the table of weights. '
                    f'Names: {", ".join(weights_table())}.'
                )
            data = torch.load(location, map_location='cpu', weights_only=True)
    except URLError as error:
        folder = Path(torch.hub.get_dir()) / 'checkpoints'
        raise WeightsError(
            f'{checkpoint}: cannot download {location} ({error.reason}). '
            f'Without network, put the file into {folder} and start again.'
        ) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        if isinstance(error, WeightsError):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f'{location} is not a checkpoint that can be read: {reason}') from error
    while isinstance(data, dict) and any(isinstance(data.get(key), dict) for key in _WRAPPERS):
        data = next(data[key] for key in _WRAPPERS if isinstance(data.get(key), dict))
    if not isinstance(data, dict) or not all(isinstance(value, Tensor) for value in data.values()):
        raise WeightsError(f'{location} holds no state dict (a dict of names and tensors).')
    return data, row['licence'] if row else 'not known, see where the file comes from'
