"""Detection figures against pycocotools run by hand, to the last bit."""

import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO

from downstream.data.shapes import THINGS, make_shapes
from downstream.detection import CocoInstanceMetric
from tests.conftest import coco_by_hand


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
        detections = tmp_path / 'out' / f'detections.{kind}.json'
        by_hand = coco_by_hand(annotations, detections, kind)
        report = metric.report[kind]
        assert {name: report[name] for name in by_hand} == by_hand
        assert flat[f'coco/{kind}_mAP'] == by_hand['AP']
        assert 0.2 < by_hand['AP'] < 0.95
        assert set(report['per_class']) == set(THINGS)
        assert np.mean(list(report['per_class'].values())) == pytest.approx(by_hand['AP'])


def test_no_detection_is_an_ap_of_zero(annotations):
    predictions = noisy_predictions(annotations)
    for sample in predictions:
        instances = sample['pred_instances']
        sample['pred_instances'] = {key: value[:0] for key, value in instances.items()}
    metric = CocoInstanceMetric(ann_file=annotations, metric=['bbox', 'segm'])
    assert processed(metric, predictions)['coco/bbox_mAP'] == 0
    assert metric.report['segm']['per_class'] == dict.fromkeys(THINGS, 0.0)
