"""Exported detectors in ONNX Runtime and OpenVINO find what mmdet finds in PyTorch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from downstream.exporting.graph.detector import DetectorGraph

from .detectors import SIZES, assert_equal, build, by_mmdet, image, model_config

pytest.importorskip('onnxscript')
onnxruntime = pytest.importorskip('onnxruntime')
openvino = pytest.importorskip('openvino')

# Beyond the sizes of the other tests: larger than the one that was traced.
ALL_SIZES = [*SIZES, (320, 352)]


def export(
    model: nn.Module, path: Path, padded: torch.Tensor, height: int, width: int
) -> DetectorGraph:
    """Write the graph of a detector with dynamic height and width, traced on one image."""
    graph = DetectorGraph(model).eval()
    free = torch.export.Dim.DYNAMIC
    with torch.no_grad():
        torch.onnx.export(
            graph,
            (padded, torch.tensor(height), torch.tensor(width)),
            str(path),
            dynamo=True,
            opset_version=20,
            dynamic_shapes=({2: free, 3: free}, None, None),
            input_names=['image', 'height', 'width'],
            external_data=False,
            verbose=False,
        )
    return graph


def in_onnxruntime(path: Path):
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    return lambda inputs: session.run(None, inputs)


def in_openvino(path: Path):
    core = openvino.Core()
    exact = {'INFERENCE_PRECISION_HINT': 'f32'}
    compiled = core.compile_model(core.read_model(str(path)), 'CPU', exact)

    def run(inputs):
        result = compiled(inputs)
        return [result[index].copy() for index in range(len(compiled.outputs))]

    return run


RUNTIMES = (in_onnxruntime, in_openvino)


def compare(model, graph, runtime, padded, height, width) -> int:
    """Compare a file with mmdet on one image; returns how many objects there are."""
    sizes = dict(height=np.array(height), width=np.array(width))
    found = runtime(dict(image=padded.numpy(), **sizes))
    expected = by_mmdet(model, padded, height, width)
    assert_equal(found, expected)
    if len(found) == 4:
        with torch.no_grad():
            masks = graph(padded, height, width)[3]
        np.testing.assert_allclose(found[3], masks.numpy(), atol=1e-3)
    return len(expected)


# The export of three stages takes half a minute.
@pytest.mark.parametrize(
    'kind',
    [
        dict(method='mask-rcnn', backbone='v2'),
        pytest.param(dict(method='cascade-mask-rcnn', backbone='v2'), marks=pytest.mark.slow),
        pytest.param(dict(method='faster-rcnn'), marks=pytest.mark.slow),
        pytest.param(
            dict(method='cascade-rcnn', box_head=dict(reg_class_agnostic=True)),
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda kind: kind['method'],
)
def test_files_find_what_mmdet_finds(kind, tmp_path):
    """At sizes that were not traced, on a blank picture and on a single pixel."""
    model = build(model_config(**kind))
    path = tmp_path / 'detector.onnx'
    graph = export(model, path, image(97, 171, 1), 97, 171)
    for runtime in RUNTIMES:
        run = runtime(path)
        counts = [
            compare(model, graph, run, image(height, width, seed), height, width)
            for seed, (height, width) in enumerate(ALL_SIZES)
        ]
        assert min(counts[0], counts[-1]) > 3, 'a comparison of few boxes proves little'
        compare(model, graph, run, torch.zeros(1, 3, 96, 64), 70, 64)


@pytest.mark.slow
def test_a_file_that_finds_nothing(tmp_path):
    """Neither an object above the threshold nor a proposal."""
    config = model_config('faster-rcnn', rcnn=dict(score_thr=1.0))
    config.test_cfg.rpn.min_bbox_size = 1000
    path = tmp_path / 'detector.onnx'
    padded = image(96, 128)
    export(build(config), path, padded, 96, 128)
    for runtime in RUNTIMES:
        found = runtime(path)(dict(image=padded.numpy(), height=np.array(96), width=np.array(128)))
        assert [part.shape for part in found] == [(0, 4), (0,), (0,)]
