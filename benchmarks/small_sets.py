"""Small sets: the schedule that follows from the number of images, beside the recipe's own.

    python -m benchmarks.small_sets --images 16 64 256 --steps 200

Both take the same number of steps on the embedded data set, with the same batch, seed and model: the
recipe's own schedule (500 steps of warm-up) and the one of ``tools/train.py --data``. Each line
is the box AP on the same validation images.
"""

from __future__ import annotations

import argparse
import json
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory

from mmengine.config import Config

import downstream  # noqa: F401  before mmdet
from downstream.data.shapes import make_shapes
from downstream.own.recipe import apply, read_schedule
from downstream.own.schedule import schedule
from downstream.paths import CONFIGS
from downstream.running.train import build_runner

_RECIPE = CONFIGS / 'det/cascade-mask-rcnn_convnext-tiny_in1k_3x_coco.py'
_MODEL = CONFIGS / 'det/cascade-mask-rcnn_convnext-atto_shapes.py'
_VALIDATION, _BATCH, _SEED = 24, 2, 0


def config(root: Path, images: int, steps: int, by_size: bool) -> Config:
    """The embedded example on ``images`` images for about ``steps`` steps, with one of the schedules."""
    cfg, recipe = Config.fromfile(_MODEL), Config.fromfile(_RECIPE)
    make_shapes(root, training=images, validation=_VALIDATION)
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[loader].dataset.data_root = f'{root}/'
    truth = f'{root}/annotations/instances_validation.json'
    cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = truth
    for key in ('train_cfg', 'param_scheduler', 'auto_scale_lr'):
        cfg[key] = recipe[key]
    # The example's rate is for a batch of 2: its model starts from random weights.
    cfg.auto_scale_lr.base_batch_size = _BATCH
    epochs = max(1, round(steps / ceil(images / _BATCH)))
    if by_size:
        chosen = schedule(read_schedule(cfg), images, _VALIDATION, epochs=epochs, batch=_BATCH)
        apply(chosen, cfg, images, processes=1)
    else:
        milestones = cfg.param_scheduler[1]
        milestones.milestones = sorted(
            {round(m * epochs / 36) for m in milestones.milestones} - {epochs}
        )
        cfg.train_cfg.max_epochs = milestones.end = epochs
    cfg.train_cfg.val_interval = epochs
    cfg.default_hooks.checkpoint.interval = epochs
    cfg.randomness = dict(seed=_SEED)
    return cfg


def box_ap(cfg: Config, work_dir: Path) -> float:
    """Box AP x 100 on the validation images after the run of ``cfg``."""
    cfg.work_dir, cfg.launcher = str(work_dir), 'none'
    runner = build_runner(cfg)
    runner.train()
    return 100 * runner.message_hub.get_scalar('val/coco/bbox_mAP').current()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--images', type=int, nargs='+', default=[16, 64, 256])
    parser.add_argument('--steps', type=int, default=200)
    args = parser.parse_args()
    for images in args.images:
        line = {'images': images, 'steps': args.steps}
        for name, by_size in (('recipe', False), ('by size', True)):
            with TemporaryDirectory() as folder:
                cfg = config(Path(folder) / 'shapes', images, args.steps, by_size)
                line[name] = round(box_ap(cfg, Path(folder) / 'run'), 2)
        print(json.dumps(line), flush=True)


if __name__ == '__main__':
    main()
