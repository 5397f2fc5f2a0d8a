"""What was resolved when a backbone was dropped in, for people to read."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.config import Config
from torch.nn.modules.batchnorm import _BatchNorm

from backbones.names import known_weights
from backbones.optim.layer_decay import depths_of
from backbones.weights.load import is_non_commercial
from backbones.weights.sources import find
from backbones.weights.timm_catalog import tags

from .facts import Fitting


def report(cfg: Config, fitting: Fitting, task: str) -> str:
    """A line for each thing that depends on the backbone of ``cfg``."""
    config = fitting.config
    lines = [
        ('backbone', f'{fitting.name} ({config["type"]})'),
        (
            'maps',
            f'{", ".join(map(str, fitting.channels))} channels at strides '
            f'{", ".join(map(str, fitting.strides))}',
        ),
        *_weights_lines(fitting),
    ]
    preprocessor = cfg.model.data_preprocessor
    lines.append(('input', f'mean {_short(preprocessor.mean)}, std {_short(preprocessor.std)}'))
    divisor = preprocessor.get('pad_size_divisor') if task == 'detection' else fitting.divisor
    lines.append(
        ('padding', f'to multiples of {divisor}' if divisor > 1 else 'none: takes any size')
    )
    lines.append(('BatchNorm', _batch_norm_in_words(fitting)))
    lines.append(('drop path', str(config.get('drop_path_rate', 'none'))))
    lines.append(('layer decay', _layer_decay_in_words(cfg, fitting)))
    return '\n'.join(f'{what:>12}  {value}' for what, value in lines)


def _short(values: Sequence[float]) -> str:
    return ', '.join(f'{value:g}' for value in values)


def _weights_lines(fitting: Fitting) -> list[tuple[str, str]]:
    if fitting.weights:
        licence = find(fitting.weights).licence
        warning = ' - NON-COMMERCIAL use only' if is_non_commercial(licence) else ''
        return [('weights', fitting.weights), ('licence', licence + warning)]
    if fitting.name.startswith('timm:'):
        known = [f'{fitting.name}.{tag}' for tag in tags(fitting.config['model'])]
    else:
        known = known_weights(fitting.name)
    hint = f'; known: {", ".join(known[:6])}{", ..." if len(known) > 6 else ""}' if known else ''
    return [('weights', f'none, random values{hint}')]


def _batch_norm_in_words(fitting: Fitting) -> str:
    count = sum(isinstance(module, _BatchNorm) for module in fitting.built.modules())
    if not count:
        return 'none'
    words = []
    if fitting.config.get('norm_eval'):
        words.append('statistics frozen')
    elif fitting.config.get('sync_bn'):
        words.append('statistics over all processes')
    else:
        words.append("statistics of each process, as the backbone's class has it")
    if fitting.config.get('frozen_stages', -1) >= 0:
        words.append(f'stem and stages up to {fitting.config["frozen_stages"]} do not train')
    return f'{count} layers, ' + ', '.join(words)


def _layer_decay_in_words(cfg: Config, fitting: Fitting) -> str:
    wrapper = cfg.get('optim_wrapper') or {}
    paramwise = wrapper.get('paramwise_cfg') or {}
    rate = paramwise.get('decay_rate')
    if wrapper.get('constructor') != 'LayerDecayOptimWrapperConstructor' or rate is None:
        return 'none in this config'
    decay_type = paramwise.get('decay_type', 'layer_wise')
    depths = depths_of(fitting.built, decay_type)
    total = max(depths.values())[1]
    stem = rate ** (total - 1 - min(depth for depth, _ in depths.values()))
    if stem == 1:
        return 'off: every rate is the same'
    return f'{rate} {decay_type}, {total - 2} groups; the stem learns at {stem:.3g} of the rate'
