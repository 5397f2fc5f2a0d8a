"""The table, the configs and the pages say the same."""

import json
import re
from collections import Counter

import pytest

from backbones import ConfigError
from backbones.names import built_in_names
from downstream.zoo import find_row, pages, rows
from downstream.zoo.table import CONFIGS, matching, sweep_of
from tests.conftest import ROOT

LEAVES = sorted(
    path.relative_to(CONFIGS).as_posix()
    for task in ('det', 'seg')
    for path in (CONFIGS / task).glob('*.py')
    if 'shapes' not in path.name
)


def test_every_recipe_is_a_row_and_every_row_a_recipe():
    assert sorted(row.config for row in rows()) == LEAVES
    assert len({row.name for row in rows()}) == len(rows()) == 132


def test_every_published_row_is_there():
    count = Counter((row.paper, row.task) for row in rows())
    assert count['ConvNeXt', 'detection'] == 16  # table 3
    assert count['ConvNeXt', 'segmentation'] == 11  # table 4
    assert count['ConvNeXt V2', 'detection'] == 7  # table 6, without other authors' pretraining
    assert count['ConvNeXt V2', 'segmentation'] == 7  # table 7, likewise
    assert count['DINOv3', 'segmentation'] == 4
    assert count['detrex', 'detection'] == 12  # R50, Swin-T twice and L, ConvNeXt
    assert count['Mask2Former', 'detection'] == 6  # of its model zoo all but R101
    assert count['Mask2Former', 'segmentation'] == 6  # likewise, and without R101c
    assert count['InternImage', 'detection'] == 6  # Swin and ConvNeXt in its table of Mask R-CNN 1x


def test_figures_of_others_are_near_the_published_ones():
    repeated = [(row, found) for row in rows() for found in row.repetitions]
    assert len(repeated) == 32
    for row, found in repeated:
        assert found.source
        for kind, figure in found.figures.items():
            ours, theirs = (
                v[0] if isinstance(v, list) else v for v in (row.published[kind], figure)
            )
            assert abs(ours - theirs) < 1, (row.name, found)
    named = json.loads((CONFIGS.parent / 'downstream/zoo/zoo.json').read_text())['repetitions']
    assert sum(len(entry['figures']) for entry in named) == len(repeated)  # no row is misspelt
    v1 = [r for r, found in repeated if found.by == 'SSSegmentation' and r.family == 'convnext']
    assert [r.size for r in v1] == ['tiny', 'small', 'base', 'base', 'large', 'xlarge']


def test_rows_know_their_parts_by_name():
    for row in rows():
        assert row.backbone in built_in_names(), row.name
        assert row.method in (
            'cascade-mask-rcnn',
            'mask-rcnn',
            'cascade-rcnn',
            'faster-rcnn',
            'dino-4scale',
            'rtmdet-l',
            'mask2former',
            'upernet',
            'linear',
        )
        assert (row.weights is None) == ('_sup_' in row.name)
        assert all(0 < v < 100 for v in figures_of(row))
        if 'convnextv2' in row.name and row.weights:
            assert row.licence == 'CC-BY-NC-4.0'
    row = find_row('cascade-mask-rcnn_convnext-tiny_in1k_3x_coco')
    assert row.published == {'box': [50.4, 69.1, 54.8], 'mask': [43.7, 66.5, 47.3]}
    assert (row.weights, row.schedule, row.data) == ('convnext-tiny_in1k', '3x', 'coco')


def figures_of(row) -> list[float]:
    values = row.published.values()
    return [v for figure in values for v in (figure if isinstance(figure, list) else [figure])]


def test_leaves_are_short_and_hold_no_number_of_the_table():
    lengths = [len((CONFIGS / path).read_text().splitlines()) for path in LEAVES]
    assert sum(lengths) / len(lengths) <= 15
    for row in rows():
        numbers = re.findall(r'(?<![\w.-])\d+(?:\.\d+)?(?![\w.-])', row.path.read_text())
        counted = {str(row.params), str(row.gmacs), *map(str, figures_of(row))}
        assert not counted & set(numbers), row.name


def test_pages_are_those_of_the_table():
    assert pages.PAGE.read_text() == pages.page(), 'run tools/zoo.py pages'
    assert pages.README.read_text() == pages.readme(), 'run tools/zoo.py pages'
    assert f'{ROOT}' not in pages.page()


def test_a_row_is_found_by_name_or_file():
    row = find_row('mask-rcnn_convnext-tiny_in1k_3x_coco')
    assert find_row('configs/det/mask-rcnn_convnext-tiny_in1k_3x_coco.py') is row
    with pytest.raises(ConfigError, match='Did you mean mask-rcnn_convnext-tiny_in1k_3x_coco'):
        find_row('mask-rcnn_convnext-tiny_1k_3x_coco')


def test_rows_are_filtered():
    assert {row.family for row in matching(family='swin')} == {'swin'}
    assert {row.task for row in matching(task='seg')} == {'segmentation'}
    assert {row.size for row in matching(size='huge')} == {'huge'}
    assert all('NC' in row.licence for row in matching(licence='cc-by-nc'))
    assert all('lsj' in row.name for row in matching('*lsj*'))
    with pytest.raises(ConfigError, match='families: convnext, convnextv2'):
        matching(family='vgg')


def test_sweeps_are_those_of_the_papers():
    sweep = sweep_of(find_row('mask-rcnn_convnextv2-base_fcmae_3x-lsj_coco'))
    assert sweep == {
        'optim_wrapper.paramwise_cfg.decay_rate': [0.9, 0.95],
        'model.backbone.drop_path_rate': [0.2, 0.3, 0.4, 0.5],
    }
    for row in rows():
        if row.sweep and row.paper == 'ConvNeXt V2':
            cfg = row.cfg
            for key, values in sweep_of(row).items():
                value = cfg
                for part in key.split('.'):
                    value = value[part]
                assert value in values, (row.name, key)
    with pytest.raises(ConfigError, match='no sweep'):
        sweep_of(find_row('cascade-mask-rcnn_swin-tiny_in1k_3x_coco'))
