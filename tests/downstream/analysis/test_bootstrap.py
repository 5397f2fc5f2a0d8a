"""Recounted figures against evaluations of data sets whose images are literally copied; intervals."""

import json
from dataclasses import replace

import numpy as np
import pytest

from backbones.errors import ConfigError, DataError
from downstream.analysis import bootstrap, kept
from downstream.analysis.recounting.figures import average_precisions, ious
from downstream.analysis.recounting.matches import ClassMatches, Matches
from downstream.analysis.recounting.samples import FEWEST_IMAGES, Samples
from downstream.analysis.segmentation import per_image
from downstream.detection.coco_evaluation import Detections, Rules, with_pycocotools
from downstream.detection.completed import CompletedCOCO
from tests.downstream.analysis import samples as coco_sample
from tests.downstream.analysis import test_kept, test_kept_segmentation


def made(images, classes=3, seed=0, digits=None, crowds=0.05):
    """Objects of some classes and detections of middling quality, COCO dicts, in a world of boxes.

    Args:
        digits: Round scores, so that many are equal, but not within a class of an image.
        crowds: The part of objects that are crowds.
    """
    rng = np.random.default_rng(seed)
    truth = {
        'images': [{'id': n, 'width': 640, 'height': 640} for n in range(1, images + 1)],
        'categories': [{'id': n + 1, 'name': f'class {n}'} for n in range(classes)],
        'annotations': [],
    }
    found = []
    for image in range(1, images + 1):
        for _ in range(rng.poisson(1.7 * classes)):
            label, crowd = int(rng.integers(classes)), int(rng.random() < crowds)
            x, y, width, height = [*rng.uniform(0, 320, 2), *rng.uniform(5, 200, 2)]
            truth['annotations'].append(
                {'id': len(truth['annotations']) + 1, 'image_id': image, 'category_id': label + 1,
                 'bbox': [x, y, width, height], 'area': width * height, 'iscrowd': crowd}
            )  # fmt: skip
            for _ in range(rng.integers(0, 3)):
                shift = rng.normal(0, 0.08, 2) * [width, height]
                box = [x + shift[0], y + shift[1], width, height]
                found.append((image, label, box, rng.beta(4, 2)))
        for _ in range(rng.poisson(2 * classes)):
            box = [*rng.uniform(0, 320, 2), *rng.uniform(5, 200, 2)]
            found.append((image, int(rng.integers(classes)), box, rng.beta(1, 3)))
    if digits is not None:
        taken = set()
        rounded = []
        for image, label, box, score in found:
            score = round(score, digits)
            if (image, label, score) not in taken:
                taken.add((image, label, score))
                rounded.append((image, label, box, score))
        found = rounded
    return truth, found


def detections(truth, found) -> Detections:
    images = [one['id'] for one in truth['images']]
    counts = dict.fromkeys(images, 0)
    for image, *_ in found:
        counts[image] += 1
    return Detections(
        images=images,
        counts=list(counts.values()),
        labels=np.array([row[1] for row in found], np.int64),
        categories=[one['id'] for one in truth['categories']],
        boxes=np.array([row[2] for row in found], float).reshape(-1, 4),
        scores=np.array([row[3] for row in found], float),
    )


def rules_of(truth) -> Rules:
    return coco_sample.rules(truth)


def matched(truth, found) -> Matches:
    return Matches.of(truth, detections(truth, found), rules_of(truth))


def by_pycocotools(truth, found) -> np.ndarray:
    """AP of each class; NaN where there are no objects."""
    index = CompletedCOCO()
    index.dataset = truth
    index.createIndex()
    precision = with_pycocotools(index, detections(truth, found), rules_of(truth))['precision']
    precision = precision[:, :, :, 0, -1]
    return np.where((precision > -1).all((0, 1)), precision.mean((0, 1)), np.nan)


def copied(truth, found, weights):
    """The data set in which image n occurs weights[n] times, copies beside each other."""
    images, annotations, rows = [], [], []
    for image, times in zip(truth['images'], weights):
        for _ in range(times):
            id_ = len(images) + 1
            images.append({**image, 'id': id_})
            annotations += [
                {**one, 'image_id': id_}
                for one in truth['annotations']
                if one['image_id'] == image['id']
            ]
            rows += [(id_, *row[1:]) for row in found if row[0] == image['id']]
    annotations = [{**one, 'id': n} for n, one in enumerate(annotations, 1)]
    return {**truth, 'images': images, 'annotations': annotations}, rows


