"""Pictures, memory and arithmetic of a benchmark."""

import mmap

import cv2
import numpy as np
import pytest

from backbones.errors import ConfigError, DataError
from downstream.benchmarking.memory import peak_of_step, reports_peaks
from downstream.benchmarking.names import config_of, named
from downstream.benchmarking.pictures import make_pictures, papers_size, size_of_test
from downstream.benchmarking.run import Benchmark, _measured
from downstream.benchmarking.subjects import ModelFacts
from downstream.benchmarking.table import as_json, markdown
from downstream.benchmarking.timing import Timings
from downstream.running.config import RunOptions, read_config

DETECTOR = 'cascade-mask-rcnn_convnext-tiny_in1k_3x_coco'
SEGMENTER = 'upernet_convnext-tiny_in1k_160k_ade20k-512x512'


def test_sizes_are_those_of_the_test_and_of_the_papers():
    detector, segmenter = (read_config(RunOptions(name)) for name in (DETECTOR, SEGMENTER))
    assert size_of_test(detector) == (800, 1344)  # 1333 x 800, padded to multiples of 32
    assert papers_size(detector) == (1280, 800)
    assert size_of_test(segmenter) == (512, 512)
    assert papers_size(segmenter) == (512, 2048)
    segmenter.pop('crop_size')
    with pytest.raises(ConfigError, match='has no crop_size'):
        papers_size(segmenter)
    detector.test_dataloader.dataset.pipeline = []
    with pytest.raises(ConfigError, match='give --size H W'):
        size_of_test(detector)


def test_pictures_are_resized_and_the_last_batch_is_filled_up(tmp_path):
    cfg = read_config(RunOptions(SEGMENTER))
    for number in range(3):
        picture = np.full((20, 30, 3), (10 * number, 100, 200), np.uint8)
        cv2.imwrite(str(tmp_path / f'{number}.png'), picture)
    found = make_pictures(cfg, (32, 48), 2, 10, [str(tmp_path)])
    assert [len(batch) for batch in found.batches] == [2, 2]
    assert all(one.shape == (32, 48, 3) for batch in found.batches for one in batch)
    first = [one[0, 0].tolist() for batch in found.batches for one in batch]
    assert first == [[0, 100, 200], [10, 100, 200], [20, 100, 200], [0, 100, 200]]
    assert found.what == '3 pictures, resized'
    # no more of them than are needed
    fewer = make_pictures(cfg, (32, 48), 1, 2, [str(tmp_path)])
    assert (len(fewer.batches), fewer.what) == (2, '2 pictures, resized')
    (tmp_path / '1.png').write_bytes(b'no image')
    with pytest.raises(DataError, match=r'1\.png cannot be read as an image'):
        make_pictures(cfg, (32, 48), 2, 10, [str(tmp_path)])


def test_noise_has_the_bands_of_the_model():
    cfg = read_config(RunOptions(SEGMENTER, channels=5))
    found = make_pictures(cfg, (16, 8), 3, 2)
    assert [one.shape for one in found.batches[0]] == 3 * [(16, 8, 5)]
    assert len(found.batches) == 2
    assert not np.array_equal(found.batches[0][0], found.batches[1][0])
    with pytest.raises(ConfigError, match='the model takes 5 bands'):
        make_pictures(cfg, (16, 8), 3, 2, ['a.png'])


def test_without_a_checkpoint_every_threshold_of_scores_is_0():
    cfg = config_of(named(RunOptions(DETECTOR), (), ())[0][0])
    assert cfg.model.test_cfg.rcnn.score_thr == 0
    assert cfg.model.backbone.init_cfg is None


def test_words_are_told_apart():
    own, others = named(RunOptions(DETECTOR), ('a.pth', 'hf:a/b'), (SEGMENTER, 'b.pth'))
    assert [(one.name, one.file) for one in own] == [('a.pth', 'a.pth'), ('hf:a/b', 'hf:a/b')]
    assert [(one.name, one.options.config, one.file) for one in others] == [
        (SEGMENTER, SEGMENTER, None),
        ('b.pth', DETECTOR, 'b.pth'),
    ]
    changed = RunOptions(DETECTOR, cfg_options={'model.backbone.with_cp': True}, channels=5)
    own, others = named(changed, (), (DETECTOR,))
    assert own[0].name == f'{DETECTOR} --channels 5 model.backbone.with_cp=True'
    assert others[0].name == DETECTOR
    with pytest.raises(ConfigError, match=f'give it as --against {SEGMENTER}'):
        named(RunOptions(DETECTOR), (SEGMENTER,), ())
    with pytest.raises(ConfigError, match=r'a\.pth is named twice'):
        named(RunOptions(DETECTOR), ('a.pth',), ('a.pth',))


