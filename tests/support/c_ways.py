"""The ways in which what is written in C may run: in registers of whatever width, or not at all."""

from types import ModuleType

import pytest

# What the compiler is told beside what the project tells it; None: there is none.
WAYS = {'C': '', 'C-AVX': '-mno-avx512f', 'C-SSE': '-mno-avx', 'torch': None}


@pytest.fixture(params=WAYS)
def way(request, monkeypatch, tmp_path_factory):
    """Has the module that the test file names as ``C_MODULE`` run in one of ``WAYS``."""
    module: ModuleType = request.module.C_MODULE
    words = WAYS[request.param]
    if words is None:
        monkeypatch.setattr(module, 'compiled', lambda: None)
    elif module.compiled() is None:
        pytest.skip('no C compiler here')
    elif words:
        monkeypatch.setenv('CC', f'cc {words}')
        monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.getbasetemp() / 'cache'))
        module.compiled.cache_clear()
        if module.compiled() is None:
            module.compiled.cache_clear()
            pytest.skip(f'the compiler does not know {words}')
    yield
    monkeypatch.undo()
    module.compiled.cache_clear()
