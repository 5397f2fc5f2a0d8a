"""How mmcv finds its operators: a compiled ``mmcv._ext`` if there is one, else :mod:`.ops`.

:func:`install` puts a finder behind Python's own, which answers for ``mmcv._ext`` alone. The environment
variable ``CONVNEXT_OPS`` decides: ``auto`` (a compiled ``mmcv._ext`` wins), ``torchvision`` (this suite's
even beside a compiled one) or ``compiled`` (an error without one). Where this suite's operators are used,
so is its deformable attention on CPUs, for which mmcv has no operator.

Nothing heavy is imported here: ``import downstream`` stays cheap until mmcv imports an operator.
"""

from __future__ import annotations

import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from types import ModuleType

SWITCH = 'CONVNEXT_OPS'
MODULE = 'mmcv._ext'
ATTENTION = 'mmcv.ops.multi_scale_deform_attn'


def install() -> None:
    """Make ``mmcv._ext`` importable; call it before the first import of ``mmdet`` or ``mmseg``.

    Raises:
        ConfigError: The switch has an unknown value or requires operators that are not installed, or
            mmdet was imported too early and uses stubs.
    """
    choice = os.environ.get(SWITCH, 'auto')
    if choice not in ('auto', 'torchvision', 'compiled'):
        raise _config_error(f'{SWITCH}={choice!r}: give auto, torchvision or compiled.')
    if MODULE in sys.modules or any(isinstance(f, _Finder) for f in sys.meta_path):
        return
    compiled = _is_compiled()
    if choice == 'compiled' and not compiled:
        raise _config_error(
            f'{SWITCH}=compiled, but mmcv has no compiled operators; build onedl-mmcv from source '
            f'(half an hour with a C++ compiler), or set {SWITCH}=auto.'
        )
    if choice == 'compiled' or (choice == 'auto' and compiled):
        return
    early = [name for name in ('mmdet.structures', 'mmdet.models') if name in sys.modules]
    if early:
        raise _config_error(
            f'{early[0]} was imported before downstream and found no operators; '
            'put `import downstream` above the first import of mmdet, mmseg and mmcv.ops.'
        )
    if choice == 'torchvision':
        sys.meta_path.insert(0, _Finder())
    else:
        sys.meta_path.append(_Finder())
    _replace_attention()


def _replace_attention() -> None:
    """Have mmcv's deformable attention, whose Python goes past the operators, call the suite's."""
    loaded = sys.modules.get(ATTENTION)
    if loaded is None:
        sys.meta_path.insert(0, _AttentionFinder())
    else:
        from .deform_attention import replace_in

        replace_in(loaded)


def _is_compiled() -> bool:
    """Whether ``mmcv._ext`` can be found, without importing mmcv, which is slow."""
    mmcv = find_spec('mmcv')
    if mmcv is None:
        return False
    locations = mmcv.submodule_search_locations
    return any(
        finder.find_spec(MODULE, locations) is not None
        for finder in sys.meta_path
        if hasattr(finder, 'find_spec')
    )


def _config_error(message: str) -> Exception:
    from backbones.errors import ConfigError

    return ConfigError(message)


class _Finder(MetaPathFinder, Loader):
    """Finds and makes the module ``mmcv._ext``, and no other."""

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        return ModuleSpec(MODULE, self, origin=__file__) if fullname == MODULE else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        from .ops import make_module

        return make_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _AttentionFinder(MetaPathFinder):
    """Finds mmcv's module of deformable attention as Python does, and changes it once it is there."""

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        if fullname != ATTENTION:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _AttentionLoader(spec.loader)
        return spec


class _AttentionLoader(Loader):
    """A loader around Python's own; everything but running the module is left to that."""

    def __init__(self, loader: Loader):
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        from .deform_attention import replace_in

        self._loader.exec_module(module)
        replace_in(module)

    def __getattr__(self, name: str):
        return getattr(self._loader, name)  # get_source and others, for tracebacks and inspect
