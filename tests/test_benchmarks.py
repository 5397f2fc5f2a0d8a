"""What the benchmarks compare is the same network, and what they count is right."""

import argparse
import json
from unittest import mock

import numpy as np
import pytest
import torch
from mmengine.config import Config

from benchmarks import __main__, few_labels, memory, shuffled_cells
from benchmarks.speed import (
    attention,
    drawing,
    evaluation,
    gpu,
    masked,
    models,
    operators,
)
from benchmarks.speed.backbone import BASE, CASES, OURS, Case, build, difference, step
from benchmarks.speed.evaluation import random_coco
from downstream.benchmarking.memory import reports_peaks
from downstream.benchmarking.timing import Spread, interleave
from downstream.paths import find_config


@pytest.mark.parametrize('v2', [False, True])
def test_all_implementations_compute_the_same(v2):
    models = build(Case('any', v2, (1, 64, 64), training=True))
    assert len(models) == 4
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    results = {}
    for name, model in models.items():
        model.double()
        image = x.clone().requires_grad_()
        outputs = step(model, image, training=True)()
        results[name] = [*(y.detach() for y in outputs), image.grad]
    for name, result in results.items():
        # some libraries have made their weights in float32
        assert difference(result, results[BASE]) < 1e-5, name


def test_both_ways_of_masked_pre_training_compute_the_same():
    case = masked.Case(dict(depths=(1, 1, 2, 1), dims=(8, 12, 16, 20)), 2)
    result = masked.measure(case, rounds=1)
    assert result.error < 1e-5
    assert result.kept[OURS] < 0.45 * result.kept[masked.DENSE]


def test_rounds_begin_with_another_case_each():
    calls = []
    cases = {name: (lambda name=name: calls.append(name)) for name in 'abc'}
    timings = interleave(cases, rounds=3, warm_up=1)
    assert len(calls) == 12
    assert [calls[i] for i in (3, 6, 9)] == ['a', 'b', 'c']
    assert all(len(values) == 3 for values in timings.seconds.values())


def test_a_speed_is_the_median_of_ratios_within_rounds():
    from downstream.benchmarking.timing import Timings

    timings = Timings({'slow': [2.0, 4.0, 9.0], 'fast': [1.0, 2.0, 3.0]})
    assert timings.speed('fast', 'slow') == Spread(2.0, 2.0, 2.5)


def test_random_results_are_what_coco_expects():
    content, found = random_coco(3, masks=True)
    assert len(content['annotations']) == 21
    assert len(found) == 300
    assert {d['image_id'] for d in found} == {1, 2, 3}
    assert np.mean([a['area'] for a in content['annotations']]) > 100


def test_the_page_has_a_place_for_the_tables():
    text = __main__.PAGE.read_text()
    assert text.index(__main__._BEGIN) < text.index(__main__._END)
    assert OURS != BASE
    assert all(len(case.targets) == 2 for case in CASES)
    titles = [title for title, _ in __main__.PARTS.values()]
    assert all(f'### {title}\n' in text for title in titles if 'GPU' not in title)


@pytest.mark.parametrize(
    ('key', 'module'),
    [
        ('attention', attention),
        ('operators', operators),
        ('evaluation', evaluation),
        ('drawing', drawing),
    ],
)
def test_a_table_of_the_page_is_one_that_the_tool_writes(key, module, monkeypatch):
    monkeypatch.setattr(module, 'measure', lambda rounds: [])
    title, table = __main__.PARTS[key]
    page = __main__.PAGE.read_text()
    (section,) = [part for part in page.split('\n### ') if part.startswith(f'{title}\n')]
    assert '\n'.join(table(3)) in section


def test_other_work_is_said(monkeypatch):
    monkeypatch.setattr(__main__.os, 'cpu_count', lambda: 2)
    for load, words in ((0.3, ''), (1.9, ' Beside other work: a load of 1.9 on 2 cores.')):
        monkeypatch.setattr(__main__.os, 'getloadavg', lambda load=load: (load, 0, 0))
        assert __main__.other_work() == words


def test_new_tables_take_the_place_of_former_ones():
    begin, end = __main__._BEGIN, __main__._END
    page = f'before\n{begin}\n### A\n\nold\n\n### B\n\nkept\n\n{end}\nafter'
    found = __main__.put(page, {'A': 'new', 'C': 'more'})
    assert found == (
        f'before\n{begin}\n### A\n\nnew\n\n### B\n\nkept\n\n### C\n\nmore\n\n{end}\nafter'
    )
    assert __main__.put(found, {}) == found


