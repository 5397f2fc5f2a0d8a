"""The graph of a detector finds what mmdet's ``predict`` finds."""

import logging

import pytest
import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.registry import MODELS

from backbones.errors import ConfigError
from downstream.exporting.graph.detector import DetectorGraph

from .detectors import SIZES, assert_equal, build, by_mmdet, image, model_config

KINDS = {
    'cascade-mask-rcnn': dict(method='cascade-mask-rcnn'),
    'class agnostic': dict(
        method='cascade-mask-rcnn',
        box_head=dict(reg_class_agnostic=True, norm_cfg=dict(type='GN', num_groups=4)),
        mask_head=dict(class_agnostic=True),
    ),
    'cascade-rcnn': dict(method='cascade-rcnn', backbone='v2'),
    'mask-rcnn': dict(method='mask-rcnn', backbone='v2'),
    'faster-rcnn': dict(method='faster-rcnn'),
}


def detect(graph, padded, height, width):
    with torch.no_grad():
        return graph(padded, height, width)


@pytest.fixture(params=KINDS)
def model(request):
    return build(model_config(**KINDS[request.param]))


def test_finds_what_mmdet_finds(model):
    graph = DetectorGraph(model).eval()
    counts = []
    for seed, (height, width) in enumerate(SIZES):
        padded = image(height, width, seed)
        found = detect(graph, padded, height, width)
        expected = by_mmdet(model, padded, height, width)
        assert_equal(found, expected)
        counts.append(len(expected))
        assert len(found) == (4 if model.roi_head.with_mask else 3)
        assert found[2].dtype == torch.int64
    assert min(counts[:3]) > 3, 'a comparison of few boxes proves little'


def test_a_threshold_of_nothing():
    """Every class of every proposal is a box, most of which are compared with no other."""
    model = build(model_config('mask-rcnn', 'v2', rcnn=dict(score_thr=0.0, max_per_img=3)))
    padded = image(200, 130)
    found = detect(DetectorGraph(model).eval(), padded, 200, 130)
    assert_equal(found, by_mmdet(model, padded, 200, 130))
    assert len(found[0]) == 3


@pytest.mark.parametrize('kind', ['cascade-mask-rcnn', 'class agnostic', 'mask-rcnn'])
def test_masks_paste_to_mmdets(kind):
    """mmdet pastes the probabilities of the graph into the masks that it predicts."""
    model = build(model_config(**KINDS[kind]))
    padded = image(128, 160)
    expected = by_mmdet(model, padded, 128, 160)
    boxes, _, labels, masks = detect(DetectorGraph(model).eval(), padded, 128, 160)
    assert masks.shape == (len(expected), 28, 28)
    assert masks.std() > 0.1
    head = next(m for m in model.modules() if type(m) is FCNMaskHead)
    # One channel a class where the head has them, so that pasting takes the right one.
    spread = masks[:, None].expand(-1, 1 if head.class_agnostic else head.num_classes, -1, -1)
    pasted = head._predict_by_feat_single(
        spread,
        boxes,
        labels,
        dict(ori_shape=(128, 160), scale_factor=(1.0, 1.0)),
        model.roi_head.test_cfg,
        rescale=True,
        activate_map=True,
    )
    # Convolutions round otherwise on maps in another memory format.
    assert (pasted != expected.masks).float().mean() < 1e-4
    assert expected.masks.any()


def test_nothing_found():
    """No object above the threshold, and no proposal at all."""
    model = build(model_config('cascade-mask-rcnn', rcnn=dict(score_thr=1.0)))
    padded = image(96, 128)
    for min_size in (0, 1000):
        model.rpn_head.test_cfg.min_bbox_size = min_size
        assert len(by_mmdet(model, padded, 96, 128)) == 0
        found = detect(DetectorGraph(model).eval(), padded, 96, 128)
        assert [tuple(part.shape) for part in found] == [(0, 4), (0,), (0,), (0, 28, 28)]


