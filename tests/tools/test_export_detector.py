"""tools/export.py for detectors: the evaluator's figures of a file are those of its model."""

import copy
import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

pytest.importorskip('onnxscript')
pytest.importorskip('onnxruntime')
pytest.importorskip('openvino')

from downstream.predicting import Predictor
from tests.conftest import read_metrics, write_tiny_config
from tests.downstream.exporting.detectors import build, model_config

EXACT = {'bbox': 1e-3, 'segm': 1e-3}
SCALES = [(160, 128), (112, 100), (230, 180)]


def truth_of(predictor, annotations):
    """Most objects that a model finds, shifted, as annotations: figures are between 0 and 1."""
    content = json.loads(annotations.read_text())
    content['annotations'] = []
    for image in content['images']:
        picture = annotations.parent.parent / 'images' / 'validation' / image['file_name']
        for place, entry in enumerate(predictor(picture).to_coco(image['id'])):
            if place % 4 != 3:
                x, y, width, height = entry['bbox']
                content['annotations'].append(
                    {
                        **entry,
                        'id': len(content['annotations']) + 1,
                        'bbox': [x + 1 + place % 3, y, width, height],
                        'area': width * height,
                        'iscrowd': 0,
                    }
                )
    return content


@pytest.fixture(scope='module')
def detector(shapes, tmp_path_factory):
    """Checkpoint of a narrow Mask R-CNN, and for every scale a config with data that the model knows."""
    folder = tmp_path_factory.mktemp('detector')
    cfg = Config.fromfile(write_tiny_config('detection', shapes, folder))
    cfg.model = model_config('mask-rcnn', 'v2')
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = build(cfg.model)
    checkpoint = folder / 'det.pth'
    meta = {'dataset_meta': {'classes': cfg.test_dataloader.dataset.metainfo.classes}}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, checkpoint)
    configs = []
    for scale in SCALES:
        config, annotations = (folder / f'{scale[0]}{suffix}' for suffix in ('.py', '.json'))
        loader = copy.deepcopy(cfg.test_dataloader)
        loader.dataset.pipeline[1].scale = scale
        of_scale = Config({**cfg, 'test_dataloader': loader})
        of_scale.dump(config)
        predictor = Predictor(config, checkpoint, device='cpu')
        truth = truth_of(predictor, shapes / 'annotations' / 'instances_validation.json')
        annotations.write_text(json.dumps(truth))
        loader.dataset.ann_file = of_scale.test_evaluator.ann_file = str(annotations)
        of_scale.dump(config)
        configs.append(config)
    return configs, checkpoint


@pytest.fixture
def figures(tool, tmp_path):
    """Box and mask AP of a file or checkpoint, by tools/test.py."""

    def test(config, path):
        folder = tmp_path / f'{path.name}-{config.stem}'
        result = tool('test', config, path, '--work-dir', folder)
        assert result.code == 0, result.err
        metrics = read_metrics(folder)
        return {kind: metrics[kind]['AP'] for kind in ('bbox', 'segm')}

    return test


def export(tool, config, checkpoint, out, *words):
    result = tool('export', config, checkpoint, '--out', out, *words)
    assert result.code == 0, result.err
    return result.out


def compare(figures, configs, checkpoint, out, tolerances):
    for config in configs:
        expected, found = figures(config, checkpoint), figures(config, out)
        for kind, tolerance in tolerances.items():
            assert found[kind] == pytest.approx(expected[kind], abs=tolerance)
            assert 0.1 < expected[kind] < 0.95


def test_a_file_has_the_figures_of_its_model(tool, detector, figures, shapes, tmp_path):
    configs, checkpoint = detector
    out = tmp_path / 'det.onnx'
    message = export(tool, configs[0], checkpoint, out)
    assert 'outputs boxes, scores, labels, masks; of ' in message
    assert 'in a random picture 0.0% differ' in message
    compare(figures, configs, checkpoint, out, EXACT)
    picture = next((shapes / 'images' / 'validation').iterdir())
    model, file = (Predictor(configs[0], path, device='cpu')(picture) for path in (checkpoint, out))
    np.testing.assert_allclose(file.boxes, model.boxes, atol=1e-2)
    np.testing.assert_allclose(file.scores, model.scores, atol=1e-4)
    assert (file.mask_arrays() == model.mask_arrays()).mean() > 0.999
    classes = "test_dataloader.dataset.metainfo.classes=('square','circle','triangle')"
    refused = tool('test', configs[0], out, '--work-dir', tmp_path, '--cfg-options', classes)
    assert refused.code == 2
    assert (
        'of the classes circle, square, triangle, the data of the config are of square'
        in refused.err
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ('suffix', 'words', 'tolerances'),
    [
        ('.xml', (), EXACT),
        ('.pt2', (), EXACT),
        # Few pictures, 20 objects each: one that changes moves the figure by a point. Masks of random
        # weights are noise about their threshold.
        ('.onnx', ('--precision', 'fp16'), {'bbox': 0.05}),
    ],
    ids=['openvino', 'torch', 'fp16'],
)
def test_other_formats(tool, detector, figures, tmp_path, suffix, words, tolerances):
    configs, checkpoint = detector
    out = tmp_path / f'det{suffix}'
    export(tool, configs[0], checkpoint, out, *words)
    compare(figures, configs, checkpoint, out, tolerances)
