"""What tools/browse.py does: draw what a model would see, before any training."""

from __future__ import annotations

from pathlib import Path

from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from mmengine.runner.utils import set_random_seed

from backbones.errors import ConfigError
from downstream.data.checks.datasets import check_datasets
from downstream.data.pictures.seen import BatchPictures
from downstream.running.config import RunOptions, read_config
from downstream.running.hooks.first_batches import write_batch


def browse(
    options: RunOptions, part: str, count: int, out: Path | None = None, seed: int = 0
) -> list[Path]:
    """Draw samples of a config as its model gets them, batch by batch.

    Args:
        options: The config and the command line's changes.
        part: ``'train'``, ``'val'`` or ``'test'``.
        count: Images.
        out: Folder for the pictures; None: ``browse_<part>`` in the work dir.
        seed: Of order and augmentation, as in a run.

    Returns:
        The pictures' files.

    Raises:
        ConfigError: The config has no such part.
        UserError: The data cannot be used.
    """
    cfg = read_config(options)
    loader_cfg = cfg.get(f'{part}_dataloader')
    if not loader_cfg:
        raise ConfigError(f'{options.config} has no {part}_dataloader.')
    check_datasets(cfg, (part,))
    # Workers would take longer to start than a few images take to load.
    loader_cfg.update(num_workers=0, persistent_workers=False)
    loader_cfg.pop('prefetch_factor', None)
    out = out or Path(cfg.work_dir, f'browse_{part}')
    written: list[Path] = []
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        set_random_seed(seed)
        loader = Runner.build_dataloader(loader_cfg, seed=seed)
        preprocessor = MODELS.build(cfg.model.data_preprocessor)
        pictures = BatchPictures(loader.dataset, preprocessor)
        for number, batch in enumerate(loader, 1):
            seen = preprocessor(batch, training=part == 'train')
            written += write_batch(pictures, seen, out, number, count - len(written))
            if len(written) >= count:
                break
    print(f'{len(written)} pictures in {out}')
    return written
