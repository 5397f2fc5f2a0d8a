"""tools/export.py from the command line, and its files in the place of a checkpoint."""

import json
import re
import shutil
import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

pytest.importorskip('onnxscript')
pytest.importorskip('onnxruntime')
pytest.importorskip('openvino')

import onnxruntime

from backbones.convnext.model import ConvNeXtV2
from backbones.errors import WeightsError
from downstream.exporting.files import open_exported
from downstream.exporting.models import use_exported
from downstream.exporting.standalone import ExportedModel
from downstream.predicting import Predictor
from downstream.running.config import RunOptions, read_config
from tests.conftest import read_metrics
from tests.downstream.exporting.models import CLASSES, segmenter, write_config
from tests.support import processes


@pytest.fixture(scope='module')
def trained(shapes, tmp_path_factory):
    return segmenter(shapes, tmp_path_factory.mktemp('segmenter'))


@pytest.fixture(scope='module')
def exported(trained, tmp_path_factory):
    """The file of a segmenter, by the command."""
    from downstream.commands.export import ExportOptions, export
    from downstream.running.config import TestOptions

    config, checkpoint = trained
    out = tmp_path_factory.mktemp('exported') / 'model.onnx'
    export(TestOptions(str(config), checkpoint=str(checkpoint)), ExportOptions(out=str(out)))
    return out


def figures(tool, work_dir, *words):
    result = tool('test', *words, '--work-dir', work_dir)
    assert result.code == 0, result.err
    return read_metrics(work_dir)


def test_an_exported_file_has_the_figures_of_its_model(tool, trained, exported, shapes, tmp_path):
    for scale in ((96, 80), (70, 70), (200, 160)):
        folder = tmp_path / str(scale[0])
        folder.mkdir()
        config = write_config(shapes, folder, scale)
        model, file = (
            figures(tool, folder / name, config, path)
            for name, path in (('model', trained[1]), ('file', exported))
        )
        assert model['mIoU'] > 1
        assert file['mIoU'] == pytest.approx(model['mIoU'], abs=1e-3)
        assert file['aAcc'] == pytest.approx(model['aAcc'], abs=1e-3)


def test_windows_tiles_and_views_of_an_exported_file(tool, trained, exported, tmp_path):
    window = ['model.test_cfg.mode=slide', 'model.test_cfg.crop_size=(48,48)']
    window += ['model.test_cfg.stride=(32,32)']
    for name, words in {
        'slide': ['--cfg-options', *window],
        'tta': ['--tta'],
        'tile': ['--tile', '64'],
    }.items():
        model, file = (
            figures(tool, tmp_path / f'{name}-{which}', trained[0], path, *words)
            for which, path in (('model', trained[1]), ('file', exported))
        )
        assert file['mIoU'] == pytest.approx(model['mIoU'], abs=1e-2)


def test_predictions_of_a_file_are_those_of_its_model(trained, exported, shapes):
    picture = next((shapes / 'images' / 'validation').iterdir())
    model, file = (
        Predictor(trained[0], path, device='cpu')(picture) for path in (trained[1], exported)
    )
    assert (model.labels == file.labels).mean() > 0.999
    assert file.classes == CLASSES
    alone = ExportedModel(exported, providers=['CPUExecutionProvider']).predict(picture)
    assert (alone['classes'] == model.labels).mean() > 0.999


def test_a_file_is_opened_once(tool, trained, exported, shapes, tmp_path, monkeypatch):
    opened = []
    session = onnxruntime.InferenceSession

    def open_session(path, *args, **kwargs):
        opened.append(path)
        return session(path, *args, **kwargs)

    monkeypatch.setattr(onnxruntime, 'InferenceSession', open_session)
    figures(tool, tmp_path / 'test', trained[0], exported, '--tta')
    assert opened == [str(exported)]
    Predictor(trained[0], exported, device='cpu')
    Predictor(trained[0], exported, device='cpu')  # another model is another session
    assert len(opened) == 3


