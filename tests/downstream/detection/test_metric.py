"""Detection figures against pycocotools run by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from backbones.errors import ConfigError, DataError
from downstream.data.shapes import THINGS, make_shapes
from downstream.detection import CocoInstanceMetric
from downstream.detection.coco_evaluation import mask_areas
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


@pytest.mark.parametrize('backend', ['hotcoco', 'pycocotools'])
def test_figures_equal_pycocotools_on_the_saved_detections(backend, annotations, tmp_path):
    metric = CocoInstanceMetric(
        ann_file=annotations,
        metric=['bbox', 'segm'],
        save_dir=str(tmp_path / 'out'),
        backend=backend,
    )
    assert metric.backend == backend
    flat = processed(metric, noisy_predictions(annotations))
    for kind in ('bbox', 'segm'):
        detections = tmp_path / 'out' / f'detections.{kind}.json'
        by_hand = coco_by_hand(annotations, detections, kind)
        report = metric.report[kind]
        # the other library adds up in another order
        error = 0 if backend == 'pycocotools' else 1e-12
        assert {name: report[name] for name in by_hand} == pytest.approx(
            by_hand, abs=error, rel=error
        )
        assert flat[f'coco/{kind}_mAP'] == pytest.approx(by_hand['AP'], abs=error, rel=error)
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


def random_set(folder, seed: int) -> tuple[str, list[dict]]:
    """Annotations and detections of everything that COCO's rules tell apart: crowds, empty images, sizes,
    more detections than count, classes without objects, equal scores."""
    rng = np.random.default_rng(seed)
    categories = [{'id': 3 * i + 1, 'name': f'class {i}'} for i in range(4)]
    images, annotations, found = [], [], []
    for image in range(1, 13):
        images.append({'id': image, 'file_name': f'{image}.jpg', 'width': 400, 'height': 300})
        for _ in range(0 if image == 5 else rng.integers(1, 9)):
            x, y, w, h = (float(v) for v in rng.integers((0, 0, 2, 2), (250, 150, 150, 150)))
            category = int(rng.choice([1, 4, 7]))  # none of the fourth class
            crowd = int(rng.random() < 0.15)
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            segmentation = (
                rle.frPyObjects([polygon], 300, 400)[0] if crowd else [polygon]
            )  # fmt: skip
            if crowd:
                segmentation = {**segmentation, 'counts': segmentation['counts'].decode()}
            annotations.append(
                {'id': len(annotations) + 1, 'image_id': image, 'category_id': category,
                 'bbox': [x, y, w, h], 'area': w * h, 'iscrowd': crowd, 'segmentation': segmentation}
            )  # fmt: skip
            for _ in range(rng.integers(0, 3)):
                dx, dy = (float(v) for v in rng.integers(-9, 10, 2))
                found.append(
                    (image, category, [x + dx, y + dy, w, h], round(float(rng.random()), 1))
                )
        for _ in range(130 if image == 2 else 3):
            x, y, w, h = (float(v) for v in rng.integers((0, 0, 1, 1), (390, 290, 10, 10)))
            found.append((image, int(rng.choice([1, 4, 7, 10])), [x, y, w, h], float(rng.random())))
    path = folder / f'random{seed}.json'
    path.write_text(
        json.dumps({'images': images, 'annotations': annotations, 'categories': categories})
    )
    detections = []
    for image, category, box, score in found:
        x, y, w, h = box
        mask = rle.frPyObjects([[x, y, x + w, y, x + w, y + h, x, y + h]], 300, 400)[0]
        mask = {**mask, 'counts': mask['counts'].decode()}
        detections.append(
            {'image_id': image, 'category_id': category, 'bbox': box, 'score': score,
             'segmentation': mask}
        )  # fmt: skip
    return str(path), detections


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('kind', ['bbox', 'segm'])
def test_both_backends_agree_on_whatever_there_is(seed, kind, tmp_path):
    path, detections = random_set(tmp_path, seed)
    reports = []
    for backend in ('hotcoco', 'pycocotools'):
        metric = made(path, metric=kind, backend=backend)
        metric.compute_metrics(results_of(detections))
        reports.append(metric.report[kind])
    flat = [report | report.pop('per_class') for report in reports]
    assert flat[0]['class 3'] is None  # without objects
    known = [{name: v for name, v in report.items() if v is not None} for report in flat]
    assert len(known[0]) > 8
    assert known[0] == pytest.approx(known[1], rel=1e-12)
    assert 0.05 < known[0]['AP'] < 0.9


@pytest.mark.parametrize('backend', ['hotcoco', 'pycocotools'])
def test_iou_thresholds_and_limits_of_detections(backend, tmp_path):
    path, detections = random_set(tmp_path, 0)
    own = tmp_path / 'own.json'
    own.write_text(json.dumps(detections))
    metric = made(path, metric='bbox', backend=backend, iou_thrs=[0.5, 0.6], proposal_nums=(2, 5))
    report = metric.compute_metrics(results_of(detections)) and metric.report['bbox']
    truth = COCO(path)
    by_hand = COCOeval(truth, truth.loadRes(str(own)), 'bbox')
    by_hand.params.iouThrs, by_hand.params.maxDets = np.array([0.5, 0.6]), [2, 5]
    by_hand.evaluate()
    by_hand.accumulate()
    precision = by_hand.eval['precision'][..., 0, -1]
    assert report['AP'] == pytest.approx(precision[precision > -1].mean(), rel=1e-12)
    at_half = precision[0]
    assert report['AP50'] == pytest.approx(at_half[at_half > -1].mean(), rel=1e-12)
    assert report['AP75'] is None
    plain = made(path, metric='bbox', backend=backend)
    plain.compute_metrics(results_of(detections))
    assert plain.report['bbox']['AP'] < report['AP'] - 0.01
    assert plain.report['bbox']['AR'] != report['AR']


def made(ann_file: str, **options) -> CocoInstanceMetric:
    metric = CocoInstanceMetric(ann_file=ann_file, **options)
    metric.dataset_meta = {'classes': [f'class {i}' for i in range(4)]}
    return metric


def results_of(detections: list[dict]) -> list[tuple[dict, dict]]:
    """Detections in COCO's result format as the results that mmdet's ``process`` stores."""
    results = []
    for image in range(1, 13):
        own = [d for d in detections if d['image_id'] == image]
        boxes = np.array([d['bbox'] for d in own]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([(d['category_id'] - 1) // 3 for d in own], int)
        scores = np.array([d['score'] for d in own])
        masks = [dict(d['segmentation']) for d in own]
        truth = {'img_id': image, 'width': 400, 'height': 300}
        found = {'bboxes': boxes, 'labels': labels, 'scores': scores, 'masks': masks}
        found['mask_areas'] = mask_areas(masks)
        results.append((truth, {'img_id': image, **found}))
    return results


def test_classwise_adds_a_figure_for_each_class(tmp_path):
    path, detections = random_set(tmp_path, 1)
    metric = made(path, metric=['bbox', 'segm'], classwise=True)
    flat = metric.compute_metrics(results_of(detections))
    for kind in ('bbox', 'segm'):
        for name, value in metric.report[kind]['per_class'].items():
            found = flat[f'{kind}_{name}_precision']
            assert found == value or (value is None and np.isnan(found))
    assert 'bbox_class 0_precision' not in made(path).compute_metrics(results_of(detections))


@pytest.mark.parametrize('place', ['save_dir', 'outfile_prefix'])
def test_format_only_writes_the_detections_and_computes_nothing(place, tmp_path):
    path, detections = random_set(tmp_path, 2)
    content = json.loads(Path(path).read_text())
    del content['annotations']  # as in the files of COCO's test sets
    (tmp_path / 'test-dev.json').write_text(json.dumps(content))
    prefix = tmp_path / 'out' / 'detections'
    options = {place: str(prefix.parent if place == 'save_dir' else prefix)}
    metric = made(str(tmp_path / 'test-dev.json'), metric='segm', format_only=True, **options)
    assert metric.compute_metrics(results_of(detections)) == {}
    assert metric.report == {}
    for kind in ('bbox', 'segm'):
        written = json.loads((prefix.parent / f'detections.{kind}.json').read_text())
        assert len(written) == len(detections)


def test_ground_truth_of_the_samples_stands_in_for_a_file(annotations):
    with_file = CocoInstanceMetric(ann_file=annotations, metric='bbox')
    processed(with_file, noisy_predictions(annotations))
    coco = COCO(annotations)
    predictions = noisy_predictions(annotations)
    for sample in predictions:
        sample['instances'] = [
            {
                'bbox': [x, y, x + w, y + h],
                'bbox_label': annotation['category_id'] - 1,
                'ignore_flag': annotation['iscrowd'],
            }
            for annotation in coco.loadAnns(coco.getAnnIds(imgIds=sample['img_id']))
            for x, y, w, h in [annotation['bbox']]
        ]
    without = CocoInstanceMetric(metric='bbox')
    processed(without, predictions)
    for name in ('AP', 'AP50', 'AP75', 'AR'):  # areas are those of boxes here
        assert without.report['bbox'][name] == with_file.report['bbox'][name]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'metric': 'proposal'}, "metric='proposal': CocoInstanceMetric evaluates bbox and segm"),
        ({'metric': ['bbox', 'proposal_fast']}, "metric='proposal_fast'"),
        ({'metric_items': ['mAP']}, 'metric_items is an option of mmdet.CocoMetric'),
        ({'use_mp_eval': True}, 'use_mp_eval is an option of mmdet.CocoMetric'),
        ({'format_only': True}, 'no place is given: add --out FOLDER'),
        ({'proposal_nums': (100, 10)}, 'give ascending numbers of detections'),
        ({'iou_thrs': [0.5, 50]}, 'give IoU thresholds above 0 and up to 1'),
    ],
)
def test_an_option_that_is_not_supported_is_an_error(options, message, annotations):
    with pytest.raises(ConfigError, match=message):
        CocoInstanceMetric(ann_file=annotations, **options)


def test_what_cannot_be_evaluated_is_an_error(annotations):
    metric = CocoInstanceMetric(ann_file=annotations, metric='segm')
    with pytest.raises(DataError, match='no image was evaluated'):
        metric.compute_metrics([])
    sample = noisy_predictions(annotations)[0]
    del sample['pred_instances']['masks']
    with pytest.raises(ConfigError, match="the model predicts none; set metric='bbox'"):
        processed(metric, [sample])
    with pytest.raises(DataError, match=r'image 77 \(\?\) is not in the annotations'):
        processed(metric, [{**sample, 'img_id': 77}])


def test_a_backend_that_is_not_there(annotations, monkeypatch):
    with pytest.raises(ConfigError, match='give auto, hotcoco or pycocotools'):
        CocoInstanceMetric(ann_file=annotations, backend='cocoapi')
    monkeypatch.setattr('downstream.detection.metric.find_spec', lambda name: None)
    assert CocoInstanceMetric(ann_file=annotations).backend == 'pycocotools'
    with pytest.raises(ConfigError, match='pip install hotcoco'):
        CocoInstanceMetric(ann_file=annotations, backend='hotcoco')
