"""The page: what it says, what it refuses, and that a browser opens it without a network."""

import re

import numpy as np
import pytest

from backbones.errors import DataError
from downstream.analysis import segmentation
from downstream.analysis.bootstrap import difference, recount
from downstream.analysis.detection import analyse
from downstream.analysis.kept import counts_of, find_tests
from downstream.reporting import write_page
from downstream.reporting.runs import short_names
from tests.support.chromium import browser, needs_chromium

from ..analysis import test_kept_segmentation as kept_masks
from . import kept_tests
from .work_dirs import log_part, test_part

CLASSES = {'circle': 0.5, '<b>&"square': 0.25, 'nobody predicts this': None}


@pytest.fixture
def runs(tmp_path) -> list:
    """Two trained and tested runs that differ in their seed, one with a class named as markup."""
    found = []
    for seed, ap in enumerate((0.5, 0.7)):
        work_dir = tmp_path / f'run{seed}'
        log_part(work_dir, '20260101_000000', {10: 3.0, 20: 2.0}, {10: 0.1, 20: ap}, seed=seed)
        found.append(test_part(work_dir, '20260101_020000', ap, CLASSES))
    return found


def text_of(path) -> str:
    return re.sub(r'<[^>]*>', ' ', path.read_text())


def test_figures_in_percent_with_mean_and_spread_over_seeds(runs, tmp_path):
    text = text_of(write_page(runs, tmp_path / 'page.html'))
    assert '50.00' in text
    assert '70.00' in text
    assert '60.00 ± 14.14' in text  # sqrt(((50 - 60)^2 + (70 - 60)^2) / 1)


def test_one_run_says_what_is_missing(tmp_path):
    trained = log_part(tmp_path / 'trained', 'a', {1: 2.0}, {})
    tested = test_part(tmp_path / 'tested', 'a', 0.5, {})
    assert 'has no figures of a test' in text_of(write_page([trained], tmp_path / 'a.html'))
    assert 'no logs of its training' in text_of(write_page([tested], tmp_path / 'b.html'))


def test_a_missing_figure_is_a_dash(tmp_path):
    tested = test_part(tmp_path / 'tested', 'a', None, {'circle': None})
    text = text_of(write_page([tested], tmp_path / 'a.html'))
    assert '\N{EN DASH}' in text
    assert '0.00' not in text


def test_what_cannot_be_shown_is_one_clear_error(runs, tmp_path):
    with pytest.raises(DataError, match='does not exist'):
        write_page([tmp_path / 'nothing'], tmp_path / 'page.html')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(DataError, match=r'tools/test\.py'):
        write_page([tmp_path / 'empty'], tmp_path / 'page.html')
    with pytest.raises(DataError, match='named twice'):
        write_page([runs[0], runs[0]], tmp_path / 'page.html')
    segmentation = test_part(tmp_path / 'seg', 'a', 0.5, {}, task='segmentation')
    with pytest.raises(DataError, match='a page for each task'):
        write_page([runs[0], segmentation], tmp_path / 'page.html')
    assert not (tmp_path / 'page.html').exists()


def test_names_tell_paths_apart(tmp_path):
    assert short_names([tmp_path / 'a', tmp_path / 'b']) == ['a', 'b']
    assert short_names([tmp_path / 'a' / 'x', tmp_path / 'b' / 'x']) == ['a/x', 'b/x']
    assert short_names([tmp_path / 'a' / 'x' / 'metrics.json']) == ['x']


def test_the_command_line(runs, tmp_path, tool):
    result = tool('report', *runs, '--out', tmp_path / 'page.html', '--names', 'A', 'B')
    assert result.code == 0, result.err
    assert 'Detection: A, B' in (tmp_path / 'page.html').read_text()
    result = tool('report', tmp_path / 'nothing')
    assert result.code == 2
    assert result.err.strip() == (
        f'error: {tmp_path / "nothing"} does not exist: give a work dir, or a metrics.json of '
        'tools/test.py.'
    )


@needs_chromium
def test_a_browser_opens_every_section_without_a_network(runs, tmp_path):
    path = write_page(runs, tmp_path / 'page.html', names=['<script>alert(1)</script>', 'B'])
    with browser(tmp_path) as page:
        page.open(path)
        walk(page)
        page.open(path, width=400, dark=True)
        assert page.run('document.documentElement.scrollWidth <= innerWidth')
        assert page.errors == []
        assert [url for url in page.requests if not url.startswith(('file:', 'data:'))] == []


@pytest.fixture
def tested(tmp_path) -> list:
    """Three tests of the same pictures: a good one, a worse one, one that found nothing."""
    annotations = kept_tests.data_set(tmp_path / 'data', images=12, per_image=3)
    return [
        kept_tests.kept_test(tmp_path / name, annotations, noise, nothing=name == 'empty')
        for name, noise in (('good', 0.5), ('bad', 4), ('empty', 0))
    ]