def test_a_file_that_was_written_anew_is_opened_anew(trained, exported, tmp_path):
    path = tmp_path / 'model.onnx'
    shutil.copy(exported, path)
    cfg = read_config(RunOptions(str(trained[0])))
    use_exported(cfg, str(path))
    path.write_bytes(b'damaged')
    scope = DefaultScope.overwrite_default_scope('mmseg')
    with scope, pytest.raises(WeightsError, match='cannot be read'):
        MODELS.build(cfg.model)


def test_what_a_file_says_of_itself(exported, trained):
    facts = open_exported(exported).facts
    assert facts['task'] == 'segmentation'
    assert facts['classes'] == list(CLASSES)
    assert facts['palette'][1] == [230, 60, 60]
    assert facts['resize'] == {'scale': [96, 80], 'keep_ratio': True}
    assert facts['mean'] == [123.675, 116.28, 103.53]
    assert facts['input']['order'] == 'BGR'
    assert facts['channels_exchanged'] is True
    assert facts['precision'] == 'fp32'
    assert facts['shift'] == 1
    assert facts['stride'] == 32
    weights = torch.load(trained[1])['state_dict']
    running = ('running_mean', 'running_var', 'num_batches_tracked')
    inside = (
        value
        for key, value in weights.items()
        if not key.endswith(running) and not key.startswith('auxiliary_head')
    )
    assert facts['parameters'] == sum(value.numel() for value in inside)
    assert 'random weights' in facts['licence']
    assert re.fullmatch(r'convnext-dense \d+\.\d+\.\d+', facts['suite'])
    json.dumps(facts)


def test_the_command_line(tool, trained, tmp_path):
    config, checkpoint = trained
    out = tmp_path / 'model.xml'
    content = torch.load(checkpoint)
    content['meta']['licence'] = 'MIT (given by the publisher)'  # as in files of tools/publish.py
    checkpoint = tmp_path / 'published.pth'
    torch.save(content, checkpoint)
    words = (config, checkpoint, '--out', out, '--precision', 'fp16', '--batch', '1')
    result = tool('export', *words, '--size', '64', '96')
    assert result.code == 0, result.err
    assert '64 x 96 pixels, 1 at once; outputs logits' in result.out
    assert 'Licence of the weights: MIT (given by the publisher).' in result.out
    facts = open_exported(out).facts
    assert facts['licence'] == 'MIT (given by the publisher)'
    assert facts['config'] == config.name
    assert facts['precision'] == 'fp16'
    assert (facts['input']['height'], facts['input']['width'], facts['input']['batch']) == (
        64,
        96,
        1,
    )
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ['model.bin', 'model.xml', 'published.pth']


def test_openvino_computes_in_bfloat16_what_asks_for_it(trained, exported, tmp_path):
    # In a process of its own: of one that has used AMX a later signal may end pytest's.
    config, checkpoint = trained
    files = dict(
        config=config, checkpoint=checkpoint, exported=exported, out=tmp_path / 'model.xml'
    )
    processes.finish(
        processes.start(_compute_in_bfloat16, tmp_path / 'logs', [files]), tmp_path / 'logs'
    )


def _compute_in_bfloat16(config, checkpoint, exported, out):
    import openvino

    from downstream.commands.export import ExportOptions, export
    from downstream.running.config import TestOptions

    how = ExportOptions(out=str(out), precision='bf16')
    export(TestOptions(str(config), checkpoint=str(checkpoint)), how)
    file = open_exported(out)
    assert file.facts['precision'] == 'bf16'
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    found = file.run(image)['logits']
    core = openvino.Core()
    own, exact = (
        core.compile_model(str(out), 'CPU', {'INFERENCE_PRECISION_HINT': precision})(image)[0]
        for precision in ('bf16', 'f32')
    )
    np.testing.assert_array_equal(found, own)
    if 'BF16' in core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES'):
        assert np.abs(found - exact).max() > 0
    plain = open_exported(exported).run(image)['logits']
    assert np.abs(found - plain).max() < 0.05 * np.abs(plain).max()


def refused(tool, name, *words):
    result = tool(name, *words)
    assert result.code == 2
    assert 'Traceback' not in result.err
    return result.err


