"""The command of tools/export.py: a trained model as one file."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DATASETS, DefaultScope
from torch import nn

from backbones.errors import ConfigError
from backbones.weights.sources import file_name
from downstream.atomic import require_folder
from downstream.data.pipelines import innermost
from downstream.exporting import write
from downstream.exporting.facts import facts_of
from downstream.exporting.files import SUFFIXES, file_bytes, is_exported
from downstream.exporting.graph.detection import PictureDetector
from downstream.exporting.graph.picture import PictureRules
from downstream.exporting.graph.segmenter import SegmenterGraph
from downstream.exporting.trace import Shape, trace
from downstream.predicting.classes import classes_of_model
from downstream.predicting.predictor import loaded_model
from downstream.publishing.licence import inherited_licence
from downstream.running.checkpoint.files import raise_on_full_disk
from downstream.running.checkpoint.locate import CHECKPOINT_SUFFIXES, is_remote
from downstream.running.checkpoint.read import read
from downstream.running.config import TestOptions, read_config, use_checkpoint
from downstream.running.options.channels import chosen_bands

# Where the backbone does not say it.
_USUAL_STRIDE = 32


@dataclass
class ExportOptions:
    """What the command line of an export says beside config and checkpoint.

    Attributes:
        format: ``'onnx'``, ``'openvino'`` or ``'torch'``; None: by the name of ``out``, else ONNX.
        precision: ``'fp32'``, ``'fp16'``, or ``'bf16'`` for OpenVINO.
        size: Height and width; None: any.
        batch: Pictures at once; 0: any number; None: any for segmenters, 1 for detectors.
        output: Of segmenters, ``'logits'`` or ``'classes'``.
        out: The file; None: beside the checkpoint with its name, of a remote one in the current folder.
        title: What the report calls the file; None: ``out``.
    """

    format: str | None = None
    precision: str = 'fp32'
    size: tuple[int, int] | None = None
    batch: int | None = None
    output: str = 'logits'
    out: str | None = None
    title: str | None = None


def export(options: TestOptions, how: ExportOptions, licence: str | None = None) -> Path:
    """Write the model of a checkpoint as a file, compare it with the model, and say what came of it.

    Args:
        options: The model; its words about tests are not used.
        how: The file.
        licence: Of the weights; None: the one that the checkpoint states, as those of tools/publish.py
            do, else the one that the config's own weights pass on.

    Raises:
        UserError: Something of the command cannot be; nothing was written.
    """
    checkpoint = options.checkpoint
    if is_exported(checkpoint):
        raise ConfigError(
            f'{checkpoint} is an exported file already; give the checkpoint it came from.'
        )
    format_name, out = _target(checkpoint, how)
    if how.precision == 'bf16' and format_name != 'openvino':
        raise ConfigError(
            '--precision bf16: of the formats OpenVINO computes in bfloat16; give --format openvino '
            f'instead of {format_name}.'
        )
    write.require_packages(format_name)
    cfg = read_config(options)
    if cfg.default_scope == 'mmdet':
        _require_for_detector(how)
    content = read(checkpoint, mmap=True)
    licence = licence or _stated_licence(content) or inherited_licence(cfg).text
    use_checkpoint(cfg, checkpoint)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        classes = classes_of_model(cfg, content, checkpoint)
        model = loaded_model(cfg, content, checkpoint).eval()
        stride = max(getattr(model.backbone, 'out_strides', None) or (_USUAL_STRIDE,))
        rules = PictureRules.of(cfg.model.data_preprocessor, stride)
        shape = _shape(cfg, how)
        graph = _graph(cfg, model, rules, how, half=False)
        example = shape.example(4 * stride, 3 * stride)
        expected = write.outputs_of(graph, example)
        if how.precision == 'fp16':
            graph = _graph(cfg, model, rules, how, half=True)
        stated = {
            'classes': list(classes.names),
            'palette': _palette(cfg),
            'shift': classes.shift,
            'precision': how.precision,
            'licence': licence,
            'config': Path(options.config).name,  # the folder is of this machine
            'stride': stride,
        }
        facts = facts_of(cfg, model, rules, shape, graph.outputs, stated)
        program = trace(graph, shape, stride)
        with raise_on_full_disk(out.parent, 'make room and export again.'):
            differs = write.write(program, graph, facts, format_name, out, example, expected)
    print(
        f'{how.title or out}: {file_bytes(out) / 1e6:.1f} MB, {how.precision}, {_sizes(shape)}; outputs '
        f'{", ".join(graph.outputs)}; {_compared(expected, differs)}.\n'
        f'Licence of the weights: {licence}.'
    )
    return out


def _target(checkpoint: str, how: ExportOptions) -> tuple[str, Path]:
    """The format, and the path of the file."""
    by_name = SUFFIXES.get(Path(how.out).suffix) if how.out else None
    format_name = how.format or by_name or 'onnx'
    suffix = write.FORMATS[format_name][0]
    if how.out is None:
        half = '' if how.precision == 'fp32' else f'-{how.precision}'
        folder, name = _folder_and_name(checkpoint)
        out = folder / f'{name}{half}{suffix}'
    else:
        out = Path(how.out)
        if out.suffix != suffix:
            raise ConfigError(
                f'--out {how.out}: the name of a file for {format_name} ends in {suffix}.'
            )
    if out.is_dir():
        raise ConfigError(f'{out} is a folder; give another name with --out.')
    require_folder(out.parent)
    return format_name, out


def _folder_and_name(checkpoint: str) -> tuple[Path, str]:
    """Where the file of a checkpoint goes, and its name without suffix."""
    path = Path(checkpoint)
    if is_remote(checkpoint):
        # Without a file it is the repository's.
        repository = checkpoint.partition('@')[0].rstrip('/').rpartition('/')[2]
        path = Path(file_name(checkpoint) or repository)
    # The name of a repository may have a dot.
    name = path.stem if path.suffix in CHECKPOINT_SUFFIXES else path.name
    if not name:
        raise ConfigError(f'{checkpoint!r} names no checkpoint.')
    return path.parent, name


def _stated_licence(content: Mapping) -> str | None:
    meta = content.get('meta')
    stated = meta.get('licence') if isinstance(meta, Mapping) else None
    return stated if isinstance(stated, str) else None


def _require_for_detector(how: ExportOptions) -> None:
    """ConfigError if an option is for segmenters alone."""
    if how.output != 'logits':
        raise ConfigError(f'--output {how.output} is for segmenters; leave it out.')
    if how.batch not in (None, 1):
        raise ConfigError(
            '--batch: an exported detector takes one picture at a time; leave it out.'
        )


def _shape(cfg: Config, how: ExportOptions) -> Shape:
    batch = how.batch if how.batch is not None else int(cfg.default_scope == 'mmdet')
    bands = chosen_bands(cfg)
    height, width = how.size or (None, None)
    return Shape(
        height,
        width,
        batch or None,
        len(bands) if bands else 3,
        'float32' if bands else 'uint8',
    )


def _graph(
    cfg: Config, model: nn.Module, rules: PictureRules, how: ExportOptions, half: bool
) -> SegmenterGraph | PictureDetector:
    if cfg.default_scope == 'mmdet':
        return PictureDetector(model, rules, half)
    slides = (cfg.model.get('test_cfg') or {}).get('mode') == 'slide'
    if slides and how.output == 'classes':
        print_log(
            'The test of this config averages logits of windows; a file of classes cannot, so test it '
            'with --cfg-options model.test_cfg.mode=whole.',
            'current',
            logging.WARNING,
        )
    return SegmenterGraph(model, rules, how.output, half)


def _palette(cfg: Config) -> list | None:
    dataset = innermost(cfg.test_dataloader.dataset)
    with DATASETS.switch_scope_and_registry(cfg.default_scope) as registry:
        known = getattr(registry.get(dataset['type']), 'METAINFO', {})
    palette = (dataset.get('metainfo') or {}).get('palette') or known.get('palette')
    return [list(map(int, color)) for color in palette] if palette else None


def _compared(expected: Mapping[str, np.ndarray], differs: float) -> str:
    """What the comparison of a file with its model says."""
    if 'boxes' not in expected:
        return f'differs from PyTorch by {differs:.1e} of the largest value'
    count = len(expected['boxes'])
    if not count:
        return 'neither it nor PyTorch finds an object in a random picture'
    return f'of {count} objects that PyTorch finds in a random picture {differs:.1%} differ'


def _sizes(shape: Shape) -> str:
    side = (
        'pictures of any size' if shape.height is None else f'{shape.height} x {shape.width} pixels'
    )
    return f'{side}, {"any number" if shape.batch is None else shape.batch} at once'
