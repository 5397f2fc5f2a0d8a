"""hotcoco's figures against pycocotools run by hand, on random sets and on degenerate ones."""

import copy
import json

import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from downstream.detection import CocoInstanceMetric
from downstream.detection.coco_evaluation import (
    Detections,
    HotcocoTruth,
    Rules,
    mask_areas,
    with_hotcoco,
)

HEIGHT, WIDTH = 120, 160
CATEGORIES = (3, 7, 11, 20)
KINDS = ('bbox', 'segm')


def code(mask: np.ndarray) -> dict:
    encoded = rle.encode(np.asfortranarray(mask, np.uint8))
    return {'size': encoded['size'], 'counts': encoded['counts'].decode()}


def mask_of(x: float, y: float, w: float, h: float, holes: np.ndarray | None = None) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[round(y) : round(y + h), round(x) : round(x + w)] = True
    return mask if holes is None else mask & holes


def random_content(seed: int) -> dict:
    """Crowds, polygons and run lengths, objects without area, an image and a category without objects."""
    rng = np.random.default_rng(seed)
    images = [{'id': 5 * i + 2, 'height': HEIGHT, 'width': WIDTH} for i in range(10)]
    annotations = []
    for image in images[1:]:
        for _ in range(rng.integers(1, 9)):
            x, y, w, h = (float(v) for v in rng.integers((0, 0, 1, 1), (120, 80, 120, 90)))
            crowd = int(rng.random() < 0.2)
            polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            segmentation = code(mask_of(x, y, w, h)) if crowd or rng.random() < 0.3 else polygon
            annotations.append(
                {'id': len(annotations) + 1, 'image_id': image['id'], 'iscrowd': crowd,
                 'category_id': int(rng.choice(CATEGORIES[:3])), 'bbox': [x, y, w, h],
                 'area': w * h, 'segmentation': segmentation}
            )  # fmt: skip
    for one in annotations[::7]:
        one['area'] = 0
    for one in annotations[1::9]:
        one['bbox'][2:] = [0.0, 0.0]
        one['segmentation'] = code(np.zeros((HEIGHT, WIDTH)))
    categories = [{'id': id_, 'name': f'class {id_}'} for id_ in CATEGORIES]
    return {'images': images, 'annotations': annotations, 'categories': categories}


def random_predictions(content: dict, seed: int) -> list[dict]:
    """Near the objects and elsewhere, with equal scores, empty masks, more than 100 in an image, none in
    another. Boxes are not those of the masks."""
    rng = np.random.default_rng(seed + 1000)
    holes = rng.random((HEIGHT, WIDTH)) > 0.2
    predictions = []
    for number, image in enumerate(content['images']):
        own = [one for one in content['annotations'] if one['image_id'] == image['id']]
        count = (0 if number == 4 else 230 if number == 6 else 12) if own or number else 5
        boxes, labels, masks = [], [], []
        for _ in range(count):
            x, y, w, h = rng.integers((0, 0, 0, 0), (150, 110, 60, 60))
            label = int(rng.integers(4))
            if own and rng.random() < 0.7:
                one = own[rng.integers(len(own))]
                x, y, w, h = np.array(one['bbox']) + rng.integers(-3, 4, 4)
                label = CATEGORIES.index(one['category_id'])
            boxes.append([x, y, x + max(w, 0), y + max(h, 0)])
            labels.append(label)
            masks.append(code(mask_of(max(x, 0), max(y, 0), max(w, 0), max(h, 0), holes)))
        predictions.append(
            {
                'img_id': image['id'],
                'bboxes': np.array(boxes, np.float32).reshape(-1, 4),
                'labels': np.array(labels, int),
                'scores': rng.choice([0.1, 0.2, 0.5, 0.50001, 0.9], count).astype(np.float32),
                'masks': masks,
                'mask_areas': mask_areas(masks),
            }
        )
    return predictions


def by_hand(content: dict, predictions: list[dict], kind: str, **params) -> dict:
    """What pycocotools computes from a list of results that is made without the suite."""
    found = []
    for prediction in predictions:
        rows = zip(*(prediction[key] for key in ('bboxes', 'labels', 'scores', 'masks')))
        for (left, top, right, bottom), label, score, mask in rows:
            box = [float(left), float(top), float(right) - float(left), float(bottom) - float(top)]
            shape = {'bbox': box} if kind == 'bbox' else {'segmentation': mask}
            found.append(
                {'image_id': prediction['img_id'], 'category_id': CATEGORIES[label],
                 'score': float(score), **shape}
            )  # fmt: skip
    truth = COCO()
    truth.dataset = copy.deepcopy(content)
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(found), kind)
    for name, value in params.items():
        setattr(evaluation.params, name, value)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval


def assert_equal(content: dict, predictions: list[dict], kind: str, **options) -> None:
    rules = Rules(
        [one['id'] for one in content['images']],
        options.pop('categories', CATEGORIES),
        options.pop('thresholds', np.linspace(0.5, 0.95, 10)),
        options.pop('limits', (1, 10, 100)),
    )
    found = Detections.collected(predictions, CATEGORIES, masks=kind == 'segm')
    ours = with_hotcoco(HotcocoTruth(content), found, rules)
    theirs = by_hand(
        content,
        predictions,
        kind,
        catIds=sorted(rules.categories),
        iouThrs=rules.thresholds,
        maxDets=list(rules.limits),
    )
    for key in ('precision', 'recall'):
        np.testing.assert_allclose(ours[key], theirs[key], rtol=0, atol=1e-12)
    assert (np.asarray(theirs['precision']) > 0).any()


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('seed', range(8))
def test_random_sets(kind, seed):
    content = random_content(seed)
    assert_equal(content, random_predictions(content, seed), kind)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize(
    'options',
    [
        {'limits': (1, 3)},
        {'limits': (300,)},
        {'thresholds': np.array([0.5])},
        {'thresholds': np.array([0.05, 0.6, 1.0])},
        {'categories': (11, 3)},
    ],
)
def test_other_rules(kind, options):
    content = random_content(20)
    assert_equal(content, random_predictions(content, 20), kind, **options)


