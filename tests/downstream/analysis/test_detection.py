"""The analysis of detections against pycocotools, tidecv, scikit-learn and counting by hand."""

import contextlib
import dataclasses
import io

import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from backbones.errors import DataError
from downstream.analysis.detection import analyse_detections
from downstream.analysis.thresholds import best_threshold
from downstream.detection.coco_evaluation import Detections, Rules

from . import samples


@pytest.fixture(scope='module', params=['bbox', 'segm'])
def analysed(request):
    """Truth, detections and their analysis."""
    truth = samples.sample('val')
    found = samples.perturbed(truth, seed=0, masks=request.param == 'segm')
    # Classes in another order than that of the ids, one of them left out.
    order = np.random.default_rng(0).permutation(80)[:79]
    chosen = np.isin(found.labels, order)
    back = np.full(80, -1)
    back[order] = np.arange(79)
    found = found.chosen(chosen)
    kept = dataclasses.replace(
        found,
        labels=back[found.labels],
        categories=[found.categories[place] for place in order],
    )
    rules = dataclasses.replace(samples.rules(truth), categories=kept.categories)
    names = [samples.names(truth)[place] for place in order]
    return truth, kept, analyse_detections(truth, kept, rules, names)


def pycoco(truth, found, categories=None, images=None, areas=None, least=0.0):
    """An evaluation by pycocotools of detections with scores of ``least`` and more."""
    kind = 'bbox' if found.masks is None else 'segm'
    rows = [row for row in found.as_dicts() if row['score'] >= least]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(rows), kind)
        evaluation.params.catIds = sorted(categories or found.categories)
        if images is not None:
            evaluation.params.imgIds = sorted(images)
        if areas is not None:
            evaluation.params.areaRng = areas
            evaluation.params.areaRngLbl = list(map(str, areas))
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def mean(values):
    known = values[values > -1]
    return known.mean() if known.size else None


def same(one, other):
    assert (one is None) == (other is None), (one, other)
    assert one is None or one == pytest.approx(other, abs=1e-12)


def test_figures_of_all_and_of_each_class_are_pycocotools(analysed):
    truth, found, result = analysed
    precision = pycoco(truth, found).eval['precision'][..., -1]
    same(result.total.figures['AP'], mean(precision[..., 0]))
    same(result.total.figures['APs'], mean(precision[..., 1]))
    order = np.argsort(np.argsort(found.categories))
    for row, place, category in zip(result.classes, order, found.categories, strict=True):
        same(row.figures['AP'], mean(precision[:, :, place, 0]))
        same(row.figures['AP50'], mean(precision[0, :, place, 0]))
        same(row.figures['APl'], mean(precision[:, :, place, 3]))
        objects = [
            o for o in truth['annotations'] if o['category_id'] == category and not o['iscrowd']
        ]
        assert row.objects == len(objects)
    assert sum(row.detections for row in result.classes) == result.total.detections == len(found)
    assert any(row.figures['AP'] is None for row in result.classes)


def test_figures_by_size_are_pycocotools(analysed):
    truth, found, result = analysed
    areas = [[row.low**2, (row.high or 10**5) ** 2] for row in result.sizes]
    arrays = pycoco(truth, found, areas=areas).eval
    for place, row in enumerate(result.sizes):
        same(row.ap, mean(arrays['precision'][..., place, -1]))
        same(row.ap50, mean(arrays['precision'][0, ..., place, -1]))
        same(row.recall, mean(arrays['recall'][..., place, -1]))
    assert sum(row.objects for row in result.sizes) == result.total.objects


def test_figures_by_number_of_objects_are_pycocotools(analysed):
    truth, found, result = analysed
    objects = [
        o for o in truth['annotations'] if not o['iscrowd'] and o['category_id'] in found.categories
    ]
    per_image = {image['id']: 0 for image in truth['images']}
    for one in objects:
        per_image[one['image_id']] += 1
    assert sum(row.images for row in result.counts) == len(per_image)
    for row in result.counts:
        group = [i for i, n in per_image.items() if row.low <= n <= (row.high or (row.low and 999))]
        assert row.images == len(group)
        if not group:
            assert (row.ap, row.found, row.false_per_image) == (None, None, None)
            continue
        assert row.objects == sum(per_image[image] for image in group)
        same(row.ap, mean(pycoco(truth, found, images=group).eval['precision'][..., 0, -1]))
    assert any(row.ap for row in result.counts)


