"""The same network as others write it: FAIR's form, timm, torchvision, transformers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from backbones import ConvNeXt, ConvNeXtV2
from backbones.convnext import Block


class _ChannelsFirstNorm(nn.Module):
    """LayerNorm over the channels of ``(N, C, H, W)``, term by term."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        scaled = centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + 1e-6)
        return self.weight[:, None, None] * scaled + self.bias[:, None, None]


class _Grn(nn.Module):
    """Algorithm 1 of the ConvNeXt V2 paper."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, dim))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        gx = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        nx = gx / (gx.mean(dim=-1, keepdim=True) + 1e-6)
        return self.gamma * (x * nx) + self.beta + x


class _Block(nn.Module):
    def __init__(self, dim: int, rate: float, scaled: bool, grn: bool) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.grn = _Grn(4 * dim) if grn else None
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.ones(dim)) if scaled else None
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        branch = self.dwconv(x).permute(0, 2, 3, 1)
        branch = self.act(self.pwconv1(self.norm(branch)))
        branch = self.pwconv2(branch if self.grn is None else self.grn(branch))
        if self.gamma is not None:
            branch = self.gamma * branch
        branch = branch.permute(0, 3, 1, 2)
        if self.training and self.rate:
            keep = 1 - self.rate
            mask = branch.new_empty((branch.shape[0], 1, 1, 1)).bernoulli_(keep)
            branch = branch * mask.div_(keep)
        return x + branch


class FairForm(nn.Module):
    """The backbone in the form of the papers' detection code: NCHW between blocks, a norm per output.

    Parameter names are the official ones.

    Args:
        model: Whose sizes and weights it takes.
    """

    def __init__(self, model: ConvNeXt) -> None:
        super().__init__()
        dims, depths = model.arch.dims, model.arch.depths
        self.downsample_layers = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(3, dims[0], 4, 4), _ChannelsFirstNorm(dims[0]))]
        )
        for i in range(3):
            self.downsample_layers.append(
                nn.Sequential(_ChannelsFirstNorm(dims[i]), nn.Conv2d(dims[i], dims[i + 1], 2, 2))
            )
        rates = iter([block.drop_path.p for stage in model.stages for block in blocks(stage)])
        grn = isinstance(model, ConvNeXtV2)
        self.stages = nn.ModuleList(
            nn.Sequential(*(_Block(dim, next(rates), not grn, grn) for _ in range(depth)))
            for dim, depth in zip(dims, depths)
        )
        for i, dim in enumerate(dims):
            self.add_module(f'norm{i}', _ChannelsFirstNorm(dim))
        self.load_state_dict(model.state_dict())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = []
        for i in range(4):
            x = self.stages[i](self.downsample_layers[i](x))
            maps.append(getattr(self, f'norm{i}')(x))
        return tuple(maps)


class _WithNorms(nn.Module):
    """A library's trunk, with our norms on its outputs."""

    def __init__(
        self, trunk: Callable[[Tensor], list[Tensor]], owner: nn.Module, model: ConvNeXt
    ) -> None:
        super().__init__()
        self.owner = owner
        self._trunk = trunk
        self.norms = nn.ModuleList(copy.deepcopy(getattr(model, f'norm{i}')) for i in range(4))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(norm(y) for norm, y in zip(self.norms, self._trunk(x)))


def blocks(stage: nn.Module) -> Iterator[Block]:
    """The blocks of a stage of ours."""
    for block in stage.children():
        assert isinstance(block, Block), type(block)
        yield block


def peers(model: ConvNeXt, arch: str, drop_path_rate: float = 0.0) -> dict[str, nn.Module]:
    """The same network with the same weights by other libraries, in the mode of ``model``.

    Args:
        model: Ours.
        arch: Its size by name.
        drop_path_rate: Of ``model``.
    """
    grn = isinstance(model, ConvNeXtV2)
    found = {'FAIR form': FairForm(model), 'timm': _timm(model, arch, drop_path_rate, grn)}
    if grn:
        found['transformers'] = _transformers(model, drop_path_rate)
    elif arch in ('tiny', 'small', 'base', 'large'):
        found['torchvision'] = _torchvision(model, arch, drop_path_rate)
    for peer in found.values():
        peer.train(model.training)
    return found


