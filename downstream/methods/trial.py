"""One training step and one prediction of a method with another backbone, on random images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MessageHub
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData

from backbones.errors import UserError
from backbones.weights.timm_catalog import first_line
from downstream.drop_in import drop_in
from downstream.operators.sync_bn import use_torch_sync_bn
from downstream.running.stock.parts import use_predicting_heads
from downstream.running.weights.initialise import initialise_randomly

from .recipes import NOT_TRIED, Method, read

WORKS, NEEDS_MMCV, CANNOT, FAILS, NOT_ONE = 'works', 'needs mmcv', 'cannot', 'fails', 'not tried'
# Sides of the images, in pixels, where the smallest that most methods take is too small.
_SIDES = {'ssd': 320, 'nas_fpn': 128, 'fpg': 128}
_SIDE, _SIDE_OF_DETRS = 64, 128
_QUERIES = 100
# What errors of the libraries mean, by a part of their text.
_MEANINGS = {
    'Please run "pip install sklearn"': "its loss needs scikit-learn: pip install -e '.[methods]'",
}
_NEEDS = dict.fromkeys(('paa', 'lad'), "with scikit-learn: pip install -e '.[methods]'")
# How many recipes of a folder are tried until one takes another backbone.
_RECIPES = 3


@dataclass(frozen=True)
class Outcome:
    """What came of a method with a backbone.

    Attributes:
        status: One of the constants of this module.
        recipe: The recipe that was tried, as the command lines take it.
        note: Why it is not ``WORKS``; else what is worth knowing.
    """

    status: str
    recipe: str
    note: str = ''


def try_method(method: Method, backbone: str) -> Outcome:
    """Drop ``backbone`` into a recipe of ``method``, train a step and predict.

    The recipe is the first of a few that works; if none does, the outcome is that of the first.
    """
    if method.name in NOT_TRIED:
        return Outcome(NOT_ONE, '', NOT_TRIED[method.name])
    refused: Outcome | None = None
    readable = ((path, cfg) for path in method.recipes if (cfg := read(path)))
    for path, cfg in islice(readable, _RECIPES):
        name = method.recipe_name(path)
        # DETRs choose their queries among the positions of all maps.
        usual = _SIDE_OF_DETRS if 'num_queries' in cfg.model else _SIDE
        with _in_folder(path.parents[2]):
            outcome = _try_recipe(cfg, name, backbone, _SIDES.get(method.name, usual))
        if outcome.status not in (CANNOT, FAILS):
            notes = (outcome.note, _NEEDS.get(method.name))
            return replace(outcome, note='; '.join(filter(None, notes)))
        refused = refused or outcome
    return refused or Outcome(CANNOT, '', 'no recipe of this folder can be read')


@contextmanager
def _in_folder(folder: Path) -> Iterator[None]:
    """Recipes name files from the folder that ``configs`` is in."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _try_recipe(cfg: Config, name: str, backbone: str, side: int) -> Outcome:
    torch.manual_seed(0)
    try:
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
            drop_in(cfg, backbone)
            use_torch_sync_bn(cfg.model)
            use_predicting_heads(cfg)
            _make_small(cfg.model, side)
            model = revert_sync_batchnorm(MODELS.build(cfg.model))
            initialise_randomly(model)
            note = _train(model, cfg, side)
            _predict(model, cfg, side)
    except UserError as error:
        return Outcome(CANNOT, name, str(error).partition(': ')[2] or str(error))
    except NotImplementedError as error:
        words = first_line(error).partition(', which is not installed')[0]
        return Outcome(NEEDS_MMCV if 'mmcv' in words else FAILS, name, words)
    except Exception as error:  # a method may fail in any way
        text = f'{type(error).__name__}: {first_line(error)}'
        meant = next((meaning for part, meaning in _MEANINGS.items() if part in text), text)
        return Outcome(FAILS, name, meant)
    return Outcome(WORKS, name, note)


def _make_small(model: ConfigDict, side: int) -> None:
    """Let ``model`` take small images, and no teacher read a file of weights."""
    for holder in (model, model.get('detector') or {}):
        preprocessor = holder.get('data_preprocessor') or {}
        for at in (preprocessor, preprocessor.get('data_preprocessor') or {}):
            at.pop('batch_augments', None)
            if 'size' in at:
                at['size'] = (side, side)
    if 'num_queries' in model:
        model.num_queries = min(model.num_queries, _QUERIES)
    for key in [key for key in model if key.endswith('ckpt')]:
        model[key] = None


