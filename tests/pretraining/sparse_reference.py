"""A ConvNeXt on sparse maps, written out: a dict of sites, and a loop over the neighbours that exist.

Independent of the suite's own code but for the parameters, which are read by their official names. What
Minkowski's layers compute is stated in the comments.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-6
Site = tuple[int, int, int]  # image, row, column


def norm(x: Tensor, p: Mapping[str, Tensor], name: str) -> Tensor:
    weight, bias = p[f'{name}.weight'], p[f'{name}.bias']
    return F.layer_norm(x, weight.shape, weight, bias, EPS)


def encode(p: Mapping[str, Tensor], images: Tensor, visible: Tensor) -> dict[Site, Tensor]:
    """Features of every visible site at stride 32; ``visible`` ``(N, G, H)`` in cells of 32 pixels."""
    stem = p['downsample_layers.0.0.weight'], p['downsample_layers.0.0.bias']
    sites: dict[Site, Tensor] = {}
    for n, row, column in visible.nonzero().tolist():
        for y in range(8 * row, 8 * row + 8):
            for x in range(8 * column, 8 * column + 8):
                patch = images[n, :, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
                value = (stem[0] * patch).sum((1, 2, 3)) + stem[1]
                sites[n, y, x] = norm(value, p, 'downsample_layers.0.1')
    for stage in range(4):
        if stage:
            sites = downsample(p, sites, f'downsample_layers.{stage}')
        block = 0
        while f'stages.{stage}.{block}.dwconv.weight' in p:
            sites = run_block(p, sites, f'stages.{stage}.{block}')
            block += 1
    return sites


def downsample(p: Mapping[str, Tensor], sites: dict[Site, Tensor], name: str) -> dict[Site, Tensor]:
    """2 x 2 with stride 2: an output site wherever an input site is, the sum over those that are."""
    weight, bias = p[f'{name}.1.weight'], p[f'{name}.1.bias']
    out: dict[Site, Tensor] = {}
    for (n, y, x), value in sites.items():
        part = weight[:, :, y % 2, x % 2] @ norm(value, p, f'{name}.0')
        key = (n, y // 2, x // 2)
        out[key] = out[key] + part if key in out else bias + part
    return out


def run_block(p: Mapping[str, Tensor], sites: dict[Site, Tensor], name: str) -> dict[Site, Tensor]:
    """Output sites are the input sites; neighbours that are no sites are not in the sum."""
    weight, bias = p[f'{name}.dwconv.weight'], p[f'{name}.dwconv.bias']
    hidden: dict[Site, Tensor] = {}
    for n, y, x in sites:
        total = bias
        for dy in range(-3, 4):
            for dx in range(-3, 4):
                if (n, y + dy, x + dx) in sites:
                    total = total + weight[:, 0, dy + 3, dx + 3] * sites[n, y + dy, x + dx]
        total = norm(total, p, f'{name}.norm')
        first = p[f'{name}.pwconv1.weight'] @ total + p[f'{name}.pwconv1.bias']
        hidden[n, y, x] = first * 0.5 * (1 + torch.erf(first / 2**0.5))
    if f'{name}.grn.gamma' in p:
        gamma, beta = p[f'{name}.grn.gamma'].flatten(), p[f'{name}.grn.beta'].flatten()
        for image in {n for n, _, _ in hidden}:
            own = [site for site in hidden if site[0] == image]
            norms = torch.stack([hidden[site] for site in own]).square().sum(0).sqrt()
            factor = norms / (norms.mean() + EPS)
            for site in own:
                value = hidden[site]
                hidden[site] = gamma * (value * factor) + beta + value
    out = {}
    for site, value in hidden.items():
        branch = p[f'{name}.pwconv2.weight'] @ value + p[f'{name}.pwconv2.bias']
        out[site] = sites[site] + p.get(f'{name}.gamma', 1.0) * branch
    return out


def encode_dense(
    p: Mapping[str, Tensor], images: Tensor, visible: Tensor, leave_out: frozenset[str]
) -> Tensor:
    """The whole grid with masks, ``(N, C, G, H)``; ``leave_out`` some of ``conv``, ``grn``, ``batch``.

    With none left out it is right where cells are visible. ``conv`` leaves out the mask before depthwise
    convolutions, ``grn`` that of GRN's norm, which ``batch`` takes over all samples.
    """
    x = F.conv2d(images, p['downsample_layers.0.0.weight'], p['downsample_layers.0.0.bias'], 4)
    x = norm(x.permute(0, 2, 3, 1), p, 'downsample_layers.0.1')
    mask = visible.repeat_interleave(8, 1).repeat_interleave(8, 2)[..., None].to(x)
    x = x * mask
    for stage in range(4):
        if stage:
            name = f'downsample_layers.{stage}'
            x = norm(x, p, f'{name}.0').permute(0, 3, 1, 2)
            x = F.conv2d(x, p[f'{name}.1.weight'], p[f'{name}.1.bias'], 2).permute(0, 2, 3, 1)
            mask = mask[:, ::2, ::2]
        block = 0
        while f'stages.{stage}.{block}.dwconv.weight' in p:
            name = f'stages.{stage}.{block}'
            near = (x if 'conv' in leave_out else x * mask).permute(0, 3, 1, 2)
            weight, bias = p[f'{name}.dwconv.weight'], p[f'{name}.dwconv.bias']
            near = F.conv2d(near, weight, bias, padding=3, groups=len(bias)).permute(0, 2, 3, 1)
            near = norm(near, p, f'{name}.norm')
            hidden = F.gelu(F.linear(near, p[f'{name}.pwconv1.weight'], p[f'{name}.pwconv1.bias']))
            if f'{name}.grn.gamma' in p:
                seen = hidden if 'grn' in leave_out else hidden * mask
                axes = (0, 1, 2) if 'batch' in leave_out else (1, 2)
                norms = torch.linalg.vector_norm(seen, dim=axes, keepdim=True)
                factor = norms / (norms.mean(-1, keepdim=True) + EPS)
                hidden = p[f'{name}.grn.gamma'] * (hidden * factor) + p[f'{name}.grn.beta'] + hidden
            branch = F.linear(hidden, p[f'{name}.pwconv2.weight'], p[f'{name}.pwconv2.bias'])
            x = x + p.get(f'{name}.gamma', 1.0) * branch
            block += 1
    return x.permute(0, 3, 1, 2)
