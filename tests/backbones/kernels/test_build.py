"""C code that runs out of memory, and a second OpenMP runtime."""

import os
import subprocess
import sys

import pytest

from backbones.kernels import build
from backbones.kernels.layers import pointwise

_WITHOUT_MEMORY = """
import torch
from backbones.kernels.layers import depthwise, pointwise
from backbones.kernels.detection.roi_align import RoIAlign

x, row = torch.randn(2, 16, 8, 8).contiguous(memory_format=torch.channels_last), torch.randn(5, 16)
align = RoIAlign((2, 2), 1.0, 0, True)
boxes = torch.tensor([[0.0, 1, 1, 5, 5]])
moments, sums = [torch.zeros(5), torch.ones(5)], [torch.zeros(16), torch.zeros(16)]
calls = {
    'depthwise': lambda: depthwise.convolve(x, torch.randn(16, 1, 7, 7), None),
    'gelu': lambda: pointwise.gelu(row, None, row, torch.zeros(16)),
    'gelu_backward': lambda: pointwise.gelu_backward_(row, None, row.clone(), torch.zeros(16)),
    'layer_norm_backward': lambda: pointwise.layer_norm_backward(
        row, row, moments, torch.ones(16), row.clone(), sums
    ),
    'roi_align': lambda: align(x, boxes),
    'roi_align_backward': lambda: align.back(torch.randn(1, 16, 2, 2), boxes, x.shape),
}
for name, call in calls.items():
    try:
        call()
    except MemoryError as error:
        print(name, error)
"""


def test_without_memory_there_is_an_error(tmp_path):
    """Each allocation of the C code fails; none is read or written all the same."""
    if pointwise.compiled() is None:
        pytest.skip('no C compiler here')
    header = tmp_path / 'no_memory.h'
    header.write_text('#include <stdlib.h>\n#define calloc(n, size) 0\n#define malloc(size) 0\n')
    environment = os.environ | {'CC': f'cc -include {header}', 'XDG_CACHE_HOME': str(tmp_path)}
    done = subprocess.run(
        [sys.executable, '-c', _WITHOUT_MEMORY],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [
        'depthwise',
        'gelu',
        'gelu_backward',
        'layer_norm_backward',
        'roi_align',
        'roi_align_backward',
    ]
    assert all('could not allocate' in line for line in lines)


def test_a_second_openmp_runtime_is_reported(monkeypatch, tmp_path):
    if pointwise.compiled() is None:
        pytest.skip('no C compiler here')
    runtimes = iter([{'libgomp.so.1'}, {'libgomp.so.1', 'libomp.so.5'}])
    lines = []
    monkeypatch.setattr(build, '_openmp_runtimes', lambda: next(runtimes))
    monkeypatch.setattr(build, 'print_log', lambda text, *args, **options: lines.append(text))
    source = tmp_path / 'empty.c'
    source.write_text('int nothing(int threads) { return 0; }\n')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert build.load_library(source, {'nothing': 't'}) is not None
    assert "a second OpenMP runtime, libomp.so.5 beside PyTorch's libgomp.so.1" in lines[0]
