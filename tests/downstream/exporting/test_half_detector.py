"""Detectors whose networks compute in float16."""

import copy

import numpy as np
import pytest
import torch

from backbones.convnext.block import GRN
from downstream.exporting.agreement import difference
from downstream.exporting.graph.detection import PictureDetector
from downstream.exporting.graph.picture import PictureRules
from downstream.exporting.write import outputs_of

from .detectors import build, model_config
from .pictures import STRIDE, picture

SIZES = [(128, 96), (97, 171), (200, 130)]
# The last of the 20 objects that are kept are others.
LARGEST_DIFFERENCE = 0.2


def with_large_maps(model):
    """A model whose GRN adds up squares to more than float16 holds, and the list of the largest sums."""
    block = model.backbone.stages[0][0]
    block.norm.weight.data *= 60
    # Responses are ratios: what follows sees ordinary numbers.
    block.pwconv2.weight.data /= 60
    sums = []
    block.grn.register_forward_pre_hook(
        lambda _, x: sums.append(x[0].float().pow(2).sum((1, 2)).max())
    )
    return sums


def naive(self, x):
    """GRN as other implementations have it: a norm in the dtype of its input."""
    norm = (x * x).sum(dim=(1, 2), keepdim=True).sqrt()
    return x + self.gamma * (x * (norm / (norm.mean(dim=-1, keepdim=True) + 1e-6))) + self.beta


@pytest.fixture
def model():
    return build(model_config('mask-rcnn', 'v2'))


def found_by(model, half):
    """What a model finds in pictures, its networks in float16 or not."""
    rules = PictureRules.of(model_config('mask-rcnn', 'v2').data_preprocessor, STRIDE)
    graph = PictureDetector(copy.deepcopy(model), rules, half)
    images = (picture(*size, seed) for seed, size in enumerate(SIZES))
    return [outputs_of(graph, torch.from_numpy(image)[None]) for image in images]


def test_objects_of_a_float16_network_are_those_of_the_model(model):
    for found, expected in zip(found_by(model, True), found_by(model, False), strict=True):
        assert len(expected['boxes']) > 3
        assert difference(found, expected, 0.3) < LARGEST_DIFFERENCE
        assert {name: array.dtype for name, array in found.items()} == {
            'boxes': np.float32,
            'scores': np.float32,
            'labels': np.int64,
            'masks': np.float32,
        }


def test_scores_of_a_float16_network_are_not_rounded_to_float16(model):
    """Rounded scores tie, and ties change which boxes are kept."""
    scores = np.concatenate([found['scores'] for found in found_by(model, True)])
    assert (scores != scores.astype(np.float16)).mean() > 0.9


def test_sums_beyond_float16(model, monkeypatch):
    large = copy.deepcopy(model)
    sums = with_large_maps(large)
    expected = found_by(large, False)
    assert max(sums) > 65504
    for found, wanted in zip(found_by(large, True), expected, strict=True):
        assert difference(found, wanted, 0.3) < LARGEST_DIFFERENCE
    monkeypatch.setattr(GRN, 'forward', naive)
    for found, wanted in zip(found_by(large, True), expected, strict=True):
        assert difference(found, wanted, 0.3) == pytest.approx(1)
