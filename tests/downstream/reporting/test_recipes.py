"""A run beside its recipe, and runs beside each other."""

from mmengine.config import Config

from downstream.paths import CONFIGS
from downstream.reporting.recipes import (
    changes,
    differing,
    flat,
    read_recipe,
    recipe_of,
    row_of,
    same_but_for_the_seed,
)

NAME = 'cascade-mask-rcnn_convnext-tiny_in1k_3x_coco'


def test_the_recipe_of_a_config_of_ones_own(tmp_path):
    recipe = CONFIGS / 'det' / f'{NAME}.py'
    (tmp_path / 'first.py').write_text(f'_base_ = {str(recipe)!r}\nx = 1\n')
    (tmp_path / 'second.py').write_text("_base_ = ['first.py']\n")
    assert recipe_of(tmp_path / 'second.py') == recipe
    assert recipe_of(NAME) == recipe
    assert row_of(recipe).name == NAME
    (tmp_path / 'alone.py').write_text("_base_ = 'gone.py'\n")
    assert recipe_of(tmp_path / 'alone.py') is None
    assert recipe_of('no such config') is None
    assert row_of(None) is None


def test_changes_of_a_recipe_are_those_that_were_made():
    recipe = read_recipe(CONFIGS / 'det' / f'{NAME}.py')
    run = Config(recipe.to_dict())
    assert changes(recipe, run) == []
    run.merge_from_dict(
        {'optim_wrapper.optimizer.lr': 1.0, 'model.neck.own': [1, 2], 'work_dir': 'there'}
    )
    rate = recipe.optim_wrapper.optimizer.lr
    assert sorted(changes(recipe, run)) == [
        ('model.neck.own', None, [1, 2]),
        ('optim_wrapper.optimizer.lr', rate, 1.0),
    ]


def test_a_tuple_and_a_list_are_the_same_value():
    assert differing([{'model': dict(a=(1, 2))}, {'model': dict(a=[1, 2])}]) == {}


def test_dicts_in_lists_are_compared_by_key():
    assert flat({'model': [dict(a=1), dict(b=2)]}) == {'model[0].a': 1, 'model[1].b': 2}


def test_runs_that_differ_in_the_seed_alone_belong_together():
    def config(lr: float, seed: int) -> Config:
        return Config({'optim_wrapper': {'lr': lr}, 'randomness': {'seed': seed}})

    configs = [config(1, 0), config(2, 0), None, config(1, 1), None]
    assert same_but_for_the_seed(configs, [0, 0, 1, 1, 2]) == [[0, 3], [1], [2], [4]]
    assert same_but_for_the_seed(configs, [0, 0, 1, 0, 2]) == [[0], [1], [2], [3], [4]]
    assert same_but_for_the_seed([configs[0]] * 2, [None, None]) == [[0], [1]]
