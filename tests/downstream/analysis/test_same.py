"""What may be compared: each difference is named."""

import json
import shutil

import numpy as np
import pytest

from backbones.errors import DataError
from downstream.analysis import bootstrap, kept
from downstream.analysis.same import difference_of, refuse_different
from tests.downstream.analysis import test_kept, test_kept_segmentation


def detector(folder, name, ids=(3, 8), edit=None):
    """A test of detection on annotations of its own."""
    rng = np.random.default_rng(len(name))
    place = folder / f'data_{name}'
    place.mkdir()
    ann_file = test_kept.write_truth(place, ids)
    if edit:
        content = json.loads(ann_file.read_text())
        edit(content)
        ann_file.write_text(json.dumps(content))
    predictions = [test_kept.detections(rng, i, 3, masks=False) for i in ids]
    test_kept.kept_test(folder / name, ann_file, predictions, ('bbox',))
    return kept.find_tests(folder / name)[0]


def changed(test, folder, edit):
    """A copy of a test whose metrics.json is edited."""
    shutil.copytree(test.folder, folder)
    report = json.loads((folder / 'metrics.json').read_text())
    edit(report)
    (folder / 'metrics.json').write_text(json.dumps(report))
    return kept.find_tests(folder)[0]


@pytest.fixture
def segmenter(tmp_path):
    def make(name, names=None, edit=None):
        rng = np.random.default_rng(0)
        pairs = [test_kept_segmentation.pair(rng, 30, 40) for _ in range(2)]
        if edit:
            edit(pairs)
        return test_kept_segmentation.kept_test(tmp_path / name, pairs, names)

    return make


def test_files_may_differ_in_what_no_figure_depends_on(tmp_path):
    def edit(content):
        content['info'] = {'year': 2000}
        content['annotations'] = content['annotations'][::-1]

    a, b = detector(tmp_path, 'a'), detector(tmp_path, 'b', edit=edit)
    assert a.data['digest'] != b.data['digest']
    refuse_different(a, b)


def moved(content):
    content['annotations'][1]['bbox'] = [4, 5, 10, 10]


def renamed(content):
    content['images'][0]['file_name'] = 'other.jpg'


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'ids': (3, 8, 9)}, '2 images and 3'),
        ({'ids': (3, 9)}, r'image 8 \(8.jpg\) is in the first one only'),
        ({'edit': moved}, r'the annotations of image 8 \(8.jpg\) differ'),
        ({'edit': renamed}, 'image 3 is 3.jpg and other.jpg'),
    ],
)
def test_other_data_are_named(tmp_path, options, message):
    a, b = detector(tmp_path, 'a'), detector(tmp_path, 'b', **options)
    with pytest.raises(DataError, match=f'a and .*b cannot be compared: {message}'):
        bootstrap.difference(a, b)


def set_classes(report):
    report['data']['classes'] = ['cat', 'cow']


def add_class(report):
    report['data']['classes'] = ['cat', 'dog', 'cow']


def set_protocol(report):
    report['data']['protocol'] = {'tta': False, 'pipeline': [{'scale': [10, 20]}]}


def set_rules(report):
    report['data']['rules']['proposal_nums'] = [1, 10, 300]


def forget(report):
    del report['data']['digest']


@pytest.mark.parametrize(
    ('edit', 'message'),
    [
        (set_classes, "classes 'dog' and 'cow' in the same place"),
        (add_class, '2 classes and 3'),
        (set_protocol, 'pipeline is None and '),
        (set_rules, 'rules.proposal_nums.2 is 100 and 300'),
        (
            forget,
            'does not say what was tested; run the test again: python tools/test.py c.py w.pth',
        ),
    ],
)
def test_another_protocol_is_named(tmp_path, edit, message):
    a = detector(tmp_path, 'a')
    with pytest.raises(DataError, match=message):
        refuse_different(a, changed(a, tmp_path / 'b', edit))


def test_a_nested_setting_is_named(tmp_path):
    a = changed(detector(tmp_path, 'a'), tmp_path / 'b', set_protocol)
    c = changed(a, tmp_path / 'c', lambda report: report['data']['protocol'].update(tta=True))
    assert difference_of(a, c) == 'tta is False and True'

    def rescale(report):
        report['data']['protocol']['pipeline'][0]['scale'][1] = 30

    d = changed(a, tmp_path / 'd', rescale)
    assert difference_of(a, d) == 'pipeline.0.scale.1 is 20 and 30'


def test_other_masks_are_named(segmenter):
    def repaint(pairs):
        pairs[1][1][0, 0] = 1 - pairs[1][1][0, 0]

    def predict_otherwise(pairs):
        pairs[1][0][0, 0] = 1 - pairs[1][0][0, 0]

    a = segmenter('a')
    refuse_different(a, segmenter('b', edit=predict_otherwise))
    with pytest.raises(DataError, match=r'the annotations of image 1.png differ'):
        refuse_different(a, segmenter('c', edit=repaint))
    with pytest.raises(DataError, match=r'image 1.png is in the first one only'):
        refuse_different(a, segmenter('d', names=['0.png', '2.png']))
    with pytest.raises(DataError, match=r'2 images and 1'):
        refuse_different(a, segmenter('e', edit=lambda pairs: pairs.pop()))


def test_two_tasks_are_named(tmp_path, segmenter):
    with pytest.raises(DataError, match='detection and segmentation'):
        refuse_different(detector(tmp_path, 'x'), segmenter('y'))
