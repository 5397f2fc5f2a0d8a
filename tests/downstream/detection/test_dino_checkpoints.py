"""Published checkpoints of DINO load whole: those of mmdet, and detrex's with each of its backbones.

Names and shapes are written down here from the definitions of mmdet 3.3, detrex e244e6c and detectron2.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import mmdet
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor

from backbones import WeightsError
from backbones.uninitialised import on_meta
from downstream.drop_in import drop_in
from downstream.running.checkpoint.read import matching_tensors
from downstream.zoo import find_row
from downstream.zoo.released import released_tensors

OF_MMDET = Path(mmdet.__file__).parent / '.mim/configs/dino/dino-4scale_r50_8xb2-12e_coco.py'
Shapes = dict[str, tuple[int, ...]]


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


def affine(name: str, *shape: int) -> Shapes:
    return {f'{name}.weight': shape, f'{name}.bias': shape[:1]}


def deformable(name: str) -> Shapes:
    return {
        **affine(f'{name}.sampling_offsets', 8 * 4 * 4 * 2, 256),
        **affine(f'{name}.attention_weights', 8 * 4 * 4, 256),
        **affine(f'{name}.value_proj', 256, 256),
        **affine(f'{name}.output_proj', 256, 256),
    }


def self_attention(name: str) -> Shapes:
    projections = {f'{name}.in_proj_weight': (768, 256), f'{name}.in_proj_bias': (768,)}
    return projections | affine(f'{name}.out_proj', 256, 256)


def feed_forward(name: str) -> Shapes:
    return affine(f'{name}.layers.0.0', 2048, 256) | affine(f'{name}.layers.1', 256, 2048)


def of_mmdet(channels: tuple[int, ...]) -> Shapes:
    """Of mmdet's DINO, without the backbone; its neck has no biases."""
    shapes: Shapes = {}
    for i, width in enumerate(channels):
        shapes[f'neck.convs.{i}.conv.weight'] = (256, width, 1, 1)
        shapes |= affine(f'neck.convs.{i}.gn', 256)
    shapes['neck.extra_convs.0.conv.weight'] = (256, channels[-1], 3, 3)
    shapes |= affine('neck.extra_convs.0.gn', 256)
    for i in range(6):
        layer = f'encoder.layers.{i}'
        shapes |= deformable(f'{layer}.self_attn') | feed_forward(f'{layer}.ffn')
        shapes |= affine(f'{layer}.norms.0', 256) | affine(f'{layer}.norms.1', 256)
        layer = f'decoder.layers.{i}'
        shapes |= self_attention(f'{layer}.self_attn.attn') | deformable(f'{layer}.cross_attn')
        shapes |= feed_forward(f'{layer}.ffn')
        for j in range(3):
            shapes |= affine(f'{layer}.norms.{j}', 256)
    shapes |= affine('decoder.ref_point_head.layers.0', 256, 512)
    shapes |= affine('decoder.ref_point_head.layers.1', 256, 256)
    shapes |= affine('decoder.norm', 256) | affine('memory_trans_norm', 256)
    shapes |= affine('memory_trans_fc', 256, 256)
    shapes |= {'level_embed': (4, 256), 'query_embedding.weight': (900, 256)}
    shapes['dn_query_generator.label_embedding.weight'] = (80, 256)
    for i in range(7):
        shapes |= affine(f'bbox_head.cls_branches.{i}', 80, 256)
        for j, out in ((0, 256), (2, 256), (4, 4)):
            shapes |= affine(f'bbox_head.reg_branches.{i}.{j}', out, 256)
    return shapes


