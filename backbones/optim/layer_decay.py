"""Layer-wise learning-rate decay for any backbone, by the depth of its parameters.

Source: the official ConvNeXt detection and segmentation code, whose parameter groups it reproduces.
"""

from __future__ import annotations

from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn

from backbones.errors import ConfigError
from backbones.upstream import required

from .layer_depth import Depth, generic_depths

# It is overridden.
required('mmengine.optim.DefaultOptimWrapperConstructor._validate_cfg')
_DEPTH_METHOD = {'layer_wise': 'get_layer_depth', 'stage_wise': 'get_stage_depth'}
_OPTIONS = ('decay_rate', 'decay_type', 'num_layers')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Multiplies a parameter's learning rate by ``decay_rate ** (distance to the head)``.

    ``paramwise_cfg`` takes

    - ``decay_rate``: in (0, 1];
    - ``decay_type``: ``'layer_wise'`` (detection recipes) or ``'stage_wise'`` (segmentation);
    - ``num_layers``: number of groups between stem and heads, as a check: a number that contradicts
      the backbone is an error.

    The backbone may have ``get_layer_depth(name, prefix) -> (depth, number_of_layers)`` (for stage-wise
    decay ``get_stage_depth``); otherwise depth follows the order of its blocks. Parameters that its
    ``no_weight_decay()`` names are exempt from weight decay, as are biases and parameters of one
    dimension. Everything outside the backbone has scale 1. Frozen parameters are in no group, each other
    parameter is in exactly one. Groups are sorted by falling rate: logs show the first one's.
    """

    def _validate_cfg(self) -> None:
        options = dict(self.paramwise_cfg)
        unknown = sorted(set(options) - set(_OPTIONS))
        if unknown:
            raise ConfigError(
                f'paramwise_cfg: {", ".join(unknown)} unknown to {type(self).__name__}; '
                f'it takes {", ".join(_OPTIONS)}.'
            )
        rate = options.get('decay_rate')
        if not isinstance(rate, (int, float)) or not 0 < rate <= 1:
            raise ConfigError(f'paramwise_cfg: decay_rate={rate!r} must be a number in (0, 1].')
        decay_type = options.get('decay_type', 'layer_wise')
        if decay_type not in _DEPTH_METHOD:
            raise ConfigError(
                f'paramwise_cfg: decay_type={decay_type!r}; known: {", ".join(_DEPTH_METHOD)}.'
            )
        if self.base_lr is None:
            raise ConfigError('optim_wrapper.optimizer needs lr, the rate that layer decay scales.')

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """An optimizer wrapper over ``model`` (bare or wrapped for distribution)."""
        model = getattr(model, 'module') if is_model_wrapper(model) else model  # noqa: B009
        wrapper_cfg = {'type': 'OptimWrapper', **self.optim_wrapper_cfg}
        groups = self.param_groups(model)
        _log_groups(groups)
        optimizer = OPTIMIZERS.build({**self.optimizer_cfg, 'params': groups})
        return OPTIM_WRAPPERS.build(wrapper_cfg, default_args={'optimizer': optimizer})

    def param_groups(self, model: nn.Module) -> list[dict]:
        """The parameter groups of ``model``, highest learning rate first.

        Raises:
            ConfigError: ``model`` has no backbone, a depth is invalid, or ``num_layers`` contradicts the
                backbone.
        """
        depth_of, exempt = self._depths_and_exemptions(model)
        decay_rate = self.paramwise_cfg['decay_rate']
        groups: dict[tuple[int, bool], dict] = {}
        for name, param in model.named_parameters():  # a shared tensor comes once
            if not param.requires_grad:
                continue
            depth, total = depth_of(name)
            decayed = not (param.ndim <= 1 or name.endswith('.bias') or name in exempt)
            scale = decay_rate ** (total - depth - 1)
            group = groups.setdefault(
                (depth, decayed),
                {
                    'params': [],
                    'param_names': [],
                    'layer_id': depth,
                    'lr_scale': scale,
                    'lr': self.base_lr * scale,
                    'weight_decay': (self.base_wd or 0.0) if decayed else 0.0,
                },
            )
            group['params'].append(param)
            group['param_names'].append(name)
        return [groups[key] for key in sorted(groups, reverse=True)]

    def _depths_and_exemptions(self, model: nn.Module):
        """A function from parameter name to depth, and the names exempt from weight decay."""
        backbone = getattr(model, 'backbone', None)
        if backbone is None:
            raise ConfigError(f'{type(self).__name__}: {type(model).__name__} has no backbone.')
        depths = depths_of(backbone, self.paramwise_cfg.get('decay_type', 'layer_wise'))
        total = max((total for _, total in depths.values()), default=1)
        num_layers = self.paramwise_cfg.get('num_layers')
        if num_layers is not None and num_layers + 2 != total:
            raise ConfigError(
                f'paramwise_cfg: num_layers={num_layers} contradicts {type(backbone).__name__}, '
                f'which has {total - 2}; leave num_layers out to use the number of the backbone.'
            )

        def depth_of(name: str) -> Depth:
            behind = total - 1, total
            start = 'backbone.'
            return (
                depths.get(name.removeprefix(start), behind) if name.startswith(start) else behind
            )

        exempt: set[str] = getattr(backbone, 'no_weight_decay', set)()
        return depth_of, {f'backbone.{name}' for name in exempt}


def depths_of(backbone: nn.Module, decay_type: str = 'layer_wise') -> dict[str, Depth]:
    """The depth of every parameter of ``backbone``, ``(depth, number_of_layers)``.

    Without ``get_layer_depth`` (``get_stage_depth``) depth follows the order of the blocks:
    :func:`backbones.optim.layer_depth.generic_depths`.

    Raises:
        ConfigError: The backbone returns something else than a depth.
    """
    names = [name for name, _ in backbone.named_parameters()]
    method = getattr(backbone, _DEPTH_METHOD[decay_type], None)
    if method is None:
        return generic_depths(names)
    depths = {name: method(name, '') for name in names}
    for name, answer in depths.items():
        if not (
            isinstance(answer, tuple)
            and len(answer) == 2
            and all(isinstance(n, int) for n in answer)
            and 0 <= answer[0] < answer[1]
        ):
            raise ConfigError(
                f'{type(backbone).__name__}.{_DEPTH_METHOD[decay_type]}({name!r}) returns {answer!r}; '
                'it must return (depth, number_of_layers) with 0 <= depth < number_of_layers.'
            )
    if len({total for _, total in depths.values()}) > 1:
        raise ConfigError(
            f'{type(backbone).__name__}.{_DEPTH_METHOD[decay_type]} returns several numbers of layers: '
            f'{sorted({total for _, total in depths.values()})}.'
        )
    return depths


def _log_groups(groups: list[dict]) -> None:
    header = (
        f'{"layer":>5} {"lr scale":>9} {"lr":>10} {"decay":>6} {"tensors":>8} {"parameters":>12}'
    )
    rows = [
        f'{g["layer_id"]:>5} {g["lr_scale"]:>9.4g} {g["lr"]:>10.3g} {g["weight_decay"]:>6.3g} '
        f'{len(g["params"]):>8} {sum(p.numel() for p in g["params"]):>12,}'
        for g in groups
    ]
    print_log('\n'.join(['Parameter groups:', header, *rows]), logger='current')
