"""mmdet's DINO takes the decoder that its checkpoint has."""

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

from backbones.uninitialised import on_meta
from downstream.running import config
from downstream.running.stock import parts

DINO = 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'
# As published; that of onedl-mmdetection's own class is twice as long.
KINDS = {512: 'DINODetector', 1024: 'DINO'}


def checkpoint(folder, width: int, prefix: str = '') -> str:
    name = f'{prefix}decoder.ref_point_head.layers.0.weight'
    path = folder / f'{width}.pth'
    torch.save({'state_dict': {name: torch.zeros(256, width)}}, path)
    return str(path)


@pytest.mark.parametrize('width', KINDS)
@pytest.mark.parametrize('prefix', ['', 'transformer.'])  # mmdet's, detrex's
def test_a_test_takes_the_decoder_of_the_file(width, prefix, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(parts, 'print_log', lambda line, logger: said.append(line))
    options = config.TestOptions(
        DINO, str(tmp_path), checkpoint=checkpoint(tmp_path, width, prefix)
    )
    assert config.testing_config(options).model.type == KINDS[width]
    lines = [line for line in said if 'decoder of DINO as published' in line]
    assert len(lines) == (width == 512)


def test_a_start_from_a_file_does_too(tmp_path):
    options = config.TrainOptions(DINO, str(tmp_path), start_from=checkpoint(tmp_path, 512))
    assert config.training_config(options).model.type == 'DINODetector'


def test_cascade_rpn_can_be_built_from_mmdets_recipe():
    """Which lacks an argument of its head and has one that no head takes."""
    options = config.TrainOptions('mmdet::cascade_rpn/cascade-rpn_r50-caffe_fpn_1x_coco.py')
    cfg = config.read_config(options)
    with DefaultScope.overwrite_default_scope('mmdet'), on_meta():
        assert len(MODELS.build(cfg.model).bbox_head.stages) == 2
