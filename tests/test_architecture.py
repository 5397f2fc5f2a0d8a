"""The layout shows the architecture: imports run one way, and the docs draw the folders that exist."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs' / 'architecture.md'
PACKAGES = ('backbones', 'pretraining', 'downstream', 'tools', 'benchmarks')


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Dotted name -> file, for every module of the suite but its tests."""
    files = (path for package in PACKAGES for path in sorted((root / package).rglob('*.py')))
    return {
        '.'.join(path.relative_to(root).with_suffix('').parts).removesuffix('.__init__'): path
        for path in files
    }


def imports_of(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of the suite that ``path`` imports: at the top, in functions, under TYPE_CHECKING."""
    package = name if path.name == '__init__.py' else name.rpartition('.')[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level:
                parents = package.split('.')[: len(package.split('.')) - node.level + 1]
                base = '.'.join([*parents, base] if base else parents)
            for alias in node.names:
                inner = f'{base}.{alias.name}'
                if inner in known:
                    yield inner
                elif base in known:
                    yield base


def import_graph(root: Path = ROOT) -> dict[str, set[str]]:
    """Module -> modules that it imports, itself excluded."""
    known = modules(root)
    return {name: set(imports_of(name, path, known)) - {name} for name, path in known.items()}


def documented() -> list[str]:
    """The entries of the page's list in their order: ``tools/``, ``downstream/running/train.py``, ..."""
    block = re.search(r'```text\n(.*?)```', PAGE.read_text(), re.DOTALL)
    assert block, f'{PAGE} has no list of folders'
    entries, parents = [], []
    for line in block[1].splitlines():
        name, indent = (
            line.split(maxsplit=1)[0] if line.strip() else '',
            len(line) - len(line.lstrip()),
        )
        if name:
            parents = [*parents[: indent // 4], name.rstrip('/')]
            entries.append('/'.join(parents) + ('/' if name.endswith('/') else ''))
    return entries


def entry_of(path: Path, entries: list[str]) -> str:
    """The entry that a module belongs to: its own, else that of the nearest folder above it."""
    relative = path.relative_to(ROOT).as_posix()
    if relative in entries:
        return relative
    folders = (f'{parent.as_posix()}/' for parent in path.relative_to(ROOT).parents)
    return next((folder for folder in folders if folder in entries), '')


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one node (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            component = []
            while not component or component[-1] != node:
                component.append(stack.pop())
            if len(component) > 1:
                found.append(sorted(component))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def test_a_circle_is_found():
    assert circles({'a': {'b'}, 'b': {'c'}, 'c': {'a'}, 'd': {'a'}}) == [['a', 'b', 'c']]
    assert circles({'a': {'b', 'c'}, 'b': {'c'}, 'c': set()}) == []


def test_imports_are_read_wherever_they_stand(tmp_path):
    folder = tmp_path / 'backbones' / 'inner'
    folder.mkdir(parents=True)
    (tmp_path / 'backbones' / '__init__.py').write_text('')
    (folder / '__init__.py').write_text('from .a import x\n')
    (folder / 'a.py').write_text('def f():\n    from backbones.inner import b\n')
    (folder / 'b.py').write_text(
        'from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .. import inner\n'
    )
    graph = import_graph(tmp_path)
    assert graph['backbones.inner.a'] == {'backbones.inner.b'}
    assert graph['backbones.inner.b'] == {'backbones.inner'}
    assert circles(graph) == [['backbones.inner', 'backbones.inner.a', 'backbones.inner.b']]


def test_no_module_imports_itself_in_a_circle():
    assert circles(import_graph()) == []


def test_the_page_lists_the_folders_that_exist():
    """Folders with sources in the packages, and the modules that stand beside folders."""
    paths = modules().values()
    folders = {f'{path.parent.relative_to(ROOT).as_posix()}/' for path in paths}
    # A folder that holds both modules and folders is taken apart.
    mixed = {
        folder
        for folder in folders
        if any(other != folder and other.startswith(folder) for other in folders)
    }
    single = {
        path.relative_to(ROOT).as_posix()
        for path in paths
        if path.name != '__init__.py' and f'{path.parent.relative_to(ROOT).as_posix()}/' in mixed
    }
    assert set(documented()) == folders | single


def test_entries_import_from_entries_below_them():
    known, entries = modules(), documented()
    rank = {entry: place for place, entry in enumerate(entries)}
    upwards = []
    for name, imported in import_graph().items():
        own = entry_of(known[name], entries)
        if known[name].name == '__init__.py':  # it re-exports what is inside
            imported = {
                other for other in imported if known[name].parent not in known[other].parents
            }
        upwards += [
            f'{name} ({own}) imports {other}'
            for other in imported
            if not name.startswith(f'{other}.')  # a circle, if that __init__ imports back
            and rank[entry_of(known[other], entries)] < rank[own]
        ]
    assert not upwards, '\n'.join(upwards)
