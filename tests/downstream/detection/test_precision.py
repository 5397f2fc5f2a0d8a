"""Boxes keep float32 coordinates under mixed precision, where mmdet's own classes round them."""

import pytest
import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmengine.config import ConfigDict

from downstream.detection import Float32RoIExtractor, Float32RPNHead, precision

EXTRACTOR = {
    'roi_layer': {'type': 'RoIAlign', 'output_size': 7, 'sampling_ratio': 0},
    'out_channels': 4,
    'featmap_strides': [4, 8, 16, 32],
}


def pyramid_and_rois() -> tuple[list[torch.Tensor], torch.Tensor]:
    """Feature maps of an 800 x 1344 image, and RoIs near its far corner."""
    generator = torch.Generator().manual_seed(0)
    feats = [torch.randn(1, 4, 800 // s, 1344 // s, generator=generator) for s in (4, 8, 16, 32)]
    low = torch.rand(60, 2, generator=generator) * torch.tensor([250.0, 180.0])
    low = low + torch.tensor([1000.0, 500.0])
    extent = 12 + 70 * torch.rand(60, 2, generator=generator)
    return feats, torch.cat([torch.zeros(60, 1), low, low + extent], 1)


def error(extractor: type, dtype: torch.dtype) -> float:
    """Relative error of RoI features of ``dtype`` against float32."""
    feats, rois = pyramid_and_rois()
    reduced = [feat.to(dtype) for feat in feats]
    exact = SingleRoIExtractor(**EXTRACTOR)([feat.float() for feat in reduced], rois)
    found = extractor(**EXTRACTOR)(reduced, rois)
    assert found.dtype == dtype
    return ((found.float() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize(('dtype', 'bound'), [(torch.float16, 4e-4), (torch.bfloat16, 3e-3)])
def test_roi_features_are_as_exact_as_their_type(dtype, bound):
    ours, theirs = error(Float32RoIExtractor, dtype), error(SingleRoIExtractor, dtype)
    assert ours < bound
    assert theirs > 10 * ours


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_full_precision_is_mmdets_result(dtype):
    feats, rois = pyramid_and_rois()
    feats, rois = [feat.to(dtype) for feat in feats], rois.to(dtype)
    ours, theirs = Float32RoIExtractor(**EXTRACTOR), SingleRoIExtractor(**EXTRACTOR)
    assert torch.equal(ours(feats, rois), theirs(feats, rois))


def test_gradients_reach_reduced_features():
    feats, rois = pyramid_and_rois()
    feats = [feat.bfloat16().requires_grad_() for feat in feats]
    Float32RoIExtractor(**EXTRACTOR)(feats, rois).float().sum().backward()
    assert all(feat.grad.dtype == torch.bfloat16 for feat in feats)
    assert feats[0].grad.abs().sum() > 0


def test_maps_are_prepared_once_for_all_extractors():
    feats, rois = pyramid_and_rois()
    leaves = [feat.bfloat16().requires_grad_() for feat in feats]
    exact = [feat.detach().float().requires_grad_() for feat in leaves]
    feats = [leaf * 1 for leaf in leaves]  # as a neck gives them
    total = sum(Float32RoIExtractor(**EXTRACTOR)(feats, rois).double().sum() for _ in range(3))
    first = precision._prepare(feats[0])
    assert first is precision._prepare(feats[0])
    assert first.requires_grad
    total.backward()
    sum(SingleRoIExtractor(**EXTRACTOR)(exact, rois).double().sum() for _ in range(3)).backward()
    for leaf, same in zip(leaves, exact):
        torch.testing.assert_close(leaf.grad.float(), same.grad, rtol=1e-2, atol=1e-2)
    with torch.no_grad():
        assert not precision._prepare(feats[0]).requires_grad
    count = len(precision._prepared)
    del feats, total
    assert len(precision._prepared) == count - 4  # nothing lives longer than its map


def proposals(head_class: type) -> torch.Tensor:
    torch.manual_seed(0)
    head = head_class(
        in_channels=4,
        feat_channels=4,
        anchor_generator={
            'type': 'AnchorGenerator',
            'scales': [8],
            'ratios': [1.0],
            'strides': [4],
        },
        test_cfg=ConfigDict(
            nms_pre=1000,
            max_per_img=1000,
            nms={'type': 'nms', 'iou_threshold': 0.99},
            min_bbox_size=0,
        ),
    )
    torch.nn.init.zeros_(head.rpn_reg.weight)
    torch.nn.init.zeros_(head.rpn_reg.bias)
    feats = [torch.randn(1, 4, 200, 336)]
    meta = [{'img_shape': (800, 1344), 'scale_factor': (1.0, 1.0)}]
    with torch.no_grad(), torch.autocast('cpu', dtype=torch.bfloat16):
        found = head.predict_by_feat(*head(feats), batch_img_metas=meta, rescale=False)
    return found[0].bboxes


def test_proposals_keep_float32_anchors():
    # With a delta of 0 a proposal is its anchor, 32 px wide on a grid of 4. bfloat16 knows only
    # multiples of 8 beyond 1024.
    ours, theirs = proposals(Float32RPNHead), proposals(RPNHead)
    assert ours.dtype == torch.float32
    inside = ours[(ours[:, 0] > 0) & (ours[:, 2] < 1344)]
    assert (inside[:, 0] % 4 == 0).all()
    assert (inside[:, 2] - inside[:, 0] == 32).all()
    far = [boxes[boxes[:, 0] > 1024][:, 0] for boxes in (ours, theirs)]
    assert (far[0] % 8 == 4).any()
    assert not (far[1] % 8 == 4).any()