def test_errors_above_the_best_thresholds_are_counted_as_pycocotools_does(analysed):
    truth, found, result = analysed
    thresholds = [2 if one.score is None else one.score for one in result.thresholds]
    # pycocotools cannot load a set without any detection
    chosen = [place for place, one in enumerate(thresholds) if one <= 1]
    wrong, right = {}, {}
    for place in chosen:
        evaluation = pycoco(truth, found, [found.categories[place]], least=thresholds[place])
        objects = 0
        hits = misses = 0
        for one in evaluation.evalImgs[: len(evaluation.params.imgIds)]:
            if one is None:
                continue
            hit, ignored = one['dtMatches'][0] > 0, one['dtIgnore'][0].astype(bool)
            image = one['image_id']
            wrong[image] = wrong.get(image, 0) + int((~hit & ~ignored).sum())
            right[image] = right.get(image, 0) + int((hit & ~ignored).sum())
            hits += int((hit & ~ignored).sum())
            misses += int((~hit & ~ignored).sum())
            objects += int((np.array(one['gtIgnore']) == 0).sum())
        row = result.thresholds[place]
        assert row.precision == hits / (hits + misses)
        assert row.recall == hits / objects
        assert row.f1 == pytest.approx(2 * hits / (hits + misses + objects))
    total = sum(row.images * row.false_per_image for row in result.counts if row.images)
    assert total == pytest.approx(sum(wrong.values()))
    found_all = sum(row.objects * row.found for row in result.counts if row.objects)
    assert found_all == pytest.approx(sum(right.values()))


