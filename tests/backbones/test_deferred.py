"""Imports that are put off: nobody notices, except by the clock."""

import importlib
import inspect
import pickle
import subprocess
import sys
import textwrap

import pytest

from backbones import deferred
from backbones.errors import ConfigError

LIBRARY = """
    class Base:
        kind = 'real'
        def __init__(self, value=1):
            self.value = value
    def double(value):
        return 2 * value
    NUMBER = 5
"""
IMPORTER = """
    import lib_deferred.part as part
    from lib_deferred import Base, double
    from lib_deferred import NUMBER
    def number():
        double(1)
        return NUMBER
    def parts():
        return part.PART
"""


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Write modules and make ``importer`` defer ``lib_deferred``; returns what imports the importer."""

    def write(importer=IMPORTER, library=LIBRARY):
        (tmp_path / 'lib_deferred').mkdir()
        for name, text in (
            ('importer_of_lib', importer),
            ('lib_deferred/__init__', library),
            ('lib_deferred/part', 'PART = 7'),
        ):
            (tmp_path / f'{name}.py').write_text(textwrap.dedent(text))
        importlib.invalidate_caches()
        return importlib.import_module('importer_of_lib')

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(deferred.DEFERRED, 'importer_of_lib', ('lib_deferred', 'lib_deferred.part'))
    monkeypatch.setattr(sys, 'meta_path', [each for each in sys.meta_path if not _is_ours(each)])
    monkeypatch.delenv(deferred.SWITCH, raising=False)
    deferred.install()
    yield write
    for name in ('importer_of_lib', 'lib_deferred', 'lib_deferred.part'):
        sys.modules.pop(name, None)


def _is_ours(finder):
    return type(finder).__module__ == deferred.__name__


def test_an_importer_does_not_import_the_library_until_it_uses_it(packages):
    importer = packages()
    assert 'lib_deferred' not in sys.modules
    assert importer.double(4) == 8
    library = sys.modules['lib_deferred']
    assert importer.double is library.double
    assert importer.Base is library.Base
    assert importer.number() == 5


def test_a_module_of_the_library_is_the_real_one_when_it_is_used(packages):
    importer = packages()
    assert importer.parts() == 7
    assert importer.part is sys.modules['lib_deferred.part']


def test_others_import_the_real_library_and_the_importer_gets_it_too(packages):
    importer = packages()
    library = importlib.import_module('lib_deferred')
    assert library.__file__.endswith('__init__.py')
    assert library.NUMBER == 5
    assert importer.Base is library.Base
    assert importer.NUMBER == 5


def test_a_placeholder_acts_as_the_class_that_it_stands_for(packages):
    importer = packages()
    held = importer.Base  # as a registry holds it
    assert isinstance(held, type)
    assert 'lib_deferred' not in sys.modules
    made = held(3)
    real = sys.modules['lib_deferred'].Base
    assert type(made) is real
    assert made.value == 3
    assert isinstance(made, held)
    assert not isinstance(3, held)
    assert issubclass(real, held)
    assert held.kind == 'real'
    assert inspect.signature(held) == inspect.signature(real)
    assert pickle.loads(pickle.dumps(held)) is real

    class Derived(held):
        def __init__(self):
            super().__init__(9)

    assert Derived.__mro__[1] is real
    assert Derived().value == 9


def test_a_subclass_at_import_is_one_of_the_real_class(packages):
    importer = packages(IMPORTER + '    class Own(Base):\n        pass\n')
    assert importer.Own.__bases__ == (sys.modules['lib_deferred'].Base,)


def test_importers_within_importers_all_wait(packages, tmp_path, monkeypatch):
    (tmp_path / 'inner_importer.py').write_text('from lib_deferred import double')
    monkeypatch.setitem(deferred.DEFERRED, 'inner_importer', ('lib_deferred',))
    finder = next(each for each in sys.meta_path if _is_ours(each))
    sys.meta_path[sys.meta_path.index(finder)] = type(finder)()
    try:
        importer = packages('from inner_importer import double\nfrom lib_deferred import Base\n')
        assert 'lib_deferred' not in sys.modules
        assert importer.Base(2).value == 2
        assert sys.modules['inner_importer'].double is sys.modules['lib_deferred'].double
    finally:
        sys.modules.pop('inner_importer', None)


def test_a_name_that_does_not_exist_is_an_import_error_at_its_use(packages):
    importer = packages('from lib_deferred import nothing\ndef use():\n    return nothing()\n')
    with pytest.raises(ImportError, match="cannot import name 'nothing' from 'lib_deferred'"):
        importer.use()


def test_a_broken_library_has_its_own_message_at_its_use(packages):
    importer = packages(library="raise ImportError('needs another library')")
    with pytest.raises(ImportError, match='needs another library'):
        importer.double(1)


def test_a_missing_library_is_missing_at_the_import(packages, monkeypatch):
    monkeypatch.setitem(deferred.DEFERRED, 'importer_of_lib', ('no_such_library',))
    with pytest.raises(ModuleNotFoundError, match='no_such_library'):
        packages('from no_such_library import some')


def test_an_imported_library_is_taken_as_it_is(packages, tmp_path):
    packages()
    library = importlib.import_module('lib_deferred')
    del sys.modules['importer_of_lib']
    assert importlib.import_module('importer_of_lib').Base is library.Base


def test_modules_keep_their_own_loaders(packages):
    importer = packages()
    assert type(importer.__loader__).__name__ == 'SourceFileLoader'
    assert importer.__spec__.loader is importer.__loader__


def test_the_switch_is_checked(monkeypatch):
    monkeypatch.setenv(deferred.SWITCH, 'lazy')
    with pytest.raises(ConfigError, match='CONVNEXT_IMPORTS=.lazy.: give deferred or eager'):
        deferred.install()


SCRIPT = """
import sys, downstream, mmdet.datasets, mmdet.models, mmseg.datasets, mmseg.models, mmdet.evaluation
import downstream.predicting.predictor, downstream.running.train
loaded = [name for name in sys.argv[1:] if name in sys.modules]
assert not loaded, f'imported at the start: {loaded}'

