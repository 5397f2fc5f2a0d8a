"""The embedded example: pre-training on unlabelled shapes, then the detector from its encoder."""

from __future__ import annotations

from pathlib import Path

from downstream.commands.demo import CONFIGS
from downstream.data.shapes import make_shapes
from downstream.running.config import TestOptions, TrainOptions, read_config
from downstream.running.test import evaluate
from downstream.running.train import train

from .train import PretrainOptions, pretrain

CONFIG = 'configs/pretrain/fcmae_convnextv2-atto_shapes.py'
_IMAGES = 256


def demo() -> Path:
    """Pre-train on images without labels, train the detector from that, and test it.

    An encoder that an earlier call wrote is taken; an interrupted run goes on.

    Returns:
        The encoder's file.
    """
    cfg = read_config(PretrainOptions(CONFIG))
    make_shapes(Path(cfg.data_root), training=_IMAGES, validation=0)
    encoder = Path(cfg.work_dir, 'encoder.safetensors')
    if not encoder.is_file():
        pretrain(PretrainOptions(CONFIG, resume=_resume(Path(cfg.work_dir))))
    make_shapes(Path(read_config(TrainOptions(CONFIGS['detection'])).data_root))
    work_dir = Path('work_dirs/cascade-mask-rcnn_convnextv2-atto_pretrained_shapes')
    options = TrainOptions(
        CONFIGS['detection'],
        work_dir=str(work_dir),
        backbone='convnextv2-atto',
        weights=str(encoder),
        resume=_resume(work_dir),
    )
    runner = train(options)
    last = f'epoch_{runner.max_epochs}.pth'
    evaluate(
        TestOptions(
            options.config,
            work_dir=options.work_dir,
            backbone=options.backbone,
            checkpoint=str(work_dir / last),
        )
    )
    return encoder


def _resume(work_dir: Path) -> str | None:
    return 'auto' if (work_dir / 'last_checkpoint').is_file() else None
