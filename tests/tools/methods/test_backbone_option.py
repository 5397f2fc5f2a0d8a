"""--backbone on the command lines: built-ins, timm, and a class of the user's own folder."""

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from downstream.running.checkpoint.read import read
from tests.conftest import ROOT, read_metrics, write_tiny_config
from tests.support import processes

LAST = {'detection': 'epoch_1.pth', 'segmentation': 'iter_2.pth'}
GUIDE = (ROOT / 'docs' / 'backbones.md').read_text()


@pytest.fixture
def user_folder(tmp_path, monkeypatch, shapes) -> Path:
    """A folder with the guide's backbone and a short config for each task; one starts from here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', list(sys.path))
    example = next(block for block in python_blocks() if 'class SmallConvNet' in block)
    (tmp_path / 'small_convnet.py').write_text(example)
    for task in LAST:
        write_tiny_config(task, shapes, tmp_path)
    yield tmp_path
    sys.modules.pop('small_convnet', None)


def python_blocks() -> list[str]:
    return re.findall(r'```python\n(.*?)```', GUIDE, re.S)


@pytest.mark.parametrize('task', LAST)
def test_a_timm_model_trains_and_tests(task, tool, user_folder):
    name = 'timm:test_efficientnet'
    trained = tool('train', f'{task}.py', '--backbone', name)
    assert trained.code == 0, trained.err
    work_dir = user_folder / 'work_dirs' / f'{task}_timm-test_efficientnet'
    assert f'work dir  work_dirs/{work_dir.name}' in trained.out
    for line in ('backbone  timm:test_efficientnet', 'random values', 'known: timm:test_eff'):
        assert line in trained.out
    checkpoint = work_dir / LAST[task]
    assert any('backbone.model.' in k for k in read(checkpoint)['state_dict'])

    assert tool('test', f'{task}.py', checkpoint, '--backbone', name).code == 0
    with_option = read_metrics(work_dir)
    # the dumped config is complete: no option, no base files
    dumped = work_dir / f'{task}.py'
    assert '_base_' not in dumped.read_text()
    assert tool('test', dumped, checkpoint, '--work-dir', 'again').code == 0
    assert read_metrics(user_folder / 'again') == with_option


def test_the_guides_backbone_in_fifteen_minutes(user_folder):
    """As a newcomer: another folder, other processes, nothing but what the guide says."""
    forked = partial(processes.run_tool, folder=user_folder / 'out', cwd=user_folder)

    def run(tool: str, *words) -> str:
        code, shown = forked(tool, *words)
        assert code == 0, shown[-3000:]
        return shown

    def run_anew(tool: str, *words) -> str:
        """In a process that has imported nothing, without this repository on its path."""
        command = [sys.executable, str(ROOT / 'tools' / f'{tool}.py'), *map(str, words)]
        environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment
        )
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout

    name = 'small_convnet:SmallConvNet'
    assert 'fulfils the contract' in run('check_backbone', name, '--no-speed')
    for task, last in LAST.items():
        train = run_anew if task == 'segmentation' else run
        shown = train('train', f'{task}.py', '--backbone', name)
        assert '16, 32, 64, 128 channels at strides 4, 8, 16, 32' in shown
        work_dir = user_folder / 'work_dirs' / f'{task}_small_convnet-SmallConvNet'
        run('test', f'{task}.py', work_dir / last, '--backbone', name)
        assert read_metrics(work_dir)
        again = run('test', work_dir / f'{task}.py', work_dir / last, '--work-dir', 'again')
        assert 'Metrics: ' in again


def test_the_guides_names_are_right():
    assert 30 <= len(next(b for b in python_blocks() if 'SmallConvNet' in b).splitlines()) <= 42
    for words in re.findall(r'tools/\S+\.py', GUIDE):
        assert (ROOT / words).is_file()
    for path in re.findall(r'configs/\S+\.py', GUIDE):
        assert (ROOT / path).is_file()


def test_the_guides_other_examples_work(user_folder, monkeypatch):
    blocks = python_blocks()
    config = next(b for b in blocks if 'detector(' in b).replace("'../", f"'{ROOT}/configs/")
    (user_folder / 'mine.py').write_text(config)
    cfg = Config.fromfile(user_folder / 'mine.py')
    assert cfg.model.backbone.drop_path_rate == 0.1
    assert cfg.model.neck.in_channels == [128, 192, 512, 1088]
    assert cfg.optim_wrapper.paramwise_cfg.decay_rate == 0.8
    monkeypatch.chdir(ROOT)
    exec(next(b for b in blocks if 'drop_in(cfg' in b), {})


def test_arguments_of_the_class_change_what_is_resolved(tool, user_folder):
    name = 'small_convnet:SmallConvNet'
    words = ['--cfg-options', 'model.backbone.widths=(8,16,24,32)', 'model.backbone.depth=1']
    result = tool('train', 'detection.py', '--backbone', name, *words)
    assert result.code == 0, result.err
    assert '8, 16, 24, 32 channels' in result.out
    work_dir = user_folder / 'work_dirs' / 'detection_small_convnet-SmallConvNet'
    dumped = Config.fromfile(work_dir / 'detection.py')
    assert dumped.model.backbone.depth == 1
    assert dumped.model.neck.in_channels == [8, 16, 24, 32]


def test_pretrained_weights_of_an_own_class_load_whole(tool, user_folder):
    sys.path.insert(0, str(user_folder))
    from small_convnet import SmallConvNet

    torch.manual_seed(1)
    state = {**SmallConvNet().state_dict(), 'head.weight': torch.zeros(10, 128)}
    torch.save(state, 'whole.pth')
    torch.save({k: v for k, v in state.items() if 'stages.3' not in k}, 'part.pth')
    init = 'model.backbone.init_cfg.'
    words = ['--backbone', 'small_convnet:SmallConvNet', '--cfg-options', f'{init}type=Pretrained']
    result = tool('train', 'detection.py', *words, f'{init}checkpoint=whole.pth')
    assert result.code == 0, result.err
    assert 'Weights whole.pth' in result.out
    assert 'statistics frozen' in result.out
    result = tool('train', 'detection.py', *words, f'{init}checkpoint=part.pth')
    assert result.code == 2
    assert 'missing: stages.3' in result.err
    result = tool('train', 'detection.py', *words, f'{init}checkpoint=no.pth', '--work-dir', 'new')
    assert result.code == 2
    assert "'no.pth' is no file" in result.err
    assert not (user_folder / 'new').exists()


def test_a_class_that_derives_from_nothing_here_loads_whole_too(tool, user_folder):
    text = (user_folder / 'small_convnet.py').read_text()
    text = text.replace('from backbones import Backbone', 'from mmengine.model import BaseModule')
    (user_folder / 'foreign_convnet.py').write_text(text.replace('(Backbone)', '(BaseModule)'))
    sys.path.insert(0, str(user_folder))
    from foreign_convnet import SmallConvNet

    state = SmallConvNet().state_dict()
    torch.save(state, 'whole.pth')
    torch.save({k: v for k, v in state.items() if 'stages.3' not in k}, 'part.pth')
    init = 'model.backbone.init_cfg.'
    words = [
        '--backbone',
        'foreign_convnet:SmallConvNet',
        '--cfg-options',
        f'{init}type=Pretrained',
    ]
    result = tool('train', 'detection.py', *words, f'{init}checkpoint=whole.pth')
    assert result.code == 0, result.err
    assert f'{len(state)} tensors loaded' in result.out.replace(',', '')
    result = tool('train', 'detection.py', *words, f'{init}checkpoint=part.pth')
    assert result.code == 2
    assert 'missing: stages.3' in result.err


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('convnext-tini', 'Did you mean convnext-tiny'),
        ('timm:resnet5', 'Did you mean resnet50'),
        ('timm:coatnet_0_rw_224', 'made for images of 224 x 224'),
        ('small_convnet:SmallNet', 'no class .*SmallConvNet'),
        ('big_convnet:Net', "no module 'big_convnet'"),
        ('swin-tiny_in22k', 'known: swin-tiny_in1k'),
    ],
)
@pytest.mark.parametrize('task', LAST)
def test_a_bad_name_is_one_line_and_nothing_is_written(task, name, message, tool, user_folder):
    result = tool('train', f'{task}.py', '--backbone', name)
    assert result.code == 2
    assert re.search(message, result.err)
    assert len(result.err.strip().splitlines()) == 1
    assert not (user_folder / 'work_dirs').exists()


def test_the_work_dir_is_called_after_the_new_backbone(tool, user_folder):
    """Where the config's name holds that of its own backbone, the new one takes its place."""
    (user_folder / 'cascade_convnext-atto_mine.py').write_text("_base_ = './detection.py'\n")
    result = tool('train', 'cascade_convnext-atto_mine.py', '--backbone', 'convnextv2-atto')
    assert result.code == 0, result.err
    assert (user_folder / 'work_dirs' / 'cascade_convnextv2-atto_mine' / 'epoch_1.pth').is_file()


def test_a_registered_type_with_its_own_arguments(tool, user_folder):
    result = tool(
        'train', 'segmentation.py', '--backbone', 'mmseg.ResNet', '--cfg-options',
        'model.backbone.depth=18', 'model.backbone.base_channels=16',
    )  # fmt: skip
    assert result.code == 0, result.err
    assert '16, 32, 64, 128 channels' in result.out
