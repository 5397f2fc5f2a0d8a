"""Checkpoints under timm's parameter names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import SimpleNamespace

from torch import Tensor, nn

from backbones.errors import ConfigError
from backbones.uninitialised import on_meta, without_initialisation

from .create import create


def as_timm_reads(
    name: str, args: Mapping, state: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], set[str]]:
    """``state`` as timm converts it for a model, and the names of all of the model's tensors.

    timm's converters are private to its modules. The public way through them,
    ``create_model(pretrained=True)``, ends in ``load_state_dict`` of the new model.

    Args:
        name: A name of ``timm.list_models()``.
        args: Arguments of the model.
        state: The tensors of a checkpoint.
    """
    with on_meta():
        model = create(name, args)
    # The file may be of RGB images, whose stem is adapted elsewhere, or of as many channels as the model.
    rgb_args = {key: value for key, value in args.items() if key != 'in_chans'}
    converted = _converted(name, rgb_args, type(model), {'state_dict': dict(state)})
    if not converted and 'in_chans' in args:
        size = (args['in_chans'], *model.pretrained_cfg['input_size'][1:])
        overlay = {'state_dict': dict(state), 'input_size': size}
        converted = _converted(name, args, type(model), overlay)
    return converted, set(model.state_dict()) if converted else set()


def _converted(name: str, args: Mapping, cls: type[nn.Module], overlay: dict) -> dict[str, Tensor]:
    """What timm hands to ``load_state_dict``; empty if it cannot convert the file."""
    # a converter may look for what the file of another model does not have
    unreadable = suppress(ConfigError, KeyError, IndexError, AttributeError)
    with _recorded_load(cls) as converted, unreadable, without_initialisation():
        create(name, args, pretrained=True, pretrained_cfg_overlay=overlay)
    return converted


@contextmanager
def _recorded_load(cls: type[nn.Module]) -> Iterator[dict[str, Tensor]]:
    """While the context lasts, ``load_state_dict`` of ``cls`` only adds its tensors to the result."""
    converted: dict[str, Tensor] = {}

    def record(self: nn.Module, state_dict: Mapping, *_, **__) -> SimpleNamespace:
        converted.update(state_dict)
        return SimpleNamespace(missing_keys=[], unexpected_keys=[])

    own = vars(cls).get('load_state_dict')
    cls.load_state_dict = record  # type: ignore[method-assign,assignment]
    try:
        yield converted
    finally:
        if own is None:
            del cls.load_state_dict
        else:
            cls.load_state_dict = own  # type: ignore[method-assign]
