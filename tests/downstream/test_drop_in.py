"""Necks and heads are told what the backbone states."""

import pytest

from backbones import ConfigError
from downstream.drop_in import backbone_config, detector, num_classes, segmentor


def test_detector_and_segmentor_know_the_channels():
    assert detector('convnextv2-pico')['neck'] == {'in_channels': [64, 128, 256, 512]}
    fields = segmentor('convnext-base_in22k', drop_path_rate=0.4)
    assert fields['decode_head'] == {'in_channels': [128, 256, 512, 1024], 'in_index': [0, 1, 2, 3]}
    assert fields['auxiliary_head'] == {'in_channels': 512, 'in_index': 2}
    assert fields['backbone'] == {
        'type': 'ConvNeXt',
        'arch': 'base',
        'drop_path_rate': 0.4,
        'init_cfg': {'type': 'Pretrained', 'checkpoint': 'convnext-base_in22k'},
    }


def test_fewer_outputs_mean_fewer_channels():
    assert detector('convnext-atto', out_indices=(1, 2, 3))['neck']['in_channels'] == [80, 160, 320]


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('resnext-50', 'known: convnext, convnextv2'),
        ('convnext-huge', 'atto, femto'),
        ('convnext-tiny_in12k', 'convnext-tiny_in1k'),
        ('convnextv2-small_fcmae', 'no such weights'),
    ],
)
def test_unknown_names_list_the_known(name, message):
    with pytest.raises(ConfigError, match=message):
        backbone_config(name)


def test_num_classes_reaches_every_head():
    cascade = {'roi_head': {'bbox_head': [{'a': 1}, {'a': 2}], 'mask_head': {'b': 1}}}
    assert num_classes(cascade, 7) == {
        'roi_head': {
            'bbox_head': [{'a': 1, 'num_classes': 7}, {'a': 2, 'num_classes': 7}],
            'mask_head': {'num_classes': 7},
        }
    }
    assert num_classes(cascade, 7, {'neck': 1})['neck'] == 1
    upernet = {'decode_head': {'x': 1}, 'auxiliary_head': {'x': 1}}
    assert num_classes(upernet, 2) == {
        'decode_head': {'num_classes': 2},
        'auxiliary_head': {'num_classes': 2},
    }
    widths = {'decode_head': {'in_channels': [1, 2]}}
    assert num_classes(upernet, 2, widths) == {
        'decode_head': {'in_channels': [1, 2], 'num_classes': 2},
        'auxiliary_head': {'num_classes': 2},
    }