import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import TRANSFORMS
model = torch.nn.Linear(2, 2)
optimizer = build_optim_wrapper(
    model, dict(type='OptimWrapper', optimizer=dict(type='Adafactor'))
).optimizer
import transformers
assert type(optimizer) is transformers.Adafactor

import mmdet.models.dense_heads.atss_vlfusion_head as head
import mmdet.models.utils as utils
fuse = utils.VLFuse()
from mmdet.models.utils.vlfuse_helper import MAX_CLAMP_VALUE, VLFuse
assert type(fuse) is VLFuse and head.VLFuse is VLFuse and head.MAX_CLAMP_VALUE == MAX_CLAMP_VALUE

from mmdet.models.task_modules.assigners import hungarian_assigner
rows, columns = hungarian_assigner.linear_sum_assignment([[4, 1], [2, 3]])
assert columns.tolist() == [1, 0]

import torchvision
roi_align = sys.modules['torchvision.ops.roi_align']
compiled = torch.compile(lambda x, boxes: torchvision.ops.roi_align(x, boxes, 2) + 1, backend='eager')
x, boxes = torch.rand(1, 1, 8, 8), torch.tensor([[0., 0., 0., 4., 4.]])
assert torch.equal(compiled(x, boxes), torchvision.ops.roi_align(x, boxes, 2) + 1)
assert roi_align.is_compile_supported is sys.modules['torch._dynamo.utils'].is_compile_supported
print('all real')
"""


def test_the_libraries_import_nothing_that_few_runs_use():
    absent = ['torch._dynamo', 'transformers', 'imgaug', 'imagecorruptions', 'numba']
    absent += ['scipy.stats', 'scipy.optimize', 'scipy.interpolate', 'matplotlib.pyplot']
    absent += ['torch.distributed.optim.functional_adam', 'torch.distributed.checkpoint']
    result = subprocess.run(
        [sys.executable, '-c', SCRIPT, *absent], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == 'all real'
