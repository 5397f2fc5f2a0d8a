"""Initial weights of a model: loaded completely, on all processes alike, without a flood in the log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmengine import dist
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import nn

from backbones.errors import WeightsError
from backbones.upstream import required
from backbones.weights.load import load_pretrained
from backbones.weights.stem import RGB, adapted_stem, describe_adaptation, is_rgb_stem
from downstream.distributed.flags import maximum
from downstream.distributed.gather import broadcast

from . import missing

required('mmengine.model.BaseModule._dump_init_info')


class _WithoutDump(BaseModule):
    """Initialises a model as its child. mmengine dumps two lines per parameter for the outermost one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def _dump_init_info(self) -> None:
        pass


def initialise(model: nn.Module, by_model: bool = False) -> None:
    """Call ``init_weights`` of a model, if it has it, and send the first process's weights to all others.

    The first process alone downloads, hashes and reads pretrained weights. If any process fails, all do.

    Args:
        model: A detector or a segmenter.
        by_model: Whether its config states pretrained weights as ``model.pretrained``.

    Raises:
        WeightsError: The pretrained weights of its backbone cannot be read or do not match it.
    """
    if not dist.is_main_process():
        _forget_pretrained(model)
    failure: Exception | None = None
    try:
        load_backbone_strict(getattr(model, 'backbone', None))
        if hasattr(model, 'init_weights'):
            with (
                _adapting_stem(getattr(model, 'backbone', None)),
                missing.named(model, by_model),
            ):
                _WithoutDump(model).init_weights()
        load_plain_backbone(getattr(model, 'backbone', None))
    except Exception as error:  # whatever it is, the other processes wait for this one
        failure = error
    (failed,) = maximum(failure is not None)
    if failed:
        of_the_first = broadcast(str(failure) if failure else '')
        raise failure or WeightsError(
            of_the_first or 'Another process could not initialise the model.'
        )
    for tensor in model.state_dict().values():
        dist.broadcast(tensor)


@contextmanager
def _adapting_stem(backbone: nn.Module | None) -> Iterator[None]:
    """While the context lasts, the first convolution of ``backbone`` loads weights of RGB images.

    It is for OpenMMLab's own backbones: mmengine only warns of a tensor of another shape.
    """
    convolutions = (m for m in backbone.modules() if isinstance(m, nn.Conv2d)) if backbone else ()
    stem = next(iter(convolutions), None)
    if backbone is None or stem is None or stem.in_channels == RGB:
        yield
        return

    def adapt(module: nn.Module, state: dict, prefix: str, *_: object) -> None:
        value = state.get(f'{prefix}weight')
        if value is not None and is_rgb_stem(value, stem.weight, backbone):
            state[f'{prefix}weight'] = adapted_stem(value, stem.weight)
            how = describe_adaptation(value, stem.weight)
            print_log(f'Stem adapted: {prefix}weight, {how}', 'current')

    handle = stem.register_load_state_dict_pre_hook(adapt)
    try:
        yield
    finally:
        handle.remove()


def _forget_pretrained(model: nn.Module) -> None:
    """Remove ``Pretrained`` from every ``init_cfg``; other initialisation stays.

    mmdet's DetectoRS keeps the file's name in an attribute besides, and loads that.
    """
    module: Any
    for module in model.modules():
        if isinstance(getattr(module, 'pretrained', None), str):
            module.pretrained = None
        init_cfg = getattr(module, 'init_cfg', None)
        if isinstance(init_cfg, Mapping) and missing.is_pretrained(init_cfg):
            module.init_cfg = None
        elif isinstance(init_cfg, (list, tuple)):
            kept = [part for part in init_cfg if not missing.is_pretrained(part)]
            module.init_cfg = kept or None


def initialise_randomly(model: nn.Module) -> None:
    """Draw a model's weights: before that, parameters such as ``level_embed`` are memory as it was found.

    Pretrained weights that ``init_cfg`` names are not loaded.
    """
    _forget_pretrained(model)
    if hasattr(model, 'init_weights'):
        _WithoutDump(model).init_weights()


def load_backbone_strict(backbone: nn.Module | None) -> None:
    """Load the pretrained weights of a user's own class completely.

    mmengine's ``Pretrained`` loads whatever matches and ignores the rest. The classes of this suite
    load strictly by themselves; those of OpenMMLab have the names of their own files.

    Raises:
        WeightsError: The weights cannot be read or do not match.
    """
    init_cfg = getattr(backbone, 'init_cfg', None)
    if (
        not isinstance(backbone, BaseModule)
        or not isinstance(init_cfg, Mapping)
        or init_cfg.get('type') != 'Pretrained'
        or getattr(type(backbone), 'init_weights', None) is not BaseModule.init_weights
        or type(backbone).__module__.split('.')[0] in ('mmcv', 'mmdet', 'mmseg', 'mmpretrain')
    ):
        return
    load_pretrained(backbone, **{k: v for k, v in init_cfg.items() if k != 'type'})
    backbone.init_cfg = None


def load_plain_backbone(backbone: nn.Module | None) -> None:
    """Load the weights of a module that knows of none (:func:`backbones.completed.any_module`).

    It comes last: a method ``init_weights`` of the module would replace them.

    Raises:
        WeightsError: The weights cannot be read or do not match.
    """
    init_cfg = getattr(backbone, 'init_cfg', None)
    if backbone is None or not init_cfg or isinstance(backbone, BaseModule):
        return
    load_pretrained(backbone, **{k: v for k, v in init_cfg.items() if k != 'type'})