def test_refusals_of_an_export(tool, trained, exported, shapes, tmp_path, monkeypatch):
    config, checkpoint = trained
    assert 'already' in refused(tool, 'export', config, exported)
    assert 'ends in .onnx' in refused(
        tool, 'export', config, checkpoint, '--format', 'onnx', '--out', 'a.xml'
    )
    assert 'HEIGHT WIDTH' in refused(tool, 'export', config, checkpoint, '--size', '64')
    assert '--format openvino' in refused(tool, 'export', config, checkpoint, '--precision', 'bf16')
    assert 'does not exist' in refused(tool, 'export', config, tmp_path / 'none.pth')
    other = tmp_path / 'other'
    other.mkdir()
    wrong = write_config(shapes, other, (96, 80), 'ConvNeXt')
    assert 'does not fit the model' in refused(tool, 'export', wrong, checkpoint)
    forward = ConvNeXtV2.forward
    for changed, advice in (
        (
            lambda x: x if x.sum() > 0 else x + 1,
            'values that a picture or its size decides (',
        ),
        # A number of Python is that of the size that is traced.
        (
            lambda x: x[..., : int(x.shape[-1])] * 1,
            'Try fixed sizes: --size HEIGHT WIDTH --batch 1.',
        ),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(ConvNeXtV2, 'forward', lambda self, x: forward(self, changed(x)))  # noqa: B023
            out = tmp_path / 'branch.onnx'
            message = refused(tool, 'export', config, checkpoint, '--out', out)
        assert advice in message
        assert 'def forward' not in message
        assert 'onnxruntime:' not in message
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    message = refused(tool, 'export', config, checkpoint, '--out', tmp_path / 'a.onnx')
    assert "onnxscript, which is not installed: pip install -e '.[export]'" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ['other']


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (('--output', 'classes'), '--output classes is for segmenters'),
        (('--batch', '2'), 'takes one picture at a time'),
    ],
)
def test_options_that_a_detector_does_not_have(tool, trained, words, message):
    detector = 'configs/det/cascade-mask-rcnn_convnext-atto_shapes.py'
    assert message in refused(tool, 'export', detector, trained[1], *words)


def test_refusals_of_a_file(tool, trained, exported, shapes, tmp_path, monkeypatch):
    config = trained[0]
    classes = "test_dataloader.dataset.metainfo.classes=('a','b','c','d')"
    words = ('--work-dir', tmp_path)
    assert 'is of the classes background' in refused(
        tool, 'test', config, exported, *words, '--cfg-options', classes
    )
    damaged = tmp_path / 'damaged.onnx'
    damaged.write_bytes(exported.read_bytes()[:1000])
    assert 'damaged.onnx cannot be read' in refused(tool, 'test', config, damaged, *words)
    assert 'does not exist' in refused(tool, 'test', config, tmp_path / 'no.onnx', *words)
    detector = 'configs/det/cascade-mask-rcnn_convnext-atto_shapes.py'
    assert 'is for segmentation, the config for detection' in refused(
        tool, 'test', detector, exported, *words
    )
    source = shapes / 'images' / 'validation'
    assert 'precision' in refused(tool, 'predict', config, exported, source, '--amp')
    archive = tmp_path / 'foreign.pt2'
    archive.write_bytes(b'PK')
    assert 'foreign.pt2 cannot be read' in refused(tool, 'test', config, archive, *words)
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    assert 'onnxruntime, which is not installed' in refused(tool, 'test', config, exported, *words)


def test_pillow_and_opencv_read_and_resize_alike(tmp_path, monkeypatch):
    from downstream.exporting import standalone

    path = tmp_path / 'a.png'
    pixels = np.random.default_rng(0).integers(0, 256, (31, 47, 3), np.uint8)
    cv2.imwrite(str(path), pixels)
    rule = {'scale': [64, 40], 'keep_ratio': True}

    def read():
        return standalone.resized_picture(standalone.read_picture(path, 'BGR'), rule)

    expected = read()
    monkeypatch.setattr(standalone, 'cv2', None)
    found = read()
    assert found.shape == expected.shape == (40, 61, 3)
    assert np.abs(found.astype(int) - expected).max() <= 1
