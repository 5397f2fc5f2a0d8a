"""Imports of other libraries that a run seldom needs, put off until they are used.

mmengine imports transformers in search of one optimizer, mmdet imports imgaug, scipy and matplotlib for
transforms of other tasks, torchvision imports torch's compiler for one function that is seldom called.
That is about a third of what a command computes before its first picture (docs/performance.md).

While one of the modules of :data:`DEFERRED` is executed for the first time, the libraries that are listed
for it are placeholders in ``sys.modules``, and what it takes from them by ``from ... import`` is a
placeholder as well. A placeholder that is called, subclassed, or asked for an attribute, imports the real
library, once, with its own error if that fails; from then on the module has the real objects. Others
that import such a library get the real one: nothing stays in ``sys.modules``. A library that is imported
already or not installed, and a module that no longer imports it, is as without this file.

``CONVNEXT_IMPORTS=eager`` switches it off.
"""

from __future__ import annotations

import copyreg
import importlib
import inspect
import os
import sys
from collections.abc import Iterator
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType, new_class
from typing import Any

SWITCH = 'CONVNEXT_IMPORTS'
# Optimizers in TorchScript, which are compiled when they are imported.
_FUNCTIONAL = tuple(
    f'torch.distributed.optim.functional_{name}'
    for name in ['adadelta', 'adagrad', 'adam', 'adamax', 'adamw', 'rmsprop', 'rprop', 'sgd']
)
# Module -> what it imports when it is imported, and needs in few of its functions.
DEFERRED: dict[str, tuple[str, ...]] = {
    'mmengine.optim.optimizer.builder': ('transformers',),  # Adafactor
    'torch.distributed.optim': _FUNCTIONAL,
    'torch.distributed.optim.utils': _FUNCTIONAL,
    'torchvision.ops.roi_align': ('torch._dynamo.utils',),  # RoIAlign without a kernel
    'mmdet.datasets.transforms.generate_line': (  # lanes
        'imgaug',
        'imgaug.augmenters',
        'imgaug.augmentables.lines',
        'imgaug.augmentables.segmaps',
        'scipy.interpolate',
    ),
    'mmdet.datasets.transforms.text_transformers': ('transformers',),  # phrases
    'mmdet.datasets.transforms.transforms': ('albumentations', 'imagecorruptions'),
    'mmdet.evaluation.metrics.crowdhuman_metric': ('scipy.sparse', 'scipy.sparse.csgraph'),
    'mmdet.evaluation.metrics.culane_metric': ('scipy.interpolate', 'scipy.optimize'),
    'mmdet.models.dense_heads.clr_head.clr_head': ('matplotlib', 'matplotlib.pyplot'),
    'mmdet.models.dense_heads.clr_head.lane': ('scipy.interpolate',),
    'mmdet.models.dense_heads.atss_vlfusion_head': (
        'mmdet.models.utils.vlfuse_helper',
        'transformers',
    ),
    'mmdet.models.language_models.bert': ('transformers',),
    'mmdet.models.layers.transformer.grounding_dino_layers': ('mmdet.models.utils.vlfuse_helper',),
    'mmdet.models.dense_heads.paa_head': ('sklearn', 'sklearn.mixture'),
    'mmdet.models.task_modules.assigners.hungarian_assigner': ('scipy.optimize',),
    'mmdet.models.task_modules.assigners.topk_hungarian_assigner': ('scipy.optimize',),
    'mmdet.models.task_modules.tracking.aflink': ('scipy.optimize',),
    'mmdet.models.task_modules.tracking.interpolation': (
        'sklearn',
        'sklearn.gaussian_process',
        'sklearn.gaussian_process.kernels',
    ),
    'mmdet.models.task_modules.tracking.kalman_filter': ('scipy', 'scipy.linalg'),
    'mmdet.models.trackers.sort_tracker': ('scipy.optimize',),
    'mmdet.models.utils': ('mmdet.models.utils.vlfuse_helper',),  # subclasses of transformers'
    'mmdet.utils.mot_error_visualize': (
        'matplotlib',
        'matplotlib.colors',
        'matplotlib.patches',
        'matplotlib.pyplot',
    ),
    'mmdet.visualization.local_visualizer': (
        'matplotlib',
        'matplotlib.colors',
        'matplotlib.pyplot',
    ),
    'mmseg.datasets.transforms.transforms': ('albumentations', 'scipy.ndimage'),
    'mmseg.models.assigners.hungarian_assigner': ('scipy.optimize',),
    'mmseg.models.backbones.beit': ('scipy', 'scipy.interpolate'),
    'mmseg.models.backbones.timm_backbone': ('timm',),
    'mmseg.models.losses.huasdorff_distance_loss': ('scipy.ndimage',),
}
"""Importing modules and the libraries that they wait for."""


