"""Recipes of mmdet and mmseg on a data set of one's own: all that depends on its classes follows."""

import json
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope

from backbones import ConfigError
from backbones.uninitialised import on_meta
from downstream.data.checks.datasets import check_datasets
from downstream.own.joined import without_joins
from downstream.own.prepare import DataOptions, prepare
from downstream.own.recipe import read_schedule, recipe_file
from downstream.paths import read_file
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


def test_one_data_set_takes_the_place_of_joined_ones(instances, tmp_path, capsys):  # noqa: F811
    recipe = 'mmdet::pascal_voc/ssd300_voc0712.py'
    cfg = config_for(recipe, instances, tmp_path, image_size=150)
    assert 'train: takes the place of the 2 data sets that the recipe joins' in (
        capsys.readouterr().out
    )
    outer = cfg.train_dataloader.dataset
    assert (outer.type, outer.times, outer.dataset.type) == ('RepeatDataset', 1, 'CocoDataset')
    assert 'datasets' not in outer.dataset
    resize = next(step for step in outer.dataset.pipeline if step.type == 'Resize')
    assert resize.scale == (150, 150)
    assert outer.dataset.filter_cfg == {'filter_empty_gt': True, 'min_size': 32}
    assert cfg.val_evaluator == dict(
        type='CocoMetric', metric='bbox', ann_file=cfg.val_dataloader.dataset.ann_file
    )
    train, _ = samples(cfg)
    assert set(train['data_samples'].gt_instances.labels.tolist()) <= {0, 1, 2}


@pytest.mark.parametrize(
    ('recipe', 'epochs', 'images'),
    [
        # 4 epochs of each of 16,551 images three times; 20,000 steps of 16 of 10,582 images
        ('mmdet::pascal_voc/retinanet_r50_fpn_1x_voc0712.py', 12, 16_551),
        ('mmseg::fcn/fcn_r50-d8_4xb4-20k_voc12aug-512x512.py', 320_000 / 10_582, 10_582),
        ('mmseg::fcn/fcn_r50-d8_4xb4-40k_pascal-context-480x480.py', 640_000 / 4_998, 4_998),
        ('mmdet::lvis/mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1.py', 12, 100_170),
        ('mmdet::rpn/rpn_r50_fpn_1x_coco.py', 12, 118_287),
    ],
)
def test_the_length_follows_from_the_images_of_the_recipe(recipe, epochs, images):
    cfg = read_file(recipe_file(recipe), imports=False)
    without_joins(cfg, recipe)
    found = read_schedule(cfg)
    assert (found.epochs, found.images) == (pytest.approx(epochs), images)


def test_masks_take_the_place_of_joined_ones(instances, tmp_path):  # noqa: F811
    recipe = 'mmseg::fcn/fcn_r50-d8_4xb4-20k_voc12aug-512x512.py'
    cfg = config_for(recipe, instances, tmp_path, image_size=128)
    assert cfg.train_dataloader.dataset.type == 'BaseSegDataset'
    crop = next(step for step in cfg.train_dataloader.dataset.pipeline if step.type == 'RandomCrop')
    assert crop.crop_size == (128, 128)
    train, _ = samples(cfg)
    assert train['inputs'].shape[1:] == (128, 128)


def test_mixed_joined_sets_are_mixed_as_one(instances, tmp_path):  # noqa: F811
    recipe = 'mmdet::strongsort/yolox_x_8xb4-80e_crowdhuman-mot17halftrain_test-mot17halfval.py'
    cfg = config_for(recipe, instances, tmp_path, image_size=160)
    outer = cfg.train_dataloader.dataset
    assert (outer.type, outer.dataset.type) == ('MultiImageMixDataset', 'CocoDataset')
    samples(cfg)


def test_joined_sets_with_two_pipelines_are_refused(instances, tmp_path):  # noqa: F811
    recipe = tmp_path / 'two.py'
    recipe.write_text(
        "_base_ = 'mmseg::fcn/fcn_r50-d8_4xb4-20k_voc12aug-512x512.py'\n"
        'first, second = _base_.train_dataloader.dataset.datasets\n'
        'second = dict(second, pipeline=[*second.pipeline[:4], *second.pipeline[5:]])\n'
        'train_dataloader = dict(dataset=dict(datasets=[first, second]))\n'
    )
    with pytest.raises(
        ConfigError, match=r'^--data: two.py joins 2 data sets .* number 2 has another'
    ):
        config_for(str(recipe), instances, tmp_path)
    assert not (tmp_path / 'run').exists()


