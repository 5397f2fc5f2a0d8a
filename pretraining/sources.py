"""What images are pre-trained on: those of folders, or the training images of a known data set."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.registry import DATASETS, DefaultScope

from backbones.errors import DataError
from downstream.data.checks.datasets import data_sets
from downstream.data.formats.find import find
from downstream.data.formats.found import Instances, Masks
from downstream.data.formats.images import ARRAY, SUFFIXES, files_below
from downstream.paths import find_config
from downstream.quiet import without_coco_output

# Bands of arrays are no colours.
_SUFFIXES = SUFFIXES - {ARRAY}


def images_of(sources: Sequence[str]) -> list[Path]:
    """The images that ``sources`` name, each once, sorted by path within a source.

    A source is a folder, a file of annotations or a config. Of a data set in a format that the suite
    reads, those of the training part are taken, so that masks and validation images are not; of any
    other folder all images, however deep. What was taken of each source is logged.

    Raises:
        DataError: A source does not exist, has no images, or there are no sources.
    """
    if not sources:
        raise DataError('no images to pre-train on: name folders, --data DIR [DIR ...].')
    found: dict[Path, None] = {}
    for source in sources:
        paths, what = _images_of_one(source)
        if not paths:
            raise DataError(f'{source} has no image in it, however deep.')
        print_log(f'{source}: {len(paths):,} images{what}', 'current')
        found.update(dict.fromkeys(Path(os.path.abspath(path)) for path in paths))
    return list(found)


def _images_of_one(source: str) -> tuple[list[Path], str]:
    path = Path(source)
    if not path.exists() or path.suffix == '.py':
        config = find_config(source)
        if config is None:
            raise DataError(f'{source} does not exist.')
        return _of_config(config), f', those that {config.name} trains on'
    try:
        known = find(path)
    except DataError:
        if not path.is_dir():
            raise
        return files_below(path, _SUFFIXES), ''
    name = 'train' if 'train' in known.parts else 'all'
    if name not in known.parts:
        raise DataError(
            f'{source} is a {known.format} data set without a training part; name the folder of its '
            'images.'
        )
    part = 'its training part' if name == 'train' else 'the whole set'
    return sorted(_of_part(known.parts[name])), f' ({known.format}, {part})'


def _of_part(part: Instances | Masks) -> Iterable[Path]:
    if isinstance(part, Instances):
        return (part.root / image['file_name'] for image in part.coco['images'])
    return (part.root / image for image, _ in part.pairs)


def _of_config(path: Path) -> list[Path]:
    """The images of the training sets of a config, those without objects as well.

    Raises:
        DataError: A data set cannot be built.
    """
    cfg = Config.fromfile(path)
    images: dict[str, None] = {}
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')), without_coco_output():
        for where, dataset in data_sets(cfg, 'train'):
            images.update(dict.fromkeys(_of_data_set(where, dataset)))
    return sorted(map(Path, images))


def _of_data_set(where: str, dataset: ConfigDict) -> list[str]:
    if dataset.type == 'UnlabelledImages':
        return [str(path) for path in images_of(dataset.sources)]
    try:
        built = DATASETS.build({**dataset, 'pipeline': [], 'filter_cfg': None, 'lazy_init': False})
    except (OSError, AssertionError) as error:
        raise DataError(f'{where} cannot be read: {error}') from error
    return [built.get_data_info(index)['img_path'] for index in range(len(built))]
