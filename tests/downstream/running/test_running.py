"""Small parts of a run: options, precision, progress bar, checkpoints, demo."""

import argparse
import io
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yapf.yapflib.yapf_api as yapf_api
from mmengine.config import Config
from tqdm import tqdm

from backbones import ConfigError, WeightsError
from downstream.commands.line import KeyValueAction
from downstream.running import config
from downstream.running.checkpoint.read import matching_tensors, read
from downstream.running.options import precision
from downstream.running.options.precision import set_precision
from tests.conftest import ROOT, write_tiny_config
from tests.downstream.running.tiny_run import tiny_run

CASCADE = ROOT / 'configs/det/cascade-mask-rcnn_convnext-tiny_in1k_3x_coco.py'
UPERNET = ROOT / 'configs/seg/upernet_convnext-tiny_in1k_160k_ade20k-512x512.py'


@pytest.mark.parametrize(
    ('word', 'value'),
    [
        ('a.b=1', 1),
        ('a.b=1e-4', 1e-4),
        ('a.b=None', None),
        ('a.b=true', True),
        ('a.b=text', 'text'),
        ('a.b=x=y', 'x=y'),
        ('a.b=1,2', [1, 2]),
        ('a.b=(1,2)', (1, 2)),
        ('a.b=[x,y]', ['x', 'y']),
        ('a.b=[(x,1)]', [('x', 1)]),
    ],
)
def test_cfg_options_mean_what_they_do_in_openmmlab(word, value):
    assert cfg_options(word, 'c=1') == {'a.b': value, 'c': 1}


@pytest.mark.parametrize('word', ['a.b', '=1', 'a.b=[1,2', 'a.b=[dict(c=1,d=2)]'])
def test_a_word_that_is_no_cfg_option_is_an_error_of_the_command_line(word, capsys):
    with pytest.raises(SystemExit) as caught:
        cfg_options(word)
    assert caught.value.code == 2
    assert f'--cfg-options {word!r}: ' in capsys.readouterr().err


def test_two_runs_of_one_process_in_one_second_have_a_log_each(tmp_path, monkeypatch):
    stopped = SimpleNamespace(time=lambda: 0.0, strftime=time.strftime, localtime=time.gmtime)
    monkeypatch.setattr('mmengine.runner.runner.time', stopped)
    runs = [tiny_run(tmp_path / 'run', epochs=1, custom_hooks=[]) for _ in range(2)]
    assert runs[0].logger is not runs[1].logger
    logs = [Path(run.log_dir, f'{run.timestamp}.log') for run in runs]
    assert len(set(logs)) == 2
    assert all(log.stat().st_size for log in logs)


def cfg_options(*words: str) -> dict:
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=KeyValueAction)
    return parser.parse_args(['--cfg-options', *words]).cfg_options


@pytest.mark.skipif(torch.cuda.is_available(), reason='about machines without CUDA')
def test_float16_recipe_trains_in_float32_without_cuda():
    cfg = Config.fromfile(CASCADE)
    cfg.optim_wrapper.loss_scale = 'dynamic'
    set_precision(cfg, None)
    assert cfg.optim_wrapper.type == 'OptimWrapper'
    assert 'loss_scale' not in cfg.optim_wrapper
    set_precision(cfg, 'auto')
    assert cfg.optim_wrapper.type == 'BFloat16OptimWrapper'
    with pytest.raises(ConfigError, match='needs CUDA'):
        set_precision(cfg, 'fp16')


@pytest.mark.parametrize('native', [False, True])
def test_bfloat16_on_a_gpu_without_it_is_warned_of(native, monkeypatch):
    cfg = Config.fromfile(UPERNET)
    shown = []
    monkeypatch.setattr(precision, 'print_log', lambda text, *args, **kwargs: shown.append(text))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'Tesla T4')
    monkeypatch.setattr(
        torch.cuda, 'is_bf16_supported', lambda including_emulation=True: native or including_emulation
    )  # fmt: skip
    set_precision(cfg, 'bf16')
    assert len(shown) == (not native)
    assert native or shown[0].startswith('Tesla T4 emulates bfloat16')


def test_cuda_takes_float16_by_default(monkeypatch):
    cfg = Config.fromfile(UPERNET)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation=True: True)
    set_precision(cfg, None)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    set_precision(cfg, 'bf16')
    assert cfg.optim_wrapper.type == 'BFloat16OptimWrapper'
    set_precision(cfg, 'auto')
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    cfg.optim_wrapper.type = 'ApexOptimWrapper'
    with pytest.raises(ConfigError, match='ApexOptimWrapper'):
        set_precision(cfg, 'bf16')


