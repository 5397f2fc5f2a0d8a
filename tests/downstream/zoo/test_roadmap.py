"""The roadmap's published figures, what is proven of them, and the page."""

import json
import re
from dataclasses import replace

import pytest
import torch

from backbones import ConfigError, DataError
from backbones.roadmap.steps import STEPS
from downstream.zoo.roadmap import page as roadmap_page
from downstream.zoo.roadmap import table as roadmap

# The project's notes on section 2 of the paper: multiply-adds that follow from its text, billions.
COMPUTED = {
    'tiny': '4.089 4.526 4.418 2.350 5.268 4.644 4.065 4.097 4.146 4.210 4.291 4.146 4.146 4.146 '
    '4.146 4.456',
    'base': '15.007 14.52 14.376 7.234 16.764 15.679 14.627 14.699 14.807 14.950 15.130 14.807 14.807 '
    '14.807 14.807 15.355',
}


@pytest.mark.parametrize('regime', COMPUTED)
def test_multiply_adds_of_every_step(regime):
    """Counted from the shapes of the layers, by hooks, and not by the counter of the check."""
    for step, figure in zip(roadmap.steps(regime), COMPUTED[regime].split(), strict=True):
        decimals = len(figure.partition('.')[2])
        found = counted(step.classifier())
        assert f'{found:.{decimals}f}' == figure, step.name
        assert step.computed == float(figure)
        if not step.slip:
            assert round(found, 2) == step.gflops, step.name


def counted(model: torch.nn.Module) -> float:
    total = []

    def count(module, inputs, output):
        positions = output[0, 0].numel() if output.ndim == 4 else 1
        total.append(positions * module.weight.numel())

    for module in model.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.register_forward_hook(count)
    model.eval()(torch.zeros(1, 3, 224, 224, device='meta'))
    return sum(total) / 1e9


def test_two_slips_of_the_print_are_named():
    slips = [step for regime in COMPUTED for step in roadmap.steps(regime) if step.slip]
    assert [(step.name, step.gflops) for step in slips] == [
        ('roadmap-layernorm', 4.46),
        ('roadmap-separate-downsampling', 4.49),
    ]
    for regime in COMPUTED:
        assert [step.step for step in roadmap.steps(regime) if not step.kernel] == list(STEPS)


def test_the_check_passes_and_fails(tool, monkeypatch):
    result = tool('zoo', 'check', 'roadmap')
    assert result.code == 0, result.err
    assert '35 rows, 44 checks passed' in result.out
    steps = roadmap.steps

    def changed(regime):
        return tuple(replace(s, computed=4.11, slip='') for s in steps('tiny')[:1])

    monkeypatch.setattr(roadmap, 'steps', changed)
    monkeypatch.setitem(roadmap._RELEASED, ('resnet', 'tiny'), 'resnet-101_in1k')
    monkeypatch.setitem(
        roadmap.published(), 'isotropic', [{'size': 'small', 'params': 23, 'gflops': 4.3}]
    )
    result = tool('zoo', 'check', 'roadmap')
    assert result.code == 2
    for words in (
        'roadmap-resnet: GMACs: 4.0892, not 4.11',
        'roadmap-resnet: weights: resnet-101_in1k',
        'convnext-iso-small: parameters: 22.3087, not 23',
    ):
        assert words in ' '.join(result.err.split())


def test_the_page_and_the_picture_are_those_of_the_figures():
    assert roadmap_page.PAGE.read_text() == roadmap_page.page(), 'run tools/zoo.py pages'
    # matplotlib's versions draw the same words by other paths
    words = words_of(roadmap_page.picture())
    assert words_of(roadmap_page.PICTURE.read_text()) == words
    assert {f'{step.top1:.2f}' for step in roadmap.steps('base')} <= set(words)


def words_of(picture: str) -> list[str]:
    return sorted(re.findall(r'<text[^>]*>(.*?)</text>', picture, re.DOTALL))


def comparison(folder, task: str, config: str, seeds: int = 3) -> str:
    """A folder as tools/compare.py leaves it, in short."""
    for place, step in enumerate(STEPS):
        for seed in range(seeds):
            value = place + seed / 2
            ap = dict.fromkeys(('AP', 'AP50', 'AP75'), value / 100)
            metrics = {'bbox': ap} if task == 'detection' else {'mIoU': value}
            for time, shift in (('20260101_000000', 0.3), ('20260101_000001', 0.0)):
                run = folder / f'roadmap-{step}-atto' / f'seed{seed}' / time
                run.mkdir(parents=True)
                report = {
                    'task': task,
                    'config': f'configs/{config}.py',
                    'checkpoint': 'epoch_6.pth' if task == 'detection' else 'iter_80.pth',
                    'metrics': metrics,
                }
                if shift:
                    report['metrics'] = {'mIoU': 99, 'bbox': dict.fromkeys(ap, 0.99)}
                (run / 'metrics.json').write_text(json.dumps(report))
    return str(folder)


def test_own_figures_come_from_comparisons(tool, tmp_path, monkeypatch):
    for name in ('PAGE', 'PICTURE'):
        target = tmp_path / getattr(roadmap_page, name).name
        monkeypatch.setattr(roadmap_page, name, target)
    monkeypatch.setattr(roadmap, 'MEASURED', tmp_path / 'measured.json')
    from downstream.zoo import pages

    monkeypatch.setattr(pages, 'PAGE', tmp_path / 'zoo.md')
    monkeypatch.setattr(pages, 'README', tmp_path / 'README.md')
    pages.PAGE.write_text('')
    pages.README.write_text(f'{pages.BEGIN}\n{pages.END}\n')
    det = comparison(tmp_path / 'det', 'detection', 'detector_shapes')
    seg = comparison(tmp_path / 'seg', 'segmentation', 'segmenter_shapes')
    result = tool('zoo', 'roadmap', det, seg)
    assert result.code == 0, result.err
    text = roadmap_page.PAGE.read_text()
    # means of 1, 1.5, 2 and t(.975, 2) * .5 / sqrt(3) = 4.30265 * .28868
    assert '| `roadmap-stage-ratio-atto` | 1.5 ± 1.2 | 1.5 ± 1.2 | 79.36 |' in text
    assert (
        'Mean of 3 seeds after 6 epochs of `detector_shapes` (box AP) and 80 steps of '
        '`segmenter_shapes` (mIoU), from random weights.'
    ) in text
    assert 'may not be taken to show' in text
    assert 'Not run yet' not in text
    words = words_of(roadmap_page.PICTURE.read_text())
    assert {'box AP (atto, ours)', 'mIoU (atto, ours)'} <= set(words)

    with pytest.raises(ConfigError, match='one comparison of each task'):
        roadmap.collect([det, det])
    newest = tmp_path / 'seg' / 'roadmap-gelu-atto' / 'seed1' / '20260101_000001' / 'metrics.json'
    newest.write_text(newest.read_text().replace('iter_80', 'iter_40'))
    with pytest.raises(DataError, match='trained for 40 steps and 80 steps'):
        roadmap.collect([seg])
    (tmp_path / 'det' / 'roadmap-gelu-atto' / 'seed1' / '20260101_000001' / 'metrics.json').unlink()
    (tmp_path / 'det' / 'roadmap-gelu-atto' / 'seed1' / '20260101_000000' / 'metrics.json').unlink()
    with pytest.raises(DataError, match=r'no metrics\.json of every seed of roadmap-gelu-atto'):
        roadmap.collect([det])


def test_a_single_seed_has_no_interval():
    assert roadmap_page.interval([2.0]) == (2.0, None)
