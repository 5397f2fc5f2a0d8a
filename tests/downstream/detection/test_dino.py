"""DINO has the published decoder, and trains; so does Grounding DINO."""

from unittest.mock import Mock

import pytest
import torch
from mmdet.models.layers import coordinate_to_encoding
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData
from torch import nn

from backbones.uninitialised import on_meta
from downstream.detection.dino import ReferenceHead
from downstream.paths import CONFIGS

METHOD = CONFIGS / '_base_' / 'methods' / 'dino.py'


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


def model_config(layers: int = 6) -> dict:
    model = Config.fromfile(METHOD).model
    model.backbone = dict(type='ConvNeXt', arch='atto', out_indices=(1, 2, 3))
    model.neck.in_channels = [80, 160, 320]
    model.encoder.num_layers = model.decoder.num_layers = layers
    return model


@pytest.mark.parametrize('embed_dims', [256, 32])
def test_the_reference_head_reads_half_of_the_features(embed_dims):
    torch.manual_seed(0)
    head, boxes = ReferenceHead(embed_dims), torch.rand(2, 5, 4)
    half = coordinate_to_encoding(boxes, num_feats=embed_dims // 2)
    whole = coordinate_to_encoding(boxes, num_feats=embed_dims)
    assert half.shape[-1] * 2 == whole.shape[-1]
    assert torch.equal(head(whole), head(half))


def samples() -> list[DetDataSample]:
    size = (64, 96)
    meta = dict(img_shape=size, batch_input_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
    boxes = torch.tensor([[4.0, 6, 30, 40], [50, 10, 90, 60]])
    made = []
    for count in (2, 1):
        sample = DetDataSample(metainfo=meta)
        labels = torch.arange(count)
        sample.gt_instances = InstanceData(bboxes=boxes[:count], labels=labels)
        made.append(sample)
    return made


def test_a_config_builds_twice():
    config = model_config(layers=1)
    before = config.to_dict()
    with on_meta():
        MODELS.build(config)
        MODELS.build(config)
    assert config.to_dict() == before


def test_a_batch_without_objects_gives_every_parameter_a_gradient():
    """A crop may leave none; distributed training stops at parameters without a gradient."""
    config = model_config(layers=1)
    config.num_queries = 30
    torch.manual_seed(0)
    model = MODELS.build(config)
    model.init_weights()
    empty = samples()
    for sample in empty:
        sample.gt_instances = sample.gt_instances[:0]
    loss = sum(model.train().loss(torch.randn(2, 3, 64, 96), empty).values())
    assert loss.isfinite()
    loss.backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_it_trains_and_predicts():
    config = model_config(layers=2)
    config.num_queries = 30
    torch.manual_seed(0)
    model = MODELS.build(config)
    model.init_weights()
    images = torch.randn(2, 3, 64, 96)
    losses = model.train().loss(images, samples())
    # each layer's and the proposals' three, and the denoising queries' for each layer
    assert len(losses) == 3 * (2 + 1 + 2)
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    with torch.no_grad():
        found = model.eval().predict(images, samples())[0].pred_instances
    assert len(found) == 300
    assert found.bboxes.isfinite().all()


class Words(nn.Module):
    """Has what Grounding DINO asks of a language model when it is built: the length of an embedding."""

    language_dim = 48

    @property
    def language_backbone(self):
        return Mock(body=self)


def test_grounding_dino_decodes(monkeypatch):
    """In onedl-mmdetection 3.5.1 its decoder multiplies (queries, 1024) by (512, 256) and fails."""
    monkeypatch.setitem(MODELS.module_dict, 'Words', Words)
    attention, feed_forward = dict(embed_dims=256, num_heads=8), dict(embed_dims=256)
    model = MODELS.build(
        ConfigDict(
            type='GroundingDINODetector',
            language_model=dict(type='Words'),
            num_queries=6,
            with_box_refine=True,
            as_two_stage=True,
            backbone=dict(type='ConvNeXt', arch='atto', out_indices=(1, 2, 3)),
            neck=dict(
                type='ChannelMapper',
                in_channels=[80, 160, 320],
                out_channels=256,
                kernel_size=1,
                num_outs=4,
            ),
            encoder=dict(
                num_layers=1,
                layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=feed_forward),
                text_layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=feed_forward),
                fusion_layer_cfg=dict(
                    v_dim=256, l_dim=256, embed_dim=64, num_heads=4, init_values=1e-4
                ),
            ),
            decoder=dict(
                num_layers=2,
                return_intermediate=True,
                layer_cfg=dict(
                    self_attn_cfg=attention,
                    cross_attn_text_cfg=attention,
                    cross_attn_cfg=attention,
                    ffn_cfg=feed_forward,
                ),
                post_norm_cfg=None,
            ),
            positional_encoding=dict(num_feats=128, normalize=True),
            bbox_head=dict(
                type='GroundingDINOHead',
                num_classes=3,
                embed_dims=256,
                contrastive_cfg=dict(max_text_len=8),
                loss_cls=dict(type='FocalLoss', use_sigmoid=True),
            ),
            dn_cfg=dict(group_cfg=dict(dynamic=True, num_groups=None, num_dn_queries=4)),
            test_cfg=dict(max_per_img=6),
        )
    ).eval()
    model.init_weights()
    assert model.decoder.ref_point_head.layers[0].weight.shape == (256, 512)
    words = torch.ones(2, 5, dtype=torch.bool)
    text = dict(
        embedded=torch.randn(2, 5, 256),
        text_token_mask=words,
        masks=words[:, None] & words[:, :, None],
        position_ids=torch.arange(5).expand(2, -1),
    )
    with torch.no_grad():
        maps = model.extract_feat(torch.randn(2, 3, 64, 96))
        found = model.forward_transformer(maps, text, samples())
    assert found['hidden_states'].shape == (2, 2, 6, 256)
    assert all(boxes.isfinite().all() for boxes in found['references'])
