"""Pretrained weights that mmengine cannot load: the file that is missing, and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from urllib.parse import urlparse

import torch
from mmengine.model import PretrainedInit
from mmengine.runner.checkpoint import get_external_models, get_torchvision_models
from torch import nn

from backbones.errors import WeightsError

# What torch says of a zip file that ends too early.
_CUT_OFF = 'PytorchStreamReader'
_TABLES = {
    'torchvision': get_torchvision_models,
    'modelzoo': get_torchvision_models,
    'open-mmlab': get_external_models,
    'openmmlab': get_external_models,
}


@contextmanager
def named(model: nn.Module, by_model: bool = False) -> Iterator[None]:
    """Name the file of weights that cannot be loaded while the context lasts.

    Args:
        model: Whose weights are loaded by mmengine, from the ``init_cfg`` of its modules.
        by_model: Whether the config states them as ``model.pretrained``, as mmseg's do.

    Raises:
        WeightsError: In the place of what mmengine, urllib or torch raise.
    """
    try:
        yield
    except (OSError, EOFError, UnpicklingError, KeyError, RuntimeError) as error:
        # A file that is there is damaged; one that is not is the more probable cause.
        wanted = sorted(_pretrained(model), key=lambda pair: _local(pair[1]).is_file())
        if not wanted or not _is_of_weights(error, [source for _, source in wanted]):
            raise
        place, source = wanted[0]
        keys = ('model.pretrained',) * 2 if by_model else (f'{place}.checkpoint', place)
        raise WeightsError(_message(*keys, source, error)) from error


def is_pretrained(init_cfg: Mapping) -> bool:
    """Whether an ``init_cfg`` loads weights."""
    return init_cfg.get('type') in ('Pretrained', PretrainedInit)


def _pretrained(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Place in the config, and source, of all pretrained weights of a model."""
    for name, module in model.named_modules():
        init_cfg = getattr(module, 'init_cfg', None)
        for part in [init_cfg] if isinstance(init_cfg, Mapping) else init_cfg or ():
            if isinstance(part, Mapping) and is_pretrained(part):
                yield (
                    '.'.join(filter(None, ('model', name, 'init_cfg'))),
                    str(part.get('checkpoint')),
                )


def _is_of_weights(error: Exception, sources: Sequence[str]) -> bool:
    if isinstance(error, KeyError):
        return any(map(_is_unknown, sources))
    return not isinstance(error, RuntimeError) or str(error).startswith(_CUT_OFF)


def _is_unknown(source: str) -> bool:
    """Whether a table of weights lacks a name."""
    scheme, _, name = source.partition('://')
    return scheme in _TABLES and name not in _TABLES[scheme]()


def _url(source: str) -> str:
    """Where mmengine looks for weights: a URL, or the path of a file."""
    scheme, _, name = source.partition('://')
    table = _TABLES.get(scheme)
    return str(table().get(name, source)) if table else source


def _local(source: str) -> Path:
    """The file that mmengine reads, once it has been downloaded."""
    url = _url(source)
    if '://' not in url:
        return Path(url)
    return Path(torch.hub.get_dir(), 'checkpoints', Path(urlparse(url).path).name)


def _message(key: str, without: str, source: str, error: Exception) -> str:
    url, file = _url(source), _local(source)
    reason = str(getattr(error, 'reason', error)).strip().partition('\n')[0] or type(error).__name__
    if _is_unknown(source):
        where = 'are not known to it. Correct the name'
    elif file.is_file():
        where = f'cannot be read ({reason}): {file} is damaged. Replace it'
    elif '://' in url:
        where = (
            f'cannot be downloaded from {url} ({reason}). Without network, put the file at {file}'
        )
    else:
        where = f'cannot be read: there is no file {file}. Put it there'
    return (
        f'the pretrained weights {source} ({key}) {where}, or name a file with --cfg-options '
        f'{key}=FILE; --cfg-options {without}=None trains without them.'
    )
