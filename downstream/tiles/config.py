"""A config that tests in tiles."""

from __future__ import annotations

from mmengine.config import Config, ConfigDict
from mmengine.utils import import_modules_from_strings

from backbones.errors import ConfigError
from downstream.data.pipelines import (
    innermost,
    is_annotation_loader,
    is_image_loader,
    steps_of,
    without_annotations,
)

from .windows import Tiling

_REGISTERED_BY = 'downstream.tiles.model'
_MODELS = {'mmdet': 'TiledDetector', 'mmseg': 'TiledSegmenter'}


def use_tiles(cfg: Config, tiling: Tiling) -> None:
    """Let ``cfg`` test pictures in tiles; its pipeline is applied to each tile.

    Args:
        cfg: A complete config, with test-time augmentation if that is wanted; changed in place.
        tiling: How pictures are cut.

    Raises:
        ConfigError: The test pipeline does not begin with loading an image, or packs nothing.
    """
    known = cfg.get('custom_imports') or {}
    # for whoever reads the dumped config
    cfg.custom_imports = ConfigDict(
        {**known, 'imports': [*known.get('imports', ()), _REGISTERED_BY]}
    )
    import_modules_from_strings(_REGISTERED_BY)
    dataset = innermost(cfg.test_dataloader.dataset)
    load, *rest = dataset.pipeline
    pack = [step for step in steps_of(rest) if str(step.get('type')).startswith('Pack')]
    if not is_image_loader(load) or not pack:
        raise ConfigError(
            '--tile needs a test pipeline that begins with loading an image and ends with packing it.'
        )
    annotations = [step for step in steps_of(rest) if is_annotation_loader(step)]
    dataset.pipeline = [load, *annotations, dict(type='PackPicture', pack=pack[-1])]
    cfg.model = ConfigDict(
        type=_MODELS[cfg.default_scope],
        module=cfg.model,
        pipeline=without_annotations(rest),
        tile=tiling.tile,
        overlap=tiling.overlap,
        batch_size=cfg.test_dataloader.get('batch_size', 1),
    )
