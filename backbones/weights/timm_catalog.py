"""timm's catalog: names of models, tags of weights, their files and licences."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING

from backbones.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

# Of the training images, R, G, B from 0 to 255.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@cache
def model_names() -> tuple[str, ...]:
    """Every model of the installed timm."""
    import timm

    return tuple(timm.list_models())


def check_model_name(name: str) -> None:
    """Raise ConfigError, with the nearest names, if timm has no model ``name``."""
    if name in model_names():
        return
    near = get_close_matches(name, model_names(), 4, 0.5)
    import timm

    raise ConfigError(
        f'timm:{name}: timm {timm.__version__} has no such model.'
        + (f' Did you mean {" or ".join(near)}?' if near else ' timm.list_models() lists them.')
    )


def tags(model: str) -> tuple[str, ...]:
    """The tags of the pretrained weights of a timm model."""
    import timm

    names = timm.list_pretrained(f'{model}.*') + timm.list_pretrained(model)
    return tuple(dict.fromkeys(n.partition('.')[2] for n in names if '.' in n))


def pretrained_cfg(name: str) -> PretrainedCfg:
    """timm's description of the weights ``<model>.<tag>``.

    Raises:
        ConfigError: There is no such model.
        WeightsError: It has no such weights.
    """
    from timm.models import get_pretrained_cfg

    model, _, tag = name.partition('.')
    check_model_name(model)
    known = tags(model)
    if tag not in known:
        raise WeightsError(
            f'timm:{name}: timm has no weights {tag!r} of {model}; '
            + (f'known: {", ".join(known)}.' if known else 'it has none at all of this model.')
        )
    cfg = get_pretrained_cfg(name)
    assert cfg is not None  # the tag is known
    return cfg


def input_statistics(
    init_cfg: Mapping | None,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the input, R, G, B from 0 to 255, for pretrained weights.

    They are those that timm lists for the file ``timm:<model>.<tag>``, and ImageNet's for any other file.

    Args:
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` or None.
    """
    checkpoint = init_cfg.get('checkpoint') if isinstance(init_cfg, Mapping) else None
    if isinstance(checkpoint, str) and checkpoint.startswith('timm:'):
        cfg = pretrained_cfg(checkpoint.removeprefix('timm:'))
        # rounded: 255 * .229 is not quite 58.395 in binary
        return tuple(round(255 * m, 6) for m in cfg.mean), tuple(round(255 * s, 6) for s in cfg.std)
    return IMAGENET_MEAN, IMAGENET_STD


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
