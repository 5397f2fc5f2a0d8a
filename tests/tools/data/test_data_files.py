"""tools/data.py: split, convert and classes."""

import json

from downstream.data.formats.find import find


def test_split_convert_and_classes(tool, shapes, tmp_path):
    """One way through: a part is split, converted, and its classes are listed."""
    source = shapes / 'annotations' / 'instances_training.json'
    result = tool('data', 'split', source, '--val-share', '.25', '--out', tmp_path / 'parts')
    assert result.code == 0, result.err
    assert 'split with seed 0: 3 images for training, 1 for validation' in result.out
    sizes = {
        part: len(json.loads((tmp_path / 'parts' / f'{part}.json').read_text())['images'])
        for part in ('train', 'val')
    }
    assert sizes == {'train': 3, 'val': 1}
    assert len((tmp_path / 'parts' / 'train.images.txt').read_text().splitlines()) == 3

    result = tool('data', 'convert', source, tmp_path / 'yolo', '--to', 'yolo')
    assert result.code == 0, result.err
    assert '4 images, 3 classes, parts all' in result.out
    assert len(find(tmp_path / 'yolo').parts['all'].coco['images']) == 4

    result = tool('data', 'convert', source, tmp_path / 'masks', '--to', 'masks')
    assert result.code == 0, result.err
    result = tool('data', 'classes', tmp_path / 'masks')
    assert result.code == 0, result.err
    assert 'index masks, segmentation, 4 classes' in result.out
    rows = [line for line in result.out.splitlines() if '│' in line]
    shares = [float(row.split('│')[2]) for row in rows]
    assert abs(sum(shares) - 100) < 0.1
    assert shares[0] > 50  # background


def test_a_wrong_command_is_one_line(tool, shapes, tmp_path):
    result = tool('data', 'convert', shapes, tmp_path / 'x', '--to', 'kitti')
    assert result.code == 2
    assert result.err.count('\n') == 1
    assert 'kitti' in result.err
    result = tool('data', 'classes', tmp_path / 'nowhere')
    assert result.code == 2
    assert 'does not exist' in result.err
