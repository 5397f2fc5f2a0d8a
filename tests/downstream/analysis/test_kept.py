"""What a test keeps: figures computed from it are those of the test, and bad files are named."""

import json
import logging
import os

import numpy as np
import pytest
from pycocotools import mask as rle

from backbones.errors import DataError
from downstream.analysis import detection, kept, suspects, worst
from downstream.analysis.kept import detection as kept_detection
from downstream.detection import CocoInstanceMetric
from downstream.detection.coco_evaluation import (
    HotcocoTruth,
    figures_of,
    with_hotcoco,
    with_pycocotools,
)
from downstream.detection.completed import read_truth

CLASSES = ('cat', 'dog')


def write_truth(folder, ids=(3, 8)):
    """Two images, a dog on the first and a cat on the second; categories are not in class order."""
    path = folder / 'truth.json'
    images = [{'id': i, 'file_name': f'{i}.jpg', 'width': 40, 'height': 30} for i in ids]
    square = [[5, 5, 15, 5, 15, 15, 5, 15]]
    boxes = [
        {'id': n, 'image_id': i, 'category_id': c, 'bbox': [5, 5, 10, 10], 'area': 100,
         'iscrowd': 0, 'segmentation': square}
        for n, (i, c) in enumerate(zip(ids, (9, 4)), 1)
    ]  # fmt: skip
    names = [{'id': 9, 'name': 'dog'}, {'id': 4, 'name': 'cat'}]
    path.write_text(json.dumps({'images': images, 'annotations': boxes, 'categories': names}))
    return path


def code(left):
    pixels = np.zeros((30, 40), np.uint8, order='F')
    pixels[5:15, left : left + 10] = 1
    return rle.encode(pixels)


def detections(rng, image, count, masks=True):
    boxes = np.sort(rng.random((count, 2, 2), dtype=np.float32) * 30, axis=1).reshape(-1, 4)
    one = {
        'img_id': image,
        'bboxes': boxes,
        'scores': rng.random(count, dtype=np.float32),
        'labels': rng.integers(0, 2, count),
    }
    if masks:
        one['masks'] = [code(int(left)) for left in rng.integers(0, 12, count)]
        one['mask_areas'] = np.full(count, 100, np.uint32)
    return one


def kept_test(folder, ann_file, predictions, kinds=('bbox', 'segm')):
    """A folder as tools/test.py leaves it, with the figures of the metric."""
    metric = CocoInstanceMetric(str(ann_file), list(kinds))
    metric.dataset_meta = {'classes': CLASSES}
    kept.prepare('detection', [metric])
    metric.compute_metrics([({}, one) for one in predictions])
    folder.mkdir()
    data = {'classes': list(CLASSES), **kept.write('detection', [metric], folder)}
    report = {
        'task': 'detection', 'config': 'c.py', 'checkpoint': 'w.pth',
        'metrics': metric.report, 'data': data,
    }  # fmt: skip
    (folder / 'metrics.json').write_text(json.dumps(report))
    return report


@pytest.fixture
def ann_file(tmp_path):
    return write_truth(tmp_path)


def test_figures_of_what_is_kept_are_those_of_the_test(tmp_path, ann_file):
    rng = np.random.default_rng(0)
    predictions = [detections(rng, 8, 7), detections(rng, 3, 0)]
    report = kept_test(tmp_path / 'run', ann_file, predictions)
    (test,) = kept.find_tests(tmp_path / 'run')
    truth = kept.truth_of(test)
    rules, names = kept.rules_of(test, truth), {4: 'cat', 9: 'dog'}
    by_reference = read_truth(str(ann_file))
    for kind in ('bbox', 'segm'):
        found = kept.detections_of(test, kind)
        for arrays in (
            with_hotcoco(HotcocoTruth(truth), found, rules),
            with_pycocotools(by_reference, found, rules),
        ):
            assert figures_of(arrays, rules, names) == report['metrics'][kind]


@pytest.mark.parametrize('kind', ['bbox', 'segm'])
def test_what_is_kept_is_enough_to_analyse(tmp_path, ann_file, kind):
    rng = np.random.default_rng(7)
    report = kept_test(tmp_path / 'run', ann_file, [detections(rng, 8, 7), detections(rng, 3, 9)])
    (test,) = kept.find_tests(tmp_path / 'run')
    result = detection.analyse(test, kind)
    expected = {k: v for k, v in report['metrics'][kind].items() if k != 'per_class'}
    assert result.total.figures == expected
    assert {row.name: row.figures['AP'] for row in result.classes} == (
        report['metrics'][kind]['per_class']
    )
    assert {one.file_name for one in worst.worst_of(test, kind)} == {'3.jpg', '8.jpg'}
    assert {one.image for one in suspects.suspects_of(test, kind)} <= {3, 8}


def test_kept_detections_are_as_predicted(tmp_path, ann_file):
    rng = np.random.default_rng(1)
    predictions = [detections(rng, 3, 2), detections(rng, 8, 3)]
    for one in predictions:
        one['mask_scores'] = one['scores'] / 2
    report = kept_test(tmp_path / 'run', ann_file, predictions)
    assert report['data']['images'] == 2
    assert report['data']['categories'] == [4, 9]
    read, categories = kept_detection.read(tmp_path / 'run' / kept_detection.FILE)
    assert categories == [4, 9]
    for one, again in zip(predictions, read, strict=True):
        assert one.keys() == again.keys()
        for key in ('bboxes', 'scores', 'labels', 'mask_areas', 'mask_scores'):
            np.testing.assert_array_equal(one[key], again[key])
        assert one['masks'] == again['masks']
        assert one['img_id'] == again['img_id']
    (test,) = kept.find_tests(tmp_path / 'run' / 'metrics.json')
    content = kept.predictions_of(test)
    assert content['categories'] == [{'id': 4, 'name': 'cat'}, {'id': 9, 'name': 'dog'}]
    first, box = content['annotations'][0], predictions[0]['bboxes'][0].astype(float)
    assert first['bbox'] == [*box[:2], *(box[2:] - box[:2])]
    assert first['score'] == float(predictions[0]['scores'][0])
    assert first['segmentation']['counts'] == predictions[0]['masks'][0]['counts'].decode()
    assert [one['id'] for one in content['annotations']] == [1, 2, 3, 4, 5]


