"""Every config is complete after `Config.fromfile`, and the recipes are the published ones."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from downstream.drop_in import without_masks
from tests.support.schedules import learning_rates

ROOT = Path(__file__).resolve().parents[1]
LEAVES = sorted(p for task in ('det', 'seg') for p in (ROOT / 'configs' / task).glob('*.py'))
CASCADE = 'configs/det/cascade-mask-rcnn_convnext-tiny_in1k_3x_coco.py'
UPERNET = 'configs/seg/upernet_convnext-tiny_in1k_160k_ade20k-512x512.py'


def read(path) -> Config:
    return Config.fromfile(ROOT / path)


def build(cfg: Config) -> nn.Module:
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        return MODELS.build(cfg.model)


def one_of_each_kind() -> list:
    """All recipes as parameters; slow where one before has the method, schedule, data and family."""
    seen, parameters = set(), []
    for path in LEAVES:
        method, backbone, *_ = parts = path.stem.split('_')
        kind = (method, backbone.partition('-')[0], *parts[3:])
        marks = [pytest.mark.slow] if kind in seen else []
        seen.add(kind)
        parameters.append(pytest.param(path, marks=marks, id=path.stem))
    return parameters


@pytest.mark.parametrize('path', one_of_each_kind())
def test_is_complete_and_states_no_channels_of_its_backbone(path, tmp_path):
    cfg = Config.fromfile(path)
    for key in (
        'model',
        'train_dataloader',
        'val_dataloader',
        'test_dataloader',
        'optim_wrapper',
        'param_scheduler',
        'train_cfg',
        'default_hooks',
        'tta_model',
        'tta_pipeline',
    ):
        assert cfg.get(key), key
    # what is dumped into the work dir is the same config, without this repository's base files
    cfg.dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').to_dict() == cfg.to_dict()
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        channels = MODELS.build(cfg.model.backbone).out_channels
    assert not set(map(str, channels)) & set(path.read_text().replace('=', ' ').split())


@pytest.mark.parametrize('path', [p for p in LEAVES if 'shapes' in p.stem], ids=lambda p: p.stem)
def test_the_embedded_examples_build(path):
    assert build(Config.fromfile(path))


def test_whole_models_have_the_published_parameters():
    count = lambda path: sum(p.numel() for p in build(read(path)).parameters())  # noqa: E731
    assert count(CASCADE) == 85_930_578
    assert count(UPERNET) == 60_242_636


def test_cascade_recipe():
    cfg = read(CASCADE)
    assert cfg.model.backbone == {
        'type': 'ConvNeXt',
        'arch': 'tiny',
        'drop_path_rate': 0.4,
        'init_cfg': {'type': 'Pretrained', 'checkpoint': 'convnext-tiny_in1k'},
    }
    assert build(cfg).backbone.stages[0][0].gamma is not None
    heads = cfg.model.roi_head.bbox_head
    assert [head.bbox_coder.target_stds for head in heads] == [
        [0.1, 0.1, 0.2, 0.2],
        [0.05, 0.05, 0.1, 0.1],
        [0.033, 0.033, 0.067, 0.067],
    ]
    assert [stage.assigner.pos_iou_thr for stage in cfg.model.train_cfg.rcnn] == [0.5, 0.6, 0.7]
    assert cfg.model.roi_head.stage_loss_weights == [1, 0.5, 0.25]
    for head in heads:
        assert (head.num_shared_convs, head.num_shared_fcs, head.fc_out_channels) == (4, 1, 1024)
        assert head.reg_decoded_bbox
        assert not head.reg_class_agnostic
        assert head.loss_bbox == {'type': 'GIoULoss', 'loss_weight': 10.0}
        assert head.norm_cfg.type == 'SyncBN'
    test = cfg.model.test_cfg
    assert (test.rpn.nms_pre, test.rpn.max_per_img) == (1000, 1000)
    assert (test.rcnn.score_thr, test.rcnn.nms.iou_threshold, test.rcnn.max_per_img) == (
        0.05,
        0.5,
        100,
    )
    assert cfg.model.train_cfg.rpn_proposal.max_per_img == 2000
    assert cfg.model.roi_head.bbox_roi_extractor.type == 'Float32RoIExtractor'
    assert cfg.optim_wrapper == {
        'type': 'AmpOptimWrapper',
        'optimizer': {'type': 'AdamW', 'lr': 2e-4, 'betas': (0.9, 0.999), 'weight_decay': 0.05},
        'constructor': 'LayerDecayOptimWrapperConstructor',
        'paramwise_cfg': {'decay_type': 'layer_wise', 'decay_rate': 0.7},
    }
    assert cfg.train_cfg.max_epochs == 36
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 16
    choice = cfg.train_pipeline[3].transforms
    assert choice[0][0].scales == [(side, 1333) for side in range(480, 801, 32)]
    assert choice[1][0].scales == [(400, 1333), (500, 1333), (600, 1333)]
    assert choice[1][1].crop_size == (384, 600)
    assert choice[1][2] == choice[0][0]
    assert cfg.test_pipeline[1].scale == (1333, 800)


def test_upernet_recipe():
    cfg = read(UPERNET)
    assert cfg.model.decode_head.channels == 512
    assert cfg.model.auxiliary_head.in_index == 2
    assert cfg.model.auxiliary_head.loss_decode.loss_weight == 0.4
    assert cfg.model.test_cfg == {'mode': 'slide', 'crop_size': (512, 512), 'stride': (341, 341)}
    assert cfg.model.backbone.drop_path_rate == 0.4
    assert cfg.optim_wrapper.optimizer.lr == 1e-4
    assert cfg.optim_wrapper.paramwise_cfg == {'decay_type': 'stage_wise', 'decay_rate': 0.9}
    assert cfg.train_cfg.max_iters == 160000
    assert cfg.train_pipeline[2].ratio_range == (0.5, 2.0)
    scales = [step.scale for step in cfg.tta_pipeline[1].transforms[0]]
    assert scales == [(1024, 256), (1536, 384), (2048, 512), (2560, 640), (3072, 768), (3584, 896)]


def scheduled(cfg: Config, steps: list[int], epoch_length: int = 10**9) -> dict[int, float]:
    """Learning rate at the given iterations, as a factor of the base rate."""
    rates = learning_rates(cfg, 1.0, max(steps) + 1, epoch_length)
    return {step: rates[step] for step in steps}


def test_detection_schedule_is_the_official_one():
    steps = [0, 1, 250, 499, 500, 5000]
    found = scheduled(read(CASCADE), steps)
    expected = [1 - (1 - s / 500) * (1 - 0.001) if s < 500 else 1.0 for s in steps]
    assert list(found.values()) == pytest.approx(expected, rel=1e-9)


def test_detection_rate_falls_after_27_and_33_epochs():
    cfg = read(CASCADE)
    cfg.param_scheduler = cfg.param_scheduler[1:]
    found = scheduled(cfg, [26 * 3, 27 * 3 - 1, 27 * 3, 33 * 3 - 1, 33 * 3], epoch_length=3)
    assert list(found.values()) == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_segmentation_schedule_is_the_official_one():
    steps = [0, 1, 700, 1499, 1500, 20000, 159999]
    cfg = read(UPERNET)
    found = scheduled(cfg, steps)
    warm_up = [1 - (1 - s / 1500) * (1 - 1e-6) if s < 1500 else 1.0 for s in steps]
    expected = [w * (1 - s / 160000) for w, s in zip(warm_up, steps)]
    assert list(found.values()) == pytest.approx(expected, rel=1e-7)


def example(*indices: int) -> str:
    """Blocks of Python of docs/data.md as one config."""
    text = (ROOT / 'docs' / 'data.md').read_text()
    blocks = re.findall(r'```python\n(.*?)```', text, re.S)
    joined = ''.join(blocks[index] for index in indices)
    return joined.replace("'../_base_", f"'{ROOT}/configs/_base_")


@pytest.mark.parametrize('index', [0, 2], ids=['detection', 'segmentation'])
def test_examples_for_own_data_are_complete_configs(index, tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(example(index))
    cfg = Config.fromfile(path)
    classes = len(cfg.classes)
    heads = build(cfg)
    if index == 0:
        assert [h.num_classes for h in heads.roi_head.bbox_head] == [classes] * 3
        assert heads.roi_head.mask_head[0].num_classes == classes
        assert cfg.val_evaluator.ann_file == 'data/parts/val.json'
    else:
        assert heads.decode_head.num_classes == heads.auxiliary_head.num_classes == classes
        assert cfg.train_dataloader.dataset.pipeline[0].type == 'LoadImageFromFile'


def test_the_example_without_masks_loads_none_and_has_no_mask_head(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(example(0, 1))
    cfg = Config.fromfile(path)
    assert not build(cfg).roi_head.with_mask
    assert cfg.val_evaluator.metric == cfg.test_evaluator.metric == 'bbox'
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert "'with_mask': True" not in str(loader.dataset.pipeline)
        assert "'with_bbox': True" in str(loader.dataset.pipeline)
    assert "'with_mask': True" not in str(cfg.tta_pipeline)


MASK_HEAD = 4 * (256 * 256 * 9 + 256) + (256 * 256 * 4 + 256) + (256 * 80 + 80)


@pytest.mark.parametrize(
    ('boxes', 'masks', 'heads'),
    [('cascade-rcnn', 'cascade-mask-rcnn', 3), ('faster-rcnn', 'mask-rcnn', 1)],
)
def test_recipes_for_boxes_differ_from_those_for_masks_in_masks_alone(boxes, masks, heads):
    name = 'configs/det/{}_convnext-tiny_in1k_3x_coco.py'
    cfg, other = read(name.format(boxes)), read(name.format(masks))
    model, with_masks = build(cfg), build(other)
    assert type(model).__name__ == {3: 'CascadeRCNN', 1: 'FasterRCNN'}[heads]
    assert not model.roi_head.with_mask
    left_out = set(with_masks.state_dict()) - set(model.state_dict())
    assert set(model.state_dict()) < set(with_masks.state_dict())
    assert all(key.startswith('roi_head.mask_head.') for key in left_out)
    count = lambda m: sum(p.numel() for p in m.parameters())  # noqa: E731
    assert count(with_masks) - count(model) == heads * MASK_HEAD
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert "'with_mask': True" not in str(loader.dataset.pipeline)
    assert cfg.val_evaluator.metric == cfg.test_evaluator.metric == 'bbox'
    for key in ('train_cfg', 'optim_wrapper', 'param_scheduler', 'auto_scale_lr'):
        assert cfg[key] == other[key]


def test_dino_recipe():
    """detrex e244e6c: projects/dino/configs/dino-convnext, configs/common."""
    cfg = read('configs/det/dino-4scale_convnext-tiny_in22k-in1k-384_12e_coco.py')
    backbone = build(cfg).backbone
    assert (backbone.out_indices, backbone.out_channels) == ((1, 2, 3), (192, 384, 768))
    assert cfg.model.backbone.get('drop_path_rate', 0) == 0
    assert backbone.stages[0][0].gamma is not None
    model = cfg.model
    assert model.data_preprocessor.pad_size_divisor == 1
    assert model.data_preprocessor.mean == [123.675, 116.28, 103.53]
    assert (model.num_queries, model.dn_cfg.group_cfg.num_dn_queries) == (900, 100)
    assert (model.dn_cfg.label_noise_scale, model.dn_cfg.box_noise_scale) == (0.5, 1.0)
    assert (model.positional_encoding.temperature, model.positional_encoding.offset) == (
        10000,
        -0.5,
    )
    weights = [model.bbox_head[f'loss_{kind}'].loss_weight for kind in ('cls', 'bbox', 'iou')]
    assert weights == [1.0, 5.0, 2.0]
    assert [cost.weight for cost in model.train_cfg.assigner.match_costs] == [2.0, 5.0, 2.0]
    assert model.test_cfg.max_per_img == 300
    assert cfg.optim_wrapper.type == 'OptimWrapper'
    assert cfg.optim_wrapper.clip_grad == {'max_norm': 0.1, 'norm_type': 2}
    assert cfg.train_cfg.type == 'IterBasedTrainLoop'
    assert cfg.train_dataloader.sampler.type == 'InfiniteSampler'
    assert cfg.train_dataloader.batch_sampler.type == 'AspectRatioBatchSampler'
    assert cfg.train_dataloader.dataset.filter_cfg.filter_empty_gt
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 16
    rates = learning_rates(cfg, 1e-4, 82_502, 10**9)
    assert rates[0] == rates[82_499] == 1e-4
    assert rates[82_500:] == pytest.approx([1e-5, 1e-5])
    assert 'custom_hooks' not in cfg  # no averaged weights


def test_the_resnet_of_dino_trains_all_but_batch_norms_and_its_stem():
    """detectron2's FrozenBN and freeze_at=1."""
    backbone = build(read('configs/det/dino-4scale_resnet-50_in1k_12e_coco.py')).backbone
    frozen = {name for name, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == {
        n for n, _ in backbone.named_parameters() if '.bn' in n or 'downsample.1' in n
    } | {'model.conv1.weight'}
    assert not any(m.training for m in backbone.train().modules() if isinstance(m, nn.BatchNorm2d))


def test_boxes_alone_with_large_scale_jitter_pad_no_masks():
    base = read('configs/det/mask-rcnn_convnextv2-base_fcmae_3x-lsj_coco.py').model
    changed = without_masks(base, {'data_preprocessor': {'pad_size_divisor': 32}})
    assert changed['type'] == 'FasterRCNN'
    assert changed['data_preprocessor'] == {
        'pad_size_divisor': 32,
        'pad_mask': False,
        'batch_augments': [{'type': 'BatchFixedSizePad', 'size': (1024, 1024), 'pad_mask': False}],
    }


def test_mask_rcnn_is_that_of_the_papers():
    model = read('configs/det/mask-rcnn_swin-tiny_in1k_3x_coco.py').model
    assert model.type == 'MaskRCNN'
    assert model.rpn_head.loss_bbox == {'type': 'L1Loss', 'loss_weight': 1.0}
    head = model.roi_head.bbox_head
    assert (head.type, head.fc_out_channels) == ('Shared2FCBBoxHead', 1024)
    assert head.loss_bbox == {'type': 'L1Loss', 'loss_weight': 1.0}
    assert not head.reg_class_agnostic
    proposals = model.train_cfg.rpn_proposal
    assert (proposals.nms_pre, proposals.max_per_img) == (2000, 1000)
    assert model.train_cfg.rcnn.sampler.num == 512
    assert 'loss_bbox' in read(CASCADE).model.rpn_head
    assert read(CASCADE).model.rpn_head.loss_bbox.type == 'SmoothL1Loss'


def decays(cfg: Config) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of every parameter that trains."""
    from mmengine.optim import build_optim_wrapper

    model = build(cfg)
    wrapper = dict(cfg.optim_wrapper, type='OptimWrapper')
    groups = build_optim_wrapper(model, wrapper).optimizer.param_groups
    of = {id(p): (g['lr'], g['weight_decay']) for g in groups for p in g['params']}
    return {n: of[id(p)] for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ('path', 'rate', 'decay'),
    [
        ('det/cascade-mask-rcnn_swin-tiny_in1k_3x_coco.py', 1e-4, 0.05),
        ('seg/upernet_swin-tiny_in1k_160k_ade20k-512x512.py', 6e-5, 0.01),
    ],
)
def test_swin_has_its_own_rule_of_weight_decay(path, rate, decay):
    cfg = read(f'configs/{path}')
    found = decays(cfg)
    spared = {n for n, (_, wd) in found.items() if wd == 0}
    assert {lr for lr, _ in found.values()} == {rate}
    assert {wd for _, wd in found.values()} == {0, decay}
    table = 'backbone.model.layers.0.blocks.0.attn.relative_position_bias_table'
    assert table in spared
    assert {'backbone.norm3.bias', 'backbone.model.layers.1.downsample.norm.weight'} <= spared
    # biases decay, and so do the BatchNorms of heads
    assert 'backbone.model.layers.0.blocks.0.mlp.fc1.bias' not in spared
    assert not [n for n in spared if 'norm' not in n and 'position' not in n]
    assert [n for n in found if '.bn.weight' in n]
    assert cfg.model.backbone.drop_path_rate == {'det': 0.2, 'seg': 0.3}[path[:3]]


def test_resnets_have_one_rate_a_frozen_stage_and_frozen_statistics():
    cfg = read('configs/det/cascade-mask-rcnn_resnet-50_in1k_3x_coco.py')
    found = decays(cfg)
    assert {lr for lr, _ in found.values()} == {1e-4}
    assert found['backbone.model.layer2.0.bn1.weight'][1] == 0
    assert found['backbone.model.layer2.0.conv1.weight'][1] == 0.05
    assert not [n for n in found if n.startswith(('backbone.model.conv1', 'backbone.model.layer1'))]
    backbone = build(cfg).train().backbone
    assert not backbone.model.layer4[0].bn1.training


def test_crops_of_640_pixels():
    cfg = read('configs/seg/upernet_swin-base_in22k_160k_ade20k-640x640.py')
    assert cfg.crop_size == (640, 640)
    pipeline = cfg.train_dataloader.dataset.pipeline
    assert [step.scale for step in pipeline if step.type == 'RandomResize'] == [(2560, 640)]
    assert [step.crop_size for step in pipeline if step.type == 'RandomCrop'] == [(640, 640)]
    assert cfg.test_dataloader.dataset.pipeline[1].scale == (2560, 640)
    assert cfg.val_dataloader == cfg.test_dataloader
    assert cfg.model.data_preprocessor['size'] == (640, 640)
    scales = [step.scale for step in cfg.tta_pipeline[1].transforms[0]]
    assert scales == [(int(2560 * r), int(640 * r)) for r in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)]
    assert cfg.model.test_cfg == {'mode': 'whole'}  # as Swin's own recipe tests
    assert len(cfg.tta_pipeline[1].transforms) == 4
