"""Recipes of methods that mmdetection and mmsegmentation have, beside their own configs."""

from pathlib import Path

import mmdet
import mmseg
import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from backbones.uninitialised import on_meta
from downstream.zoo import complexity, find_row

RTMDET = 'rtmdet-l_convnext-base_in22k-in1k-384_100e_coco'
SEGMENTER = 'mask2former_swin-tiny_in1k_160k_ade20k-512x512'
INSTANCES = 'mask2former_swin-tiny_in1k_50e-lsj_coco'


def stock(library, path: str) -> Config:
    folder = Path(library.__file__).parent / '.mim' / 'configs'
    return Config.fromfile(folder / path, import_custom_modules=False)


def differences(ours, theirs, place: str = '') -> set[str]:
    """Where two configs have other values; without what ours leaves at its default."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = set(ours) & set(theirs)
        return set().union(*(differences(ours[k], theirs[k], f'{place}.{k}') for k in keys))
    if isinstance(ours, (list, tuple)) and len(ours) == len(theirs):
        pairs = zip(ours, theirs)
        return set().union(*(differences(a, b, f'{place}.{i}') for i, (a, b) in enumerate(pairs)))
    if isinstance(ours, str) and isinstance(theirs, str):
        ours, theirs = (name.removeprefix('mmdet.') for name in (ours, theirs))
    return set() if ours == theirs else {place}


def test_rtmdet_is_mmdetections():
    ours = find_row(RTMDET).cfg
    theirs = stock(mmdet, 'rtmdet/rtmdet_l_convnext_b_4xb32-100e_coco.py')
    for part in ('neck', 'bbox_head', 'train_cfg', 'test_cfg'):
        assert not differences(ours.model[part], theirs.model[part], part)
    for own, name in (
        ('train_pipeline', 'train_pipeline'),
        ('last_pipeline', 'train_pipeline_stage2'),
    ):
        assert not differences(list(ours[own]), list(theirs[name]), own)
    assert not differences(list(ours.param_scheduler), list(theirs.param_scheduler))
    assert not differences(dict(ours.train_cfg), dict(theirs.train_cfg))
    assert not differences(list(ours.custom_hooks)[:1], list(theirs.custom_hooks)[:1])
    paramwise = theirs.optim_wrapper.paramwise_cfg
    assert ours.optim_wrapper.paramwise_cfg.decay_rate == paramwise.decay_rate
    assert ours.optim_wrapper.paramwise_cfg.decay_type == paramwise.decay_type
    assert theirs.train_dataloader.batch_size * 4 == ours.train_dataloader.batch_size * 8


@pytest.mark.parametrize(
    ('row', 'library', 'path', 'part'),
    [
        (
            SEGMENTER,
            mmseg,
            'mask2former/mask2former_swin-t_8xb2-160k_ade20k-512x512.py',
            'decode_head',
        ),
        (
            INSTANCES,
            mmdet,
            'mask2former/mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco.py',
            'panoptic_head',
        ),
    ],
)
def test_mask2former_is_theirs_but_for_the_data_and_precision(row, library, path, part):
    ours, theirs = find_row(row).cfg, stock(library, path)
    assert not differences(ours.model[part], theirs.model[part], part)
    assert not differences(ours.model.test_cfg, theirs.model.test_cfg)
    assert not differences(ours.optim_wrapper.optimizer, theirs.optim_wrapper.optimizer)
    assert not differences(ours.optim_wrapper.clip_grad, theirs.optim_wrapper.clip_grad)
    with DefaultScope.overwrite_default_scope(theirs.default_scope), on_meta():
        heads = [MODELS.build(cfg.model[part]) for cfg in (ours, theirs)]
    assert complexity.parameters(heads[0]) == complexity.parameters(heads[1])


def test_what_is_official_and_not_theirs():
    """facebookresearch/Mask2Former pads with grey before normalisation, and uses mixed precision."""
    for row in (SEGMENTER, INSTANCES):
        cfg = find_row(row).cfg
        assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
        pad = next(step for step in cfg.train_pipeline if step.type == 'Pad')
        assert pad.pad_val.img == (128, 128, 128)
    crop = next(
        step for step in find_row(SEGMENTER).cfg.train_pipeline if step.type == 'RandomCrop'
    )
    assert 'cat_max_ratio' not in crop
    sides = next(s for s in find_row(SEGMENTER).cfg.train_pipeline if 'scales' in s).scales
    assert sides == [(2048, int(512 * 0.1 * n)) for n in range(5, 21)]
