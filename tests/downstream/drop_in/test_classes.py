"""Every head of a model follows the number of classes; what counts something else stays."""

import pytest
from mmengine.config import Config

from backbones import ConfigError
from downstream.data.checks.datasets import check_datasets
from downstream.data.class_counts import class_counts, recipe_classes
from downstream.drop_in import num_classes
from downstream.paths import find_config
from tests.conftest import write_tiny_config


def with_classes(name: str, count: int) -> Config:
    base = Config.fromfile(find_config(name), import_custom_modules=False).model
    changed = Config(dict(model=base))
    changed.merge_from_dict(dict(model=num_classes(base, count)))
    return changed.model


@pytest.mark.parametrize(
    ('name', 'heads'),
    [
        ('mmdet::yolact/yolact_r50_1xb8-55e_coco.py', 2),  # bbox_head, mask_head
        ('mmdet::ms_rcnn/ms-rcnn_r50_fpn_1x_coco.py', 3),  # also mask_iou_head
        ('mmdet::point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py', 3),  # also point_head
        ('mmdet::queryinst/queryinst_r50_fpn_1x_coco.py', 12),  # six stages of each
        ('mmdet::solo/solo_r50_fpn_1x_coco.py', 1),
        ('mmdet::seesaw_loss/mask-rcnn_r50_fpn_seesaw-loss_random-ms-2x_lvis-v1.py', 3),  # the loss
        ('mmdet::lad/lad_r101-paa-r50_fpn_2xb8_coco_1x.py', 2),  # student and teacher
        ('mmseg::fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py', 3),  # two auxiliary heads
        ('mmseg::ocrnet/ocrnet_hr18_4xb4-80k_ade20k-512x512.py', 2),
        ('mmseg::knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512.py', 5),
    ],
)
def test_all_heads_follow(name, heads):
    counts = list(class_counts(with_classes(name, 7)))
    assert [one.value for one in counts] == [7] * heads, counts


def test_numbers_of_something_else_stay():
    htc = with_classes('mmdet::htc/htc_r50_fpn_1x_coco.py', 7)
    assert htc.roi_head.semantic_head.num_classes == 183
    assert {head.num_classes for head in htc.roi_head.bbox_head} == {7}
    stdc = with_classes('mmseg::stdc/stdc1_4xb12-80k_cityscapes-512x1024.py', 7)
    assert [head.num_classes for head in stdc.auxiliary_head] == [7, 7, 2]  # the last finds edges
    rpn = with_classes('mmdet::faster_rcnn/faster-rcnn_r50_fpn_fcos-rpn_1x_coco.py', 7)
    assert (rpn.rpn_head.num_classes, rpn.roi_head.bbox_head.num_classes) == (1, 7)


def test_weights_of_classes_follow_where_they_are_equal():
    name = 'mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py'
    assert with_classes(name, 7).decode_head.loss_cls.class_weight == [1.0] * 7 + [0.1]
    cgnet = with_classes('mmseg::cgnet/cgnet_fcn_4xb4-60k_cityscapes-680x680.py', 7)
    assert cgnet.decode_head.loss_decode.class_weight is None  # each of Cityscapes' has its own


def test_the_number_of_a_recipe_is_that_of_its_principal_head():
    for name, count in (
        ('mmdet::htc/htc_r50_fpn_1x_coco.py', 80),
        ('mmseg::stdc/stdc1_4xb12-80k_cityscapes-512x1024.py', 19),
        ('mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py', 80),
    ):
        assert recipe_classes(Config.fromfile(find_config(name)).model) == count


def test_any_head_of_other_classes_is_refused_before_training(shapes, tmp_path):
    cfg = Config.fromfile(write_tiny_config('detection', shapes, tmp_path))
    cfg.model.roi_head.point_head = dict(type='MaskPointHead', num_classes=80)
    message = r'model\.roi_head\.point_head has num_classes=80, but .* has 3 classes'
    with pytest.raises(ConfigError, match=message):
        check_datasets(cfg, ('train',))