def _official_state(model: ConvNeXt) -> dict[str, Tensor]:
    """Weights without norms of outputs."""
    return {k: v for k, v in model.state_dict().items() if not k.startswith('norm')}


def _timm(model: ConvNeXt, arch: str, rate: float, grn: bool) -> nn.Module:
    import timm
    from timm.models.convnext import ConvNeXt as TimmConvNeXt
    from timm.models.convnext import checkpoint_filter_fn

    name = f'convnext{"v2" if grn else ""}_{arch}'
    create = partial(timm.create_model, name, drop_path_rate=rate, num_classes=0)
    trunk = create() if grn else create(ls_init_value=1.0, conv_mlp=False)
    assert isinstance(trunk, TimmConvNeXt)
    state = checkpoint_filter_fn(_official_state(model), trunk)
    left = trunk.load_state_dict(state, strict=False)
    assert all(k.startswith('head') for k in (*left.missing_keys, *left.unexpected_keys)), left
    trunk.add_module('head', nn.Identity())

    def run(x: Tensor) -> list[Tensor]:
        maps = trunk.forward_intermediates(x, indices=4, intermediates_only=True)
        assert isinstance(maps, list)
        return maps

    return _WithNorms(run, trunk, model)


def _torchvision(model: ConvNeXt, arch: str, rate: float) -> nn.Module:
    import torchvision

    net = getattr(torchvision.models, f'convnext_{arch}')(
        stochastic_depth_prob=rate, layer_scale=1.0
    )
    trunk = net.features
    # Both list their tensors in the order in which they run, gamma apart.
    own = trunk.state_dict()
    state: dict[str, Tensor] = {}
    for i in range(4):
        state |= _named(model.downsample_layers[i], f'{2 * i}.')
        for j, block in enumerate(blocks(model.stages[i])):
            assert block.gamma is not None  # in every block of V1
            state |= _parts(
                block, f'{2 * i + 1}.{j}.', ('block.0', 'block.2', 'block.3', 'block.5')
            )
            state[f'{2 * i + 1}.{j}.layer_scale'] = block.gamma.detach().reshape(-1, 1, 1)
    trunk.load_state_dict({key: state[key] for key in own})
    trunk.to(memory_format=torch.channels_last)

    def run(x: Tensor) -> list[Tensor]:
        maps = []
        for i, layer in enumerate(trunk):
            x = layer(x)
            if i % 2:
                maps.append(x)
        return maps

    return _WithNorms(run, trunk, model)


def _parts(block: Block, prefix: str, names: tuple[str, str, str, str]) -> dict[str, Tensor]:
    """Tensors of the convolution, the norm and the two linear layers under a library's names."""
    own = (block.dwconv, block.norm, block.pwconv1, block.pwconv2)
    parts: dict[str, Tensor] = {}
    for module, name in zip(own, names):
        parts |= _named(module, f'{prefix}{name}.')
    return parts


def _named(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in module.state_dict().items()}


def _transformers(model: ConvNeXtV2, rate: float) -> nn.Module:
    from transformers import ConvNextV2Config, ConvNextV2Model

    config = ConvNextV2Config(
        depths=list(model.arch.depths), hidden_sizes=list(model.arch.dims), drop_path_rate=rate,
        output_hidden_states=True,
    )  # fmt: skip
    net = ConvNextV2Model(config)
    state: dict[str, Tensor] = {}
    for i in range(4):
        first = 'embeddings.' if i == 0 else f'encoder.stages.{i}.downsampling_layer.'
        names = ('patch_embeddings', 'layernorm') if i == 0 else ('0', '1')
        for name, layer in zip(names, model.downsample_layers[i].children()):
            state |= _named(layer, f'{first}{name}.')
        for j, block in enumerate(blocks(model.stages[i])):
            assert block.grn is not None  # in every block of V2
            start = f'encoder.stages.{i}.layers.{j}.'
            state |= _parts(block, start, ('dwconv', 'layernorm', 'pwconv1', 'pwconv2'))
            state[f'{start}grn.weight'] = block.grn.gamma.detach()
            state[f'{start}grn.bias'] = block.grn.beta.detach()
    left = net.load_state_dict(state, strict=False)
    assert all(k.startswith('layernorm') for k in (*left.missing_keys, *left.unexpected_keys)), left

    def run(x: Tensor) -> list[Tensor]:
        return list(net(x).hidden_states[1:])

    return _WithNorms(run, net, model)