def of_detrex(channels: tuple[int, ...]) -> Shapes:
    """Of detrex's DINO, without the backbone."""
    shapes: Shapes = {}
    for i, width in enumerate(channels):
        shapes |= affine(f'neck.convs.{i}.conv', 256, width, 1, 1)
        shapes |= affine(f'neck.convs.{i}.norm', 256)
    shapes |= affine('neck.extra_convs.0.conv', 256, channels[-1], 3, 3)
    shapes |= affine('neck.extra_convs.0.norm', 256)
    for i in range(6):
        layer = f'transformer.encoder.layers.{i}'
        shapes |= deformable(f'{layer}.attentions.0') | feed_forward(f'{layer}.ffns.0')
        shapes |= affine(f'{layer}.norms.0', 256) | affine(f'{layer}.norms.1', 256)
        layer = f'transformer.decoder.layers.{i}'
        shapes |= self_attention(f'{layer}.attentions.0.attn')
        shapes |= deformable(f'{layer}.attentions.1') | feed_forward(f'{layer}.ffns.0')
        for j in range(3):
            shapes |= affine(f'{layer}.norms.{j}', 256)
    shapes |= affine('transformer.decoder.ref_point_head.layers.0', 256, 512)
    shapes |= affine('transformer.decoder.ref_point_head.layers.1', 256, 256)
    shapes |= affine('transformer.decoder.norm', 256)
    shapes |= affine('transformer.enc_output', 256, 256)
    shapes |= affine('transformer.enc_output_norm', 256)
    shapes |= {'transformer.level_embeds': (4, 256), 'transformer.tgt_embed.weight': (900, 256)}
    shapes['label_enc.weight'] = (80, 256)
    for prefix in ('', 'transformer.decoder.'):  # the heads are saved twice
        for i in range(7):
            shapes |= affine(f'{prefix}class_embed.{i}', 80, 256)
            for j, out in enumerate((256, 256, 4)):
                shapes |= affine(f'{prefix}bbox_embed.{i}.layers.{j}', out, 256)
    return shapes


def resnet50(names: Callable[[int, int, str], tuple[str, str]], counters: bool) -> Shapes:
    """ResNet-50: ``names`` gives those of a convolution and its norm by stage, block and number."""
    shapes: Shapes = {}

    def convolution(stage: int, block: int, number: str, *shape: int) -> None:
        conv, norm = names(stage, block, number)
        shapes[f'{conv}.weight'] = shape
        shapes.update(affine(norm, shape[0]))
        shapes.update({f'{norm}.running_mean': shape[:1], f'{norm}.running_var': shape[:1]})
        if counters:
            shapes[f'{norm}.num_batches_tracked'] = ()

    convolution(0, 0, '1', 64, 3, 7, 7)
    read = 64
    for stage, count in enumerate((3, 4, 6, 3), start=1):
        width = 32 * 2**stage
        for block in range(count):
            convolution(stage, block, '1', width, read, 1, 1)
            convolution(stage, block, '2', width, width, 3, 3)
            convolution(stage, block, '3', 4 * width, width, 1, 1)
            if block == 0:
                convolution(stage, block, 'shortcut', 4 * width, read, 1, 1)
            read = 4 * width
    return shapes


def in_torchvision(stage: int, block: int, number: str) -> tuple[str, str]:
    start = f'backbone.layer{stage}.{block}.' if stage else 'backbone.'
    if number == 'shortcut':
        return f'{start}downsample.0', f'{start}downsample.1'
    return f'{start}conv{number}', f'{start}bn{number}'


def in_detectron2(stage: int, block: int, number: str) -> tuple[str, str]:
    start = f'backbone.res{stage + 1}.{block}.' if stage else 'backbone.stem.'
    conv = f'{start}shortcut' if number == 'shortcut' else f'{start}conv{number}'
    return conv, f'{conv}.norm'


def official(weights: str, channels: tuple[int, ...]) -> Shapes:
    """An official network with a norm on each of the last three maps."""
    shapes = {f'backbone.{k}': tuple(v.shape) for k, v in released_tensors(weights).items()}
    for i, width in enumerate(channels, start=1):
        shapes |= affine(f'backbone.norm{i}', width)
    return shapes


def swin_tiny() -> Shapes:
    """detectron2's Swin, which also saves which pairs of pixels share a bias."""
    shapes = official('swin-tiny_in1k', (192, 384, 768))
    tables = [name for name in shapes if name.endswith('relative_position_bias_table')]
    return shapes | {name.replace('bias_table', 'index'): (49, 49) for name in tables}


def numbered(shapes: Shapes) -> dict[str, Tensor]:
    """Tensors of these shapes without memory, each full of another number."""
    return {name: torch.tensor(float(i)).expand(s) for i, (name, s) in enumerate(shapes.items())}


def built(model: dict) -> torch.nn.Module:
    with on_meta():
        return MODELS.build(model)