@pytest.mark.parametrize('digits', [None, 1])
def test_average_precision_of_all_images_is_that_of_the_evaluation(digits):
    truth, found = made(30, digits=digits)
    figures = average_precisions(matched(truth, found), np.ones((30, 1), int))[:, 0]
    assert figures == pytest.approx(by_pycocotools(truth, found), abs=1e-14)


@pytest.mark.parametrize('masks', [False, True])
def test_average_precision_on_real_annotations(masks):
    truth = coco_sample.sample('train', 'val')
    found = coco_sample.perturbed(truth, 0, masks)
    index = CompletedCOCO()
    index.dataset = truth
    index.createIndex()
    rules = rules_of(truth)
    precision = with_pycocotools(index, found, rules)['precision'][..., 0, -1]
    # pycocotools has classes in the order of their ids
    order = np.argsort(rules.categories)
    expected = np.full(len(order), np.nan)
    expected[order] = np.where((precision > -1).all((0, 1)), precision.mean((0, 1)), np.nan)
    once = np.ones((len(truth['images']), 1), int)
    figures = average_precisions(Matches.of(truth, found, rules), once)[:, 0]
    assert np.isfinite(figures).sum() > 20
    assert figures == pytest.approx(expected, abs=1e-14, nan_ok=True)


@pytest.mark.parametrize('digits', [None, 2])
def test_weights_equal_an_evaluation_of_copied_images(digits):
    truth, found = made(12, seed=3, digits=digits, crowds=0.2)
    matches = matched(truth, found)
    weights = np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12), 8).T
    figures = average_precisions(matches, weights)
    for column, own in zip(figures.T, weights.T):
        assert column == pytest.approx(by_pycocotools(*copied(truth, found, own)), abs=1e-14)


def test_a_class_that_a_sample_lacks_has_no_figure():
    truth, found = made(4, classes=2)
    with_it = {one['image_id'] for one in truth['annotations'] if one['category_id'] == 2}
    assert len(with_it) > 0
    weights = np.array([[int(image['id'] not in with_it)] for image in truth['images']])
    figures = average_precisions(matched(truth, found), weights)[:, 0]
    assert np.isnan(figures[1])


def test_a_limit_of_detections_counts_within_image_and_class():
    truth, found = made(6, seed=5)
    rules = replace(rules_of(truth), limits=(1, 2))
    index = CompletedCOCO()
    index.dataset = truth
    index.createIndex()
    precision = with_pycocotools(index, detections(truth, found), rules)['precision'][..., 0, -1]
    matches = Matches.of(truth, detections(truth, found), rules)
    figures = average_precisions(matches, np.ones((6, 1), int))[:, 0]
    assert figures == pytest.approx(precision.mean((0, 1)), abs=1e-14)


def test_ious_of_weights_equal_counting_copied_images(tmp_path):
    rng = np.random.default_rng(0)
    pairs = [test_kept_segmentation.pair(rng, 30, 40) for _ in range(5)]
    counts = per_image(kept.counts_of(test_kept_segmentation.kept_test(tmp_path / 'a', pairs)))
    weights = np.array([2, 0, 1, 3, 0])
    many = [one for one, times in zip(pairs, weights) for _ in range(times)]
    copies = test_kept_segmentation.kept_test(tmp_path / 'b', many)
    expected = [row['IoU'] for row in copies.report['metrics']['per_class'].values()]
    assert ious(counts, weights[:, None])[:3, 0].tolist() == expected[:3]
    assert np.isnan(ious(counts, weights[:, None])[3, 0])


def test_half_of_the_images_at_a_time():
    drawn = Samples.draw(7, 0, 50)
    assert (drawn.weights.sum(0) == 3).all()
    assert set(np.unique(drawn.weights)) == {0, 1}
    assert len({tuple(one) for one in drawn.weights.T}) > 20
    assert drawn.scale == pytest.approx((3 / 4) ** 0.5)
    assert (drawn.weights == Samples.draw(7, 0, 50).weights).all()
    assert (drawn.weights != Samples.draw(7, 1, 50).weights).any()


