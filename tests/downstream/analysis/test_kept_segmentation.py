"""What a test of segmentation keeps, against counting mask by mask with scipy."""

import json

import numpy as np
import pytest
import torch
from scipy import ndimage

from backbones.errors import DataError
from downstream.analysis import kept, segmentation
from downstream.analysis.kept import segmentation as kept_segmentation
from downstream.analysis.kept.region_counts import boundary_width, count_image
from downstream.segmentation import SegmentationMetric

CLASSES = ('sky', 'road', 'car', 'never')


def label_map(rng, height, width, classes=3):
    """Blobs of a few classes, some of them touching the image's edge, some a few pixels large."""
    labels = np.zeros((height, width), np.int64)
    rows, columns = np.mgrid[:height, :width]
    for _ in range(12):
        y, x, radius = rng.random(3) * [height, width, height / 3]
        labels[np.hypot(rows - y, columns - x) < radius] = rng.integers(classes)
    return labels


def pair(rng, height=90, width=120, ignored=255):
    annotated = label_map(rng, height, width)
    predicted = np.roll(annotated, 2, axis=1)
    wrong = rng.random(annotated.shape) < 0.02
    predicted[wrong] = rng.integers(0, 3, wrong.sum())
    annotated[30:50, :40] = ignored
    return predicted, annotated


def kept_test(folder, pairs, names=None):
    """A folder as tools/test.py leaves it, and the metric that computed the figures."""
    metric = SegmentationMetric()
    metric.dataset_meta = {'classes': CLASSES}
    metrics = [metric]
    kept.prepare('segmentation', metrics)
    names = names or [f'{place}.png' for place in range(len(pairs))]
    for name, (predicted, annotated) in zip(names, pairs):
        sample = {
            'img_path': f'/data/pictures/{name}',
            'pred_sem_seg': {'data': torch.from_numpy(predicted)[None]},
            'gt_sem_seg': {'data': torch.from_numpy(annotated)[None]},
        }
        for one in metrics:
            one.process({}, [sample])
    flat = [one.evaluate(len(pairs)) for one in metrics]
    assert flat[1:] == [{}]
    folder.mkdir()
    data = {
        'classes': list(CLASSES),
        'protocol': {'tta': False},
        **kept.write('segmentation', metrics, folder),
    }
    report = {
        'task': 'segmentation', 'config': 'c.py', 'checkpoint': 'w.pth',
        'metrics': metric.report, 'data': data,
    }  # fmt: skip
    (folder / 'metrics.json').write_text(json.dumps(report))
    (test,) = kept.find_tests(folder)
    return test


@pytest.fixture
def pairs():
    rng = np.random.default_rng(0)
    return [pair(rng), pair(rng, 70, 160), pair(rng)]


def test_figures_of_what_is_kept_are_those_of_the_test(tmp_path, pairs):
    test = kept_test(tmp_path / 'run', pairs)
    found = segmentation.analyse(kept.counts_of(test))
    metrics = test.report['metrics']
    assert found.mean_iou == metrics['mIoU']
    assert {n: row['IoU'] for n, row in metrics['per_class'].items()} == found.iou
    assert {n: row['Acc'] for n, row in metrics['per_class'].items()} == found.accuracy
    assert found.iou['never'] is None


def test_confusion_equals_counting_pair_by_pair(tmp_path, pairs):
    test = kept_test(tmp_path / 'run', pairs)
    confusion = segmentation.analyse(kept.counts_of(test)).confusion
    for label in range(4):
        for guess in range(4):
            expected = sum(((a == label) & (p == guess)).sum() for p, a in pairs)
            assert confusion[label, guess] == expected


def boundary_of(mask, width):
    """Cheng et al. 2021: what an erosion takes from a mask; outside the image is background."""
    square = np.ones((2 * width + 1, 2 * width + 1), bool)
    return mask & ~ndimage.binary_erosion(mask, square, border_value=0)


@pytest.mark.parametrize('shape', [(90, 120), (31, 40), (300, 401), (1, 7)])
def test_boundaries_equal_erosion_mask_by_mask(shape):
    rng = np.random.default_rng(1)
    predicted, annotated = pair(rng, *shape)
    counts = count_image(predicted, annotated, 4)
    width = boundary_width(*shape)
    assert width == max(1, round(0.02 * (shape[0] ** 2 + shape[1] ** 2) ** 0.5))
    expected = []
    for label in range(4):
        truth = boundary_of(annotated == label, width)
        guess = boundary_of((predicted == label) & (annotated != 255), width)
        row = [label, (truth & guess).sum(), truth.sum(), guess.sum()]
        if any(row[1:]):
            expected.append(row)
    assert counts.boundary.tolist() == expected


def test_boundary_iou_of_a_class_by_hand(tmp_path):
    annotated = np.zeros((100, 100), np.int64)
    annotated[20:60, 20:60] = 1
    predicted = np.zeros((100, 100), np.int64)
    predicted[20:60, 23:63] = 1
    test = kept_test(tmp_path / 'run', [(predicted, annotated)])
    found = segmentation.analyse(kept.counts_of(test))
    # The diagonal is 141 pixels, so a boundary is 3 wide. The two frames, 3 pixels apart, share 37
    # columns of the upper and of the lower edge; their sides are just beside each other.
    ring = 40**2 - 34**2
    shared = 2 * 3 * 37
    assert found.boundary_iou['road'] == pytest.approx(100 * shared / (2 * ring - shared))
    assert found.iou['road'] == pytest.approx(100 * 37 / 43)


