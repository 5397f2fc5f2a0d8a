"""`tools/pretrain.py` as a user runs it: from folders to an encoder, in several processes, killed."""

import random
import time

import pytest
import torch
from mmengine.config import Config
from safetensors.torch import load_file

from pretraining.train import PretrainOptions, batch_advice, pretraining_config
from tests.pretraining.runs import write_config
from tests.support import processes

# A checkpoint after every step, and enough steps to be killed in.
OFTEN = """
train_cfg = dict(max_epochs=8)
param_scheduler = [
    dict(type='WarmUpCosineLR', warm_up=1, end=8, by_epoch=True, convert_to_iter_based=True),
]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=1))
"""


def test_folders_become_an_encoder_that_a_segmenter_starts_from(tool, shapes, tmp_path):
    work_dir = tmp_path / 'run'
    words = ('--data', shapes / 'images', '--work-dir', work_dir, '--amp', '--epochs', 1)
    config = write_config(tmp_path)
    result = tool('pretrain', config, *words, '--batch-size', 3, '--image-size', 96)
    assert result.code == 0, result.err
    assert f'{shapes / "images"}: 7 images' in result.out
    assert 'predict_mean: ' in result.out
    assert f'--weights {work_dir / "encoder.safetensors"}' in result.out
    cfg = Config.fromfile(work_dir / 'pretraining.py')
    assert cfg.optim_wrapper.type == 'BFloat16OptimWrapper'
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(1e-3 * 3 / 2)
    assert cfg.train_dataloader.dataset.pipeline[1]['size'] == 96
    assert cfg.train_dataloader.dataset.sources == [str(shapes / 'images')]

    again = tool('pretrain', config, *words, '--batch-size', 3, '--image-size', 96, '--resume')
    assert again.code == 0, again.err

    shown = tool('weights', 'inspect', work_dir / 'encoder.safetensors')
    assert 'ConvNeXtV2 with depths (1, 1, 1, 1)' in shown.out
    assert 'licence: your own' in shown.out


def test_another_batch_than_the_recipe_has_is_said_unless_an_option_deals_with_it(tmp_path):
    config = str(write_config(tmp_path, 'auto_scale_lr = dict(base_batch_size=4)\n'))
    advice = batch_advice(pretraining_config(PretrainOptions(config)), 1)
    assert 'for batches of 4 images; this run has 2.' in advice
    kept = pretraining_config(PretrainOptions(config, keep_batch=True))
    assert kept.optim_wrapper.accumulative_counts == 2
    assert batch_advice(kept, 1) is None
    scaled = pretraining_config(PretrainOptions(config, auto_scale_lr=True))
    assert scaled.auto_scale_lr.enable
    assert batch_advice(scaled, 1) is None


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (('--data', 'nowhere'), 'nowhere does not exist.'),
        (('--batch-size', 'auto'), '--batch-size auto is for detectors and segmenters'),
        (('--weights', 'nothing'), "error: 'nothing' is no file and no name"),
        (('--epochs', '0'), '--epochs 0: give at least 1.'),
        (('--image-size', '80'), 'cells of 32x32: crop to a multiple of 32 pixels, 64 or 96.'),
        (
            ('--cfg-options', 'train_dataloader.dataset.pipeline.1.size=100'),
            'images of 100x100 pixels are no whole number of cells',
        ),
        (('--image-size', '32'), 'mask_ratio=0.6 shows 0 of the 1 cells'),
    ],
)
def test_wrong_words_are_one_line(words, message, tool, shapes, tmp_path):
    data = () if '--data' in words else ('--data', shapes / 'images')
    result = tool('pretrain', write_config(tmp_path), *data, *words, '--work-dir', tmp_path / 'run')
    assert result.code == 2
    (line,) = [line for line in result.err.splitlines() if line.startswith('error: ')]
    assert message in line
    assert not list(tmp_path.glob('run/*.pth'))


@pytest.mark.slow
def test_two_processes_train_one_model(shapes, tmp_path):
    """Rank 0 and 1 see their own images; what they end with is one encoder, of two images a step."""
    config = write_config(tmp_path, 'train_dataloader.update(batch_size=1)\n')
    words = (config, '--data', shapes / 'images', '--work-dir', tmp_path / 'run')
    code, shown = processes.run_tool('pretrain', *words, folder=tmp_path / 'out', count=2)
    assert code == 0, shown
    state = torch.load(tmp_path / 'run' / 'epoch_2.pth', weights_only=False)
    encoder = load_file(tmp_path / 'run' / 'encoder.safetensors')
    assert state['meta']['processes'] == 2
    assert all(torch.equal(state['state_dict'][f'encoder.{k}'], v) for k, v in encoder.items())


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_twenty_times_it_ends_with_the_same_encoder(shapes, tmp_path):
    config = write_config(tmp_path, OFTEN)
    rng, kills, round_ = random.Random(0), 0, 0
    began = time.monotonic()
    expected = until_done(config, shapes, tmp_path / 'whole', 0, rng, 0)[1]
    seconds = time.monotonic() - began
    while kills < 20:
        round_ += 1
        assert round_ <= 40, 'runs end before they are killed'
        folder, began = tmp_path / f'parts{round_}', time.monotonic()
        killed, found = until_done(config, shapes, folder, 20 - kills, rng, seconds)
        kills += killed
        if not killed:  # the first run of a process imports much
            seconds = min(seconds, time.monotonic() - began)
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def until_done(config, shapes, work_dir, kills: int, rng, seconds: float) -> tuple[int, dict]:
    """Start again after each kill; how many there were, and the encoder.

    Kills come while a run that takes ``seconds`` in all would be under way.
    """
    arguments = ['--data', shapes / 'images' / 'training', '--work-dir', work_dir, '--resume']
    words = [str(word) for word in (config, *arguments)]
    killed = 0
    while True:
        given = {'name': 'pretrain', 'words': words, 'cwd': work_dir.parent}
        running = processes.start(processes.call_tool, work_dir.with_suffix('.out'), [given])
        if killed < kills:
            running[0].join(rng.uniform(0.3, 1) * seconds)
            if running[0].exitcode is None:
                running[0].kill()
                running[0].join()
                killed += 1
                continue
        processes.finish(running, work_dir.with_suffix('.out'))
        return killed, load_file(work_dir / 'encoder.safetensors')
