"""The report of what was configured from a backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmengine.config import Config
from torch.nn.modules.batchnorm import _BatchNorm

from backbones.completed import CompletedBackbone
from backbones.names import known_weights
from backbones.weights.load import is_non_commercial
from backbones.weights.sources import find
from backbones.weights.timm_catalog import tags

from .facts import BackboneFacts
from .rates import rates_in_words


def report(
    cfg: Config,
    facts: BackboneFacts,
    preprocessor: Mapping,
    task: str,
    notes: Sequence[tuple[str, str]] = (),
) -> str:
    """A line for each thing that depends on the backbone of ``cfg``; ``notes`` are further ones."""
    config = facts.config
    lines = [
        ('backbone', f'{facts.name} ({config["type"]})'),
        *_made_lines(facts),
        (
            'maps',
            f'{", ".join(map(str, facts.channels))} channels at strides '
            f'{", ".join(map(str, facts.strides))}',
        ),
        *_weights_lines(facts),
    ]
    lines.append(('input', _input_in_words(preprocessor, facts.input_channels)))
    padded = preprocessor.get('pad_size_divisor') or 1
    divisor = padded if task == 'detection' else facts.divisor
    lines.append(
        ('padding', f'to multiples of {divisor}' if divisor > 1 else 'none: takes any size')
    )
    lines.append(('BatchNorm', _batch_norm_in_words(facts)))
    lines.append(('drop path', str(config.get('drop_path_rate', 'none'))))
    lines.append(rates_in_words(cfg, facts))
    lines += notes
    return '\n'.join(f'{what:>12}  {value}' for what, value in lines)


def _made_lines(facts: BackboneFacts) -> list[tuple[str, str]]:
    if not isinstance(facts.built, CompletedBackbone):
        return []
    own = facts.config['strides']
    missing = [str(stride) for stride in facts.strides if stride not in own]
    made = f'; made from the nearest: {", ".join(missing)}' if missing else ''
    return [('its strides', f'{", ".join(map(str, own))}{made}')]


def _input_in_words(preprocessor: Mapping, channels: int) -> str:
    mean, std = preprocessor.get('mean'), preprocessor.get('std')
    if mean is None or std is None or len(mean) not in (1, channels):
        return f'{channels} channels; mean and std are measured from the data'
    return f'mean {_short(mean)}, std {_short(std)}'


def _short(values: Sequence[float]) -> str:
    return ', '.join(f'{value:g}' for value in values)


def _weights_lines(facts: BackboneFacts) -> list[tuple[str, str]]:
    if facts.weights:
        licence = find(facts.weights).licence
        warning = ' - NON-COMMERCIAL use only' if is_non_commercial(licence) else ''
        return [('weights', facts.weights), ('licence', licence + warning)]
    if facts.name.startswith('timm:'):
        known = [f'{facts.name}.{tag}' for tag in tags(facts.config['model'])]
    else:
        known = known_weights(facts.name)
    hint = f'; known: {", ".join(known[:6])}{", ..." if len(known) > 6 else ""}' if known else ''
    return [('weights', f'none, random values{hint}')]


def _batch_norm_in_words(facts: BackboneFacts) -> str:
    count = sum(isinstance(module, _BatchNorm) for module in facts.built.modules())
    if not count:
        return 'none'
    words = []
    if facts.config.get('norm_eval'):
        words.append('statistics frozen')
    elif facts.config.get('sync_bn'):
        words.append('statistics over all processes')
    else:
        words.append('statistics of each process')
    if facts.config.get('frozen_stages', -1) >= 0:
        words.append(f'stem and stages up to {facts.config["frozen_stages"]} do not train')
    return f'{count} layers, ' + ', '.join(words)
