"""Every recipe, with a small backbone and narrow heads, trains a step and infers an image."""

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

from downstream.drop_in import drop_in
from downstream.zoo import Row, rows
from tests.downstream.drop_in.test_timm_families import SIDE, batch

# The smallest sibling of each family.
SMALLEST = {
    'convnext': ('convnext-atto', {}),
    'convnextv2': ('convnextv2-atto', {}),
    'swin': ('swin-tiny', {'model_args': {'embed_dim': 24, 'depths': (1, 1, 2, 1)}}),
    'resnet': ('resnet-18', {}),
    'resnext101': ('timm:resnext50_32x4d', {}),
}
# What makes the recipe's backbone large; its other options stay.
OF_SIZE = ('type', 'arch', 'model', 'model_args', 'size_divisor', 'init_cfg')
WIDTH = 32


def narrow(cfg: Config) -> None:
    model = cfg.model
    model.backbone.pop('init_cfg', None)
    head = model.get('decode_head') or model.get('panoptic_head') or {}
    if head.get('type') == 'Mask2FormerHead':
        narrow_mask2former(head, head.get('train_cfg') or model.train_cfg)
    if 'panoptic_head' in model:
        return
    if 'decode_head' in model:
        model.data_preprocessor['size'] = (SIDE, SIDE)
        if model.decode_head.type == 'UPerHead':
            model.decode_head.channels = model.auxiliary_head.channels = WIDTH
        return
    model.neck.out_channels = WIDTH
    if model.type == 'DINODetector':
        narrow_transformer(model)
        return
    if model.type == 'RTMDet':
        for part in (model.neck, model.bbox_head):
            part.norm_cfg.num_groups = 8
        model.bbox_head.update(in_channels=WIDTH, feat_channels=WIDTH)
        return
    model.rpn_head.update(in_channels=WIDTH, feat_channels=WIDTH)
    for augment in model.data_preprocessor.get('batch_augments', ()):
        augment['size'] = (SIDE, SIDE)
    heads = model.roi_head
    heads.bbox_roi_extractor.out_channels = WIDTH
    if heads.mask_head:
        heads.mask_roi_extractor.out_channels = WIDTH
        heads.mask_head.update(in_channels=WIDTH, conv_out_channels=WIDTH)
    boxes = heads.bbox_head if isinstance(heads.bbox_head, list) else [heads.bbox_head]
    for head in boxes:
        head.update(in_channels=WIDTH, fc_out_channels=WIDTH)
        if 'conv_out_channels' in head:
            head.conv_out_channels = WIDTH
    model.test_cfg.rcnn.score_thr = 0.0
    model.test_cfg.rpn.max_per_img = 50


def narrow_layers(*parts: ConfigDict) -> None:
    """Two narrow layers in each encoder or decoder of a transformer."""
    for part in parts:
        part.num_layers = 2
        for layer in part.layer_cfg.values():
            layer.embed_dims = WIDTH
        part.layer_cfg.ffn_cfg.feedforward_channels = 2 * WIDTH


def narrow_mask2former(head: ConfigDict, training: ConfigDict) -> None:
    head.update(feat_channels=WIDTH, out_channels=WIDTH, num_queries=30)
    training.num_points = 64
    pixels = head.pixel_decoder
    pixels.norm_cfg.num_groups = 8
    for part in (head, pixels):
        part.positional_encoding.num_feats = WIDTH // 2
    narrow_layers(pixels.encoder, head.transformer_decoder)


def narrow_transformer(model: ConfigDict) -> None:
    model.neck.norm_cfg.num_groups = 8
    model.num_queries = 30
    model.positional_encoding.num_feats = WIDTH // 2
    narrow_layers(model.encoder, model.decoder)
    model.bbox_head.embed_dims = WIDTH
    model.test_cfg.max_per_img = 20


def step_and_infer(row: Row) -> None:
    cfg = Config.fromfile(row.path)
    init_default_scope(cfg.default_scope)
    frozen = cfg.model.backbone.get('frozen_stages', -1)
    name, args = SMALLEST[row.family]
    own = {key: value for key, value in cfg.model.backbone.items() if key not in OF_SIZE}
    drop_in(cfg, name, **own, **args)
    assert {key: cfg.model.backbone.get(key) for key in own} == own
    narrow(cfg)
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).train()
    model.init_weights()  # level_embed of a DETR is memory as it was found until then
    optimizer = build_optim_wrapper(model, dict(cfg.optim_wrapper, type='OptimWrapper'))
    images = batch(row.task)
    if row.task == 'detection' and not cfg.train_pipeline[1].get('with_mask'):
        for sample in images['data_samples']:
            del sample.gt_instances.masks
    data = model.data_preprocessor(images, training=True)
    assert data['inputs'].shape[-2:] == (SIDE, SIDE)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    assert torch.isfinite(loss)
    optimizer.backward(loss)
    # distributed training stops at parameters that train and get no gradient
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    optimizer.step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    if frozen > 0:
        assert not [n for n in moved if n.startswith('backbone.stages')]
    model.eval()
    if 'decode_head' in cfg.model:
        model.test_cfg = ConfigDict(mode='whole')
    with torch.no_grad():
        found = model.test_step(batch(row.task, 1))[0]
    if row.task == 'segmentation':
        assert found.pred_sem_seg.shape == (SIDE, SIDE)
        assert found.seg_logits.data.shape[0] == 150
        return
    assert len(found.pred_instances.bboxes) > 0
    if cfg.model.get('roi_head', {}).get('mask_head') or 'panoptic_head' in cfg.model:
        assert len(found.pred_instances.masks) == len(found.pred_instances.bboxes)
    else:
        assert 'masks' not in found.pred_instances


def first_of_each_kind() -> list[Row]:
    """A row for each method, schedule and family."""
    kinds = {(row.method, row.schedule, row.family): row for row in reversed(rows())}
    return list(kinds.values())


@pytest.mark.parametrize('row', first_of_each_kind(), ids=lambda row: row.name)
def test_a_kind_of_recipe(row):
    step_and_infer(row)


@pytest.mark.slow
@pytest.mark.parametrize(
    'row', [r for r in rows() if r not in first_of_each_kind()], ids=lambda row: row.name
)
def test_every_other_recipe(row):
    step_and_infer(row)
