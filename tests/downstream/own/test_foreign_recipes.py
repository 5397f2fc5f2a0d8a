"""Recipes of mmdet and mmseg on a data set of one's own: all that depends on its classes follows."""

import json
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope

from backbones import ConfigError
from backbones.uninitialised import on_meta
from downstream.data.checks.datasets import check_datasets
from downstream.own.prepare import DataOptions, prepare
from downstream.running.config import TrainOptions, training_config
from tests.downstream.own.test_prepare import instances  # noqa: F401  a fixture


def config_for(recipe: str, data: Path, tmp_path: Path, **options) -> Config:
    words = TrainOptions(
        recipe, work_dir=str(tmp_path / 'run'), backbone='convnext-atto', **options
    )
    return training_config(prepare(words, DataOptions(str(data))))


def samples(cfg: Config) -> list:
    """The first of training and of validation, by a model that can be built."""
    init_default_scope(cfg.default_scope)
    check_datasets(cfg, ('train', 'val'))
    with on_meta():
        MODELS.build(cfg.model)
    loaders = (cfg.train_dataloader, cfg.val_dataloader)
    return [DATASETS.build(loader.dataset)[0] for loader in loaders]


def boxes_alone(instances: Path, tmp_path: Path) -> Path:  # noqa: F811
    content = json.loads((instances / 'labels.json').read_text())
    for one in content['annotations']:
        one['segmentation'], one['iscrowd'] = [], 0
    root = tmp_path / 'boxes'
    root.mkdir()
    for image in content['images']:
        (root / image['file_name']).symlink_to(instances / image['file_name'])
    (root / 'labels.json').write_text(json.dumps(content))
    return root


def test_yolact_learns_the_classes_in_both_heads(instances, tmp_path):  # noqa: F811
    cfg = config_for('mmdet::yolact/yolact_r50_1xb8-55e_coco.py', instances, tmp_path)
    assert (cfg.model.bbox_head.num_classes, cfg.model.mask_head.num_classes) == (3, 3)
    assert cfg.val_evaluator.metric == ['bbox', 'segm']
    train, _ = samples(cfg)
    assert 'masks' in train['data_samples'].gt_instances


def test_a_recipe_of_masks_alone_needs_masks(instances, tmp_path):  # noqa: F811
    data = boxes_alone(instances, tmp_path)
    with pytest.raises(ConfigError, match=r'yolact_r50\S+ learns masks, and there is no part'):
        config_for('mmdet::yolact/yolact_r50_1xb8-55e_coco.py', data, tmp_path)


def test_yolox_mixes_ones_own_images(instances, tmp_path):  # noqa: F811
    recipe = 'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py'
    cfg = config_for(recipe, instances, tmp_path, epochs=20, image_size=208)
    (hook,) = [hook for hook in cfg.custom_hooks if hook.type == 'YOLOXModeSwitchHook']
    assert hook.num_last_epochs == 1
    outer, inner = cfg.train_dataloader.dataset, cfg.train_dataloader.dataset.dataset
    steps = {step.type: step for step in outer.pipeline}
    assert steps['Mosaic'].img_scale == (320, 320)
    assert steps['RandomAffine'].border == (-160, -160)
    assert (outer.type, inner.metainfo['classes']) == ('MultiImageMixDataset', cfg.classes)
    train, val = samples(cfg)
    assert train['inputs'].shape[1:] == (320, 320)
    assert val['inputs'].shape[1:] == (208, 208)
    assert set(train['data_samples'].gt_instances.labels.tolist()) <= {0, 1, 2}


def test_the_batch_of_mmsegs_recipes_is_in_their_names(instances, tmp_path):  # noqa: F811
    recipe = 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'
    cfg = config_for(recipe, instances, tmp_path, image_size=128)
    batch = cfg.train_dataloader.batch_size
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(6e-5 * batch / 16)
    train, _ = samples(cfg)
    # The recipe's own loader leaves the first class out, as ADE20K's masks want.
    assert set(train['data_samples'].gt_sem_seg.data.unique().tolist()) <= {0, 1, 2, 3, 255}
    assert 0 in train['data_samples'].gt_sem_seg.data


def test_a_repeated_data_set_is_seen_once_in_an_epoch(instances, tmp_path):  # noqa: F811
    recipe = 'mmseg::unet/unet-s5-d16_fcn_4xb4-40k_drive-64x64.py'
    cfg = config_for(recipe, instances, tmp_path)
    outer = cfg.train_dataloader.dataset
    assert (outer.type, outer.times) == ('RepeatDataset', 1)
    assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head.num_classes == 4
    samples(cfg)


def test_weights_of_the_recipes_classes_are_left_out_and_said(instances, tmp_path, capsys):  # noqa: F811
    recipe = 'mmseg::cgnet/cgnet_fcn_4xb4-60k_cityscapes-680x680.py'
    cfg = config_for(recipe, instances, tmp_path)
    assert cfg.model.decode_head.loss_decode.class_weight is None
    assert "weights of the recipe's own classes are left out: model.decode_head" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ('recipe', 'message'),
    [
        ('mmdet::htc/htc_r50_fpn_1x_coco.py', 'learns maps of stuff beside the objects'),
        ('mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py', 'learns maps of stuff'),
        ('mmdet::pascal_voc/retinanet_r50_fpn_1x_voc0712.py', 'joins several data sets'),
        ('mmdet::rpn/rpn_r50_fpn_1x_coco.py', 'its model has none of roi_head, bbox_head'),
    ],
)
def test_what_cannot_follow_is_refused_in_one_line(recipe, message, instances, tmp_path):  # noqa: F811
    with pytest.raises(ConfigError, match=f'^--data: .*{message}'):
        config_for(recipe, instances, tmp_path)
    assert not (tmp_path / 'run').exists()