def test_no_threshold_has_a_larger_f1(analysed):
    truth, found, result = analysed
    place = max(range(79), key=lambda k: result.classes[k].objects)
    best, category = result.thresholds[place], found.categories[place]
    scores = sorted(set(found.scores[found.labels == place]))
    f1 = {}
    for score in [*scores[:: max(1, len(scores) // 10)], best.score]:
        evaluation = pycoco(truth, found, [category], least=score)
        rows = [one for one in evaluation.evalImgs[: len(evaluation.params.imgIds)] if one]
        hits = sum(
            int(((one['dtMatches'][0] > 0) & (one['dtIgnore'][0] == 0)).sum()) for one in rows
        )
        count = sum(int((one['dtIgnore'][0] == 0).sum()) for one in rows)
        f1[score] = 2 * hits / (count + result.classes[place].objects)
    assert max(f1.values()) == f1[best.score] == pytest.approx(best.f1)


def test_the_best_threshold_is_that_of_scikit_learn():
    metrics = pytest.importorskip('sklearn.metrics')
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 40, 200) / 40
    right = rng.random(200) < scores
    missed = 30
    all_scores, all_right = (
        np.append(scores, np.full(missed, -1)),
        np.append(right, [True] * missed),
    )
    precision, recall, thresholds = metrics.precision_recall_curve(all_right, all_scores)
    f1 = (2 * precision * recall / (precision + recall))[1:-1]  # without the missed ones' threshold
    best = best_threshold('a', scores, right, int(all_right.sum()))
    assert best.score == thresholds[1:][f1.argmax()]
    assert best.f1 == pytest.approx(f1.max())


def test_curves_are_pycocotools(analysed):
    truth, found, result = analysed
    arrays = pycoco(truth, found).eval
    order = np.argsort(np.argsort(found.categories))
    for at, place in ((0.5, 0), (0.75, 5)):
        curve = result.curves[at]
        expected = arrays['precision'][place, :, :, 0, -1].T[order]
        assert ((expected == -1) == np.isnan(curve.precision)).all()
        np.testing.assert_allclose(np.nan_to_num(curve.precision, nan=-1), expected, atol=1e-12)
        np.testing.assert_allclose(curve.recall, np.linspace(0, 1, 101))
        scores = arrays['scores'][place, :, :, 0, -1].T[order]
        np.testing.assert_allclose(np.nan_to_num(curve.scores, nan=-1), scores, atol=1e-12)


def overlaps(truth, found):
    """For each image its objects, the indices of its detections by falling score, and their IoU."""
    starts = np.cumsum([0, *found.counts])
    sizes = {image['id']: (image['height'], image['width']) for image in truth['images']}
    for image, start, count in zip(found.images, starts, found.counts):
        rows = [
            one
            for one in truth['annotations']
            if one['image_id'] == image and one['category_id'] in found.categories
        ]
        places = start + np.argsort(-found.scores[start : start + count], kind='stable')
        if found.masks is None:
            shapes = found.boxes[places]
            shown = np.array([one['bbox'] for one in rows], float).reshape(-1, 4)
        else:
            shapes = [found.masks[place] for place in places]
            shown = [samples.encoded(one['segmentation'], *sizes[image]) for one in rows]
        crowd = [one['iscrowd'] for one in rows]
        iou = (
            rle.iou(shapes, shown, crowd)
            if len(places) and rows
            else np.zeros((len(places), len(rows)))
        )
        yield rows, places, np.reshape(iou, (len(places), len(rows)))


def right_and_counted(truth, found):
    """Which detections pycocotools matches, and which it does not ignore."""
    right, counted = np.zeros(len(found), bool), np.zeros(len(found), bool)
    evaluation = pycoco(truth, found)
    for one in evaluation.evalImgs:
        if one is not None and one['aRng'] == evaluation.params.areaRng[0]:
            ids = np.array(one['dtIds'], int) - 1
            counted[ids] = one['dtIgnore'][0] == 0
            right[ids] = one['dtMatches'][0] > 0
    return right & counted, counted


def test_the_confusion_matrix_is_that_of_greedy_matching_by_hand(analysed):
    truth, found, result = analysed
    expected = np.zeros((80, 80), int)
    least = result.confusion.min_score
    assert least == result.threshold.score
    counted = right_and_counted(truth, found)[1]
    for rows, places, iou in overlaps(truth, found):
        free = np.array([not one['iscrowd'] for one in rows], bool)
        labels = [found.categories.index(one['category_id']) for one in rows]
        for place, row in zip(places, iou):
            if found.scores[place] < least or not counted[place]:
                continue
            best = int(np.where(free, row, -1).argmax()) if free.any() else None
            if best is not None and row[best] >= 0.5:
                expected[labels[best], found.labels[place]] += 1
                free[best] = False
            else:
                expected[-1, found.labels[place]] += 1
        for missed in np.flatnonzero(free):
            expected[labels[missed], -1] += 1
    np.testing.assert_array_equal(result.confusion.matrix, expected)
    assert expected[:-1, :-1].trace() > 100


def test_calibration_is_that_of_counting_by_hand(analysed):
    truth, found, result = analysed
    right, counted = right_and_counted(truth, found)
    bins = np.minimum((found.scores * 10).astype(int), 9)
    gaps = 0
    for place, row in enumerate(result.calibration.bins):
        inside = counted & (bins == place)
        assert row['count'] == inside.sum()
        if inside.any():
            assert row['avg_confidence'] == pytest.approx(found.scores[inside].mean())
            assert row['avg_accuracy'] == pytest.approx(right[inside].mean())
            gaps += inside.sum() * abs(right[inside].mean() - found.scores[inside].mean())
    assert result.calibration.error == pytest.approx(gaps / counted.sum())


def test_errors_are_those_of_tidecv():
    """On classes that have objects, without crowds.

    For tidecv the AP of other classes is 0, and it counts detections in a crowd as wrong; for COCO they
    have none, and these do not count. Recall of exactly a hundredth, as of 3 of 10 objects, may fall on
    either side of it for tidecv, which moves the AP of a class by a third of a point.
    """
    tidecv = pytest.importorskip('tidecv')
    truth = samples.sample('train', 'val')
    seen = {one['category_id'] for one in truth['annotations'] if not one['iscrowd']}
    truth['categories'] = [one for one in truth['categories'] if one['id'] in seen]
    truth['annotations'] = [one for one in truth['annotations'] if not one['iscrowd']]
    found = samples.perturbed(truth, seed=3)
    result = analyse_detections(truth, found, samples.rules(truth), samples.names(truth))
    data, predicted = tidecv.Data('truth'), tidecv.Data('found', max_dets=100)
    for image in truth['images']:
        data.add_image(image['id'], str(image['id']))
    for one in truth['annotations']:
        data.add_ground_truth(one['image_id'], one['category_id'], one['bbox'])
    for row in found.as_dicts():
        predicted.add_detection(row['image_id'], row['category_id'], row['score'], row['bbox'])
    run = tidecv.TIDE().evaluate(data, predicted, mode=tidecv.TIDE.BOX)
    assert result.errors.ap * 100 == pytest.approx(run.ap, abs=0.05)
    gains = run.fix_main_errors() | run.fix_special_errors()
    expected = {kind.short_name: value for kind, value in gains.items()}
    names = {'FP': 'FalsePos', 'FN': 'FalseNeg'}
    gained = {names.get(kind, kind): 100 * gain for kind, gain in result.errors.gain.items()}
    assert gained == pytest.approx(expected, abs=0.05)
    counts = {kind.short_name: len(errors) for kind, errors in run.error_dict.items()}
    assert result.errors.counts == {kind: counts[kind] for kind in result.errors.counts}


def one_image(boxes, found_boxes, found_labels, scores, crowd=0, images=1):
    """Squares of class 0 on the first of some images, and detections on it."""
    truth = {
        'images': [{'id': n, 'width': 100, 'height': 100} for n in range(1, images + 1)],
        'annotations': [
            {'id': n, 'image_id': 1, 'category_id': 1, 'bbox': box, 'area': 100, 'iscrowd': crowd}
            for n, box in enumerate(boxes)
        ],
        'categories': [{'id': 1, 'name': 'a'}, {'id': 2, 'name': 'b'}],
    }  # fmt: skip
    found = Detections(
        images=list(range(1, images + 1)),
        counts=[len(scores)] + [0] * (images - 1),
        labels=np.array(found_labels, np.int64),
        categories=[1, 2],
        boxes=np.array(found_boxes, float).reshape(-1, 4),
        scores=np.array(scores, float),
    )
    rules = Rules(list(range(1, images + 1)), [1, 2], np.linspace(0.5, 0.95, 10))
    return analyse_detections(truth, found, rules, ['a', 'b'])


def test_errors_of_each_kind_by_hand():
    """Three objects; in the order of scores: background, right, wrong class, shifted."""
    result = one_image(
        [[0, 0, 10, 10], [30, 0, 10, 10], [60, 0, 10, 10]],
        [[0, 60, 10, 10], [0, 0, 10, 10], [30, 0, 10, 10], [66, 0, 10, 10]],
        [0, 0, 1, 0],
        [0.9, 0.8, 0.7, 0.6],
    )
    assert result.errors.counts == {
        'Bkg': 1, 'Cls': 1, 'Loc': 1, 'Both': 0, 'Dupe': 0, 'Miss': 0
    }  # fmt: skip
    # AP is 1/2 up to a recall of 1/3: 34 of 101 points. Without the first detection it is 1.
    assert result.errors.ap == pytest.approx(34 * 0.5 / 101)
    assert result.errors.gain['Bkg'] == pytest.approx(34 * 0.5 / 101)
    # Shifted into place it is the third of four, the second that is right: 67 points of 2/3.
    assert result.errors.gain['Loc'] == pytest.approx((67 * 2 / 3 - 34 / 2) / 101)


def test_nothing_detected():
    result = one_image([[0, 0, 10, 10]], [], [], [])
    assert result.total.figures['AP'] == 0
    assert result.classes[1].figures['AP'] is None
    assert result.calibration.error is None
    assert result.threshold.score is None
    assert result.confusion.matrix.tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert result.errors.counts['Miss'] == 1


def test_nothing_to_detect_but_a_crowd():
    result = one_image(
        [[0, 0, 10, 10]], [[1, 1, 8, 8], [50, 50, 9, 9]], [0, 1], [0.9, 0.8], crowd=1
    )
    assert result.total.figures['AP'] is None
    assert [row.figures['AP'] for row in result.classes] == [None, None]
    assert result.total.objects == 0
    assert result.calibration.error == pytest.approx(0.8)  # what is in a crowd does not count
    assert result.confusion.matrix.sum() == 1
    assert result.counts[0].images == 1
    assert result.counts[0].ap is None


def test_a_class_that_nobody_predicts_has_no_threshold():
    result = one_image([[0, 0, 10, 10]], [[0, 0, 10, 10]], [1], [0.9], images=2)
    assert [one.score for one in result.thresholds] == [None, None]
    assert result.classes[0].figures['AP'] == 0
    assert result.counts[1].found == 0
    assert result.counts[1].false_per_image == 0


def test_detections_of_other_images_and_no_image_are_refused():
    truth = {'images': [], 'annotations': [], 'categories': [{'id': 1, 'name': 'a'}]}
    none = Detections([], [], np.zeros(0, int), [1], np.zeros((0, 4)), np.zeros(0))
    with pytest.raises(DataError, match='no image'):
        analyse_detections(truth, none, Rules([], [1], np.array([0.5])), ['a'])
    truth['images'] = [{'id': 1, 'width': 9, 'height': 9}]
    strange = dataclasses.replace(none, images=[7], counts=[0])
    with pytest.raises(DataError, match='image 7'):
        analyse_detections(truth, strange, Rules([1], [1], np.array([0.5])), ['a'])


def test_other_thresholds_of_iou():
    truth = samples.sample('val')
    found = samples.perturbed(truth, seed=1)
    rules = dataclasses.replace(samples.rules(truth), thresholds=np.array([0.6, 0.7]))
    result = analyse_detections(truth, found, rules, samples.names(truth))
    assert result.iou == 0.6
    assert result.curves == {}
    assert result.total.figures['AP50'] is None
    assert all(row.ap50 is None for row in result.sizes)