def test_kinds_of_error_are_those_of_the_analysis(tested, tmp_path):
    page = write_page(tested[:1], tmp_path / 'page.html')
    (test,) = find_tests(tested[0])
    missed = analyse(test).errors.counts['Miss']
    row = re.search(r'<b>Miss</b>.*?</tr>', page.read_text())[0]
    assert re.findall(r'data-v="([^"]*)"', row)[-1] == str(missed)


def test_tests_of_different_data_are_refused(tested, tmp_path):
    other = kept_tests.data_set(tmp_path / 'other', images=11, per_image=3)
    second = kept_tests.kept_test(tmp_path / 'second', other, 1)
    with pytest.raises(DataError, match='12 images and 11'):
        write_page([tested[0], second], tmp_path / 'page.html')


def test_a_test_without_predictions_says_how_they_are_made(tested, tmp_path):
    (tested[0] / 'predictions.npz').unlink()
    text = text_of(write_page(tested[:1], tmp_path / 'page.html'))
    assert 'predictions.npz' in text
    assert 'python tools/test.py mine.py epoch_1.pth' in text


@needs_chromium
@pytest.mark.parametrize('chosen', [[0], [2], [0, 1, 2]])
def test_a_browser_opens_every_section_of_tests_of_detection(tested, tmp_path, chosen):
    path = write_page([tested[place] for place in chosen], tmp_path / 'page.html')
    with browser(tmp_path) as page:
        page.open(path)
        walk(page)
        assert page.errors == []


@pytest.fixture
def segmented(tmp_path) -> list:
    """Two tests of the same twelve masks: one a little beside, one far."""
    rng = np.random.default_rng(0)
    pairs = [kept_masks.pair(rng) for _ in range(12)]
    far = [(np.roll(predicted, 9, axis=1), annotated) for predicted, annotated in pairs]
    return [
        kept_masks.kept_test(tmp_path / name, chosen)
        for name, chosen in (('near', pairs), ('far', far))
    ]


def test_figures_and_differences_of_segmentation_are_those_of_the_analysis(segmented, tmp_path):
    page = write_page([test.folder for test in segmented], tmp_path / 'page.html').read_text()
    near, far = segmented
    found = segmentation.analyse(counts_of(near))
    for name in ('sky', 'road', 'car'):
        rows = re.findall(rf'<td[^>]*>{name}</td>(.*?)</tr>', page, re.DOTALL)
        shown = [float(v) for row in rows for v in re.findall(r'data-v="([\d.eE+-]+)"', row)]
        for expected in (found.iou[name], found.boundary_iou[name]):
            assert any(value == pytest.approx(expected, rel=1e-6) for value in shown)
    worse = difference(near, far)
    section = re.search(r'<section id="differences".*?</section>', page, re.DOTALL)[0]
    shown = [float(v) for v in re.findall(r'data-v="([\d.eE+-]+)"', section)]
    assert shown[0] == pytest.approx(100 * worse.figure / recount(near).top, rel=1e-6)
    assert 'worse' in section
    assert worse.probability_b_better < 0.01
    rows = re.search(r'<section id="rows".*?</section>', page, re.DOTALL)[0]
    for test in segmented:
        assert rows.count(f'{test.report["metrics"]["mIoU"]:.1f}') >= 2  # LaTeX and Markdown


@needs_chromium
def test_a_browser_opens_every_section_of_tests_of_segmentation(segmented, tmp_path):
    for chosen in (segmented[:1], segmented):
        path = write_page([test.folder for test in chosen], tmp_path / 'page.html')
        with browser(tmp_path) as page:
            page.open(path)
            walk(page)
            assert page.errors == []


def walk(page) -> None:
    """Follow every link, press every button, sort by every column, choose every choice."""
    assert page.run('document.documentElement.dataset.ready') == 'yes'
    names = page.run('[...document.querySelectorAll("nav a")].map((a) => a.hash.slice(1))')
    assert names == page.run('[...document.querySelectorAll("main section")].map((s) => s.id)')
    for name in names:
        page.run(f'document.querySelector("nav a[href=\'#{name}\']").click()')
        assert page.run('location.hash') == f'#{name}'
        assert page.run(f'document.getElementById("{name}").innerText.trim().length') > 20
    page.run(
        'document.querySelectorAll("th[data-sort], button, summary").forEach((e) => e.click())'
    )
    page.run(
        'for (const choice of document.querySelectorAll("select")) for (const one of choice.options) '
        '{ choice.value = one.value; choice.dispatchEvent(new Event("change")); }'
    )
    page.run(
        'for (const chart of document.querySelectorAll("svg.chart")) '
        'chart.dispatchEvent(new PointerEvent("pointermove", { clientX: 200, clientY: 50 }))'
    )