def test_no_detection_at_all_is_kept_as_none(tmp_path, ann_file):
    empty = [detections(np.random.default_rng(0), image, 0, masks=False) for image in (3, 8)]
    kept_test(tmp_path / 'run', ann_file, empty, ['bbox'])
    (test,) = kept.find_tests(tmp_path / 'run')
    assert kept.predictions_of(test)['annotations'] == []
    assert len(kept.detections_of(test)) == 0


def test_what_is_too_large_is_left_out_masks_first(tmp_path, ann_file, monkeypatch):
    predictions = [detections(np.random.default_rng(2), 3, 40)]
    boxes = 4 + 40 * (16 + 4 + 4)
    monkeypatch.setattr(kept_detection, 'MAX_BYTES', boxes)
    said = []
    monkeypatch.setattr(
        kept_detection, 'print_log', lambda text, logger, level=logging.INFO: said.append(text)
    )
    kept_test(tmp_path / 'run', ann_file, predictions)
    (test,) = kept.find_tests(tmp_path / 'run')
    assert len(kept.detections_of(test)) == 40
    with pytest.raises(DataError, match='no masks were kept'):
        kept.detections_of(test, 'segm')
    monkeypatch.setattr(kept_detection, 'MAX_BYTES', boxes - 1)
    kept_test(tmp_path / 'other', ann_file, predictions)
    assert not (tmp_path / 'other' / kept_detection.FILE).exists()
    assert ['masks' in text for text in said] == [True, False]
    assert all('--out FOLDER' in text for text in said)
    (other,) = kept.find_tests(tmp_path / 'other')
    with pytest.raises(DataError, match=r'run the test again: python tools/test.py c.py w.pth'):
        kept.predictions_of(other)


def test_changed_and_absent_annotations_are_refused(tmp_path, ann_file):
    kept_test(tmp_path / 'run', ann_file, [detections(np.random.default_rng(3), 3, 2)])
    (test,) = kept.find_tests(tmp_path / 'run')
    assert len(kept.truth_of(test)['annotations']) == 2
    ann_file.write_text(ann_file.read_text() + ' ')
    with pytest.raises(DataError, match='has changed since the test'):
        kept.truth_of(test)
    ann_file.unlink()
    with pytest.raises(DataError, match='is not there'):
        kept.truth_of(test)


def test_truth_of_data_samples_is_kept_as_a_copy(tmp_path, ann_file):
    metric = CocoInstanceMetric(str(ann_file))
    metric.dataset_meta = {'classes': CLASSES}
    metric.ann_file = None  # as if the ground truth came with the samples
    kept.prepare('detection', [metric])
    metric.compute_metrics([({}, detections(np.random.default_rng(4), 3, 2, masks=False))])
    data = kept.write('detection', [metric], tmp_path)
    assert data['kept'] == ['predictions.npz', 'truth.json']
    copy = kept_detection.truth(tmp_path, data)
    assert copy['annotations'] == metric.truth['annotations']


def test_work_dirs_and_files_without_a_test_are_named(tmp_path, ann_file):
    with pytest.raises(DataError, match='does not exist'):
        kept.find_tests(tmp_path / 'nowhere')
    (tmp_path / 'work').mkdir()
    (tmp_path / 'work' / 'my.py').write_text('')
    (tmp_path / 'work' / 'last_checkpoint').write_text('/elsewhere/epoch_3.pth')
    with pytest.raises(DataError, match=r'tools/test.py \S+my.py \S+work/epoch_3.pth'):
        kept.find_tests(tmp_path / 'work')
    for place, content in enumerate(('[]', '{', '{"task": "detection"}')):
        path = tmp_path / f'{place}.json'
        path.write_text(content)
        with pytest.raises(DataError, match=f'{place}.json'):
            kept.find_tests(path)
    old = tmp_path / 'metrics.json'
    old.write_text('{"task": "detection", "metrics": {"bbox": {"per_class": {"cat": 1}}}}')
    (test,) = kept.find_tests(old)
    assert test.classes == ('cat',)
    for ask in (kept.truth_of, kept.predictions_of):
        with pytest.raises(DataError, match='does not say what was tested'):
            ask(test)


def test_the_newest_test_of_a_work_dir_is_taken(tmp_path, ann_file):
    work_dir = tmp_path / 'work'
    work_dir.mkdir()
    for name, time in (('a', 300), ('b', 200)):
        kept_test(work_dir / name, ann_file, [detections(np.random.default_rng(5), 3, 2)])
        os.utime(work_dir / name / 'metrics.json', (time, time))
    assert [test.folder.name for test in kept.find_tests(work_dir)] == ['a']


@pytest.mark.parametrize('content', [b'', b'PK\x03\x04 cut off', b'{}'])
def test_a_damaged_file_is_named(tmp_path, ann_file, content):
    kept_test(tmp_path / 'run', ann_file, [detections(np.random.default_rng(6), 3, 2)])
    (tmp_path / 'run' / kept_detection.FILE).write_bytes(content)
    (test,) = kept.find_tests(tmp_path / 'run')
    with pytest.raises(DataError, match=r'predictions.npz is damaged'):
        kept.predictions_of(test)
