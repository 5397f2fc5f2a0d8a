"""tools/benchmark.py as a user runs it."""

import json
import time

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

from downstream.benchmarking.subjects import Subject
from downstream.running.config import RunOptions, read_config
from downstream.zoo.complexity import gmacs
from tests.conftest import write_tiny_config

SMALL = ('--size', '64', '96', '--rounds', '2', '--warm-up', '0', '--device', 'cpu')


@pytest.fixture
def segmenter(shapes, tmp_path):
    """A config and a checkpoint of it."""
    config = write_tiny_config('segmentation', shapes, tmp_path)
    cfg = read_config(RunOptions(str(config)))
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(cfg.model)
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, tmp_path / 'trained.pth')
    return config, tmp_path / 'trained.pth', model


def test_a_checkpoint_against_a_config(tool, segmenter, tmp_path):
    config, checkpoint, model = segmenter
    out = tmp_path / 'out'
    result = tool(
        'benchmark', config, checkpoint, '--against', config, '--batch', 2, '--out', out, *SMALL
    )
    assert result.code == 0, result.err
    found = json.loads((out / 'benchmark.json').read_text())
    assert found['reference'] == 'segmentation'
    assert [row['name'] for row in found['rows']] == [str(checkpoint), 'segmentation']
    for row in found['rows']:
        assert row['parameters'] == sum(p.numel() for p in model.parameters())
        assert row['gmacs'] == pytest.approx(gmacs(model.to('meta').eval(), (64, 96)))
        assert len(row['seconds']) == 2
        assert row['latency']['median'] == pytest.approx(np.median(row['seconds']))
        assert row['images_per_second']['median'] == pytest.approx(
            np.median(2 / np.array(row['seconds']))
        )
        assert row['step_bytes'] is None or row['step_bytes'] > 0
    assert found['rows'][0]['speed']['median'] > 0
    assert (found['facts']['size'], found['facts']['batch']) == ([64, 96], 2)
    assert 'random where no checkpoint' in found['facts']['weights']
    assert str(checkpoint) in result.out
    assert (out / 'benchmark.md').read_text().startswith('| model |')


def test_a_detector_with_random_weights_returns_all_it_may(tool, shapes, tmp_path):
    config = write_tiny_config('detection', shapes, tmp_path)
    result = tool('benchmark', config, '--amp', 'bf16', '--out', tmp_path / 'out', *SMALL)
    assert result.code == 0, result.err
    (row,) = json.loads((tmp_path / 'out' / 'benchmark.json').read_text())['rows']
    assert row['objects'] == 20  # max_per_img
    assert row['precision'] == 'bfloat16 (mixed)'


def test_the_protocol_of_the_papers(tool, segmenter, tmp_path, monkeypatch):
    seen = []

    def run(self, pictures):
        seen.append([one.shape for one in pictures])

    monkeypatch.setattr(Subject, 'run', run)
    words = ('--fps-as-papers', '--rounds', '3', '--warm-up', '1', '--device', 'cpu')
    result = tool('benchmark', segmenter[0], *words, '--out', tmp_path / 'out')
    assert result.code == 0, result.err
    assert seen[1:] == 5 * [[(128, 512, 3)]]
    (row,) = json.loads((tmp_path / 'out' / 'benchmark.json').read_text())['rows']
    assert row['fps'] == pytest.approx(3 / sum(row['seconds']))
    assert "FPS, papers'" in result.out


def test_cpu_time_is_what_is_computed(tool, segmenter, tmp_path, monkeypatch):
    monkeypatch.setattr(Subject, 'run', lambda self, pictures: time.sleep(0.2))
    for words, least, most in ((('--cpu-time',), 0, 0.1), ((), 0.2, 60)):
        result = tool('benchmark', segmenter[0], *words, '--out', tmp_path / 'out', *SMALL)
        assert result.code == 0, result.err
        (row,) = json.loads((tmp_path / 'out' / 'benchmark.json').read_text())['rows']
        assert least <= row['latency']['median'] < most
        assert ('CPU time' in result.out) == bool(words)


def test_a_clock_that_shows_no_time_is_one_line(tool, segmenter, tmp_path, monkeypatch):
    """Some systems count what a process computes in steps of 16 ms."""
    monkeypatch.setattr(Subject, 'run', lambda self, pictures: None)
    monkeypatch.setattr(time, 'process_time', lambda: 0.015625)
    result = tool('benchmark', segmenter[0], '--cpu-time', '--out', tmp_path / 'out', *SMALL)
    assert result.code == 2
    message = '--cpu-time: the clock shows no time for a round of segmentation; leave it out, or '
    assert result.err.endswith(f'error: {message}time more at once with --batch or --size.\n')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['nowhere.pth'], 'checkpoint nowhere.pth does not exist'),
        (['--against', 'nothing'], 'config nothing does not exist'),
        (['--batch', '0'], '--batch 0: give at least 1'),
        (['--rounds', '1'], '--rounds 1: give at least 2'),
        (['--size', '0', '5'], '--size 0 5: give height and width'),
        (['--fps-as-papers', '--batch', '2'], 'leave --size and --batch out'),
        (['--device', 'quantum'], '--device quantum cannot be used'),
        (['--images', 'nowhere/'], 'nowhere'),
    ],
)
def test_what_is_wrong_is_one_line(tool, segmenter, tmp_path, words, message):
    result = tool('benchmark', segmenter[0], *words, '--out', tmp_path / 'out')
    assert result.code == 2
    assert message in result.err
    assert result.err.count('\n') == 1
    assert not (tmp_path / 'out').exists()


def test_where_nothing_can_be_written_nothing_is_timed(tool, segmenter, tmp_path, monkeypatch):
    monkeypatch.setattr(Subject, 'run', None)
    (tmp_path / 'file').touch()
    result = tool('benchmark', segmenter[0], *SMALL, '--out', tmp_path / 'file' / 'out')
    assert (result.code, result.err.count('\n')) == (2, 1)
    assert 'file is a file; give a folder' in result.err


def test_a_model_that_fails_is_one_line(tool, segmenter, tmp_path, monkeypatch):
    def run(self, pictures):
        raise RuntimeError('kernel too large\nmore')

    monkeypatch.setattr(Subject, 'run', run)
    result = tool('benchmark', segmenter[0], '--out', tmp_path / 'out', *SMALL)
    assert result.code == 2
    message = 'segmentation fails on 1 x 96 x 64 pixels: RuntimeError: kernel too large'
    assert result.err == f'error: {message}\n'