def test_regions_equal_labelling_class_by_class():
    rng = np.random.default_rng(2)
    predicted, annotated = pair(rng, 200, 260)
    expected = []
    for label in range(3):
        regions, count = ndimage.label(annotated == label, np.ones((3, 3)))
        for number in range(1, count + 1):
            mask = regions == number
            size = 0 if mask.sum() < 32**2 else 1 if mask.sum() < 96**2 else 2
            expected.append([label, size, mask.sum(), (predicted[mask] == label).sum()])
    assert len({row[1] for row in expected}) == 3
    assert sorted(count_image(predicted, annotated, 3).regions.tolist()) == sorted(expected)


def test_figures_by_size_by_hand(tmp_path):
    annotated = np.full((200, 200), 255)
    annotated[:10, :10] = 1  # small, all right
    annotated[20:30, :10] = 1  # small, a tenth right
    annotated[50:150, 50:150] = 2  # large, three quarters right
    predicted = np.zeros_like(annotated)
    predicted[:10, :10] = 1
    predicted[20:21, :10] = 1
    predicted[50:125, 50:150] = 2
    test = kept_test(tmp_path / 'run', [(predicted, annotated)])
    sizes = segmentation.analyse(kept.counts_of(test)).by_size
    assert (sizes['small'].regions, sizes['small'].pixels) == (2, 200)
    assert (sizes['small'].right, sizes['small'].found) == (55, 50)
    assert (sizes['large'].right, sizes['large'].found) == (75, 100)
    assert sizes['medium'] == segmentation.SizeFigures(0, 0, None, None, dict.fromkeys(CLASSES))
    assert sizes['small'].right_per_class == {'sky': None, 'road': 55, 'car': None, 'never': None}


def test_scores_of_images_and_the_worst(tmp_path):
    flat = np.zeros((20, 30), np.int64)
    half = flat.copy()
    half[:10] = 1
    nothing = np.full((20, 30), 255)
    test = kept_test(tmp_path / 'run', [(half, half), (half, flat), (flat, half), (flat, nothing)])
    counts = kept.counts_of(test)
    scores = segmentation.image_scores(counts)
    assert np.array_equal(scores[:, 0], [100, 50, 50, np.nan], equal_nan=True)
    assert np.array_equal(scores[:, 1], [100, 0, 0, np.nan], equal_nan=True)
    means = segmentation.mean_scores(counts)
    assert np.array_equal(means, [100, 25, 25, np.nan], equal_nan=True)
    assert segmentation.worst_images(counts).tolist() == [1, 2]
    assert segmentation.worst_images(counts, 1).tolist() == [1, 2]
    assert segmentation.worst_images(counts, 3).tolist() == []


def test_images_without_any_annotation_have_no_figures(tmp_path):
    nothing = np.full((20, 30), 255)
    counts = count_image(np.zeros((20, 30), np.int64), nothing, 4)
    assert not len(counts.confusion) + len(counts.boundary) + len(counts.regions)
    one = np.zeros((20, 30), np.int64)
    test = kept_test(tmp_path / 'run', [(one, one), (one, nothing)])
    found = segmentation.analyse(kept.counts_of(test))
    assert (found.iou['sky'], found.iou['road'], found.boundary_iou['car']) == (100, None, None)


def test_label_maps_are_those_of_the_test(tmp_path, pairs):
    test = kept_test(tmp_path / 'run', pairs, ['a/1.png', 'b/1.png', 'b/2.png'])
    counts = kept.counts_of(test)
    assert (counts.root, counts.names) == ('/data/pictures', ('a/1.png', 'b/1.png', 'b/2.png'))
    assert counts.sizes.tolist() == [[90, 120], [70, 160], [90, 120]]
    predicted, annotated = kept.predicted_masks_of(test), kept.annotated_masks_of(test)
    assert len(predicted) == 3
    for (guess, truth), a, b in zip(pairs, predicted, annotated, strict=True):
        assert (a == guess).all()
        assert (b == np.where(truth == 255, -1, truth)).all()


def test_large_label_maps_are_left_out(tmp_path, pairs, monkeypatch):
    monkeypatch.setattr(kept_segmentation, 'MAX_BYTES', 2000)
    test = kept_test(tmp_path / 'run', pairs)
    assert test.data['kept'] == ['counts.npz']
    assert len(kept.counts_of(test).names) == 3
    with pytest.raises(DataError, match='label_maps.npz; run the test again'):
        kept.predicted_masks_of(test)


def test_damaged_counts_are_named(tmp_path, pairs):
    test = kept_test(tmp_path / 'run', pairs)
    (test.folder / 'counts.npz').write_bytes(b'PK\x03\x04 not all of it')
    with pytest.raises(DataError, match=r'counts.npz is damaged'):
        kept.counts_of(test)


def test_nothing_is_counted_where_nothing_is_evaluated(tmp_path):
    metrics = [SegmentationMetric(format_only=True, output_dir=str(tmp_path / 'out'))]
    kept.prepare('segmentation', metrics)
    assert len(metrics) == 1
    assert kept.write('segmentation', metrics, tmp_path) == {}
