"""The config of a backbone, by its name.

A name is

- ``<family>-<size>[_<weights>]``, a built-in: ``convnext-tiny_in1k``, ``swin-base_in22k``,
  ``resnet-50_in1k``, ``resnext101-64x4d``, ``roadmap-inverted-bottleneck``;
- ``timm:<model>[.<tag>]``, with the weights of that tag;
- ``module.path:ClassName``, any class that can be imported;
- a type registered in ``MODELS``.

Without weights in the name a backbone starts from random weights.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from difflib import get_close_matches
from pathlib import Path

from mmengine.registry import MODELS

from backbones.convnext.isotropic import ConvNeXtIsotropic
from backbones.convnext.model import ConvNeXt, ConvNeXtV2
from backbones.roadmap import names as roadmap
from backbones.weights.sources import weights_table
from backbones.weights.timm_catalog import check_model_name, model_names, pretrained_cfg

from .errors import ConfigError, WeightsError

_SWIN = 'swin_{}_patch4_window7_224'
# Built-in names of timm models: family -> size -> timm's name.
TIMM_FAMILIES = {
    'swin': {
        **{size: _SWIN.format(size) for size in ('tiny', 'small', 'base', 'large')},
        **{f'{size}-384': f'swin_{size}_patch4_window12_384' for size in ('base', 'large')},
    },
    'resnet': {depth: f'resnet{depth}' for depth in ('18', '34', '50', '101', '152')},
    'resnext101': {groups: f'resnext101_{groups}' for groups in ('32x4d', '64x4d')},
}


def _architectures() -> dict[str, dict]:
    """``<family>-<size>`` of every built-in, and the config that builds it."""
    found: dict[str, dict] = {}
    for cls in (ConvNeXt, ConvNeXtV2, ConvNeXtIsotropic):
        found |= {
            f'{cls.family}-{size}': {'type': cls.__name__, 'arch': size} for size in cls.archs
        }
    for family, models in TIMM_FAMILIES.items():
        for size, model in models.items():
            found[f'{family}-{size}'] = {'type': 'TimmBackbone', 'model': model}
    return found | {name: roadmap.config_of_name(name) for name in roadmap.built_in_names()}


_ARCHITECTURES = _architectures()


def built_in_names() -> list[str]:
    """``<family>-<size>`` of every built-in."""
    return list(_ARCHITECTURES)


def backbone_config(name: str, **backbone_args) -> dict:
    """The config of a backbone by its name; see the module.

    Args:
        name: As described above.
        backbone_args: Further arguments of the backbone's class.

    Raises:
        ConfigError: There is no such backbone; the message names the nearest.
        WeightsError: There are no such weights of it.
    """
    if name.startswith('timm:'):
        return _of_timm(name, backbone_args)
    if ':' in name:
        return {'type': _import_class(name), **backbone_args}
    architecture, _, weights = name.partition('_')
    if architecture in _ARCHITECTURES:
        config = {**_ARCHITECTURES[architecture], **backbone_args}
    elif name.startswith(roadmap.PREFIX):
        config = roadmap.config_of_name(architecture)  # raises the error that lists the steps
    elif _is_registered(name):
        return {'type': name, **backbone_args}
    else:
        raise ConfigError(f'backbone {name!r}: there is none of this name.{_nearest(name)}')
    if weights:
        known = known_weights(architecture)
        if name not in known:
            raise WeightsError(
                f'backbone {name!r}: no such weights; '
                + (f'known: {", ".join(known)}.' if known else f'none of {architecture} are known.')
            )
        config['init_cfg'] = {'type': 'Pretrained', 'checkpoint': name}
    return config


def known_weights(architecture: str) -> list[str]:
    """The names with weights that begin with ``<family>-<size>``."""
    return [key for key in weights_table() if key.startswith(f'{architecture}_')]


def _of_timm(name: str, backbone_args: dict) -> dict:
    model, _, tag = name.removeprefix('timm:').partition('.')
    check_model_name(model)
    config = {'type': 'TimmBackbone', 'model': model, **backbone_args}
    if tag:
        pretrained_cfg(f'{model}.{tag}')
        config['init_cfg'] = {'type': 'Pretrained', 'checkpoint': name}
    return config


def import_from_here() -> None:
    """Make modules in the current folder importable."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def _import_class(name: str) -> str:
    """The path ``module.path.ClassName`` of a class, from which mmengine builds it."""
    module_name, _, class_name = name.partition(':')
    import_from_here()
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and module_name.startswith(error.name or '\0'):
            if module_name.endswith('.py'):
                advice = f'A module has no .py: {Path(module_name).stem}:{class_name}.'
            else:
                advice = 'Start from the folder of the module, or add this folder to PYTHONPATH.'
            raise ConfigError(
                f'backbone {name!r}: there is no module {error.name!r} in {Path.cwd()} or on '
                f'PYTHONPATH. {advice}'
            ) from error
        raise ConfigError(f'backbone {name!r}: importing {module_name} failed: {error}') from error
    except Exception as error:  # a mistake in the module itself
        frame = traceback.extract_tb(error.__traceback__)[-1]
        # The frame of a SyntaxError is Python's own; its text names file and line.
        place = (
            '' if isinstance(error, SyntaxError) else f' ({frame.filename}, line {frame.lineno})'
        )
        raise ConfigError(
            f'backbone {name!r}: importing {module_name} failed: {type(error).__name__}: {error}{place}'
        ) from error
    classes = [key for key, value in vars(module).items() if isinstance(value, type)]
    if class_name not in classes:
        own = [key for key in classes if vars(module)[key].__module__.startswith(module_name)]
        near = get_close_matches(class_name, own, 3, 0.4) or own
        raise ConfigError(
            f'backbone {name!r}: {module_name} has no class {class_name!r}'
            + (f'; it has {", ".join(near)}.' if near else '; it defines no class.')
        )
    return f'{module_name}.{class_name}'


def _is_registered(name: str) -> bool:
    try:
        return isinstance(MODELS.get(name), type)
    except (RuntimeError, ImportError):
        return False


def _nearest(name: str) -> str:
    candidates = built_in_names() + list(weights_table())
    near = get_close_matches(name, candidates, 3, 0.6)
    near += [f'timm:{n}' for n in get_close_matches(name, model_names(), 2, 0.7)]
    if near:
        return f' Did you mean {" or ".join(near)}?'
    others = [known for known in built_in_names() if not known.startswith(roadmap.PREFIX)]
    return (
        f' Built-in: {", ".join(others)}, {roadmap.PREFIX}<step>. Or timm:<model>, '
        'module.path:ClassName, or a registered type.'
    )
