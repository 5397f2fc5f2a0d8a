"""Small sound data sets, to be spoiled: images of random blocks with polygons, or with masks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mmengine.config import Config
from PIL import Image

WIDTH, HEIGHT = 96, 72
_CELL = 12


def picture(seed: int) -> Image.Image:
    """Random blocks, different for each seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, (HEIGHT // _CELL, WIDTH // _CELL, 3))
    return Image.fromarray(np.kron(blocks, np.ones((_CELL, _CELL, 1))).astype(np.uint8))


def rectangle(x: float, y: float, width: float, height: float) -> list[list[float]]:
    """A polygon of four corners."""
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


@dataclass
class DetectionSet:
    """Four images in training and validation, six objects of two classes in each.

    ``train`` and ``val`` are COCO's dicts, to be changed before :meth:`config` writes them.
    """

    root: Path
    classes: tuple[str, ...] | str = ('bolt', 'nut')
    train: dict = field(default_factory=dict)
    val: dict = field(default_factory=dict)
    pipeline: list[dict] = field(
        default_factory=lambda: [
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(type='Resize', scale=(192, 144), keep_ratio=True),
            dict(type='PackDetInputs'),
        ]
    )

    def __post_init__(self) -> None:
        for number, name in enumerate(('train', 'val')):
            (self.root / name).mkdir(parents=True)
            setattr(self, name, self._part(name, 100 * number))

    def _part(self, name: str, seed: int) -> dict:
        images, annotations = [], []
        for i in range(4):
            file = f'{name}_{i}.png'
            picture(seed + i).save(self.root / name / file)
            images.append(dict(id=i + 1, file_name=file, width=WIDTH, height=HEIGHT))
            for j in range(6):
                box = [4 + 30 * (j % 3), 6 + 34 * (j // 3), 20 + i, 22 + i]
                annotations.append(
                    dict(
                        id=10 * i + j + 1,
                        image_id=i + 1,
                        category_id=3 + 4 * (j % 2),
                        bbox=box,
                        area=box[2] * box[3],
                        iscrowd=0,
                        segmentation=rectangle(*box),
                    )
                )
        categories = [dict(id=3, name='bolt'), dict(id=7, name='nut')]
        return dict(images=images, annotations=annotations, categories=categories)

    def image(self, number: int = 0, part: str = 'train') -> Path:
        """The path of an image."""
        return self.root / part / f'{part}_{number}.png'

    def boxes_only(self) -> None:
        """Load no masks, and leave them out of the annotations."""
        self.pipeline[1]['with_mask'] = False
        for part in (self.train, self.val):
            for annotation in part['annotations']:
                annotation.pop('segmentation', None)

    def config(self) -> Config:
        """Write the annotations; a config of them."""
        loaders = {}
        for name in ('train', 'val'):
            (self.root / f'{name}.json').write_text(json.dumps(getattr(self, name)))
            dataset = dict(
                type='CocoDataset',
                data_root=str(self.root),
                ann_file=f'{name}.json',
                data_prefix=dict(img=f'{name}/'),
                metainfo=dict(classes=self.classes),
                pipeline=self.pipeline,
                test_mode=name == 'val',
            )
            loaders[f'{name}_dataloader'] = dict(dataset=dataset)
        return Config(dict(default_scope='mmdet', model=dict(), **loaders))


@dataclass
class SegmentationSet:
    """Four images in training and validation, masks with the classes 0, 1 and 2 and a strip of 255."""

    root: Path
    classes: tuple[str, ...] = ('road', 'car', 'sky')
    reduce_zero_label: bool = False
    changes: list[Callable[[np.ndarray], np.ndarray]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for number, name in enumerate(('train', 'val')):
            for kind in ('images', 'masks'):
                (self.root / kind / name).mkdir(parents=True)
            for i in range(4):
                picture(100 * number + i).save(self.image(i, name))
                Image.fromarray(sound_mask(i)).save(self.mask(i, name))

    def image(self, number: int = 0, part: str = 'train') -> Path:
        """The path of an image."""
        return self.root / 'images' / part / f'{part}_{number}.jpg'

    def mask(self, number: int = 0, part: str = 'train') -> Path:
        """The path of a mask."""
        return self.root / 'masks' / part / f'{part}_{number}.png'

    def change_masks(
        self, change: Callable[[np.ndarray], np.ndarray], parts: tuple = ('train', 'val')
    ) -> None:
        """Save every mask as ``change`` returns it."""
        for part in parts:
            for i in range(4):
                Image.fromarray(change(np.array(Image.open(self.mask(i, part))))).save(
                    self.mask(i, part)
                )

    def config(self) -> Config:
        """A config of it."""
        loaders = {}
        for name in ('train', 'val'):
            dataset = dict(
                type='BaseSegDataset',
                data_root=str(self.root),
                data_prefix=dict(img_path=f'images/{name}', seg_map_path=f'masks/{name}'),
                metainfo=dict(classes=self.classes, palette=[[9, 9, 9]] * len(self.classes)),
                reduce_zero_label=self.reduce_zero_label,
                pipeline=[
                    dict(type='LoadImageFromFile'),
                    dict(type='LoadAnnotations'),
                    dict(type='Resize', scale=(192, 144), keep_ratio=True),
                ],
                test_mode=name == 'val',
            )
            loaders[f'{name}_dataloader'] = dict(dataset=dataset)
        return Config(dict(default_scope='mmseg', model=dict(), **loaders))


def sound_mask(number: int) -> np.ndarray:
    """Road below, sky above, a car between, an unlabelled strip."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[: 20 + number] = 2
    mask[40:60, 30 : 60 + number] = 1
    mask[:, :3] = 255
    return mask