def install() -> None:
    """Defer the imports of :data:`DEFERRED`; call it before the first import of their modules.

    Raises:
        ConfigError: The switch has an unknown value.
    """
    choice = os.environ.get(SWITCH, 'deferred')
    if choice not in ('deferred', 'eager'):
        from backbones.errors import ConfigError

        raise ConfigError(f'{SWITCH}={choice!r}: give deferred or eager.')
    if choice == 'deferred' and not any(isinstance(each, _Finder) for each in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _real(library: str) -> ModuleType:
    """The library itself, imported if need be; placeholders of its family make way for it."""
    family = library.partition('.')[0]
    for name, module in list(sys.modules.items()):
        if isinstance(module, _Library) and name.partition('.')[0] == family:
            del sys.modules[name]
    return importlib.import_module(library)


def _resolve(library: str, name: str) -> Any:
    """What ``from library import name`` gives."""
    module = _real(library)
    if hasattr(module, name):
        return getattr(module, name)
    try:
        return importlib.import_module(f'{library}.{name}')
    except ModuleNotFoundError as error:
        if error.name != f'{library}.{name}':
            raise
        raise ImportError(f'cannot import name {name!r} from {library!r}', name=library) from None


def _is_dunder(name: str) -> bool:
    # inspect asks every module for __file__ and the like, which is no use of the library.
    return name.startswith('__') and name != '__version__'


class _Library(ModuleType):
    """Stands for a library while and after the module that imports it is executed."""

    def __init__(self, library: str, importer: str) -> None:
        super().__init__(library)
        self.__spec__ = ModuleSpec(library, None)  # find_spec says that it is installed
        self._importer, self._is_executing = importer, True
        self._outer = sys.modules.get(library)  # the placeholder of a module that imports this one

    def __getattr__(self, name: str) -> Any:
        library = self.__name__
        frame = inspect.currentframe()
        caller = frame.f_back.f_globals.get('__name__') if frame and frame.f_back else None
        if name == '__path__' and caller == 'importlib._bootstrap':
            # A module of the library is being imported, which needs the library.
            return _real(library).__path__
        if _is_dunder(name):
            raise AttributeError(name)
        if self._is_executing and caller == self._importer:
            child = sys.modules.get(f'{library}.{name}')
            return child or _Name(name, (), {'_library': library})
        return getattr(_real(library), name)

    def finish(self) -> None:
        """The module that imports the library has been executed: others import the real one."""
        self._is_executing = False
        if sys.modules.get(self.__name__) is self:
            if self._outer is None:
                del sys.modules[self.__name__]
            else:
                sys.modules[self.__name__] = self._outer

    def __reduce__(self) -> tuple:
        return importlib.import_module, (self.__name__,)


class _Name(type):
    """Stands for a class or function of a library; a class, so that registries take it for one."""

    _library: str

    def __new__(mcs, name: str, bases: tuple, namespace: dict, **options: Any) -> Any:
        if not bases:
            return super().__new__(mcs, name, bases, namespace)
        # A subclass is one of the real class.
        bases = tuple(_object(base) if isinstance(base, _Name) else base for base in bases)
        return new_class(name, bases, options, lambda body: body.update(namespace))

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return _object(cls)(*args, **kwargs)

    @property
    def __signature__(cls) -> inspect.Signature:  # mmengine asks optimizers for it
        return inspect.signature(_object(cls))

    def __getattr__(cls, name: str) -> Any:
        if _is_dunder(name):
            raise AttributeError(name)
        return getattr(_object(cls), name)

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _object(cls))

    def __subclasscheck__(cls, subclass: type) -> bool:
        return subclass is cls or issubclass(subclass, _object(cls))


def _object(placeholder: _Name) -> Any:
    """The real object; modules that hold the placeholder get it instead."""
    found = _resolve(placeholder._library, placeholder.__name__)
    for importer in DEFERRED:
        _replace(importer, placeholder, found)
    return found


def _replace(importer: str, placeholder: object, found: object) -> None:
    module = sys.modules.get(importer)
    for key, value in list(vars(module).items()) if module else ():
        if value is placeholder:
            setattr(module, key, found)


def _replace_all(library: ModuleType) -> None:
    """Give the real library, now that it is imported, to the modules that hold placeholders of it."""
    for importer, libraries in DEFERRED.items():
        module = sys.modules.get(importer) if library.__name__ in libraries else None
        for value in list(vars(module).values()) if module else ():
            if isinstance(value, _Library) and value.__name__ == library.__name__:
                _replace(importer, value, library)
            # Not by getattr: a library may import what is asked of it, and nobody needs it yet.
            if _is_name_of(value, library) and value.__name__ in vars(library):
                _replace(importer, value, vars(library)[value.__name__])


def _is_name_of(value: object, library: ModuleType) -> bool:
    return isinstance(value, _Name) and value._library == library.__name__


copyreg.pickle(_Name, lambda name: (_resolve, (name._library, name.__name__)))


class _Finder(MetaPathFinder):
    """Finds the importing modules and the deferred libraries as Python does, with another loader."""

    def __init__(self) -> None:
        self._names = set(DEFERRED).union(*DEFERRED.values())

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        if fullname not in self._names:
            return None
        for finder in sys.meta_path:
            spec = finder.find_spec(fullname, path, target) if finder is not self else None
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader)
                return spec
        return None


class _Loader(Loader):
    """Loads a module by its own loader, with placeholders for what it imports."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # Whoever reads sources or resources of the module asks its own loader.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        placeholders = list(_placeholders(module.__name__))
        sys.modules.update({each.__name__: each for each in placeholders})
        try:
            self._loader.exec_module(module)
        finally:
            for each in placeholders:
                each.finish()
        _replace_all(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def _placeholders(importer: str) -> Iterator[_Library]:
    """Placeholders for libraries that are installed and not yet imported."""
    for name in DEFERRED.get(importer, ()):
        family = name.partition('.')[0]
        if name in sys.modules and not isinstance(sys.modules[name], _Library):
            continue
        if family in sys.modules or find_spec(family) is not None:
            yield _Library(name, importer)