def test_the_interval_of_a_mean_is_the_textbooks():
    values = np.random.default_rng(0).normal(50, 10, 101)
    for resampling in ('halves', 'bootstrap'):
        drawn = Samples.draw(101, 0, 4000, resampling)
        means = values @ drawn.weights / drawn.weights.sum(0)
        found = drawn.interval(values.mean(), means, 101, 100)
        error = 1.96 * values.std(ddof=1) / 101**0.5
        assert found.figure == values.mean()
        assert found.high - found.low == pytest.approx(2 * error, rel=0.05)
        assert (found.high + found.low) / 2 == pytest.approx(values.mean(), abs=0.1 * error)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'resampling': 'jackknife'}, 'halves or bootstrap'),
        ({'samples': 1}, '2 samples'),
        ({'seed': -1}, 'seed from 0'),
        ({'kind': 'keypoints'}, 'bbox or segm'),
    ],
)
def test_impossible_options_are_refused(tmp_path, options, message):
    test = detection_test(tmp_path, 'run', 3)
    with pytest.raises(ConfigError, match=message):
        bootstrap.interval(test, **options)


def detection_test(folder, name, images, seed=0, empty=False):
    rng = np.random.default_rng(seed)
    ids = range(1, images + 1)
    (folder / 'data').mkdir(exist_ok=True)
    ann_file = test_kept.write_truth(folder / 'data', ids)
    content = json.loads(ann_file.read_text())
    for place, one in enumerate(content['annotations']):
        one['category_id'] = 9 if place % 3 else 4
    for image in range(1, images + 1):
        extra = {**content['annotations'][0], 'id': images + image, 'image_id': image}
        content['annotations'].append({**extra, 'category_id': 9})
    ann_file.write_text(json.dumps(content))
    predictions = [test_kept.detections(rng, i, 0 if empty else 4, masks=False) for i in ids]
    for one in predictions[:: seed + 1]:
        if len(one['bboxes']):
            one['bboxes'][0] = [5, 5, 15, 15]
    test_kept.kept_test(folder / name, ann_file, predictions, ('bbox',))
    return kept.find_tests(folder / name)[0]


def test_a_detector_against_another_and_itself(tmp_path):
    a, b = (detection_test(tmp_path, name, 24, seed) for name, seed in (('a', 0), ('b', 2)))
    found = bootstrap.difference(a, b, samples=200)
    expected = b.report['metrics']['bbox']['AP'] - a.report['metrics']['bbox']['AP']
    assert found.figure == pytest.approx(expected, abs=1e-12)
    assert found.low < found.figure < found.high
    assert list(found.per_class) == ['cat', 'dog']
    # the cats are on eight images: too few
    assert found.per_class['cat'].figure is not None
    assert found.per_class['cat'].low is found.per_class['cat'].probability_b_better is None
    assert found.per_class['dog'].low < found.per_class['dog'].high
    back = bootstrap.difference(b, a, samples=200)
    assert back.figure == -found.figure
    assert back.probability_b_better == pytest.approx(1 - found.probability_b_better)
    assert found == bootstrap.difference(a, b, samples=200)
    assert found.low != bootstrap.difference(a, b, samples=200, seed=1).low
    same = bootstrap.difference(a, a, samples=50)
    assert (same.figure, same.low, same.high, same.probability_b_better) == (0, 0, 0, 0.5)
    single = bootstrap.interval(a, samples=200)
    assert single.figure == pytest.approx(a.report['metrics']['bbox']['AP'], abs=1e-12)
    assert 0 <= single.low < single.figure < single.high <= 1


def test_a_segmenter_against_another(tmp_path):
    rng = np.random.default_rng(0)
    pairs = [test_kept_segmentation.pair(rng, 40, 50) for _ in range(12)]
    better = [(np.where(rng.random(a.shape) < 0.5, a % 255, p), a) for p, a in pairs]
    a, b = (
        test_kept_segmentation.kept_test(tmp_path / name, ones)
        for name, ones in (('a', pairs), ('b', better))
    )
    found = bootstrap.difference(a, b, samples=100)
    assert found.figure == pytest.approx(
        b.report['metrics']['mIoU'] - a.report['metrics']['mIoU'], abs=1e-10
    )
    assert 0 < found.low < found.figure < found.high
    assert found.probability_b_better > 0.99
    assert found.per_class['never'] == bootstrap.Difference(None)
    assert bootstrap.interval(a, samples=100).per_class['never'] == bootstrap.Interval(None)


