"""Private names of other libraries: each is listed with what needs it, and exists."""

import ast
import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType

import pytest

from backbones import upstream
from tests.test_architecture import ROOT, modules

# Documented in spite of their names: namedtuples' methods, and two functions of the standard library.
PUBLIC = {'_replace', '_fields', '_exit', '_current_frames'}
SOURCES = {
    name: path
    for name, path in modules().items()
    if name.split('.')[0] in ('backbones', 'downstream')
}


@pytest.mark.parametrize('path', upstream.PRIVATE_NAMES)
def test_every_listed_name_exists(path):
    library = path.partition('.')[0]
    if importlib.util.find_spec(library) is None:
        pytest.skip(f'{library} is not installed')
    assert upstream.optional(path) is not None


@pytest.mark.parametrize('path', upstream.PRIVATE_ATTRIBUTES)
def test_every_listed_attribute_is_set(path):
    where, _, attribute = path.rpartition('.')
    module, _, name = where.rpartition('.')
    source = inspect.getsource(getattr(importlib.import_module(module), name))
    assert re.search(rf'self\.{attribute}\b.*=', source)


def private_uses(tree: ast.AST) -> Iterator[str]:
    """Names with one leading underscore that are read as attributes."""
    for node in ast.walk(tree):
        name = node.attr if isinstance(node, ast.Attribute) else ''
        if name.startswith('_') and not name.startswith('__'):
            yield name


def own_names(tree: ast.AST) -> Iterator[str]:
    """What a file defines: functions, classes, variables, attributes and slots."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            value = node.value
            if isinstance(value, ast.Name) and value.id in ('self', 'cls'):
                yield node.attr


def classes() -> Iterator[type]:
    """Every class that the suite defines."""
    for name in SOURCES:
        module = importlib.import_module(name)
        yield from (
            value
            for value in vars(module).values()
            if isinstance(value, type) and value.__module__ == name
        )


def test_every_private_method_that_is_overridden_is_listed():
    """An override of a private method is dead, in silence, once the library renames the method."""
    listed = {path.rpartition('.')[2] for path in upstream.PRIVATE_NAMES}
    overridden = {
        f'{cls.__module__}.{cls.__name__}.{name} overrides that of {base.__module__}.{base.__name__}'
        for cls in classes()
        for name, value in vars(cls).items()
        if isinstance(value, (FunctionType, classmethod, staticmethod, property))
        and name.startswith('_')
        and not name.startswith('__')
        for base in cls.__mro__[1:]
        if name in vars(base) and base.__module__.split('.')[0] in upstream.LIBRARIES
    }
    unlisted = {text for text in overridden if text.split(' ')[0].rpartition('.')[2] not in listed}
    assert not unlisted


def test_every_private_name_that_is_used_is_listed():
    """A private attribute is either the suite's own or stands in the list."""
    trees = {name: ast.parse(path.read_text()) for name, path in SOURCES.items()}
    own = {name for tree in trees.values() for name in own_names(tree)}
    listed = {path.rpartition('.')[2] for path in upstream.PRIVATE_NAMES}
    listed |= {part for path in upstream.PRIVATE_NAMES for part in path.split('.')}
    listed |= {path.rpartition('.')[2] for path in upstream.PRIVATE_ATTRIBUTES} | PUBLIC
    foreign = {
        f'{module}: {name}'
        for module, tree in trees.items()
        for name in private_uses(tree)
        if name not in own and name not in listed
    }
    assert not foreign


def test_production_code_mocks_nothing():
    files = [
        path.relative_to(ROOT).as_posix()
        for path in SOURCES.values()
        if any(word in path.read_text() for word in ('unittest', 'mock.patch'))
    ]
    assert not files


def test_a_name_must_be_listed():
    with pytest.raises(KeyError, match='PRIVATE_NAMES'):
        upstream.optional('torch._nowhere')


def test_a_name_that_is_gone_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(upstream.PRIVATE_NAMES, 'torch._C._gone', 'the fast path')
    assert upstream.optional('torch._C._gone') is None
    with pytest.raises(ImportError, match=r'torch \S+ has no torch\._C\._gone, which the fast'):
        upstream.required('torch._C._gone')


def test_a_library_that_is_not_installed_is_no_crash(monkeypatch):
    monkeypatch.setitem(upstream.PRIVATE_NAMES, 'numpy.nowhere.at_all', 'nothing')
    assert upstream.optional('numpy.nowhere.at_all') is None


def test_files_are_found():
    assert len(SOURCES) > 50
    assert Path(SOURCES['backbones.upstream']).is_file()
