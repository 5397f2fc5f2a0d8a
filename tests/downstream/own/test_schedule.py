"""The rule by which a schedule follows from the size of a set."""

from dataclasses import replace

import pytest
from mmengine.config import Config

from backbones import ConfigError
from downstream.own.recipe import read_schedule
from downstream.own.schedule import RecipeSchedule, schedule
from downstream.paths import CONFIGS, find_config

COCO = RecipeSchedule(
    images=118_287, epochs=36, batch=16, batch_per_process=2, rate=2e-4, warm_up=500
)


def test_recipes_say_their_schedule():
    cascade = CONFIGS / 'det/cascade-mask-rcnn_convnext-tiny_in1k_3x_coco.py'
    assert read_schedule(Config.fromfile(cascade)) == COCO
    upernet = CONFIGS / 'seg/upernet_convnext-tiny_in1k_160k_ade20k-512x512.py'
    read = read_schedule(Config.fromfile(upernet))
    assert read == RecipeSchedule(
        20_210, 160_000 * 16 / 20_210, 16, 2, 1e-4, 1500, smallest_batch=2
    )


def test_an_epoch_that_repeats_its_images_counts_as_several():
    for name, epochs in (
        ('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', 12),
        ('mask_rcnn/mask-rcnn_r50_fpn_ms-poly-3x_coco.py', 36),  # three times 12
        ('ssd/ssd300_coco.py', 120),  # five times 24
    ):
        recipe = read_schedule(Config.fromfile(find_config(f'mmdet::{name}')))
        assert (recipe.images, recipe.epochs) == (118_287, epochs)


def test_a_set_as_large_as_the_recipes_has_the_recipes_schedule():
    found = schedule(COCO, 118_287, 5000, processes=8)
    assert (found.epochs.value, found.batch.value, found.rate.value) == (36, 16, 2e-4)
    assert found.warm_up.value == 500
    assert found.rate.reason == found.warm_up.reason == 'as the recipe'


@pytest.mark.parametrize(
    ('images', 'epochs'),
    [(16, 1000), (64, 250 + 50), (100, 300), (1000, 151), (5000, 93), (20_000, 61), (500_000, 23)],
)
def test_smaller_sets_are_seen_more_often(images, epochs):
    assert schedule(COCO, images, images // 4).epochs.value == epochs


def test_a_run_on_few_images_leaves_its_warm_up_and_takes_enough_steps():
    for images in (1, 3, 16, 64, 256, 1024):
        found = schedule(COCO, images, 1)
        assert found.steps * found.batch.value >= 16_000
        assert found.warm_up.value <= found.steps / 10
        assert 1 <= found.evaluate_every.value <= found.epochs.value
        assert found.epochs.value / found.evaluate_every.value <= 20
        assert found.batch.value <= images


def test_a_trained_start_takes_a_third():
    assert schedule(COCO, 1000, 100, fine_tuned=True).epochs.value == 50
    assert 'a third' in schedule(COCO, 1000, 100, fine_tuned=True).epochs.reason


def test_what_is_given_wins():
    found = schedule(COCO, 1000, 100, processes=2, epochs=7, batch=8, rate=1e-3)
    assert (found.epochs.value, found.batch.value, found.rate.value) == (7, 8, 1e-3)
    assert {found.epochs.reason, found.batch.reason, found.rate.reason} == {'given'}
    assert found.steps == 7 * 125
    assert found.warm_up.value == 87
    assert schedule(COCO, 1000, 100, batch=8).rate.value == pytest.approx(1e-4)


def test_evaluation_does_not_see_more_images_than_training():
    found = schedule(COCO, 100, 5000)
    assert found.evaluate_every.value == 50
    assert '5,000 validation images' in found.evaluate_every.reason


def test_impossible_values_are_said():
    with pytest.raises(ConfigError, match='multiple of 2'):
        schedule(COCO, 100, 10, processes=2, batch=3)
    with pytest.raises(ConfigError, match='more than the 100 training images'):
        schedule(COCO, 100, 10, batch=128)
    with pytest.raises(ConfigError, match='1 training images are fewer than a step takes'):
        schedule(replace(COCO, smallest_batch=2), 1, 10)