def test_joined_sets_that_mix_their_own_images_are_refused(instances, tmp_path):  # noqa: F811
    recipe = tmp_path / 'mixes.py'
    recipe.write_text(
        "_base_ = 'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py'\n"
        'one = _base_.train_dataloader.dataset\n'
        "both = dict(_delete_=True, type='ConcatDataset', datasets=[one, one])\n"
        'train_dataloader = dict(dataset=both)\n'
    )
    message = r'^--data: mixes.py joins data sets .* own images \(MultiImageMixDataset\)'
    with pytest.raises(ConfigError, match=message):
        config_for(str(recipe), instances, tmp_path)


def test_the_start_of_ones_own_config_stays(instances, tmp_path):  # noqa: F811
    """It may have the new backbone; that of a recipe of mmdet has the one that is replaced."""
    recipe = tmp_path / 'own.py'
    recipe.write_text(
        "_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'\nload_from = 'mine.pth'\n"
    )
    assert config_for(str(recipe), instances, tmp_path).load_from == 'mine.pth'


def test_arguments_of_another_class_of_data_sets_are_left_out(instances, tmp_path):  # noqa: F811
    """Such as the hierarchy of Open Images; that class reads what no COCO file has."""
    recipe = 'mmdet::openimages/retinanet_r50_fpn_32xb2-1x_openimages.py'
    cfg = config_for(recipe, instances, tmp_path)
    own = cfg.train_dataloader.dataset
    assert own.type == 'CocoDataset'
    assert not {'hierarchy_file', 'label_file', 'meta_file'} & set(own)
    samples(cfg)


def test_an_rpn_learns_where_objects_are(instances, tmp_path, capsys):  # noqa: F811
    cfg = config_for(
        'mmdet::rpn/rpn_r50_fpn_1x_coco.py', instances, tmp_path, image_size=160, patience=2
    )
    assert 'an RPN alone: it learns where objects are' in capsys.readouterr().out
    assert 'num_classes' not in cfg.model.rpn_head  # mmdet's RPN has one, whatever the data have
    assert cfg.val_evaluator.type == 'ProposalRecallMetric'
    assert cfg.val_evaluator.ann_file == cfg.val_dataloader.dataset.ann_file
    assert cfg.default_hooks.patience.monitor == 'coco/AR@1000'
    train, _ = samples(cfg)
    assert len(train['data_samples'].gt_instances)


def test_what_the_replaced_backbone_needs_may_be_missing(instances, tmp_path):  # noqa: F811
    """mmdet's recipes on ConvNeXt import mmpretrain, which is not installed."""
    recipe = 'mmdet::convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py'
    cfg = config_for(recipe, instances, tmp_path)
    assert cfg.model.backbone.type == 'ConvNeXt'


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
        (
            'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py',
            'learns from images without labels beside labelled ones',
        ),
        ('mmdet::fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py', 'boxes that another model proposed'),
        ('mmdet::ld/ld_r50-gflv1-r101_fpn_1x_coco.py', "knows the recipe's own classes"),
        (
            'mmdet::deepsort/deepsort_faster-rcnn_r50_fpn_8xb2-4e_mot17train_test-mot17test.py',
            'holds a detector for videos',
        ),
        (
            'mmseg::swin/swin-tiny-patch4-window7_upernet_1xb8-20k_levir-256x256.py',
            'learns from pairs of images',
        ),
        ('mmdet::centernet/centernet_tta.py', 'its model has none of'),
        ('mmdet::dsdl/voc0712.py', 'the config has no train_dataloader.batch_size'),
        (
            'mmdet::mm_grounding_dino/grounding_dino_swin-t_pretrain_obj365.py',
            'learns from texts beside the images',
        ),
    ],
)
def test_what_cannot_follow_is_refused_in_one_line(recipe, message, instances, tmp_path):  # noqa: F811
    with pytest.raises(ConfigError, match=f'^--data: .*{message}'):
        config_for(recipe, instances, tmp_path)
    assert not (tmp_path / 'run').exists()
