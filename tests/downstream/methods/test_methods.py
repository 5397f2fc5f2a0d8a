"""Methods of mmdet and mmseg train a step and predict with other backbones."""

import pytest

from downstream.methods import page
from downstream.methods.commands import BACKBONES, KEPT, read_kept, try_methods
from downstream.methods.recipes import methods
from downstream.methods.trial import CANNOT, WORKS, Outcome

# A neck of one map, of the reverse order, none; heads that call view(), that read a neck's own maps.
QUICK = ('mmdet::yolof', 'mmdet::yolo', 'mmseg::dmnet', 'mmseg::fastfcn')


@pytest.mark.parametrize('key', QUICK)
def test_a_method_of_each_kind(key):
    assert try_methods([key], ['convnext-atto'])[key]['convnext-atto'].status == WORKS


def test_a_method_bound_to_its_backbone_says_so():
    outcome = try_methods(['mmdet::cornernet'], ['convnext-atto'])['mmdet::cornernet']
    assert outcome['convnext-atto'].status == CANNOT
    assert 'hourglass' in outcome['convnext-atto'].note


@pytest.mark.slow
@pytest.mark.parametrize('backbone', BACKBONES)
@pytest.mark.parametrize('key', [method.key for method in methods()])
def test_a_method_does_what_the_page_says(key, backbone):
    outcome = try_methods([key], [backbone])[key][backbone]
    said = read_kept(KEPT)[key][backbone]
    assert outcome.status in (WORKS, said.status), outcome  # what failed may work by now


def test_the_page_counts_a_method_by_its_worst_backbone():
    kept = {
        'mmdet::a': {
            'x': Outcome(WORKS, 'mmdet::a/a.py'),
            'y': Outcome(CANNOT, 'mmdet::a/a.py', 'z'),
        }
    }
    text = page.page(kept)
    assert '**cannot** 1' in text
    assert '| a | `a.py` | works (x); cannot (y) | z |' in text


def test_the_page_is_that_of_the_kept_results():
    assert {method.key for method in methods()} == set(read_kept(KEPT))
    assert page._PAGE.read_text(encoding='utf-8') == page.page(read_kept(KEPT))
