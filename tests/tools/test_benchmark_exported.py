"""Exported files in tools/benchmark.py."""

import json

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip('onnxscript')
pytest.importorskip('onnxruntime')
pytest.importorskip('openvino')

import onnxruntime
import openvino

from backbones.weights.download import FOLDER
from downstream.commands.export import ExportOptions, export
from downstream.exporting.files import open_exported
from downstream.running.config import RunOptions, read_config
from downstream.zoo.complexity import build_on_meta, gmacs
from tests.conftest import write_tiny_config
from tests.downstream.exporting.detectors import build
from tests.downstream.exporting.models import segmenter, write_config
from tests.support.hub import served, use_as_hub

SMALL = ('--size', '64', '96', '--rounds', '2', '--warm-up', '0', '--device', 'cpu')


def exported(config, checkpoint, out):
    """A file for pictures of one size, which is written in a third of the time of one for any."""
    from downstream.running.config import TestOptions  # pytest would collect it

    options = TestOptions(str(config), checkpoint=str(checkpoint))
    return export(options, ExportOptions(out=str(out), size=(64, 96), batch=1))


@pytest.fixture(scope='module')
def trained(shapes, tmp_path_factory):
    """A config and a checkpoint of it."""
    return segmenter(shapes, tmp_path_factory.mktemp('segmenter'))


@pytest.fixture(scope='module')
def files(trained, tmp_path_factory):
    """The checkpoint in every format, by suffix."""
    folder = tmp_path_factory.mktemp('exported')
    suffixes = ('.onnx', '.xml', '.pt2')
    return {suffix: exported(*trained, folder / f'model{suffix}') for suffix in suffixes}


def rows_of(tool, out, *words):
    result = tool('benchmark', *words, '--out', out, *SMALL)
    assert result.code == 0, result.err
    return json.loads((out / 'benchmark.json').read_text()), result.out


def test_files_of_every_format_beside_their_checkpoint(tool, trained, files, tmp_path):
    config, checkpoint = trained
    words = (config, *files.values(), '--against', checkpoint)
    found, shown = rows_of(tool, tmp_path / 'out', *words)
    model = build_on_meta(read_config(RunOptions(str(config))))
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    of_file = sum(size for name, size in sizes.items() if not name.startswith('auxiliary_head'))
    rows = found['rows']
    assert [row['parameters'] for row in rows] == [*3 * [of_file], sum(sizes.values())]
    assert [row['runtime'] for row in rows] == [
        'ONNX Runtime',
        'OpenVINO',
        'torch.export',
        'PyTorch',
    ]
    assert found['reference'] == str(checkpoint)
    for row in rows:
        assert row['precision'] == 'fp32'
        assert row['gmacs'] == pytest.approx(gmacs(model, (64, 96)))
        assert len(row['seconds']) == 2
    assert [row['speed'] is None for row in rows] == [False, False, False, True]
    assert rows[0]['weight_bytes'] == files['.onnx'].stat().st_size
    parts = (files['.xml'], files['.xml'].with_suffix('.bin'))
    assert rows[1]['weight_bytes'] == sum(part.stat().st_size for part in parts)
    assert found['facts']['weights'] == 'trained'
    assert found['facts']['versions']['onnxruntime'] == onnxruntime.__version__
    assert 'ONNX Runtime fp32' in shown


@pytest.mark.parametrize('suffix', ['.onnx', '.xml', '.pt2'])
def test_outputs_stay_as_they_are_when_another_picture_is_run(files, suffix):
    model = open_exported(files[suffix])
    black, white = (np.full((1, 64, 96, 3), value, np.uint8) for value in (0, 255))
    first = model.run(black)['logits']
    before = first.copy()
    second = model.run(white)['logits']
    assert np.array_equal(first, before)
    assert not np.array_equal(first, second)


def test_threads_are_those_of_every_runtime(tool, trained, files, tmp_path, monkeypatch):
    seen = {}
    session, compiler = onnxruntime.InferenceSession, openvino.Core.compile_model

    def open_session(path, options, **kwargs):
        seen['onnxruntime'] = options.intra_op_num_threads
        seen['providers'] = kwargs['providers']
        return session(path, options, **kwargs)

    def compile_model(self, *args):
        compiled = compiler(self, *args)
        seen['openvino'] = compiled.get_property('INFERENCE_NUM_THREADS')
        return compiled

    monkeypatch.setattr(onnxruntime, 'InferenceSession', open_session)
    monkeypatch.setattr(openvino.Core, 'compile_model', compile_model)
    before = torch.get_num_threads()
    for count in (1, 2):
        words = (trained[0], files['.onnx'], files['.xml'], '--threads', count)
        found, _ = rows_of(tool, tmp_path / 'out', *words)
        assert seen == {
            'onnxruntime': count,
            'openvino': count,
            'providers': ['CPUExecutionProvider'],
        }
        assert f'threads: {count}' in found['facts']['device']
    assert torch.get_num_threads() == before


def test_a_file_of_another_model_has_no_multiply_adds(tool, files, shapes, tmp_path):
    other = write_config(shapes, tmp_path, (96, 80), 'ConvNeXt')  # without GRN
    found, _ = rows_of(tool, tmp_path / 'out', other, files['.onnx'], '--against', other)
    file, config = found['rows']
    assert file['gmacs'] is None
    assert config['gmacs'] > 0


def test_a_file_of_the_hub_at_a_revision(tool, trained, files, tmp_path, monkeypatch):
    name = 'hf:lab/pets/model.onnx@v1'
    with served() as server:
        monkeypatch.setenv(FOLDER, str(tmp_path / 'cache'))
        use_as_hub(server, monkeypatch)
        server.files['/lab/pets/resolve/v1/model.onnx'] = files['.onnx'].read_bytes()
        found, _ = rows_of(tool, tmp_path / 'out', trained[0], name)
        assert [(row['name'], row['runtime']) for row in found['rows']] == [(name, 'ONNX Runtime')]


def test_what_a_file_cannot_is_one_line(tool, trained, files, tmp_path):
    def refused(config, *words):
        result = tool('benchmark', config, *SMALL, *words, '--out', tmp_path / 'out')
        assert result.code == 2
        assert result.err.count('\n') == 1
        return result.err

    config = trained[0]
    assert 'precision of exported files' in refused(config, files['.onnx'], '--amp')
    assert 'none.onnx does not exist' in refused(config, tmp_path / 'none.onnx')
    detector = 'cascade-mask-rcnn_convnext-atto_shapes'
    assert 'is for segmentation, the config for detection' in refused(detector, files['.onnx'])
    message = refused(config, files['.onnx'], '--size', '32', '64')
    assert 'this file takes (1, 64, 96, 3) of uint8. Give it such pictures, or export' in message
    assert not (tmp_path / 'out').exists()


@pytest.mark.slow
def test_a_file_of_a_detector_finds_as_many_objects_as_its_model(tool, shapes, tmp_path):
    config = write_tiny_config('detection', shapes, tmp_path)
    model = build(read_config(RunOptions(str(config))).model)
    checkpoint = tmp_path / 'trained.pth'
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, checkpoint)
    out = exported(config, checkpoint, tmp_path / 'model.onnx')
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    cv2.imwrite(str(tmp_path / 'a.png'), pixels)
    words = (config, checkpoint, out, '--images', tmp_path / 'a.png')
    found, _ = rows_of(tool, tmp_path / 'out', *words)
    model_row, file_row = found['rows']
    assert file_row['objects'] == model_row['objects'] > 0
