"""The papers' rules of learning rates and weight decay, written down a second time from their sources.

Recipes use :mod:`backbones.optim.layer_depth` and mmengine. This file states the expected result
of every parameter, after the official repositories, so that the two can be compared.
"""

from __future__ import annotations

from collections.abc import Callable

from mmengine.config import Config
from torch import nn

# facebookresearch/ConvNeXt, object_detection: layer ids of a stage's first block and of the downsampling
# layer before it. Of the third stage three blocks share an id.
_LAYER_WISE = {0: 1, 1: 2, 2: 3}
Expected = dict[str, tuple[float, float]]


def expected_rates(cfg: Config, model: nn.Module) -> Expected:
    """Learning rate and weight decay that every trained parameter must have, by name."""
    wrapper = cfg.optim_wrapper
    rate, decay = wrapper.optimizer.lr, wrapper.optimizer.weight_decay
    paramwise = wrapper.get('paramwise_cfg', {})
    if cfg.model.type == 'DINODetector':
        return _of_detrex(cfg, model, rate, decay)
    if hasattr(model, 'panoptic_head') or hasattr(
        getattr(model, 'decode_head', None), 'query_feat'
    ):
        return _of_mask2former(cfg, model, rate, decay)
    if wrapper.get('constructor') != 'LayerDecayOptimWrapperConstructor':
        exempt = _exemptions(paramwise, model)
        return {
            name: (rate, 0.0 if exempt(name) else decay)
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
    exponent = {'layer_wise': _layer_exponent, 'stage_wise': _stage_exponent}[paramwise.decay_type]
    blocks = len(model.backbone.stages[2])
    return {
        name: (
            rate * paramwise.decay_rate ** exponent(name, blocks),
            0.0 if _exempt_in_convnext(name, parameter) else decay,
        )
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def _of_detrex(cfg: Config, model: nn.Module, rate: float, decay: float) -> Expected:
    """IDEA-Research/detrex: projects/dino/configs, detectron2's get_default_optimizer_params.

    A tenth of the rate for the backbone; no decay in torch's norms. Those of detrex's ConvNeXt are a
    class of its own, and have it.
    """
    exempt = _exempt_norms(model)
    own_norms = cfg.model.backbone.type in ('ConvNeXt', 'ConvNeXtV2')
    expected = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            of_backbone = name.startswith('backbone.')
            is_exempt = exempt(name) and not (of_backbone and own_norms)
            expected[name] = (rate * 0.1 if of_backbone else rate, 0.0 if is_exempt else decay)
    return expected


def _of_mask2former(cfg: Config, model: nn.Module, rate: float, decay: float) -> Expected:
    """facebookresearch/Mask2Former: train_net.py, Trainer.build_optimizer.

    As :func:`_of_detrex`, with no decay either in position tables and in ``nn.Embedding``. The embedding
    of levels of the pixel decoder is one in mmdet, and a plain parameter in the official code.
    """
    tables = {
        f'{name}.weight' for name, module in model.named_modules() if type(module) is nn.Embedding
    }
    expected = _of_detrex(cfg, model, rate, decay)
    for name, (own, _) in expected.items():
        of_level = name.endswith('pixel_decoder.level_encoding.weight')
        if 'relative_position_bias_table' in name or (name in tables and not of_level):
            expected[name] = own, 0.0
    return expected


def _layers(blocks: int) -> int:
    return 12 if blocks > 9 else 6


def _layer_exponent(name: str, blocks: int) -> int:
    last = _layers(blocks)
    part, *numbers = name.removeprefix('backbone.').split('.')
    if not name.startswith('backbone.') or part not in ('downsample_layers', 'stages'):
        return 0
    stage = int(numbers[0])
    if part == 'downsample_layers' and stage == 0:
        layer = 0
    elif stage == 3:
        layer = last
    elif part == 'stages' and stage == 2:
        layer = min(3 + int(numbers[1]) // 3, last)
    else:
        layer = _LAYER_WISE[stage]
    return last + 1 - layer


def _stage_exponent(name: str, blocks: int) -> int:
    last = _layers(blocks)
    part, *numbers = name.removeprefix('backbone.').split('.')
    if not name.startswith('backbone.') or part not in ('downsample_layers', 'stages'):
        return 0
    return last + 1 - (0 if part == 'downsample_layers' else int(numbers[0]) + 1)


def _exempt_in_convnext(name: str, parameter: nn.Parameter) -> bool:
    """Vectors and biases, and GRN's parameters, which ConvNeXt V2's code exempts by name."""
    return parameter.ndim == 1 or name.endswith(('.bias', '.gamma', '.beta'))


def _exemptions(paramwise: dict, model: nn.Module) -> Callable[[str], bool]:
    """Which parameters are exempt from weight decay: with SGD, whose recipe says nothing, none."""
    if 'custom_keys' in paramwise:
        return _exempt_in_swin
    return _exempt_norms(model) if paramwise else lambda name: False


def _exempt_in_swin(name: str) -> bool:
    words = ('norm', 'relative_position_bias_table', 'absolute_pos_embed')
    return any(word in name for word in words)


def _exempt_norms(model: nn.Module):
    norms = {
        f'{module_name}.{name}'
        for module_name, module in model.named_modules()
        if 'Norm' in type(module).__name__
        for name, _ in module.named_parameters(recurse=False)
    }
    return norms.__contains__
