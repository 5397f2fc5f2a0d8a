"""Checkpoint files: found by name, path or URL, downloaded once, verified, and read as data alone.

Environment: ``CONVNEXT_WEIGHTS`` is a folder in which files are looked for first and kept (otherwise
torch.hub's); ``CONVNEXT_WEIGHTS_MIRROR`` is an address that takes the place of the scheme and host of
every URL.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from backbones.errors import WeightsError

HUB = 'https://huggingface.co/{repo}/resolve/main/{file}'
_TABLE = Path(__file__).with_name('weights.json')
_UNKNOWN_LICENCE = 'not known here; see where the weights come from'


@cache
def weights_table() -> dict[str, dict]:
    """Every published checkpoint by name.

    A row has ``url``, ``layout``, ``licence``, ``resolution`` and ImageNet-1k ``top1`` (percent, or
    None where no figure is published).
    """
    return json.loads(_TABLE.read_text())


@dataclass(frozen=True)
class Source:
    """Where weights come from: ``urls`` are alternatives, ``path`` a local file."""

    name: str
    licence: str = _UNKNOWN_LICENCE
    path: Path | None = None
    urls: tuple[str, ...] = ()


def find(name: str) -> Source:
    """The source that ``name`` means.

    Args:
        name: A name of :func:`weights_table`, a path, a URL, ``timm:<model.tag>`` or ``hf:<repo>``.

    Raises:
        WeightsError: It is none of them.
    """
    row = weights_table().get(name)
    if row:
        return Source(name, row['licence'], urls=(row['url'],))
    if name.startswith(('http://', 'https://')):
        return Source(name, _licence_of(name), urls=(name,))
    kind, _, repo = name.partition(':')
    if kind == 'timm' and repo:
        return _of_timm(name, repo)
    if kind == 'hf' and repo:
        return Source(name, _licence_of(repo), urls=_hub_urls(repo))
    if Path(name).is_file():
        return Source(name, _licence_of(Path(name).name), path=Path(name))
    if Path(name).is_dir():
        raise WeightsError(f'{name} is a folder; name the file in it.')
    near = get_close_matches(name, weights_table(), 3, 0.6)
    raise WeightsError(
        f'{name!r} is no file and no name of the table of weights.'
        + (f' Did you mean {" or ".join(near)}?' if near else '')
        + f' Names: {", ".join(weights_table())}. Paths, URLs, timm:<model.tag> and hf:<repo> are '
        'taken too.'
    )


def _hub_urls(repo: str) -> tuple[str, ...]:
    return tuple(HUB.format(repo=repo, file=f) for f in ('model.safetensors', 'pytorch_model.bin'))


def _of_timm(name: str, model_and_tag: str) -> Source:
    """timm's own description of where its weights lie; of their licence where no other is known."""
    from .timm_catalog import pretrained_cfg

    cfg = pretrained_cfg(model_and_tag)
    licence = _licence_of(f'timm/{model_and_tag}')
    if licence == _UNKNOWN_LICENCE and cfg.license:
        licence = f'{cfg.license} (according to timm)'
    urls = _hub_urls(cfg.hf_hub_id) if cfg.hf_hub_id else ()
    if not urls and cfg.url and not cfg.custom_load:
        urls = (cfg.url,)
    if not urls:
        raise WeightsError(f'{name}: timm names no file that can be downloaded and read.')
    return Source(name, licence, urls=urls)


def _licence_of(text: str) -> str:
    """The licence that the name of a file or a repository tells."""
    text = text.lower()
    for row in weights_table().values():
        if row['url'].lower().rsplit('/', 1)[-1] == text.rsplit('/', 1)[-1] != 'model.safetensors':
            return row['licence']
    if 'dinov3' in text:
        return 'DINOv3 License'
    if re.search(r'convnext[-_]?v2', text):
        return 'CC-BY-NC-4.0'
    if re.search(r'(^|/)convnext[-_](tiny|small|base|large|xlarge)[-._](fb_|224|384|1k|22k)', text):
        return 'MIT'
    return _UNKNOWN_LICENCE
