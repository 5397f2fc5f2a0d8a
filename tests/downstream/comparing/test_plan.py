"""What is checked before the first training, and what makes two runs the same."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from backbones import ConvNeXt
from backbones.errors import ConfigError, DataError, UserError, WeightsError
from downstream.comparing import identity
from downstream.comparing.compare import CompareOptions, show_commands
from downstream.comparing.plan import plan, record_recipe
from downstream.own.prepare import DataOptions
from downstream.running.config import TrainOptions, read_config
from downstream.zoo.complexity import build_on_meta, parameters
from tests.conftest import write_tiny_config

TWO = ('convnext-atto', 'timm:test_efficientnet')
OWN = """
import backbones
class Own(backbones.ConvNeXt):
    def __init__(self, **kwargs):
        super().__init__('atto', **kwargs)
"""


@pytest.fixture(params=['detection', 'segmentation'])
def options(request, shapes, tmp_path, monkeypatch) -> CompareOptions:
    monkeypatch.chdir(tmp_path)
    return tiny(request.param, shapes, tmp_path)


@pytest.fixture
def segmenter(shapes, tmp_path, monkeypatch) -> CompareOptions:
    monkeypatch.chdir(tmp_path)
    return tiny('segmentation', shapes, tmp_path)


def tiny(task: str, shapes: Path, folder: Path) -> CompareOptions:
    config = write_tiny_config(task, shapes, folder)
    return CompareOptions(TrainOptions(str(config)), TWO, 2, work_dir='many')


def test_a_plan_has_every_backbone_with_every_seed(options):
    made = plan(options)
    assert made.task == Path(options.recipe.config).stem
    assert [(run.backbone, run.seed) for run in made.runs] == [(b, s) for s in (0, 1) for b in TWO]
    assert len({run.folder for run in made.runs}) == 4
    for candidate in made.candidates:
        cfg = read_config(replace(options.recipe, backbone=candidate.name))
        assert candidate.parameters == parameters(build_on_meta(cfg))
        assert 0 < candidate.backbone_parameters < candidate.parameters
        assert candidate.gmacs > 0
        assert candidate.config['model.backbone.type'] == cfg.model.backbone.type
    assert not Path('many').exists()  # nothing is written by looking


def test_names_that_look_alike_have_folders_of_their_own(segmenter):
    names = ('convnext-atto', 'timm:test_efficientnet', 'timm:test_byobnet')
    folders = {c.folder for c in plan(replace(segmenter, backbones=names)).candidates}
    assert len(folders) == 3


@pytest.mark.parametrize(
    ('changes', 'error', 'words'),
    [
        ({'backbones': ('convnext-atto', 'convnext-ato')}, ConfigError, 'Did you mean convnext-atto'),
        ({'backbones': ('convnext-atto', 'nowhere:Net')}, ConfigError, "no module 'nowhere'"),
        ({'backbones': ('convnext-atto_none',)}, WeightsError, 'no such weights'),
        ({'backbones': ('convnext-atto', 'convnext-atto')}, ConfigError, 'twice'),
        ({'backbones': ('convnext-atto=',)}, ConfigError, 'give NAME, or NAME=WEIGHTS'),
        ({'backbones': ('convnext-atto=none.pth',)}, WeightsError, 'none.pth'),
        ({'seeds': 0}, ConfigError, '--seeds 0: give at least 1'),
        ({'jobs': 0}, ConfigError, '--jobs 0'),
        ({'gpus': 2}, ConfigError, '--gpus 2 needs --launcher'),
        ({'launcher': 'slurm'}, ConfigError, '--partition'),
        ({'partition': 'x'}, ConfigError, '--partition'),
    ],
)  # fmt: skip
def test_what_is_not_possible_is_refused_before_any_training(segmenter, changes, error, words):
    with pytest.raises(error, match=words):
        plan(replace(segmenter, **changes))
    assert not Path('many').exists()


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'cfg_options': {'randomness.seed': 3}}, 'seed of its own'),
        ({'batch_size': 'auto'}, 'differs between backbones'),
        ({'config': 'nowhere.py'}, 'does not exist'),
        ({'cfg_options': {'train_cfg.max_item': 3}}, 'max_item'),
    ],
)
def test_recipes_that_are_not_possible(segmenter, changes, words):
    with pytest.raises(UserError, match=words):
        plan(replace(segmenter, recipe=replace(segmenter.recipe, **changes)))


def test_a_missing_data_set_is_refused_before_any_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for config in ('upernet_convnext-atto_shapes', 'cascade-mask-rcnn_convnext-atto_shapes'):
        with pytest.raises(DataError, match='data/shapes'):
            plan(CompareOptions(TrainOptions(config), TWO[:1]))


def test_a_folder_is_for_one_recipe(segmenter):
    made = plan(segmenter)
    record_recipe(made, segmenter)
    for run in made.runs:
        run.write()
    plan(segmenter)
    # More backbones and seeds are the same recipe, another work dir of it too.
    assert len(plan(replace(segmenter, seeds=3, backbones=(*TWO, 'convnext-femto'))).runs) == 9
    other = replace(segmenter.recipe, cfg_options={'optim_wrapper.optimizer.lr': 0.5})
    with pytest.raises(
        ConfigError, match=r'another recipe \(optim_wrapper.optimizer.lr was 0.0005, is 0.5\)'
    ):
        plan(replace(segmenter, recipe=other))
    with pytest.raises(ConfigError, match='processes was 1, is 2'):
        plan(replace(segmenter, launcher='pytorch', gpus=2))


def test_a_folder_of_something_else_is_left_alone(segmenter):
    Path('many').mkdir()
    Path('many/notes.txt').touch()
    with pytest.raises(ConfigError, match=r'many holds something else \(notes.txt\)'):
        plan(segmenter)


def test_a_class_that_has_been_edited_is_another_backbone(segmenter, monkeypatch):
    monkeypatch.setattr(sys, 'path', [str(Path.cwd()), *sys.path])
    Path('own_net.py').write_text(OWN)
    own = replace(segmenter, backbones=('own_net:Own',), seeds=1)
    try:
        (run,) = plan(own).runs
        run.write()
        plan(own)
        Path('own_net.py').write_text(OWN + '\n# edited\n')
        with pytest.raises(ConfigError, match='holds a run of something else .code was'):
            plan(own)
    finally:
        sys.modules.pop('own_net', None)


def test_own_data_become_one_config_for_all(shapes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = TrainOptions('cascade-mask-rcnn_convnext-atto_shapes', epochs=2, image_size=None)
    source = DataOptions(str(shapes / 'annotations/instances_training.json'))
    made = plan(CompareOptions(recipe, TWO, work_dir='many', data=source))
    assert made.recipe.config == 'many/recipe/recipe.py'
    assert made.recipe.epochs is None  # it is in the config
    assert {run.identity['config']['train_cfg.max_epochs'] for run in made.runs} == {2}
    again = plan(CompareOptions(recipe, TWO, work_dir='many', data=source))
    assert [run.identity for run in again.runs] == [run.identity for run in made.runs]


def test_a_backbone_with_weights_is_one_of_its_own(segmenter, capsys):
    weights = Path('own.safetensors')
    save_file(ConvNeXt('atto').state_dict(), weights)
    both = replace(segmenter, backbones=('convnext-atto', f'convnext-atto={weights}'), seeds=1)
    made = plan(both)
    random, pretrained = made.candidates
    assert random.folder != pretrained.folder
    assert pretrained.config['model.backbone.init_cfg.checkpoint'] == str(weights)
    assert random.config.get('model.backbone.init_cfg.checkpoint') is None
    assert pretrained.parameters == random.parameters
    show_commands(both)
    lines = [line for line in capsys.readouterr().out.splitlines() if 'train.py' in line]
    assert ['--weights own.safetensors' in line for line in lines] == [False, True]
    assert all('--backbone convnext-atto ' in line for line in lines)
    for run in made.runs:
        run.write()
    plan(both)
    # A file of other weights under the same name is another candidate.
    save_file({'x': torch.zeros(1)}, weights)
    with pytest.raises(ConfigError, match='something else .weights was'):
        plan(both)


def test_a_dry_run_shows_commands_and_what_is_done(segmenter, capsys):
    made = plan(segmenter)
    record_recipe(made, segmenter)
    first, second = made.runs[:2]
    for run in (first, second):
        run.folder.mkdir(parents=True)
        run.checkpoint = run.folder / 'iter_2.pth'
        run.checkpoint.touch()
    first.metrics = first.folder / 'metrics.json'
    first.metrics.touch()
    first.write()
    second.write()
    show_commands(segmenter)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == '# 1/4 convnext-atto, seed 0: done'
    assert lines[1] == '# 2/4 timm:test_efficientnet, seed 0: trained'
    assert 'test.py many/timm-test_efficientnet/seed0/segmentation.py' in lines[2]
    assert lines[3] == '# 3/4 convnext-atto, seed 1: to do'
    assert 'train.py' in lines[4]
    assert '--backbone convnext-atto' in lines[4]
    assert 'test.py' in lines[5]
    assert len(lines) == 9


def test_identities():
    former = {'config': {'a': 1, 'b': 2, 'c': 3, 'd': 4}, 'code': None}
    new = {'config': {'a': 2, 'b': 2, 'e': 'x'}, 'code': None}
    words = identity.differences(former, new)
    assert words == "a was 1, is 2; e was absent, is 'x'; c was 3, is absent, and 1 more"
    assert identity.digest(former) != identity.digest(new)
    assert identity.digest(former) == identity.digest(json.loads(json.dumps(former)))
    assert identity.code_of('timm:resnet18') is None
    assert identity.code_of('backbones.convnext.model:ConvNeXt') is not None
