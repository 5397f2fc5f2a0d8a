"""Whether a pre-training learns from neighbours: its loss beside that of images with shuffled cells.

    python -m benchmarks.shuffled_cells --data data/coco/train2017 --held-out data/coco/val2017

The same network is trained twice, in equal numbers of steps: on crops as they are, and on crops whose
cells of 32 x 32 pixels have changed places at random. The second can learn the colours and textures of
an image and what patches look like, but nothing from neighbours. Losses are those of images that neither
has seen, each with the same hidden cells; 1.0 is what predicting the mean of each patch gives.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.registry import TRANSFORMS
from torch import Tensor, nn

import downstream  # noqa: F401  before others of OpenMMLab
from downstream.running.train import build_runner
from pretraining import FCMAE
from pretraining.data import UnlabelledImages
from pretraining.pictures import centred
from pretraining.train import PretrainOptions, pretraining_config

_RECIPE = 'fcmae_convnextv2-atto_shapes'
_DRAWS = 8


@TRANSFORMS.register_module()
class ShuffleCells(BaseTransform):
    """Exchanges the cells of an image at random.

    Args:
        cell: Side of a cell in pixels, of which the image is a whole number.
    """

    def __init__(self, cell: int = 32) -> None:
        self.cell = cell

    def transform(self, results: dict) -> dict:
        """Replace ``img`` ``(H, W, C)``."""
        image = results['img']
        height, width, channels = image.shape
        rows, columns = height // self.cell, width // self.cell
        cells = image.reshape(rows, self.cell, columns, self.cell, channels).swapaxes(1, 2)
        cells = cells.reshape(-1, self.cell, self.cell, channels)
        cells = cells[torch.randperm(len(cells)).numpy()]
        cells = cells.reshape(rows, columns, self.cell, self.cell, channels).swapaxes(1, 2)
        results['img'] = np.ascontiguousarray(cells).reshape(image.shape)
        return results


def config(args: argparse.Namespace, shuffled: bool) -> Config:
    """A pre-training of ``args.steps`` steps."""
    name = 'shuffled' if shuffled else 'as_they_are'
    options = PretrainOptions(_RECIPE, str(args.out / name), data=tuple(args.data))
    options.cfg_options['randomness.seed'] = 0
    options.image_size = args.image_size
    cfg = pretraining_config(options)
    dataset = cfg.train_dataloader.dataset
    dataset.pipeline[1].area = (0.2, 1.0)
    if shuffled:
        dataset.pipeline.insert(2, {'type': 'ShuffleCells'})
    images = len(UnlabelledImages(dataset.sources))
    epochs = max(1, round(args.steps / (images // cfg.train_dataloader.batch_size)))
    cfg.train_cfg.max_epochs = epochs
    cfg.param_scheduler[0].update(warm_up=0.1 * epochs, end=epochs)
    for hook in ('checkpoint', 'reconstructions'):
        cfg.default_hooks[hook].interval = epochs
    return cfg


def images_of(folder: Path, cfg: Config, shuffled: bool) -> Tensor:
    """The middles of all images of a folder, ``(N, 3, H, W)`` of uint8, cells shuffled or not."""
    pipeline = [
        step for step in cfg.train_dataloader.dataset.pipeline if step.type != 'ShuffleCells'
    ]
    if shuffled:
        pipeline.insert(2, {'type': 'ShuffleCells'})
    dataset = UnlabelledImages(str(folder), pipeline)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.stack([centred(dataset, index)['inputs'] for index in range(len(dataset))])


@torch.no_grad()
def held_out_loss(model: nn.Module, images: Tensor) -> float:
    """The mean loss of ``images`` over several draws of hidden cells."""
    assert isinstance(model, FCMAE)
    model.eval()
    inputs = model.data_preprocessor({'inputs': list(images)})['inputs']
    losses = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(_DRAWS):
            losses.append(float(model(inputs, mode='loss')['loss']))
    return float(np.mean(losses))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', nargs='+', required=True, metavar='DIR')
    parser.add_argument('--held-out', type=Path, required=True, metavar='DIR')
    parser.add_argument('--steps', type=int, default=400)
    parser.add_argument('--image-size', type=int, metavar='PIXELS')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/shuffled_cells'))
    args = parser.parse_args()
    for trained in (False, True):
        runner = build_runner(config(args, trained))
        runner.train()
        for seen in (False, True):
            line = {
                'trained on': 'shuffled' if trained else 'as they are',
                'tested on': 'shuffled' if seen else 'as they are',
                'loss': round(
                    held_out_loss(runner.model, images_of(args.held_out, runner.cfg, seen)), 4
                ),
            }
            print(json.dumps(line), flush=True)


if __name__ == '__main__':
    main()