def test_a_driver_that_pytorch_cannot_use_is_an_error(tmp_path, monkeypatch):
    """Eight GPUs would idle, and the CPU train."""
    version = tmp_path / 'version'
    version.write_text('NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19')
    monkeypatch.setattr(precision, '_DRIVER', version)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    with pytest.raises(ConfigError, match=r'driver \(535\.104\.05\), but PyTorch .* cannot use it'):
        config.training_config(config.TrainOptions(str(UPERNET)))
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    config.training_config(config.TrainOptions(str(UPERNET)))
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    config.training_config(config.TrainOptions(str(UPERNET)))


def test_a_full_check_is_not_for_several_processes():
    from downstream.running.train import train

    words = config.TrainOptions(str(UPERNET), launcher='pytorch')
    with pytest.raises(ConfigError, match='--check-data only'):
        train(words, check_data='full')


def test_checking_alone_is_for_one_process():
    from downstream.running.train import check_data_only

    with pytest.raises(ConfigError, match='leave --launcher out'):
        check_data_only(config.TrainOptions(str(UPERNET), launcher='pytorch'))


def prepared(tmp_path, path, **words) -> Config:
    torch.save({'state_dict': {'a': torch.zeros(1)}}, tmp_path / 'a.pth')
    checkpoint = str(tmp_path / 'a.pth')
    return config.testing_config(config.TestOptions(str(path), checkpoint=checkpoint, **words))


def test_tta_of_ade20k_takes_whole_images_and_leaves_the_rest(tmp_path):
    cfg = prepared(tmp_path, UPERNET, tta=True)
    assert cfg.model.type == 'SegTTAModel'
    assert cfg.model.module.test_cfg == {'mode': 'whole'}
    assert cfg.model.module.decode_head.channels == 512
    assert cfg.test_dataloader.dataset.pipeline[1].type == 'TestTimeAug'


def test_testing_fetches_no_pretrained_weights(tmp_path):
    assert prepared(tmp_path, CASCADE).model.backbone.get('init_cfg') is None


def test_tta_of_a_config_that_says_nothing_flips(tmp_path, shapes):
    path = write_tiny_config('detection', shapes, tmp_path)
    changes = {'tta_model': None, 'tta_pipeline': None}
    cfg = prepared(tmp_path, path, tta=True, cfg_options=changes)
    assert cfg.model.type == 'InstanceTTAModel'
    *steps, augmented = cfg.test_dataloader.dataset.pipeline
    assert [step.type for step in steps] == ['LoadImageFromFile', 'Resize', 'LoadAnnotations']
    flips, (pack,) = augmented.transforms
    assert [flip.prob for flip in flips] == [0.0, 1.0]
    assert {'flip', 'flip_direction', 'scale_factor'} <= set(pack.meta_keys)


def test_default_work_dir_is_named_after_the_config():
    assert (
        config.read_config(config.TrainOptions(str(CASCADE))).work_dir
        == f'work_dirs/{CASCADE.stem}'
    )
    assert config.read_config(config.TrainOptions(str(CASCADE), work_dir='x')).work_dir == 'x'


def test_a_checkpoint_must_fit_exactly():
    model = torch.nn.Linear(2, 2)
    state = dict(model.state_dict())
    assert set(matching_tensors(state, model, 'a.pth')) == {'weight', 'bias'}
    with pytest.raises(WeightsError, match='extra: not in the model'):
        matching_tensors({**state, 'extra': torch.zeros(1)}, model, 'a.pth')
    with pytest.raises(WeightsError, match=r'bias: missing from the file\n.*\(3, 2\) in the file'):
        matching_tensors({'weight': torch.zeros(3, 2)}, model, 'a.pth')


def test_the_config_of_a_checkpoint_that_does_not_fit_is_named(tmp_path):
    """The short config of one's own data has the recipe's backbone, not that of --backbone."""
    (tmp_path / 'fruits.complete.py').touch()
    with pytest.raises(
        WeightsError, match=r'config of its run, with its backbone: .*fruits\.complete'
    ):
        matching_tensors({}, torch.nn.Linear(2, 2), str(tmp_path / 'epoch_1.pth'))


