"""Decoder, target and loss of FCMAE against values computed site by site."""

import numpy as np
import pytest
import torch
from torch import Tensor

from backbones import ConfigError, set_fused
from backbones.convnext.visible import VisibleCells
from backbones.names import backbone_config
from pretraining import FCMAE
from tests.support.close import require_close

from .sparse_reference import encode, run_block

ARCH = dict(depths=(1, 1, 1, 1), dims=(4, 6, 8, 10))
VERSIONS = {'V1': 'ConvNeXt', 'V2': 'ConvNeXtV2'}
VISIBLE = torch.tensor([[[1, 0, 0], [0, 1, 0]], [[0, 0, 1], [1, 0, 0]]]).bool()


def model_of(version: str, **options) -> FCMAE:
    torch.manual_seed(0)
    model = FCMAE(dict(type=VERSIONS[version], arch=ARCH), decoder_dim=12, **options).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def images_of(visible: Tensor, cell: int = 32) -> Tensor:
    torch.manual_seed(1)
    count, height, width = visible.shape
    return torch.randn(count, 3, cell * height, cell * width, dtype=torch.float64)


def prediction_by_site(model: FCMAE, images: Tensor, visible: Tensor) -> dict:
    """What the decoder says of every site, from the features of the written-out sparse network."""
    encoder = dict(model.encoder.named_parameters())
    features = encode(encoder, images, visible)
    proj, pred = model.proj.weight[:, :, 0, 0], model.pred.weight[:, :, 0, 0]
    sites = {
        (n, y, x): proj @ features[n, y, x] + model.proj.bias
        if visible[n, y, x]
        else model.mask_token.flatten()
        for n in range(visible.shape[0])
        for y in range(visible.shape[1])
        for x in range(visible.shape[2])
    }
    sites = run_block(dict(model.named_parameters()), sites, 'decoder.0')
    return {site: pred @ value + model.pred.bias for site, value in sites.items()}


def loss_by_hand(model: FCMAE, images: Tensor, visible: Tensor, normalised: bool) -> float:
    predicted = prediction_by_site(model, images, visible)
    errors = []
    for n, y, x in (~visible).nonzero().tolist():
        patch = images[n, :, 32 * y : 32 * y + 32, 32 * x : 32 * x + 32]
        pixels = np.array([[[*patch[:, row, column]] for column in range(32)] for row in range(32)])
        target = pixels.reshape(-1)
        if normalised:
            target = (target - target.mean()) / np.sqrt(target.var(ddof=1) + 1e-6)
        errors.append(np.mean((predicted[n, y, x].detach().numpy() - target) ** 2))
    return float(np.mean(errors))


@pytest.mark.parametrize('normalised', [True, False])
@pytest.mark.parametrize('version', VERSIONS)
def test_loss_is_the_one_computed_by_hand(version, normalised):
    model = model_of(version, norm_pix=normalised)
    images = images_of(VISIBLE)
    expected = loss_by_hand(model, images, VISIBLE, normalised)
    for fused in (False, True):
        with set_fused(fused), torch.no_grad():
            found = float(model.loss(images, VisibleCells(VISIBLE)))
        assert abs(found - expected) < 1e-11 * expected


@pytest.mark.parametrize('version', VERSIONS)
def test_every_parameter_learns(version):
    model = model_of(version)
    model.loss(images_of(VISIBLE), VisibleCells(VISIBLE)).backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still


def test_predictions_are_those_of_hidden_patches_in_their_order():
    model = model_of('V2')
    images = images_of(VISIBLE)
    expected = prediction_by_site(model, images, VISIBLE)
    hidden = (~VISIBLE).nonzero().tolist()
    stacked = torch.stack([expected[tuple(site)] for site in hidden]).view(2, 4, -1)
    require_close(model.predict_hidden(images, VisibleCells(VISIBLE)), stacked, 1e-12)


@pytest.mark.parametrize('cell', [32, 64])
def test_a_perfect_prediction_completes_the_images(cell, monkeypatch):
    model = model_of('V2', cell=cell)
    images, cells = images_of(VISIBLE, cell), VisibleCells(VISIBLE)
    side = cell // 32
    visible = VISIBLE.repeat_interleave(side, 1).repeat_interleave(side, 2)
    pixels = visible.repeat_interleave(32, 1).repeat_interleave(32, 2)[:, None]

    def perfect(images: Tensor, cells: VisibleCells) -> Tensor:
        patches = []
        for image, mask in zip(images, VISIBLE):
            for row, column in (~mask).nonzero().tolist():
                for y in range(side * row, side * row + side):
                    for x in range(side * column, side * column + side):
                        patch = image[:, 32 * y : 32 * y + 32, 32 * x : 32 * x + 32]
                        patch = patch.permute(1, 2, 0).flatten()
                        patches.append((patch - patch.mean()) / (patch.var() + 1e-6).sqrt())
        return torch.stack(patches).view(len(images), -1, 3072)

    monkeypatch.setattr(model, 'predict_hidden', perfect)
    found = model.reconstruct(images, cells)
    require_close(found.completed, images, 1e-13)
    assert torch.equal(found.masked, torch.where(pixels, images, 0.0))
    assert float(model.loss(images, cells)) < 1e-25


def test_predicting_nothing_costs_one():
    model = model_of('V2')
    with torch.no_grad():
        model.pred.weight.zero_()
        model.pred.bias.zero_()
        loss = float(model.loss(images_of(VISIBLE), VisibleCells(VISIBLE)))
    # The target's variance is the unbiased one, over 3,072 values.
    assert abs(loss - 3071 / 3072) < 1e-4


def test_the_first_loss_is_near_one():
    torch.manual_seed(0)
    model = FCMAE(dict(type='ConvNeXtV2', arch='atto'))
    loss = float(model(torch.randn(2, 3, 224, 224), mode='loss')['loss'].detach())
    assert 0.95 < loss < 1.1


def test_sizes_are_the_published_ones():
    """Decoder: 2,130,432 parameters in its block, 1,575,936 in its prediction (released code)."""
    model = FCMAE(dict(type='ConvNeXtV2', arch='atto'))
    assert sum(p.numel() for p in model.decoder.parameters()) == 2_130_432
    assert sum(p.numel() for p in model.pred.parameters()) == 1_575_936
    assert model.mask_token.shape == (1, 512, 1, 1)
    assert set(dict(model.named_children())) >= {'encoder', 'proj', 'decoder', 'pred'}


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_keeps_the_loss_in_float32(dtype):
    model = model_of('V2').float()
    images = images_of(VISIBLE).float()
    plain = model.loss(images, VisibleCells(VISIBLE))
    with torch.autocast('cpu', dtype):
        loss = model.loss(images, VisibleCells(VISIBLE))
    assert loss.dtype == torch.float32
    assert abs(float(loss.detach() / plain.detach()) - 1) < 0.02
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(cell=48), 'cell=48: give a multiple of 32'),
        (dict(mask_ratio=1), 'mask_ratio=1: give a number between 0 and 1'),
        (dict(decoder_dim=0), 'decoder_dim=0: give a positive integer'),
    ],
)
def test_impossible_options(options, words):
    with pytest.raises(ConfigError, match=words):
        FCMAE(dict(type='ConvNeXtV2', arch=ARCH), **options)


def test_other_backbones_are_refused():
    with pytest.raises(ConfigError, match='not TimmBackbone'):
        FCMAE(backbone_config('timm:resnet10t'))
