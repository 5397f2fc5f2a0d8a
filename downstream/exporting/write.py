"""A traced graph as a file: ONNX, OpenVINO or PyTorch's own format."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch.export import ExportedProgram

from backbones.errors import ConfigError
from backbones.weights.timm_catalog import first_line
from downstream.atomic import atomic_path

from .agreement import difference
from .files import TORCH_FACTS, open_exported, require_package
from .graph.detection import PictureDetector
from .graph.segmenter import SegmenterGraph
from .standalone import RT_INFO
from .trace import quiet_tracer

#: Format -> the suffix of its file, and the packages that write and check it.
FORMATS = {
    'onnx': ('.onnx', ('onnx', 'onnxscript', 'onnxruntime')),
    'openvino': ('.xml', ('onnx', 'onnxscript', 'openvino')),
    'torch': ('.pt2', ()),
}
OPSET = 20
# What one file of protobuf, and so of ONNX, can hold.
_ONNX_BYTES = 2**31 - 2**24
# What a file may differ by from its model, which computes in float32.
_LARGEST_DIFFERENCE = {'fp32': 0.05, 'fp16': 0.3, 'bf16': 0.3}


def require_packages(format_name: str, option: str = '--format') -> None:
    """ConfigError unless what writes a format, which ``option`` asked for, is installed."""
    for package in FORMATS[format_name][1]:
        require_package(package, f'{option} {format_name}')


def write(
    program: ExportedProgram,
    graph: SegmenterGraph | PictureDetector,
    facts: Mapping,
    format_name: str,
    out: Path,
    example: torch.Tensor,
    expected: Mapping[str, np.ndarray] | None = None,
) -> float:
    """Write a program, run the file, and compare it with what was traced.

    Args:
        program: Of :func:`.trace.trace`.
        graph: What was traced.
        facts: Metadata; values as JSON has them.
        format_name: One of :data:`FORMATS`.
        out: The file; it appears when it has been compared.
        example: A picture to compare on, of another size than the traced one where any is taken.
        expected: What the file should return for it; None: what ``graph`` does.

    Returns:
        :func:`.agreement.difference` of the file.

    Raises:
        ConfigError: The format cannot hold the network, or the file does not compute what it should.
    """
    texts = {key: json.dumps(value) for key, value in facts.items()}
    expected = expected or outputs_of(graph, example)
    writers = {'onnx': _write_onnx, 'openvino': _write_openvino, 'torch': _write_torch}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.export-', dir=out.parent) as folder:
        inside = Path(folder, out.name)
        writers[format_name](program, graph.outputs, texts, inside)
        found = _run(inside, example, format_name, facts)
        differs = difference(found, expected, facts.get('score_threshold') or 0)
        if not differs < _LARGEST_DIFFERENCE[facts.get('precision', 'fp32')]:
            raise ConfigError(
                f'the {format_name} file differs from the model by {differs:.1%} on a random picture; it '
                'was not kept.'
            )
        _publish(inside, out)
    return differs


def outputs_of(
    graph: SegmenterGraph | PictureDetector, example: torch.Tensor
) -> dict[str, np.ndarray]:
    """What ``graph`` returns for pictures, by name."""
    with torch.no_grad():
        outputs = graph(example)
    outputs = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
    return {name: output.numpy() for name, output in zip(graph.outputs, outputs, strict=True)}


def _run(
    path: Path, example: torch.Tensor, format_name: str, facts: Mapping
) -> dict[str, np.ndarray]:
    """What a file returns for pictures; it may stop at those of another size than the traced one."""
    file = open_exported(path)
    try:
        return file.run(example.numpy())
    except Exception as error:  # each runtime has errors of its own
        height, width = example.shape[1:3]
        taken = facts.get('input', {})
        is_fixed = all(taken.get(name) for name in ('batch', 'height', 'width'))
        advice = '' if is_fixed else '. Try fixed sizes: --size HEIGHT WIDTH --batch 1'
        raise ConfigError(
            f'the {format_name} file does not run on a picture of {height} x {width}, and was not kept: '
            f'{first_line(error)[:300]}{advice}.'
        ) from error


def _publish(inside: Path, out: Path) -> None:
    """Move a complete file to its place, with the weights that OpenVINO puts beside it."""
    weights = inside.with_suffix('.bin')
    if out.suffix == '.xml':
        # A graph must never be beside the weights of another.
        out.unlink(missing_ok=True)
        weights.replace(out.with_suffix('.bin'))
    with atomic_path(out) as aside:
        inside.replace(aside)


def _write_torch(
    program: ExportedProgram, names: tuple[str, ...], texts: Mapping, path: Path
) -> None:
    program.example_inputs = None  # they would be stored
    torch.export.save(program, path, extra_files={TORCH_FACTS: json.dumps(dict(texts))})


def _write_onnx(
    program: ExportedProgram, names: tuple[str, ...], texts: Mapping, path: Path
) -> None:
    size = sum(tensor.nbytes for tensor in program.state_dict.values())
    if size > _ONNX_BYTES:
        raise ConfigError(
            f'the weights are {size / 2**30:.1f} GB, and an ONNX file holds 2 GB; use --precision fp16 '
            'or --format torch.'
        )
    try:
        with quiet_tracer():
            written = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=['image'],
                output_names=list(names),
                verbose=False,
            )
        assert written is not None  # with dynamo=True
    except Exception as error:  # what has no translation is told in many ways
        raise ConfigError(
            f'the network cannot be written as ONNX: {first_line(error)[:300]}'
        ) from error
    written.model.metadata_props.update(texts)
    written.model.producer_name = 'convnext-dense'
    written.save(path, external_data=False)


def _write_openvino(
    program: ExportedProgram, names: tuple[str, ...], texts: Mapping, path: Path
) -> None:
    import openvino

    source = path.with_suffix('.onnx')
    _write_onnx(program, names, texts, source)
    model = openvino.Core().read_model(str(source))
    for key, text in texts.items():
        model.set_rt_info(text, [RT_INFO, key])
    # Its weights have the precision that was asked for; the default halves them.
    openvino.save_model(model, str(path), compress_to_fp16=False)
    del model  # it maps the file
    source.unlink()
