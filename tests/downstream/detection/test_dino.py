"""DINO has the published decoder, takes published checkpoints, and trains."""

from pathlib import Path

import mmdet
import pytest
import torch
from mmdet.models.layers import coordinate_to_encoding
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData

from backbones.uninitialised import on_meta
from downstream.detection.detrex import from_detrex
from downstream.detection.dino import ReferenceHead
from downstream.paths import CONFIGS
from downstream.running.checkpoint.read import matching_tensors

METHOD = CONFIGS / '_base_' / 'methods' / 'dino.py'
OF_MMDET = Path(mmdet.__file__).parent / '.mim/configs/dino/dino-4scale_r50_8xb2-12e_coco.py'


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


def test_published_checkpoints_of_mmdet_fit():
    """By its public definition: shapes that onedl-mmdetection changed, and the number of all."""
    model = Config.fromfile(OF_MMDET).model
    model.type, model.bbox_head.type = 'DINODetector', 'DINODetectorHead'
    with on_meta():
        built = MODELS.build(model)
    state = built.state_dict()
    assert state['decoder.ref_point_head.layers.0.weight'].shape == (256, 512)
    assert state['decoder.ref_point_head.layers.1.weight'].shape == (256, 256)
    assert round(sum(p.numel() for p in built.parameters()) / 1e6, 2) == 47.70


def detrex_state(layers: int) -> dict[str, torch.Tensor]:
    """A DINO of detrex on a ConvNeXt atto, without the backbone, by its definition."""
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, out: int, of: int) -> None:
        shapes[f'{name}.weight'], shapes[f'{name}.bias'] = (out, of), (out,)

    def norm(name: str) -> None:
        shapes[f'{name}.weight'], shapes[f'{name}.bias'] = (256,), (256,)

    def conv(name: str, of: int, size: int) -> None:
        shapes[f'{name}.conv.weight'], shapes[f'{name}.conv.bias'] = (256, of, size, size), (256,)
        norm(f'{name}.norm')

    def deformable(name: str) -> None:
        linear(f'{name}.sampling_offsets', 8 * 4 * 4 * 2, 256)
        linear(f'{name}.attention_weights', 8 * 4 * 4, 256)
        linear(f'{name}.value_proj', 256, 256)
        linear(f'{name}.output_proj', 256, 256)

    def feed_forward(name: str) -> None:
        linear(f'{name}.layers.0.0', 2048, 256)
        linear(f'{name}.layers.1', 256, 2048)

    for i, channels in enumerate((80, 160, 320)):
        conv(f'neck.convs.{i}', channels, 1)
    conv('neck.extra_convs.0', 320, 3)
    for i in range(layers):
        layer = f'transformer.encoder.layers.{i}'
        deformable(f'{layer}.attentions.0')
        feed_forward(f'{layer}.ffns.0')
        norm(f'{layer}.norms.0')
        norm(f'{layer}.norms.1')
        layer = f'transformer.decoder.layers.{i}'
        attention = f'{layer}.attentions.0.attn'
        shapes[f'{attention}.in_proj_weight'], shapes[f'{attention}.in_proj_bias'] = (
            (768, 256),
            (768,),
        )
        linear(f'{attention}.out_proj', 256, 256)
        deformable(f'{layer}.attentions.1')
        feed_forward(f'{layer}.ffns.0')
        for j in range(3):
            norm(f'{layer}.norms.{j}')
    linear('transformer.decoder.ref_point_head.layers.0', 256, 512)
    linear('transformer.decoder.ref_point_head.layers.1', 256, 256)
    norm('transformer.decoder.norm')
    linear('transformer.enc_output', 256, 256)
    norm('transformer.enc_output_norm')
    shapes['transformer.level_embeds'] = (4, 256)
    shapes['transformer.tgt_embed.weight'] = (900, 256)
    shapes['label_enc.weight'] = (80, 256)
    for prefix in ('', 'transformer.decoder.'):
        for i in range(layers + 1):
            linear(f'{prefix}class_embed.{i}', 80, 256)
            for j, out in enumerate((256, 256, 4)):
                linear(f'{prefix}bbox_embed.{i}.layers.{j}', out, 256)
    return {name: torch.full(shape, float(i)) for i, (name, shape) in enumerate(shapes.items())}


def test_checkpoints_of_detrex_load_whole():
    model = MODELS.build(model_config(layers=2))
    detrex = detrex_state(2)
    state = detrex | {f'backbone.{k}': v for k, v in model.backbone.state_dict().items()}
    found = matching_tensors(state, model, 'detrex.pth')
    assert set(found) == set(model.state_dict())
    for own, name in {
        'decoder.layers.1.cross_attn.value_proj.weight': 'transformer.decoder.layers.1.attentions.1'
        '.value_proj.weight',
        'bbox_head.reg_branches.2.4.bias': 'bbox_embed.2.layers.2.bias',
        'neck.extra_convs.0.gn.weight': 'neck.extra_convs.0.norm.weight',
        'query_embedding.weight': 'transformer.tgt_embed.weight',
    }.items():
        assert torch.equal(found[own], detrex[name])
    assert from_detrex(found) == found


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
