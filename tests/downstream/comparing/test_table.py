"""Figures over seeds, and the tables and the picture that are made of them."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from scipy import stats

from downstream.analysis.recounting.samples import Difference
from downstream.comparing import by_images, picture
from downstream.comparing.compare import CompareOptions
from downstream.comparing.figures import Row, rows, spread
from downstream.comparing.plan import Candidate, Plan
from downstream.comparing.state import Run
from downstream.comparing.table import table_lines, write_tables
from downstream.running.config import TrainOptions


def test_spread_and_interval_are_those_of_numpy_and_scipy():
    a, b = [31.0, 29.5, 33.2], [27.1, 28.4]
    found = spread(a, b)
    assert found.mean == pytest.approx(np.mean(a))
    assert found.deviation == pytest.approx(np.std(a, ddof=1))
    assert found.difference == pytest.approx(np.mean(a) - np.mean(b))
    interval = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_what_cannot_be_computed_is_missing():
    one = spread([30.0], [20.0, 21.0])
    assert one.deviation is None
    assert one.low is None
    assert one.difference == pytest.approx(9.5)
    none = spread([], [20.0])
    assert (none.mean, none.difference) == (None, None)
    same = spread([5.0, 5.0], [4.0, 4.0])
    assert (same.low, same.high) == (1.0, 1.0)


def a_plan(folder: Path, task: str, measured: dict[str, list[dict | None]]) -> Plan:
    """A comparison whose runs have these metrics; None: not done."""
    candidates, runs = [], []
    for name, reports in measured.items():
        directory = folder / name.replace(':', '-')
        candidates.append(
            Candidate(name, directory, 5_000_000, 4_000_000, 12.5, (256, 1024), {}, {})
        )
        for seed, metrics in enumerate(reports):
            identity = {'config': {'test_dataloader.batch_size': 2}, 'processes': 3}
            run = Run(name, seed, directory / f'seed{seed}', identity)
            if metrics is not None:
                write_run(run, task, metrics)
            runs.append(run)
    recipe = TrainOptions('recipe')
    return Plan(task, recipe, folder, tuple(candidates), tuple(runs))


def write_run(run: Run, task: str, metrics: dict) -> None:
    test, log = run.folder / 'test', run.folder / 'train' / 'vis_data'
    test.mkdir(parents=True)
    log.mkdir(parents=True)
    run.metrics = test / 'metrics.json'
    run.metrics.write_text(json.dumps({'task': task, 'metrics': metrics}))
    (test / 'test.json').write_text(json.dumps({'mIoU': 1.0, 'time': 0.5, 'data_time': 0.1}))
    lines = [{'loss': 1.0, 'time': t, 'memory': 2048} for t in (9.0, 0.2, 0.4, 0.3)]
    text = '\n'.join(json.dumps(line) for line in lines) + '\n{"loss": 1.0, "ti'
    (log / 'scalars.json').write_text(text)


def aps(box: float | None, mask: float | None = None) -> dict:
    found = {'bbox': {'AP': box}}
    return found if mask is None else {**found, 'segm': {'AP': mask}}


def test_a_row_joins_the_runs_of_a_backbone(tmp_path):
    made = a_plan(
        tmp_path,
        'detection',
        {'first': [aps(0.25, 0.20), aps(0.27, 0.22)], 'second': [aps(0.30, 0.25), None]},
    )
    first, second = rows(made)
    assert first.figures['box AP'].values == pytest.approx((25.0, 27.0))
    assert first.figures['mask AP'].mean == pytest.approx(21.0)
    assert first.figures['box AP'].difference is None
    assert second.figures['box AP'].difference == pytest.approx(4.0)
    assert (second.done, second.runs) == (1, 2)
    assert first.step_seconds == pytest.approx(0.3)  # without the first interval
    assert first.images_per_second == pytest.approx(2 * 3 / 0.5)
    assert first.peak_gib == pytest.approx(2.0)


def test_boxes_alone_have_no_column_of_masks(tmp_path):
    made = a_plan(tmp_path, 'detection', {'a': [aps(0.25)], 'b': [aps(None)]})
    table = rows(made)
    assert list(table[0].figures) == ['box AP']
    assert table[1].figures['box AP'].mean is None
    assert '| - | - |' in table_lines(table)[-1]


def test_a_failed_first_backbone_leaves_figures_without_differences(tmp_path):
    made = a_plan(tmp_path, 'segmentation', {'a': [None], 'b': [{'mIoU': 40.0}]})
    table = rows(made)
    assert table[0].figures.get('mIoU') is None
    assert table[1].figures['mIoU'].mean == 40.0
    assert table[1].figures['mIoU'].difference is None


def test_all_tables_say_the_same(tmp_path):
    made = a_plan(
        tmp_path,
        'segmentation',
        {'a_1': [{'mIoU': 40.0}, {'mIoU': 42.0}], 'timm:b': [{'mIoU': 43.0}, {'mIoU': 46.0}]},
    )
    table = rows(made)
    write_tables(made, CompareOptions(made.recipe, ('a_1', 'timm:b'), 2), table)
    markdown = (tmp_path / 'table.md').read_text()
    assert '| a_1 | 5.0 | 4.0 | 12.5 | 0.300 | 12.0 | 2.0 | 41.0 ± 1.4 | - | 2 |' in markdown
    assert '44.5 ± 2.1 | +3.5 [' in markdown
    latex = (tmp_path / 'table.tex').read_text()
    assert r'a\_1 & 5.0' in latex
    assert r'41.0 $\pm$ 1.4' in latex
    assert latex.count(r'\\') == 3
    records = list(csv.DictReader((tmp_path / 'table.csv').open()))
    content = json.loads((tmp_path / 'table.json').read_text())
    for record, row in zip(records, content['rows'], strict=True):
        assert float(record['mIoU mean']) == row['figures']['mIoU']['mean']
    assert records[0]['mIoU difference'] == ''
    assert content['rows'][0]['figures']['mIoU']['difference'] is None
    assert next(run['metrics'] for run in content['runs']) == 'a_1/seed0/test/metrics.json'


def crowded(count: int) -> list[Row]:
    rng = np.random.default_rng(count)
    made = []
    for i in range(count):
        values = tuple(30 + rng.normal(0, 2) + rng.normal(0, 0.7, 3))
        row = Row(f'timm:some_backbone_{i}', 0, 0, None, None, None, None, 3, 3, {})
        cost = 5 * 10 ** rng.uniform(0, 0.5)
        figures = {'box AP': spread(values), 'mask AP': spread([v - 3 for v in values])}
        made.append(replace(row, parameters=round(1e6 * cost), gmacs=3 * cost, figures=figures))
    return made


@pytest.mark.parametrize('count', [1, 9, 12])
def test_names_in_the_picture_cover_nothing(tmp_path, count):
    table = crowded(count)
    figure = picture.draw(table, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {'cost.png', 'cost.svg'}
    figure.canvas.draw()  # the files have another resolution
    renderer = figure.canvas.get_renderer()
    assert len(figure.axes) == 4
    for axes in figure.axes:
        assert axes.get_xscale() == 'log'
        assert len(axes.texts) == count
        # The extent of an annotation includes its line, that of a text does not.
        boxes = [Text.get_window_extent(text, renderer) for text in axes.texts]
        frame = axes.get_window_extent(renderer)
        points = [axes.transData.transform(text.xy) for text in axes.texts]
        for i, box in enumerate(boxes):
            assert frame.x0 <= box.x0 + 1
            assert box.x1 <= frame.x1 + 1
            assert frame.y0 <= box.y0 + 1
            assert box.y1 <= frame.y1 + 1
            assert not any(overlapping(box, other) for other in boxes[i + 1 :])
            assert not any(box.contains(*point) for point in points)


def overlapping(a, b) -> bool:
    return min(a.x1, b.x1) - max(a.x0, b.x0) > 0.5 and min(a.y1, b.y1) - max(a.y0, b.y0) > 0.5


def test_there_is_no_picture_without_figures(tmp_path):
    empty = replace(crowded(1)[0], figures={'box AP': spread([])})
    assert picture.draw([empty], tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_costs_that_nobody_could_count_are_left_out(tmp_path):
    table = [replace(row, gmacs=None) for row in crowded(2)]
    assert len(picture.draw(table, tmp_path).axes) == 2


def test_a_place_is_free_or_covers_least():
    frame = Bbox.from_extents(0, 0, 400, 400)
    everything = [Bbox.from_extents(0, 0, 400, 400)]
    assert all(map(math.isfinite, picture._free_place((200, 200), 40, 10, 1, frame, everything)))
    right = picture._free_place((200, 200), 40, 10, 1, frame, [])
    assert right == pytest.approx((26, 0))


def test_single_runs_have_an_interval_over_images(tmp_path, monkeypatch):
    asked = []

    def difference(a, b, kind):
        asked.append((a.folder, b.folder, kind))
        return Difference(0.05, 0.01, 0.09)

    monkeypatch.setattr(by_images, 'difference', difference)
    made = a_plan(tmp_path, 'detection', {'a': [aps(0.25)], 'b': [aps(0.30)]})
    figure = rows(made)[1].figures['box AP']
    assert (figure.low, figure.difference, figure.high) == pytest.approx((1.0, 5.0, 9.0))
    assert asked == [(tmp_path / 'a/seed0/test', tmp_path / 'b/seed0/test', 'bbox')]
    # With two seeds of one, neither images nor seeds say what a difference is worth.
    made = a_plan(tmp_path / 'more', 'detection', {'a': [aps(0.25), aps(0.2)], 'b': [aps(0.30)]})
    assert rows(made)[1].figures['box AP'].low is None
    assert len(asked) == 1