def test_configs_of_one_name_are_told_apart_by_their_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [f'{folder}/net.py' for folder in ('one/a', 'two/a', 'b')]
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).touch()
    own, others = named(RunOptions(paths[0]), (), (paths[2],))
    assert [one.name for one in (*own, *others)] == ['a/net', 'b/net']
    assert [one.options.config for one in (*own, *others)] == [paths[0], paths[2]]
    own, others = named(RunOptions(paths[0]), ('x.pth',), (*paths, 'y.pth'))
    names = [one.name for one in (*own, *others)]
    assert names == ['x.pth', 'one/a/net', 'two/a/net', 'b/net', 'y.pth']
    changed = RunOptions(paths[0], cfg_options={'a': 1})
    own, others = named(changed, (), (paths[0], paths[2]))
    assert [one.name for one in (*own, *others)] == ['net a=1', 'a/net', 'b/net']

    # a row beside a file of one's own, and the same file by two names
    (tmp_path / 'mine').mkdir()
    (tmp_path / f'mine/{SEGMENTER}.py').touch()
    own, others = named(RunOptions(SEGMENTER), (), (f'mine/{SEGMENTER}.py',))
    assert [one.name for one in (*own, *others)] == [f'seg/{SEGMENTER}', f'mine/{SEGMENTER}']
    for word in (paths[2], str(tmp_path / paths[2]), 'b/../b/net.py'):
        with pytest.raises(ConfigError, match=r'^b/net\.py is named twice; name each model once'):
            named(RunOptions(paths[2]), (), (word,))


@pytest.mark.skipif(not reports_peaks(), reason='the system does not report peaks')
def test_the_peak_of_a_step_is_what_it_takes_for_a_moment():
    def step() -> None:
        # Pages of the system's own: a freed array may stay in the process.
        for mebibytes in (64, 32):
            private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            with mmap.mmap(-1, mebibytes * 2**20, flags=private) as pages:
                np.frombuffer(pages, np.uint8).fill(1)

    assert 60 * 2**20 < peak_of_step(step) < 80 * 2**20


def test_figures_of_seconds():
    seconds = {'a': [1.0, 2.0, 3.0, 4.0, 10.0], 'b': [2.0, 2.0, 6.0, 12.0, 10.0]}
    timings = Timings(seconds)
    objects = {'a': [8, 4, 6], 'b': [None] * 5}
    memory = {'a': 3 * 2**20, 'b': None}
    models = [ModelFacts(name, 'PyTorch', 'fp32', 5_000_000, None, 2**20) for name in seconds]
    a, b = (_measured(model, timings, 'b', memory, objects, batch=2) for model in models)
    assert (a.latency.low, a.latency.median, a.latency.high) == (2, 3, 4)
    assert a.latency_95 == pytest.approx(8.8)
    assert a.images_per_second.median == pytest.approx(2 / 3)
    assert a.fps == pytest.approx(2 * 5 / 20)
    assert a.speed.median == 2  # of the ratios 2, 1, 2, 3, 1
    assert (a.objects, b.objects, b.speed) == (3, None, None)

    facts = {'pictures': 'noise', 'timed': '', 'weights': '', 'rounds': '', 'device': 'a CPU'}
    found = Benchmark((a, b), 'b', facts | {'protocol': 'median of rounds'})
    row = as_json(found)['rows'][0]
    assert (row['name'], row['parameters'], row['fps']) == ('a', 5_000_000, a.fps)
    text = markdown(found)
    header, _, first, second = (
        [c.strip() for c in line.split('|')] for line in text.splitlines()[:4]
    )
    assert 'GMACs' not in header  # known of neither
    assert first[header.index('batch MiB')] == '3'
    assert second[header.index('batch MiB')] == '-'
    assert first[header.index('latency ms')] == '3000.0 (2000.0 to 4000.0)'
    assert (first[header.index('speed')], second[header.index('speed')]) == (
        '2.00 (1.00 to 2.00)',
        '1',
    )