def test_a_file_of_mmdet_loads_whole_into_its_own_recipe():
    """As ``--backbone mmdet.ResNet`` makes it of a config of onedl-mmdetection."""
    model = Config.fromfile(OF_MMDET).model
    model.type = 'DINODetector'
    detector = built(model)
    shapes = of_mmdet((512, 1024, 2048)) | resnet50(in_torchvision, counters=True)
    state = numbered(shapes)
    found = matching_tensors(state, detector, 'mmdet.pth')
    assert set(found) == set(detector.state_dict()) == set(state)


WIDTHS = {'convnext': (192, 384, 768), 'swin': (192, 384, 768), 'resnet': (512, 1024, 2048)}
BACKBONES = {
    'dino-4scale_convnext-tiny_in22k-in1k-384_12e_coco': lambda: official(
        'convnext-tiny_in22k-in1k-384', WIDTHS['convnext']
    ),
    'dino-4scale_swin-tiny_in1k_12e_coco': swin_tiny,
    'dino-4scale_resnet-50_in1k_12e_coco': lambda: resnet50(in_detectron2, counters=False),
}


@pytest.fixture(params=BACKBONES)
def of_a_row(request) -> Iterator[tuple[torch.nn.Module, dict[str, Tensor]]]:
    """The model of a row, and detrex's file for it."""
    row = find_row(request.param)
    state = numbered(of_detrex(WIDTHS[row.family]) | BACKBONES[row.name]())
    return built(row.cfg.model), state


def test_files_of_detrex_load_whole(of_a_row):
    model, state = of_a_row
    found = matching_tensors(state, model, 'detrex.pth')
    assert set(found) == set(model.state_dict())
    values = {name: tensor.flatten()[0].item() for name, tensor in state.items()}
    used = {t.flatten()[0].item() for n, t in found.items() if 'num_batches_tracked' not in n}
    # once each: all but the second copy of the heads and Swin's constants
    twice = re.compile(r'transformer\.decoder\.(class|bbox)_embed|.*relative_position_index')
    assert used == {value for name, value in values.items() if not twice.match(name)}
    for own, name in {
        'decoder.layers.1.cross_attn.value_proj.weight': 'transformer.decoder.layers.1.attentions.1'
        '.value_proj.weight',
        'bbox_head.reg_branches.2.4.bias': 'bbox_embed.2.layers.2.bias',
        'neck.extra_convs.0.gn.weight': 'neck.extra_convs.0.norm.weight',
        'query_embedding.weight': 'transformer.tgt_embed.weight',
    }.items():
        assert torch.equal(found[own], state[name])


def test_a_resnet_of_detectron2_becomes_torchvisions():
    row = find_row('dino-4scale_resnet-50_in1k_12e_coco')
    state = numbered(of_detrex(WIDTHS['resnet']) | resnet50(in_detectron2, counters=False))
    found = matching_tensors(state, built(row.cfg.model), 'detrex.pth')
    theirs, ours = resnet50(in_detectron2, False), resnet50(in_torchvision, False)
    for detectron2, torchvision in zip(theirs, ours, strict=True):
        own = torchvision.replace('backbone.', 'backbone.model.')
        assert torch.equal(found[own], state[detectron2]), own


def test_what_is_missing_or_of_another_size_is_named(of_a_row):
    model, state = of_a_row
    del state['transformer.tgt_embed.weight']
    with pytest.raises(WeightsError, match=r'query_embedding\.weight: missing'):
        matching_tensors(state, model, 'detrex.pth')
    first = next(name for name in state if name.startswith('backbone.') and 'weight' in name)
    del state[first]
    with pytest.raises(WeightsError, match=r'backbone\.'):
        matching_tensors(state, model, 'detrex.pth')


def test_backbone_option_on_mmdets_recipe_takes_the_published_decoder():
    cfg = Config.fromfile(OF_MMDET)
    report = drop_in(cfg, 'convnext-atto')
    assert 'DINODetector: DINO of mmdet with the decoder as published' in report
    assert "the backbone learns at 0.1 of the heads' rate" in report
    model = built(cfg.model)
    assert model.decoder.ref_point_head.layers[0].weight.shape == (256, 512)
