"""Heads that fail in mmdet predict, and are equal otherwise."""

import pytest
import torch
from mmdet.models.roi_heads.mask_heads import DynamicMaskHead
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData

from downstream.detection import PredictingDynamicMaskHead
from downstream.paths import find_config
from downstream.running.config import RunOptions, read_config
from downstream.running.stock.parts import use_predicting_heads

META = {'img_shape': (30, 40), 'ori_shape': (60, 80), 'scale_factor': (0.5, 0.5)}
INSIDE = [[4.0, 3.0, 20.0, 25.0], [30.0, 20.0, 60.0, 50.0], [-9.0, -9.0, 3.0, 2.0]]
OUTSIDE = [[-90.0, 2.0, -70.0, 9.0], [90.0, 2.0, 95.0, 9.0], [1.0, 64.0, 9.0, 90.0]]


def paste(cls, boxes, masks, rescale):
    with DefaultScope.overwrite_default_scope('mmdet'):
        head = cls(dynamic_conv_cfg=dict(type='DynamicConv'))
    results = InstanceData(
        bboxes=torch.tensor(boxes), labels=torch.arange(len(boxes)), scores=torch.ones(len(boxes))
    )
    test_cfg = ConfigDict(mask_thr_binary=0.5)
    (found,) = head.predict_by_feat([masks], [results], [META], test_cfg, rescale)
    return found


@pytest.mark.parametrize('rescale', [True, False])
def test_masks_of_boxes_outside_of_the_image_are_empty_and_all_others_as_before(rescale):
    masks = torch.randn(6, 80, 28, 28, generator=torch.Generator().manual_seed(0))
    mixed = [box for pair in zip(INSIDE, OUTSIDE) for box in pair]
    with pytest.raises(RuntimeError):  # else this class is no longer needed
        paste(DynamicMaskHead, mixed, masks, rescale)
    found = paste(PredictingDynamicMaskHead, mixed, masks, rescale)
    labels = masks[::2].clone()
    for place in range(3):  # each box reads the mask of its label
        labels[place, place] = masks[2 * place, 2 * place]
    expected = paste(DynamicMaskHead, INSIDE, labels, rescale)
    assert torch.equal(found.masks[::2], expected.masks)
    assert expected.masks.any(dim=(1, 2)).all()
    assert not found.masks[1::2].any()
    assert torch.equal(found.bboxes[::2], expected.bboxes)
    factor = 2 if rescale else 1
    assert torch.equal(found.bboxes[1::2], factor * torch.tensor(OUTSIDE))


def test_without_a_box_inside_there_are_empty_masks():
    masks = torch.randn(3, 80, 28, 28)
    found = paste(PredictingDynamicMaskHead, OUTSIDE, masks, True)
    assert found.masks.shape == (3, 60, 80)
    assert not found.masks.any()


def test_configs_get_them_whatever_their_backbone(tmp_path):
    cfg = read_config(RunOptions('mmdet::ssd/ssd300_coco.py', str(tmp_path)))
    assert cfg.model.bbox_head.type == 'PredictingSSDHead'
    # In the work dir's config as well.
    assert 'downstream.detection' in cfg.custom_imports.imports
    query = Config.fromfile(find_config('mmdet::queryinst/queryinst_r50_fpn_1x_coco.py'))
    use_predicting_heads(query)
    assert {head.type for head in query.model.roi_head.mask_head} == {'PredictingDynamicMaskHead'}


def test_ssd_predicts():
    whole = Config.fromfile(find_config('mmdet::ssd/ssd300_coco.py'))
    cfg = whole.model.bbox_head
    with DefaultScope.overwrite_default_scope('mmdet'):
        stock = MODELS.build(cfg)
        use_predicting_heads(whole)
        head = MODELS.build(cfg)
    head.load_state_dict(stock.state_dict())
    test_cfg = ConfigDict(
        nms=dict(type='nms', iou_threshold=0.45), min_bbox_size=0, score_thr=0.02, max_per_img=9
    )
    sides = (38, 19, 10, 5, 3, 1)
    maps = [torch.randn(1, c, side, side) for c, side in zip(cfg.in_channels, sides)]
    meta = {'img_shape': (300, 300), 'ori_shape': (300, 300), 'scale_factor': (1.0, 1.0)}
    with torch.no_grad():
        scores, deltas = head(maps)
        (found,) = head.predict_by_feat(
            scores, deltas, batch_img_metas=[meta], cfg=test_cfg, rescale=True
        )
        assert all(torch.equal(a, b) for a, b in zip(scores, stock(maps)[0]))
        with pytest.raises(AttributeError, match='loss_cls'):  # else this class is no longer needed
            stock.predict_by_feat(scores, deltas, batch_img_metas=[meta], cfg=test_cfg)
    assert len(found) == 9
    assert found.scores.max() <= 1