@pytest.mark.parametrize('training', [False, True])
def test_the_gpu_part_runs_as_far_as_a_cpu_goes(training):
    case = gpu.Case(True, (1, 64, 64), training)
    with mock.patch('torch.compile', side_effect=lambda model: model):
        result = gpu.measure(case, rounds=2, device='cpu', arch='atto', peak_size=64)
    assert list(result.timings.seconds) == list(gpu.NAMES)
    assert result.error < 0.1
    assert result.of_peak > 0


def test_deformable_attention_is_that_of_mmcv():
    """Far from where mmcv's operator is wrong: its inputs are float32."""
    for result in attention.measure(2, ((10, 14), (5, 7))):
        assert result.error < 1e-5
        assert result.kept[OURS] < 0.3 * result.kept[attention.PEER]


def test_operators_give_what_torchvisions_do():
    for result in operators.measure(2):
        assert result.error < 1e-4  # float32 knows coordinates of 300 pixels to 3e-5


@pytest.mark.parametrize('kind', ['bbox', 'segm'])
def test_evaluators_find_the_same_figures(kind):
    result = evaluation.coco(kind, images=4, rounds=2, target=1.0)
    assert result.error <= 1e-12
    assert set(result.timings.seconds) == {'pycocotools', OURS}


def test_pictures_are_drawn_by_both():
    for result in (drawing.detections(2, (60, 80), 2), drawing.segmentation(2, (60, 80))):
        assert all(min(values) > 0 for values in result.timings.seconds.values())


@pytest.mark.slow
@pytest.mark.parametrize('task', models.CONFIGS)
def test_whole_models_are_timed_and_weighed(task):
    case = models.Case(task, (128, 160), training=False)
    assert len(models.measure(case, rounds=2).seconds) == 2
    if reports_peaks():
        assert memory.peak(models.alone, case, models.OURS) > 0


def test_few_labels_joins_the_tables_of_its_comparisons(tmp_path):
    start = few_labels.start_of('convnextv2-atto')
    v1 = few_labels.start_of('convnext-atto')
    values = {
        ('detection', 16): {'convnextv2-atto': [10.0, 12.0], start: [15.0, 17.0], v1: [9.0, 9.5]},
        ('segmentation', 16): {'convnextv2-atto': [50.0, 60.0], start: [70.0, 72.0]},
        ('detection', 64): {'convnextv2-atto': [30.0], start: [31.0]},
    }
    for (task, images), rows in values.items():
        name = 'mIoU' if task == 'segmentation' else 'box AP'
        content = [{'backbone': b, 'figures': {name: {'values': v}}} for b, v in rows.items()]
        path = tmp_path / few_labels.folder_of(task, images) / 'table.json'
        path.parent.mkdir()
        path.write_text(json.dumps({'rows': content}))
    rows = few_labels.gathered(tmp_path, [16, 64])
    keys = [(row['images'], row['backbone'], row['pretrained']) for row in rows]
    assert keys == [
        (16, 'convnextv2-atto', False),
        (16, 'convnextv2-atto', True),
        (16, 'convnext-atto', True),
        (64, 'convnextv2-atto', False),
        (64, 'convnextv2-atto', True),
    ]
    assert rows[1]['figures']['box AP'].difference == 5
    assert rows[1]['figures']['mIoU'].difference == 16
    # The difference of V1 is to V1 from random weights, which has not been trained yet.
    assert rows[2]['figures']['box AP'].difference is None
    lines = few_labels.markdown(rows).splitlines()
    assert lines[2] == '| 16 | convnextv2-atto | random | 11.0 ± 1.4 | - | 55.0 ± 7.1 | 2 |'
    assert lines[6].endswith('| 31.0 (+1.0) | - | - | 1 |')


@pytest.mark.parametrize(('task', 'steps'), [('detection', 128), ('segmentation', 80)])
def test_few_labels_trains_equal_steps(task, steps):
    args = argparse.Namespace(steps={task: steps}, seeds=3, jobs=1)
    batch = {'detection': 2, 'segmentation': 4}[task]
    for images in (16, 64):
        words = few_labels.compare_words(task, images, args, ['convnextv2-atto'])
        assert words[words.index('--epochs') + 1] * images == steps * batch
        assert f'train_dataloader.dataset.indices={images}' in words
        cfg = Config.fromfile(find_config(words[0]))
        assert cfg.train_dataloader.batch_size == batch


def test_shuffled_cells_are_the_same_cells_elsewhere():
    torch.manual_seed(0)
    image = np.random.default_rng(0).integers(0, 256, (96, 64, 3), dtype=np.uint8)
    shuffled = shuffled_cells.ShuffleCells().transform({'img': image})['img']

    def cells(pixels):
        return [pixels[y : y + 32, x : x + 32].tobytes() for y in (0, 32, 64) for x in (0, 32)]

    assert sorted(cells(shuffled)) == sorted(cells(image))
    assert cells(shuffled) != cells(image)
