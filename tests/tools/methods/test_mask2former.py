"""Mask2Former from the command line: the embedded example; the recipe of instances at reduced size."""

from tests.conftest import (
    ROOT,
    TINY_CONFIG,
    assert_figures_are_pycocotools,
    embedded_as_coco,
    read_metrics,
)

INSTANCES = """
_base_ = '{base}'
from downstream.drop_in import num_classes

width = 16
attention = dict(embed_dims=width, num_heads=2)
feed_forward = dict(embed_dims=width, feedforward_channels=32)
position = dict(num_feats=width // 2)
model = num_classes(_base_.model, 3)
model['backbone'] = dict(arch='atto', init_cfg=None)
model['train_cfg'] = dict(num_points=64)
model['test_cfg'] = dict(max_per_image=20)
model['panoptic_head'].update(
    in_channels=[40, 80, 160, 320],
    feat_channels=width,
    out_channels=width,
    num_queries=10,
    pixel_decoder=dict(
        norm_cfg=dict(num_groups=4),
        encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=feed_forward)),
        positional_encoding=position,
    ),
    positional_encoding=position,
    transformer_decoder=dict(
        num_layers=2,
        layer_cfg=dict(
            self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=feed_forward
        ),
    ),
)
{data}
train_cfg = dict(max_iters=2, val_interval=2)
optim_wrapper = dict(type='OptimWrapper')
default_hooks = dict(checkpoint=dict(interval=1))
"""


def test_the_embedded_example_trains_and_is_tested(shapes, tmp_path, tool):
    base = ROOT / 'configs/seg/mask2former_convnext-atto_shapes.py'
    config = tmp_path / 'example.py'
    config.write_text(
        TINY_CONFIG['segmentation'].format(base=base, root=f'{shapes}/')
        + 'model.update(decode_head=dict(train_cfg=dict(num_points=64)))\n'
    )
    work = tmp_path / 'work'
    result = tool('train', config, '--work-dir', work)
    assert result.code == 0, result.err
    result = tool('test', config, work / 'iter_2.pth', '--work-dir', work, '--tta')
    assert result.code == 0, result.err
    assert 0 <= read_metrics(work)['mIoU'] <= 100


def test_the_recipe_of_instances_trains_and_its_figures_are_cocos(shapes, tmp_path, tool):
    base = ROOT / 'configs/det/mask2former_convnext-tiny_in1k_50e-lsj_coco.py'
    config = tmp_path / 'instances.py'
    config.write_text(INSTANCES.format(base=base, data=embedded_as_coco(shapes, 0.125)))
    work, out = tmp_path / 'work', tmp_path / 'out'
    result = tool('train', config, '--work-dir', work)
    assert result.code == 0, result.err
    result = tool('test', config, work / 'iter_2.pth', '--work-dir', work, '--out', out)
    assert result.code == 0, result.err
    assert_figures_are_pycocotools(work, out, shapes, 'segm')
