"""DINO from the command line: the embedded example; detrex's recipe at reduced size, resumed exactly."""

import json

import torch

from tests.conftest import ROOT, assert_figures_are_pycocotools, embedded_as_coco

SMALL = """
_base_ = '{base}'
width = 16
attention = dict(embed_dims=width, num_heads=2)
feed_forward = dict(embed_dims=width, feedforward_channels=32)
model = dict(
    backbone=dict(arch='atto', init_cfg=None),
    neck=dict(in_channels=[80, 160, 320], out_channels=width, norm_cfg=dict(num_groups=4)),
    num_queries=20,
    encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=feed_forward)),
    decoder=dict(
        num_layers=2,
        layer_cfg=dict(
            self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=feed_forward
        ),
    ),
    positional_encoding=dict(num_feats=width // 2),
    bbox_head=dict(num_classes=3, embed_dims=width),
    test_cfg=dict(max_per_img=20),
)
{data}
randomness = dict(seed=7)
"""
OF_A_ROW = """
train_cfg = dict(max_iters=4, val_interval=4)
default_hooks = dict(checkpoint=dict(interval=2))
"""


def written(folder, recipe: str, root, scale: float, text: str):
    path = folder / f'{recipe}.py'
    data = embedded_as_coco(root, scale)
    small = SMALL.format(base=ROOT / 'configs' / 'det' / f'{recipe}.py', data=data)
    path.write_text(f'{small}{text}')
    return path


def test_the_embedded_example_trains_tests_and_predicts(shapes, tool, tmp_path):
    config = written(
        tmp_path, 'dino_convnext-atto_shapes', shapes, 1, 'train_cfg = dict(max_epochs=1)\n'
    )
    result = tool('train', config, '--work-dir', tmp_path / 'run')
    assert result.code == 0, result.err
    assert 'UserWarning' not in result.out + result.err
    checkpoint = tmp_path / 'run' / 'epoch_1.pth'
    words = ('--work-dir', tmp_path / 'test', '--out', tmp_path / 'out')
    result = tool('test', config, checkpoint, *words)
    assert result.code == 0, result.err
    found = tmp_path / 'out' / 'detections.bbox.json'
    assert len(json.loads(found.read_text())) == 3 * 20
    assert_figures_are_pycocotools(tmp_path / 'test', tmp_path / 'out', shapes, 'bbox')
    picture = next((shapes / 'images' / 'validation').iterdir())
    result = tool(
        'predict', config, checkpoint, picture, '--score', '0', '--out', tmp_path / 'predicted'
    )
    assert result.code == 0, result.err
    predicted = json.loads((tmp_path / 'predicted' / 'predictions.json').read_text())['annotations']
    assert len(predicted) == 20
    assert 'segmentation' not in predicted[0]


def parameters(path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=False)['state_dict']


def test_detrexs_recipe_resumes_exactly(shapes, tool, tmp_path):
    """It counts iterations, over endless batches of images of like shape."""
    recipe = 'dino-4scale_convnext-tiny_in22k-in1k-384_12e_coco'
    config = written(tmp_path, recipe, shapes, 0.1, OF_A_ROW)
    whole = tool('train', config, '--work-dir', tmp_path / 'whole')
    assert whole.code == 0, whole.err
    options = ('--cfg-options', 'train_cfg.max_iters=2')
    assert tool('train', config, '--work-dir', tmp_path / 'parts', *options).code == 0
    result = tool('train', config, '--work-dir', tmp_path / 'parts', '--resume')
    assert result.code == 0, result.err
    expected, found = (parameters(tmp_path / name / 'iter_4.pth') for name in ('whole', 'parts'))
    assert set(expected) == set(found)
    assert not [name for name in expected if not torch.equal(expected[name], found[name])]
    begun = parameters(tmp_path / 'whole' / 'iter_2.pth')
    assert [name for name in expected if not torch.equal(expected[name], begun[name])]
