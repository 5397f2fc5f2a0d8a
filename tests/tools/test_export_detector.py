"""tools/export.py for detectors: the evaluator's figures of a file are those of its model."""

import json

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

SCALES = [(160, 128), (112, 100), (230, 180)]
RESIZE = 'test_dataloader.dataset.pipeline.1.scale'


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
    """Config and checkpoint of a narrow Mask R-CNN on data that it knows."""
    folder = tmp_path_factory.mktemp('detector')
    cfg = Config.fromfile(write_tiny_config('detection', shapes, folder))
    cfg.model = model_config('mask-rcnn', 'v2')
    config, checkpoint, annotations = (
        folder / name for name in ('det.py', 'det.pth', 'truth.json')
    )
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = build(cfg.model)
    classes = cfg.test_dataloader.dataset.metainfo.classes
    torch.save(
        {'state_dict': model.state_dict(), 'meta': {'dataset_meta': {'classes': classes}}},
        checkpoint,
    )
    cfg.dump(config)
    truth = truth_of(
        Predictor(config, checkpoint, device='cpu'),
        shapes / 'annotations' / 'instances_validation.json',
    )
    annotations.write_text(json.dumps(truth))
    cfg.test_dataloader.dataset.ann_file = cfg.test_evaluator.ann_file = str(annotations)
    cfg.dump(config)
    return config, checkpoint


@pytest.fixture
def figures(tool, tmp_path):
    """Box and mask AP of a file or checkpoint, by tools/test.py."""

    def test(config, path, scale):
        folder = tmp_path / f'{path.name}-{scale[0]}'
        words = ('--work-dir', folder, '--cfg-options', f'{RESIZE}=({scale[0]},{scale[1]})')
        result = tool('test', config, path, *words)
        assert result.code == 0, result.err
        metrics = read_metrics(folder)
        return [metrics[kind]['AP'] for kind in ('bbox', 'segm')]

    return test


def export(tool, config, checkpoint, out, *words):
    result = tool('export', config, checkpoint, '--out', out, *words)
    assert result.code == 0, result.err
    return result.out


def test_a_file_has_the_figures_of_its_model(tool, detector, figures, tmp_path):
    config, checkpoint = detector
    out = tmp_path / 'det.onnx'
    message = export(tool, config, checkpoint, out)
    assert 'outputs boxes, scores, labels, masks; of ' in message
    assert 'in a random picture 0.0% differ' in message
    for scale in SCALES:
        expected = figures(config, checkpoint, scale)
        assert figures(config, out, scale) == pytest.approx(expected, abs=1e-3)
        assert min(expected) > 0.02


@pytest.mark.slow
@pytest.mark.parametrize('suffix', ['.xml', '.pt2'])
def test_other_formats(tool, detector, figures, tmp_path, suffix):
    config, checkpoint = detector
    out = tmp_path / f'det{suffix}'
    export(tool, config, checkpoint, out)
    for scale in SCALES:
        expected = figures(config, checkpoint, scale)
        assert figures(config, out, scale) == pytest.approx(expected, abs=1e-3)