@pytest.mark.parametrize('kind', KINDS)
def test_sets_of_one_kind(kind):
    content = random_content(30)
    predictions = random_predictions(content, 30)
    for change in ({'iscrowd': 1}, {'area': 0}, {'area': 50.0}, {'area': 1e5}, {'category_id': 3}):
        changed = copy.deepcopy(content)
        for one in changed['annotations']:
            one.update(change)
        alone = [one for one in changed['annotations'] if one['id'] == 5]
        alone[0].update(iscrowd=0, area=2000.0, bbox=[20.0, 20.0, 50.0, 40.0])
        alone[0]['segmentation'] = code(mask_of(20, 20, 50, 40))
        sure = next(p for p in predictions if p['img_id'] == alone[0]['image_id'])
        sure['bboxes'][0] = [20, 20, 70, 60]
        sure['labels'][0] = CATEGORIES.index(alone[0]['category_id'])
        sure['masks'][0] = code(mask_of(20, 20, 50, 40))
        sure['mask_areas'] = mask_areas(sure['masks'])
        assert_equal(changed, predictions, kind)


@pytest.mark.parametrize('kind', KINDS)
def test_same_scores_everywhere(kind):
    content = random_content(40)
    predictions = random_predictions(content, 40)
    for one in predictions:
        one['scores'][:] = 0.5
    assert_equal(content, predictions, kind)


def test_large_numbers_and_texts_as_ids():
    content = random_content(50)
    predictions = random_predictions(content, 50)
    plain = copy.deepcopy(content), copy.deepcopy(predictions)
    for records, key in (
        (content['images'], 'id'),
        (content['annotations'], 'image_id'),
        (predictions, 'img_id'),
    ):
        for one in records:
            one[key] += 2**61  # more than a float64 holds
    expected = by_hand(*plain, 'bbox')
    for kind_of_id in (lambda id_: id_, lambda id_: f'image {id_}'):
        renamed = copy.deepcopy(content)
        results = [{**one, 'img_id': kind_of_id(one['img_id'])} for one in predictions]
        for one in renamed['images']:
            one['id'] = kind_of_id(one['id'])
        for one in renamed['annotations']:
            one['image_id'] = kind_of_id(one['image_id'])
        rules = Rules(
            [one['id'] for one in renamed['images']], CATEGORIES, np.linspace(0.5, 0.95, 10)
        )
        found = Detections.collected(results, CATEGORIES, masks=False)
        ours = with_hotcoco(HotcocoTruth(renamed), found, rules)
        np.testing.assert_allclose(ours['precision'], expected['precision'], rtol=0, atol=1e-12)


@pytest.mark.parametrize('backend', ['hotcoco', 'pycocotools'])
def test_figures_are_those_of_their_class_whatever_the_order_of_ids(backend, tmp_path):
    content = random_content(60)
    file = tmp_path / 'truth.json'
    file.write_text(
        json.dumps({**content, 'images': [{**i, 'file_name': 'a'} for i in content['images']]})
    )
    expected = by_hand(content, random_predictions(content, 60), 'bbox')['precision']
    # The classes of a config may be in any order, and so are the labels then.
    order = (2, 0, 3, 1)
    metric = CocoInstanceMetric(str(file), backend=backend)
    metric.dataset_meta = {'classes': [f'class {CATEGORIES[place]}' for place in order]}
    predictions = random_predictions(content, 60)
    for one in predictions:
        one['labels'] = np.array([order.index(label) for label in one['labels']], int)
    metric.compute_metrics([({}, one) for one in predictions])
    per_class = metric.report['bbox']['per_class']
    assert list(per_class) == metric.dataset_meta['classes']
    for place, category in enumerate(CATEGORIES[:3]):
        values = expected[:, :, place, 0, 2]
        assert per_class[f'class {category}'] == pytest.approx(
            values[values > -1].mean(), abs=1e-12
        )
    assert per_class['class 20'] is None


def test_boxes_and_scores_that_are_no_numbers_count_as_wrong():
    content = random_content(70)
    predictions = random_predictions(content, 70)
    broken = copy.deepcopy(predictions)
    predictions[2]['bboxes'][1], predictions[2]['scores'][1] = 0, -1
    predictions[3]['scores'][0], predictions[3]['bboxes'][0] = -1, 0
    broken[2]['bboxes'][1, 2] = np.nan
    broken[3]['scores'][0] = np.inf
    rules = Rules([one['id'] for one in content['images']], CATEGORIES, np.array([0.5]))
    found = Detections.collected(broken, CATEGORIES, masks=False)
    precision = np.asarray(with_hotcoco(HotcocoTruth(content), found, rules)['precision'])
    expected = by_hand(content, predictions, 'bbox', iouThrs=np.array([0.5]))['precision']
    np.testing.assert_allclose(precision, expected, rtol=0, atol=1e-12)


def test_without_any_object_nothing_is_computed():
    content = {**random_content(80), 'annotations': []}
    predictions = random_predictions(random_content(80), 80)
    rules = Rules([one['id'] for one in content['images']], CATEGORIES, np.array([0.5]))
    found = Detections.collected(predictions, CATEGORIES, masks=True)
    arrays = with_hotcoco(HotcocoTruth(content), found, rules)
    assert (np.asarray(arrays['precision']) == -1).all()
