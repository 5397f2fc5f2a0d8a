"""RTMDet from the command line, at reduced size: its last pipeline and its moving average, too."""

from tests.conftest import ROOT, assert_figures_are_pycocotools, embedded_as_coco

SMALL = """
_base_ = '{base}'
width = 16
model = dict(
    backbone=dict(arch='atto', init_cfg=None),
    neck=dict(
        in_channels=[80, 160, 320], out_channels=width, num_csp_blocks=1, norm_cfg=dict(num_groups=4)
    ),
    bbox_head=dict(
        num_classes=3, in_channels=width, feat_channels=width, norm_cfg=dict(num_groups=4)
    ),
    test_cfg=dict(max_per_img=20),
)
{data}
train_dataloader.update(batch_size=2)
train_cfg = dict(max_epochs=2, val_interval=1, dynamic_intervals=None)
average, switch = _base_.custom_hooks
custom_hooks = [
    average,
    dict(
        switch, switch_epoch=1, switch_pipeline=resized(switch.switch_pipeline, 0.2)
    ),
]
default_hooks = dict(checkpoint=dict(interval=1))
"""


def test_it_trains_and_its_figures_are_cocos(shapes, tmp_path, tool):
    base = ROOT / 'configs/det/rtmdet-l_convnext-base_in22k-in1k-384_100e_coco.py'
    config = tmp_path / 'rtmdet.py'
    config.write_text(SMALL.format(base=base, data=embedded_as_coco(shapes, 0.2)))
    work, out = tmp_path / 'work', tmp_path / 'out'
    result = tool('train', config, '--work-dir', work)
    assert result.code == 0, result.err
    assert 'Switch pipeline now!' in result.out + result.err
    result = tool('test', config, work / 'epoch_2.pth', '--work-dir', work, '--out', out)
    assert result.code == 0, result.err
    assert_figures_are_pycocotools(work, out, shapes, 'bbox')