def _train(model: Any, cfg: Config, side: int) -> str:
    """A step; every gradient of the backbone must be finite. Returns what is worth knowing."""
    model.train()
    for name in ('iter', 'epoch'):  # a runner's, which BoxInst and TOOD read
        MessageHub.get_current_instance().update_info(name, 0)
    data = model.data_preprocessor(_batch(cfg, side, 2), training=True)
    losses = model(**data, mode='loss')
    loss, _ = model.parse_losses(losses)
    loss.backward()
    inner = getattr(model, 'student', model)
    trained = {n: p for n, p in inner.backbone.named_parameters() if p.requires_grad}
    without = [n for n, p in trained.items() if p.grad is None]
    if not torch.isfinite(loss):
        raise ValueError(f'the loss is {loss.item()}')
    if len(without) == len(trained):
        raise ValueError('no parameter of the backbone gets a gradient')
    if not all(torch.isfinite(p.grad).all() for p in trained.values() if p.grad is not None):
        raise ValueError('gradients of the backbone are not finite')
    torch.optim.SGD([p for p in model.parameters() if p.grad is not None], lr=1e-6).step()
    return f'{len(without)} parameters of the backbone get no gradient' if without else ''


@torch.no_grad()
def _predict(model: Any, cfg: Config, side: int) -> None:
    model.eval()
    data = model.data_preprocessor(_batch(cfg, side, 1, branches=False), training=False)
    found = model(**data, mode='predict')
    if len(found) != 1:
        raise ValueError(f'{len(found)} predictions for one image')


def _batch(cfg: Config, side: int, count: int, branches: bool = True) -> dict:
    generator = torch.Generator().manual_seed(0)
    images = [
        torch.randint(0, 256, (3, side, side), generator=generator).to(torch.uint8)
        for _ in range(count)
    ]
    make = _segmented if cfg.default_scope == 'mmseg' else _detected
    samples = [make(cfg, side, generator) for _ in images]
    if branches and 'semi_train_cfg' in cfg.model:
        names = ('sup', 'unsup_teacher', 'unsup_student')
        return {
            'inputs': dict.fromkeys(names, images),
            'data_samples': dict.fromkeys(names, samples),
        }
    return {'inputs': images, 'data_samples': samples}


def _meta(side: int) -> dict:
    return {
        'img_id': 0,
        'img_path': '0.png',
        'img_shape': (side, side),
        'batch_input_shape': (side, side),
        'ori_shape': (side, side),
        'pad_shape': (side, side),
        'scale_factor': (1.0, 1.0),
        'flip': False,
        'flip_direction': None,
        'homography_matrix': np.eye(3, dtype=np.float32),
    }


def _detected(cfg: Config, side: int, generator: torch.Generator):
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    masks = np.zeros((2, side, side), np.uint8)
    boxes = torch.tensor([[0.1, 0.1, 0.6, 0.7], [0.4, 0.3, 0.95, 0.9]]) * side
    for mask, (left, top, right, bottom) in zip(masks, boxes.long().tolist()):
        mask[top:bottom, left:right] = 1
    sample = DetDataSample(metainfo=_meta(side))
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 0]))
    if "'with_mask': True" in str(cfg.get('train_pipeline')):
        sample.gt_instances.masks = BitmapMasks(masks, side, side)
    sample.ignored_instances = InstanceData(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
    )
    sample.gt_sem_seg = PixelData(sem_seg=torch.zeros(1, side, side, dtype=torch.long))
    if cfg.model.get('type') == 'FastRCNN':
        jittered = boxes + torch.rand(2, 4, generator=generator)
        sample.proposals = InstanceData(bboxes=jittered.clamp(0, side), scores=torch.ones(2))
    return sample


def _segmented(cfg: Config, side: int, generator: torch.Generator):
    from mmseg.structures import SegDataSample

    def labels() -> PixelData:
        return PixelData(data=torch.randint(0, 2, (1, side, side), generator=generator))

    sample = SegDataSample(metainfo=_meta(side), gt_sem_seg=labels())
    sample.gt_edge_map = labels()
    return sample
