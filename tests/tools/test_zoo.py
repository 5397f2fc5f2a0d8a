"""tools/zoo.py: list, show, check, compare, plan, sweep."""

import json

import pytest

ROW = 'cascade-mask-rcnn_convnext-tiny_in1k_3x_coco'
UPERNET = 'upernet_convnext-tiny_in1k_160k_ade20k-512x512'


def test_list_and_show(tool):
    result = tool('zoo', 'list', '--family', 'resnet')
    assert result.code == 0, result.err
    assert 'cascade-mask-rcnn_resnet-50_in1k_3x_coco' in result.out
    assert ROW not in result.out
    result = tool('zoo', 'show', ROW)
    assert '85,930,578' in result.out
    assert 'MIT' in result.out
    assert 'ConvNeXt (table 3)' in result.out
    result = tool('zoo', 'show', 'cascade-mask-rcnn_convnext-tini_in1k_3x_coco')
    assert result.code == 2
    assert f'Did you mean {ROW}' in result.err


def test_check_passes_and_fails(tool, monkeypatch):
    result = tool('zoo', 'check', ROW, UPERNET)
    assert result.code == 0, result.err
    assert '2 rows, 8 checks passed' in result.out
    from downstream.zoo import checks

    monkeypatch.setitem(checks.IMAGES, 'coco', 0)
    monkeypatch.setitem(checks._PUBLISHED, '3x', {'epochs': 12, 'drops': [8, 11], 'batch': 16})
    result = tool('zoo', 'check', ROW)
    assert result.code == 2
    assert f'{ROW}: schedule: (36, [27, 33]), not (12, [8, 11])' in result.err


def metrics(tmp_path, content):
    path = tmp_path / 'metrics.json'
    path.write_text(json.dumps(content))
    return path


def test_compare_puts_figures_side_by_side(tool, tmp_path):
    box = {'AP': 0.5, 'AP50': 0.7, 'AP75': None}
    path = metrics(
        tmp_path,
        {'task': 'detection', 'tta': False, 'metrics': {'bbox': box, 'segm': box}},
    )
    result = tool('zoo', 'compare', path, ROW)
    assert result.code == 0, result.err
    lines = {line.split('│')[1].strip(): line for line in result.out.splitlines() if '│' in line}
    assert '50.40' in lines['box AP']
    assert '-0.40' in lines['box AP']
    assert '+6.30' in lines['mask AP']
    assert lines['box AP75'].split('│')[3].strip() == '-'

    path = metrics(tmp_path, {'task': 'segmentation', 'tta': True, 'metrics': {'mIoU': 46.0}})
    result = tool('zoo', 'compare', path, UPERNET)
    assert 'mIoU multi-scale' in result.out
    assert '-0.70' in result.out


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ({'task': 'segmentation', 'metrics': {'mIoU': 1}}, 'has results of segmentation'),
        ({'mIoU': 1}, 'is not a metrics.json'),
        ([1], 'is not a metrics.json'),
    ],
)
def test_compare_refuses_other_files(tool, tmp_path, content, message):
    result = tool('zoo', 'compare', metrics(tmp_path, content), ROW)
    assert result.code == 2
    assert message in result.err
    result = tool('zoo', 'compare', tmp_path / 'no.json', ROW)
    assert result.code == 2
    assert 'is not a metrics.json' in result.err


def test_plan_and_sweep_print_commands(tool):
    result = tool('zoo', 'plan', ROW, '--gpus', '2', '--memory', '7')
    assert result.code == 0, result.err
    assert '1 per GPU x 2 GPUs x 8 accumulated = 16' in result.out
    assert f'tools/dist_train.sh configs/det/{ROW}.py 2' in result.out
    result = tool('zoo', 'sweep', 'mask-rcnn_convnextv2-base_fcmae_3x-lsj_coco')
    assert len(result.out.splitlines()) == 8
    assert 'decay_rate=0.9 model.backbone.drop_path_rate=0.2' in result.out
