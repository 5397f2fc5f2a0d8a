"""The method folders of mmdet and mmseg, and the recipe of each that is tried."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from downstream.paths import configs_of

# Folders that are no method for single images, and why they are left out.
NOT_TRIED = {
    **dict.fromkeys(
        (
            'bytetrack',
            'deepsort',
            'mask2former_vis',
            'masktrack_rcnn',
            'ocsort',
            'qdtrack',
            'reid',
            'sort',
            'strongsort',
        ),
        'tracking: its data are videos',
    ),
    **dict.fromkeys(
        ('glip', 'grounding_dino', 'mm_grounding_dino'), 'its data are images with text'
    ),
    'clrnet': 'lanes: its data set and its NMS, which mmcv has on CUDA alone, are for lanes only',
    'common': 'schedules, no model',
    'misc': "a wrapper around detectron2's own models",
    'san': 'its model is CLIP: there is no model.backbone',
    'vpd': 'depth from a diffusion model',
}
_R50 = re.compile(r'(?<![a-z])r-?50|resnet50')


@dataclass(frozen=True)
class Method:
    """A method folder: ``library`` is mmdet or mmseg, ``recipes`` its configs, the one to try first."""

    library: str
    name: str
    recipes: tuple[Path, ...]

    @property
    def key(self) -> str:
        """``mmdet::retinanet``."""
        return f'{self.library}::{self.name}'

    def recipe_name(self, path: Path) -> str:
        """As the command lines take it."""
        return f'{self.key}/{path.name}'


def methods() -> Iterator[Method]:
    """All method folders of the installed mmdet and mmseg, by name.

    The recipe to try first is one of a ResNet-50 with the shortest name, else the shortest name.
    """
    for library in ('mmdet', 'mmseg'):
        root = next(folder for folder in configs_of(library) if folder.is_dir())
        for folder in sorted(root.iterdir()):
            paths = sorted(folder.glob('*.py'), key=_order)
            if paths and not folder.name.startswith('_'):
                yield Method(library, folder.name, tuple(paths))


def _order(path: Path) -> tuple[bool, bool, int, str]:
    name = path.name
    return _R50.search(name) is None, _R50.search(name) is None and '_tta' in name, len(name), name


def read(path: Path) -> Config | None:
    """A recipe without the imports of its backbone; None where it defines no model or cannot be read."""
    try:
        cfg = Config.fromfile(path, import_custom_modules=False)
    except (OSError, KeyError, AttributeError, TypeError):
        return None  # broken in the library
    return cfg if cfg.get('model') else None
