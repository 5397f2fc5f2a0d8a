"""Every row passes its checks, and each check fails where it should."""

from dataclasses import replace

import pytest
import torch
from mmengine.config import Config
from torch import nn

from downstream.zoo import complexity, find_row
from downstream.zoo.checks import check_row

from .choice import first_of_each

CASCADE = 'cascade-mask-rcnn_convnext-tiny_in1k_3x_coco'
UPERNET = 'upernet_convnext-tiny_in1k_160k_ade20k-512x512'


@pytest.mark.parametrize('row', first_of_each('method', 'family', 'size'))
def test_a_row_is_what_the_paper_says(row):
    results = check_row(row)
    assert set(results) == {'parameters', 'GMACs', 'weights', 'schedule'}
    assert not {k: v for k, v in results.items() if 'FAIL' in v}


def changed(name: str, **changes) -> dict[str, str]:
    """The failures of a row whose config has other values."""
    row = replace(find_row(name))
    row.cfg.merge_from_dict(changes)
    return {title: words for title, words in check_row(row).items() if 'FAIL' in words}


@pytest.mark.parametrize(
    ('name', 'changes', 'title', 'words'),
    [
        (CASCADE, {'model.rpn_head.feat_channels': 128}, 'parameters', 'not 85,930,578'),
        (CASCADE, {'model.rpn_head.feat_channels': 128}, 'GMACs', 'not 740.69'),
        (CASCADE, {'train_cfg.max_epochs': 12}, 'schedule', r'(12, [27, 33])'),
        (CASCADE, {'param_scheduler.1.milestones': [8, 11]}, 'schedule', '[8, 11]'),
        (CASCADE, {'train_dataloader.batch_size': 4}, 'schedule', '32 images'),
        (
            CASCADE,
            {'model.backbone.init_cfg.checkpoint': 'convnext-tiny_in22k'},
            'weights',
            'convnext-tiny_in22k',
        ),
        (UPERNET, {'train_cfg.max_iters': 80000}, 'schedule', '80000'),
        (UPERNET, {'param_scheduler.1.end': 160000}, 'schedule', '159999'),
    ],
)
def test_what_is_changed_is_named(name, changes, title, words):
    found = changed(name, **changes)
    assert words in found[title]


class Layers(nn.Module):
    """A segmenter of single layers, to count by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),  # 8 x 8 positions
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False),
            nn.ConvTranspose2d(8, 4, 2, stride=2),  # from 8 x 8 to 16 x 16
            nn.SyncBatchNorm(4),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(1),
        )
        self.decode_head = nn.Sequential(nn.Flatten(), nn.Linear(4, 10), nn.LayerNorm(10))


def test_operations_are_counted_by_the_old_rule():
    with torch.device('meta'):
        model = Layers().eval()
    expected = (
        64 * (27 * 8 + 8)  # bias included
        + 2 * 8 * 64
        + 8 * 64
        + 64 * 9 * 2 * 8
        + 64 * 4 * 8 * 4 + 4 * 256
        + 0 + 0
        + 4 * 256
        + 4 * 10  # no bias
        + 2 * 10
    )  # fmt: skip
    assert complexity.gmacs(model, (16, 16)) == pytest.approx(expected / 1e9)


def test_a_detector_is_counted_whatever_its_config_calls_its_pipelines():
    cfg = replace(find_row(CASCADE)).cfg
    cfg.pop('test_pipeline')
    assert complexity.counted_size(cfg) == complexity.DETECTOR_SIZE


@pytest.mark.parametrize(
    ('family', 'gmacs'), [('resnet-50', 739), ('swin-tiny', 745), ('convnext-tiny', 741)]
)
def test_the_papers_columns_are_reproduced(family, gmacs):
    row = find_row(f'cascade-mask-rcnn_{family}_in1k_3x_coco')
    assert row.printed['gmacs'] == gmacs
    model = complexity.build_on_meta(row.cfg)
    assert round(complexity.gmacs(model, complexity.counted_size(row.cfg))) == gmacs


class ReadsNumbers(nn.Module):
    """Asks for numbers while it is built, as the drop path rates of many backbones are made."""

    def __init__(self) -> None:
        super().__init__()
        self.rates = [rate.item() for rate in torch.linspace(0, 0.1, 3)]
        self.layer = nn.Linear(2, 3)


def test_a_model_that_cannot_be_built_on_the_meta_device_is_counted():
    cfg = Config(dict(default_scope='mmdet', model=dict(type=ReadsNumbers)))
    model = complexity.build_on_meta(cfg)
    assert complexity.parameters(model) == 9
    assert model.layer.weight.is_meta
    assert model.rates[2] == pytest.approx(0.1)