def test_fine_tuning_may_change_heads_but_not_most_of_the_model():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 3))
    other = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 5)).state_dict()
    with pytest.raises(WeightsError, match=r'2 of 4 tensors match.*\n.*1.weight: \(5, 2\)'):
        matching_tensors(other, model, 'a.pth')
    assert set(matching_tensors(other, model, 'a.pth', fine_tuning=True)) == {
        '0.weight',
        '0.bias',
    }
    wrapped = {f'net.{k}': v for k, v in other.items()}
    with pytest.raises(WeightsError, match='0 of 4 tensors match'):
        matching_tensors(wrapped, model, 'a.pth', fine_tuning=True)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_and_the_log_file_the_lines(shapes, tmp_path, monkeypatch):
    from downstream.running.train import train

    path = write_tiny_config('segmentation', shapes, tmp_path)
    terminal = Terminal()
    monkeypatch.setattr(sys, 'stdout', terminal)
    changes = {'default_hooks.logger.interval': 1}
    try:
        train(config.TrainOptions(str(path), work_dir=str(tmp_path / 'run'), cfg_options=changes))
    finally:
        monkeypatch.undo()
        tqdm._instances.clear()
    shown = terminal.getvalue()
    assert 'train: 100%' in shown
    assert 'loss ' in shown
    assert 'GiB' in shown
    assert 'val: 100%' in shown
    assert 'mIoU' in shown
    assert 'Iter(train)' not in shown
    assert 'Config:' not in shown
    (log,) = (tmp_path / 'run').glob('*/*.log')
    assert 'Iter(train) [1/2]' in log.read_text()
    assert 'Config:' in log.read_text()


def test_demo_does_each_step_once(shapes, tmp_path, monkeypatch, capsys):
    from downstream.commands import demo

    path = write_tiny_config('segmentation', shapes, tmp_path)
    monkeypatch.setitem(demo.CONFIGS, 'segmentation', str(path))
    monkeypatch.setattr(demo, 'make_shapes', lambda root: False)
    monkeypatch.chdir(tmp_path)
    first = demo.demo('segmentation')
    for key in ('log', 'checkpoint', 'pictures'):
        assert (tmp_path / first[key]).exists(), key
    trained_at = (tmp_path / first['checkpoint']).stat().st_mtime_ns

    # once more: nothing is done
    assert demo.demo('segmentation') == first
    assert 'Nothing to do' in capsys.readouterr().out
    # the summary is lost: the test is done again, the training is not
    (tmp_path / 'work_dirs' / 'segmentation' / 'demo.json').unlink()
    assert demo.demo('segmentation')['metrics'] == first['metrics']
    assert (tmp_path / first['checkpoint']).stat().st_mtime_ns == trained_at
    # another config: all anew
    path.write_text(path.read_text() + 'optim_wrapper = dict(optimizer=dict(lr=1e-5))\n')
    demo.demo('segmentation')
    assert (tmp_path / first['checkpoint']).stat().st_mtime_ns != trained_at


def test_an_interrupted_demo_goes_on(shapes, tmp_path, monkeypatch):
    from dataclasses import replace

    from downstream.commands import demo

    whole_train = demo.train

    def interrupted(words):
        shorter = {'train_cfg.max_iters': 1, 'train_cfg.val_interval': 1}
        whole_train(replace(words, cfg_options=shorter))
        raise KeyboardInterrupt

    path = write_tiny_config('segmentation', shapes, tmp_path)
    monkeypatch.setitem(demo.CONFIGS, 'segmentation', str(path))
    monkeypatch.setattr(demo, 'make_shapes', lambda root: False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, 'train', interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo.demo('segmentation')
    work_dir = tmp_path / 'work_dirs' / 'segmentation'
    first = (work_dir / 'iter_1.pth').stat().st_mtime_ns
    monkeypatch.setattr(demo, 'train', whole_train)
    assert demo.demo('segmentation')['checkpoint'].endswith('iter_2.pth')
    assert (work_dir / 'iter_1.pth').stat().st_mtime_ns == first


def test_a_run_formats_its_config_once(tmp_path, monkeypatch):
    """The log, the visualizer, the dumped config and each checkpoint have its text."""
    format_code, formatted = yapf_api.FormatCode, []
    monkeypatch.setattr(
        yapf_api,
        'FormatCode',
        lambda text, **options: formatted.append(text) or format_code(text, **options),
    )
    runner = tiny_run(tmp_path, epochs=2)
    assert len(formatted) == 1
    for checkpoint in tmp_path.glob('*.pth'):
        assert read(checkpoint)['meta']['cfg'] == runner.cfg.pretty_text
    assert runner.cfg.pretty_text == Config(runner.cfg.to_dict()).pretty_text
    runner.cfg.max_epochs = 9
    assert 'max_epochs = 9' in runner.cfg.pretty_text
