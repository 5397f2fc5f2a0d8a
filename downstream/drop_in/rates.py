"""Learning rates of a backbone that is dropped in: layer decay, or a factor for all of it."""

from __future__ import annotations

from mmengine.config import Config, ConfigDict

from backbones.optim.layer_decay import depths_of

from .facts import BackboneFacts

_CONSTRUCTOR = 'LayerDecayOptimWrapperConstructor'
# mmdet's and mmseg's know the names of a few backbones; those of others all get the rate of the heads.
_STOCK = ('LayerDecayOptimizerConstructor', 'LearningRateDecayOptimizerConstructor')


def adapt_layer_decay(cfg: Config) -> list[tuple[str, str]]:
    """Replace mmseg's and mmdet's layer decay, which knows a few backbones, by that of any backbone.

    Returns:
        A line of the report, if it was replaced.
    """
    wrapper = cfg.get('optim_wrapper') or ConfigDict()
    constructor = str(wrapper.get('constructor')).rpartition('.')[2]
    if constructor not in _STOCK:
        return []
    old = wrapper.get('paramwise_cfg') or {}
    rate = old.get('decay_rate', old.get('layer_decay_rate'))
    wrapper.constructor = _CONSTRUCTOR
    decay_type = old.get('decay_type', 'layer_wise')
    wrapper.paramwise_cfg = ConfigDict(decay_rate=rate, decay_type=decay_type)
    return [('optimizer', f'{_CONSTRUCTOR} for {constructor}, which knows only some backbones')]


def rates_in_words(cfg: Config, facts: BackboneFacts) -> tuple[str, str]:
    """The line of the report about the learning rates of the backbone."""
    wrapper = cfg.get('optim_wrapper') or {}
    paramwise = wrapper.get('paramwise_cfg') or {}
    rate = paramwise.get('decay_rate')
    if wrapper.get('constructor') != _CONSTRUCTOR or rate is None:
        of_backbone = (paramwise.get('custom_keys') or {}).get('backbone') or {}
        factor = of_backbone.get('lr_mult', 1)
        if factor != 1:
            return 'rate', f"the backbone learns at {factor:.3g} of the heads' rate"
        return 'layer decay', 'none in this config'
    decay_type = paramwise.get('decay_type', 'layer_wise')
    depths = depths_of(facts.built, decay_type)
    total = max(depths.values())[1]
    stem = rate ** (total - 1 - min(depth for depth, _ in depths.values()))
    if stem == 1:
        return 'layer decay', 'off: every rate is the same'
    words = f'{rate} {decay_type}, {total - 2} groups; the stem learns at {stem:.3g} of the rate'
    return 'layer decay', words
