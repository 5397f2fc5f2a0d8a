"""The encoder on visible cells equals a sparse network that is written out, in float64."""

import pytest
import torch
from torch import Tensor, nn

from backbones import ConfigError, ConvNeXt, ConvNeXtV2, set_fused
from backbones.convnext.visible import VisibleCells
from pretraining.fcmae import Encoder
from tests.support.close import require_close

from .sparse_reference import encode, encode_dense

ARCH = dict(depths=(1, 2, 1, 1), dims=(4, 6, 8, 10))
CLASSES = {'V1': ConvNeXt, 'V2': ConvNeXtV2}
# Odd and even grids, cells at all borders, another mask for each image, one cell alone.
GRIDS = {
    '3x2': ['x.  .x  ..', '..  x.  .x'],
    '1x3': ['x.x', '.xx'],
    '2x3': ['..x  ...', 'x..  ...', '...  .x.'],
}


def grid(rows: list[str]) -> Tensor:
    return torch.tensor([[[c == 'x' for c in row] for row in each.split()] for each in rows])


def encoder_of(version: str, **options) -> Encoder:
    """With weights none of which is 0 or 1."""
    torch.manual_seed(0)
    encoder = Encoder(CLASSES[version](ARCH, **options)).double()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return encoder


def images_of(visible: Tensor) -> Tensor:
    torch.manual_seed(1)
    count, height, width = visible.shape
    return torch.randn(count, 3, 32 * height, 32 * width, dtype=torch.float64)


def as_map(encoder: Encoder, images: Tensor, visible: Tensor) -> Tensor:
    cells = VisibleCells(visible)
    return cells.scatter(encoder(images, cells))


def reference_map(p: dict[str, Tensor], images: Tensor, visible: Tensor) -> Tensor:
    sites = encode(p, images, visible)
    zero = torch.zeros_like(next(iter(sites.values())))
    count, height, width = visible.shape
    return torch.stack(
        [
            torch.stack(
                [
                    torch.stack([sites.get((n, y, x), zero) for x in range(width)], -1)
                    for y in range(height)
                ],
                -2,
            )
            for n in range(count)
        ]
    )


def gradients(output: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return list(torch.autograd.grad((output * weights).square().sum(), parameters))


@pytest.mark.parametrize('fused', [False, True], ids=['modules', 'fused'])
@pytest.mark.parametrize('rows', GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize('version', CLASSES)
def test_features_and_gradients_are_those_of_a_sparse_network(version, rows, fused):
    encoder, visible = encoder_of(version), grid(rows)
    images = images_of(visible).requires_grad_()
    p = dict(encoder.named_parameters())
    expected = reference_map(p, images, visible)
    with set_fused(fused):
        found = as_map(encoder, images, visible)
        require_close(found, expected, 1e-12)
        require_close(
            gradients(found, [images, *p.values()]),
            gradients(expected, [images, *p.values()]),
            1e-12,
        )


@pytest.mark.parametrize('version', CLASSES)
def test_drop_path_drops_the_same_samples_fused_or_not(version):
    visible = grid(GRIDS['2x3'])
    images = images_of(visible)
    found = []
    for fused in (False, True):
        encoder = encoder_of(version, drop_path_rate=0.6).train()
        with set_fused(fused):
            torch.manual_seed(5)
            output = as_map(encoder, images, visible)
            found.append([output, *gradients(output, list(encoder.parameters()))])
    require_close(found[1], found[0], 1e-12)


@pytest.mark.parametrize(
    ('leave_out', 'versions'),
    [
        ({}, ('V1', 'V2')),
        ({'conv'}, ('V1', 'V2')),
        ({'grn'}, ('V2',)),
        ({'batch'}, ('V2',)),
        ({'conv', 'grn'}, ('V2',)),  # the stem's output is masked, and nothing after it
    ],
    ids=lambda value: '-'.join(sorted(value)) or 'nothing',
)
def test_wrong_maskings_differ(leave_out, versions):
    for version in versions:
        encoder, visible = encoder_of(version), grid(GRIDS['3x2'])
        images = images_of(visible)
        found = as_map(encoder, images, visible)
        p = dict(encoder.named_parameters())
        dense = encode_dense(p, images, visible, frozenset(leave_out)) * visible[:, None]
        error = float(((found - dense).abs().max() / found.abs().max()).detach())
        assert error < 1e-13 if not leave_out else error > 1e-3


@pytest.mark.parametrize('version', CLASSES)
def test_hidden_pixels_reach_neither_features_nor_gradients(version):
    encoder, visible = encoder_of(version), grid(GRIDS['3x2'])
    images = images_of(visible)
    pixels = visible.repeat_interleave(32, 1).repeat_interleave(32, 2)[:, None]
    changed = torch.where(pixels, images, 9 * torch.randn_like(images))
    results = []
    for each in (images, changed):
        output = as_map(encoder, each, visible)
        results.append([output, *gradients(output, list(encoder.parameters()))])
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_stages_are_called_recomputed_and_replaced(monkeypatch):
    visible = grid(GRIDS['2x3'])
    images, cells = images_of(visible), VisibleCells(visible)
    encoder = encoder_of('V2')
    plain = encoder(images, cells)
    calls = []
    for stage in encoder.stages:
        stage.register_forward_hook(lambda *_: calls.append(1))
        stage.with_cp = True
    again = encoder(images, cells)
    assert len(calls) == 4
    assert torch.equal(again, plain)
    require_close(
        gradients(again, list(encoder.parameters())),
        gradients(plain, list(encoder.parameters())),
        1e-13,
    )

    class Twice(nn.Module):
        def forward(self, x: Tensor, visible: VisibleCells) -> Tensor:
            return 2 * x

    encoder.stages[3][0] = Twice()
    assert float(encoder(images, cells).detach().abs().max()) > 0


def test_a_drawn_mask_shows_the_papers_number_of_cells():
    cells = VisibleCells.drawn(torch.zeros(64, 3, 224, 224), 32, 0.6)
    assert cells.mask.flatten(1).sum(1).tolist() == [19] * 64
    assert len({tuple(mask.flatten().tolist()) for mask in cells.mask}) == 64
    share = cells.mask.double().mean(0)
    assert abs(float(share.mean()) - 19 / 49) < 1e-12
    assert float(share.min()) > 0.1  # every cell is seen in some images
    cells = VisibleCells.drawn(torch.zeros(2, 3, 128, 320), 64, 0.5)
    assert cells.mask.shape == (2, 2, 5)
    assert cells.per_image == 5


@pytest.mark.parametrize(
    ('size', 'cell', 'ratio', 'words'),
    [
        ((100, 224), 32, 0.6, 'no whole number of cells of 32x32'),
        ((32, 32), 32, 0.6, 'shows 0 of the 1 cells'),
        ((64, 64), 32, 1e-12, 'shows 4 of the 4 cells'),
    ],
)
def test_what_cannot_be_masked_is_an_error(size, cell, ratio, words):
    with pytest.raises(ConfigError, match=words):
        VisibleCells.drawn(torch.zeros(1, 3, *size), cell, ratio)


def test_different_numbers_of_visible_cells_are_an_error():
    with pytest.raises(ConfigError, match='the same number of visible cells'):
        VisibleCells(torch.tensor([[[True, False]], [[True, True]]]))
    with pytest.raises(ConfigError, match='the same number of visible cells'):
        VisibleCells(torch.zeros(2, 2, 2, dtype=torch.bool))
