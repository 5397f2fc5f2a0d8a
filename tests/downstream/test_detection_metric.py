"""Detection figures against pycocotools run by hand, to the last bit."""

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from downstream.data.shapes import THINGS, make_shapes
from downstream.detection import CocoInstanceMetric


@pytest.fixture(scope='module')
def annotations(tmp_path_factory) -> str:
    root = tmp_path_factory.mktemp('data') / 'shapes'
    make_shapes(root, training=1, validation=6)
    return str(root / 'annotations' / 'instances_validation.json')


def noisy_predictions(ann_file: str) -> list[dict]:
    """Predictions near the ground truth: some shifted, some missing, some of the wrong class."""
    rng = np.random.default_rng(0)
    coco = COCO(ann_file)
    predictions = []
    for image_id, info in coco.imgs.items():
        boxes, labels, masks = [], [], []
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=image_id)):
            if rng.random() < 0.2:
                continue
            shift = rng.integers(-4, 5, 2)
            mask = np.roll(coco.annToMask(annotation), shift, axis=(1, 0))
            x, y, width, height = rle.toBbox(rle.encode(np.asfortranarray(mask)))
            boxes.append([x, y, x + width, y + height])
            labels.append((annotation['category_id'] - 1 + (rng.random() < 0.15)) % 3)
            masks.append(rle.encode(np.asfortranarray(mask)))
        predictions.append(
            {
                'img_id': image_id,
                'ori_shape': (info['height'], info['width']),
                'pred_instances': {
                    'bboxes': np.array(boxes).reshape(-1, 4),
                    'scores': rng.random(len(boxes)),
                    'labels': np.array(labels, int),
                    'masks': masks,
                },
            }
        )
    return predictions


def processed(metric: CocoInstanceMetric, predictions: list[dict]) -> dict:
    import torch

    metric.dataset_meta = {'classes': THINGS}
    for sample in predictions:
        instances = {
            k: torch.as_tensor(v) if k != 'masks' else v
            for k, v in sample['pred_instances'].items()
        }
        metric.process({}, [{**sample, 'pred_instances': instances}])
    return metric.evaluate(len(predictions))


def test_figures_equal_pycocotools_on_the_saved_detections(annotations, tmp_path):
    metric = CocoInstanceMetric(
        ann_file=annotations, metric=['bbox', 'segm'], save_dir=str(tmp_path / 'out')
    )
    flat = processed(metric, noisy_predictions(annotations))
    for kind in ('bbox', 'segm'):
        coco = COCO(annotations)
        found = json.loads((tmp_path / 'out' / f'detections.{kind}.json').read_text())
        for detection in found:
            if kind == 'segm':
                detection.pop('bbox', None)
        evaluation = COCOeval(coco, coco.loadRes(found), kind)
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        names = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl')
        for name, value in zip(names, evaluation.stats):
            assert metric.report[kind][name] == (None if value < 0 else value)
        assert flat[f'coco/{kind}_mAP'] == evaluation.stats[0]
        assert 0.2 < evaluation.stats[0] < 0.95
        per_class = metric.report[kind]['per_class']
        assert set(per_class) == set(THINGS)
        assert np.mean(list(per_class.values())) == pytest.approx(evaluation.stats[0])


def test_no_detection_is_an_ap_of_zero(annotations):
    predictions = noisy_predictions(annotations)
    for sample in predictions:
        instances = sample['pred_instances']
        sample['pred_instances'] = {key: value[:0] for key, value in instances.items()}
    metric = CocoInstanceMetric(ann_file=annotations, metric=['bbox', 'segm'])
    assert processed(metric, predictions)['coco/bbox_mAP'] == 0
    assert metric.report['segm']['per_class'] == dict.fromkeys(THINGS, 0.0)