def test_without_detections_the_figure_is_zero(tmp_path):
    empty = detection_test(tmp_path, 'empty', 12, empty=True)
    found = bootstrap.interval(empty, samples=20)
    assert (found.figure, found.low, found.high) == (0, 0, 0)


def test_few_images_have_figures_without_intervals(tmp_path):
    test = detection_test(tmp_path, 'run', FEWEST_IMAGES - 1)
    found = bootstrap.interval(test, samples=20)
    assert found.figure is not None
    assert found.low is found.high is None


def test_one_image_is_a_figure(tmp_path):
    found = bootstrap.interval(detection_test(tmp_path, 'run', 1), samples=20)
    assert found.figure is not None
    assert found.low is None


def test_crowds_alone_are_no_figure():
    truth, found = made(12, crowds=1.1)
    figures = average_precisions(matched(truth, found), np.ones((12, 1), int))
    assert np.isnan(figures).all()
    empty = Samples.draw(12, 0, 20).interval(np.nan, np.full(20, np.nan), 12, 1)
    assert empty == bootstrap.Interval(None)


def test_other_samples_cannot_be_compared(tmp_path):
    a, b = (detection_test(tmp_path, name, 12, seed) for name, seed in (('a', 0), ('b', 2)))
    first, second = bootstrap.recount(a, samples=20), bootstrap.recount(b, samples=20, seed=1)
    with pytest.raises(ConfigError, match='different samples'):
        second.minus(first)


def test_a_test_without_predictions_names_the_command(tmp_path):
    test = detection_test(tmp_path, 'run', 3)
    (test.folder / 'predictions.npz').unlink()
    with pytest.raises(DataError, match=r'tools/test.py c.py w.pth'):
        bootstrap.interval(test)


def part_of(matches: Matches, images: np.ndarray) -> Matches:
    """The matches of some images."""
    place = np.full(len(matches.images), -1)
    place[images] = np.arange(len(images))
    parts = []
    for one in matches.by_class:
        own = np.flatnonzero(place[one.images] >= 0)
        parts.append(ClassMatches(place[one.images[own]], one.right[:, own], one.ignored[:, own]))
    return Matches(tuple(images), matches.classes, matches.objects[images], tuple(parts))


def coverage(images: int, simulations: int, population: int, samples: int) -> tuple[float, float]:
    """How often the intervals of AP, and of a difference of APs, hold that of the population."""
    truth, first = made(population, seed=1)
    rng = np.random.default_rng(0)
    second = [
        (
            image,
            label,
            [box[0] + rng.normal(0, 2), *box[1:]],
            np.clip(score + rng.normal(0, 0.1), 0, 1),
        )
        for image, label, box, score in first
    ]
    both = [matched(truth, found) for found in (first, second)]
    once = np.ones((population, 1), int)
    true = [average_precisions(one, once).mean() for one in both]
    held = np.zeros(2)
    for seed in range(simulations):
        chosen = np.sort(rng.choice(population, images, replace=False))
        drawn = Samples.draw(images, seed, samples)
        weights = np.concatenate([np.ones((images, 1), np.int32), drawn.weights], 1)
        a, b = (average_precisions(part_of(one, chosen), weights).mean(0) for one in both)
        single = drawn.interval(a[0], a[1:], images, 1)
        difference = drawn.difference((a[0], b[0]), (a[1:], b[1:]), images, 1)
        held += (
            single.low <= true[0] <= single.high,
            difference.low <= true[1] - true[0] <= difference.high,
        )
    return tuple(held / simulations)


def test_intervals_hold_the_true_figure_in_a_few_simulations():
    # Of 40 with a chance of 0.95 each, fewer than 34 are held once in 300 times.
    assert min(coverage(60, 40, 1000, 100)) >= 0.85


@pytest.mark.slow
def test_intervals_hold_the_true_figure_in_300_simulations():
    assert min(coverage(100, 300, 4000, 400)) >= 0.93