def test_sizes_may_be_tensors():
    model = build(model_config('faster-rcnn'))
    graph = DetectorGraph(model).eval()
    padded = image(97, 171)
    numbers = detect(graph, padded, 97, 171)
    tensors = detect(graph, padded, torch.tensor(97), torch.tensor([171]))
    assert all(torch.equal(a, b) for a, b in zip(numbers, tensors, strict=True))


def test_test_config_is_read():
    """Threshold, limit and IoU of the model, as mmdet applies them."""
    few = build(
        model_config('mask-rcnn', rcnn=dict(nms=dict(iou_threshold=0.1, class_agnostic=True)))
    )
    few.roi_head.test_cfg.update(score_thr=0.4, max_per_img=7)
    graph = DetectorGraph(few).eval()
    assert graph.score_threshold == 0.4
    padded = image(200, 130)
    expected = by_mmdet(few, padded, 200, 130)
    assert len(expected) <= 7
    assert_equal(detect(graph, padded, 200, 130), expected)


def test_soft_nms_becomes_nms(caplog):
    """With the threshold of the config, and a warning."""
    soft = model_config('mask-rcnn', rcnn=dict(nms=dict(type='soft_nms')))
    with caplog.at_level(logging.WARNING):
        graph = DetectorGraph(build(soft)).eval()
    assert graph.replaces_soft_nms
    hard = build(model_config('mask-rcnn'))
    padded = image(128, 160)
    assert_equal(detect(graph, padded, 128, 160), by_mmdet(hard, padded, 128, 160))
    assert not DetectorGraph(hard).replaces_soft_nms


def test_boxes_alone_in_float16():
    detector = build(model_config('faster-rcnn'))
    expected = detect(DetectorGraph(detector).eval(), image(96, 128), 96, 128)
    graph = DetectorGraph(build(model_config('faster-rcnn')), half=True).eval()
    found = detect(graph, image(96, 128), 96, 128)
    assert len(found) == len(expected) == 3
    assert graph.model.rpn_head.rpn_conv.weight.dtype == torch.float16
    assert abs(len(found[0]) - len(expected[0])) <= 0.2 * len(expected[0])


def test_coordinates_of_a_float16_network_are_float32():
    """float16 has no fractions of a pixel beyond 1024."""
    config = model_config('faster-rcnn', rcnn=dict(score_thr=0.0, max_per_img=100))
    config.test_cfg.rpn.update(nms_pre=200, max_per_img=100)
    model = build(config).half()
    found = detect(DetectorGraph(model).eval(), image(64, 1400).half(), 64, 1400)
    assert [part.dtype for part in found] == [torch.float32, torch.float32, torch.int64]
    far = found[0][found[0] > 1024]
    assert (far != far.half().float()).any()


REFUSED = {
    'GARPNHead': lambda model: _becomes(model.rpn_head, 'GARPNHead'),
    'DoubleHeadRoIHead': lambda model: _becomes(model.roi_head, 'DoubleHeadRoIHead'),
    'PointRend': lambda model: _becomes(model, 'PointRend'),
    'nms_match': lambda model: model.roi_head.test_cfg.nms.update(type='nms_match'),
    'max_num': lambda model: model.rpn_head.test_cfg.nms.update(max_num=5),
    'add_ctr_clamp': lambda model: setattr(model.rpn_head.bbox_coder, 'add_ctr_clamp', True),
    'carafe': lambda model: setattr(model.roi_head.mask_head, 'upsample_method', 'carafe'),
    'activation': lambda model: setattr(model.roi_head.bbox_head, 'with_reg', False),
    'no rpn_head': lambda model: setattr(model, 'rpn_head', None),
}


def _becomes(part, name):
    """Give a part another class of mmdet's, as a config with that class would."""
    part.__class__ = MODELS.get(name)


@pytest.mark.parametrize('named', REFUSED)
def test_what_cannot_be_exported_is_one_line(named):
    model = build(model_config('mask-rcnn'))
    REFUSED[named](model)
    with pytest.raises(ConfigError, match=named) as error:
        DetectorGraph(model)
    assert '\n' not in str(error.value)
