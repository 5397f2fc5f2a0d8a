"""Segmentation figures against plain counting and against mmseg's metric."""

import numpy as np
import pytest
import torch
from mmseg.evaluation import IoUMetric

from backbones import ConfigError
from downstream.segmentation import SegmentationMetric

CLASSES = ('a', 'b', 'c', 'never')


def evaluate(metric, pairs) -> dict:
    metric.dataset_meta = {'classes': CLASSES}
    for prediction, label in pairs:
        sample = {'pred_sem_seg': {'data': prediction}, 'gt_sem_seg': {'data': label}}
        metric.process({}, [sample])
    return metric.evaluate(len(pairs))


def random_pairs(count: int = 3) -> list:
    generator = torch.Generator().manual_seed(0)
    pairs = []
    for _ in range(count):
        label = torch.randint(0, 3, (40, 50), generator=generator)
        wrong = torch.rand(40, 50, generator=generator) < 0.3
        prediction = torch.where(wrong, torch.randint(0, 3, (40, 50), generator=generator), label)
        label[torch.rand(40, 50, generator=generator) < 0.1] = 255
        pairs.append((prediction, label))
    return pairs


def test_figures_equal_plain_counting():
    pairs = random_pairs()
    metric = SegmentationMetric()
    flat = evaluate(metric, pairs)
    prediction = torch.stack([p for p, _ in pairs]).numpy()
    label = torch.stack([t for _, t in pairs]).numpy()
    valid = label != 255
    ious = []
    for k in range(3):
        both = ((prediction == k) & (label == k) & valid).sum()
        either = (((prediction == k) | (label == k)) & valid).sum()
        ious.append(100 * both / either)
        assert metric.report['per_class'][CLASSES[k]]['IoU'] == pytest.approx(ious[-1], abs=1e-12)
    assert metric.report['per_class']['never'] == {'IoU': None, 'Acc': None}
    assert flat['mIoU'] == pytest.approx(np.mean(ious), abs=1e-12)
    assert flat['aAcc'] == pytest.approx(100 * (prediction == label)[valid].mean(), abs=1e-12)


def test_figures_equal_mmsegs_to_its_two_digits():
    pairs = random_pairs()
    theirs = evaluate(IoUMetric(iou_metrics=['mIoU']), pairs)
    ours = evaluate(SegmentationMetric(), pairs)
    assert {name: round(value, 2) for name, value in ours.items()} == pytest.approx(theirs)


def test_counts_stay_exact_beyond_float32():
    many = torch.full((1,), 2**24, dtype=torch.int64)
    one = torch.ones(1, dtype=torch.int64)
    metric = SegmentationMetric()
    metric.dataset_meta = {'classes': ('a',)}
    # 2^24 right pixels and two wrong ones, which float32 could not add
    results = [(many, many, many, many), (0 * one, one, 0 * one, one), (0 * one, one, 0 * one, one)]
    assert metric.compute_metrics(results)['mIoU'] == 100 * 2**24 / (2**24 + 2)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'iou_metrics': ['mDice']}, 'leave iou_metrics'),
        ({'nan_to_num': -1}, 'leave iou_metrics'),
        ({'beta': 2}, 'leave iou_metrics'),
        ({'format_only': True}, '--out'),
    ],
)
def test_options_without_effect_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        SegmentationMetric(**options)
