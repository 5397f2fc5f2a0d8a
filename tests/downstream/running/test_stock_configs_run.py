"""A config of mmdet or mmseg trains with what the suite's own recipes can rely on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

from downstream.own.prepare import DataOptions, prepare
from downstream.running.config import TestOptions, TrainOptions, read_config, training_config
from downstream.running.runner import SuiteRunner
from downstream.running.test import evaluate
from downstream.running.train import build_runner
from tests.conftest import read_metrics, write_tiny_config
from tests.downstream.own.test_prepare import instances  # noqa: F401  a fixture

RETINANET = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
FIGURES = {
    RETINANET: 'coco/bbox_mAP',
    'mmdet::rpn/rpn_r50_fpn_1x_coco.py': 'coco/AR@1000',
    'mmseg::fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py': 'mIoU',
}
RECIPES = {
    RETINANET: 'epoch_1.pth',
    'mmdet::rpn/rpn_r50_fpn_1x_coco.py': 'epoch_1.pth',
    'mmseg::fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py': 'iter_4.pth',
}


def config_for(recipe: str, data: Path, tmp_path: Path, **changes) -> Config:
    options = TrainOptions(
        recipe,
        work_dir=str(tmp_path / 'run'),
        backbone='convnext-atto',
        epochs=1,
        image_size=64,
        batch_size=2,
        cfg_options=changes,
    )
    return training_config(prepare(options, DataOptions(str(data))))


@pytest.mark.parametrize('recipe', RECIPES)
def test_a_run_leaves_what_a_run_of_the_suite_leaves(recipe, instances, tmp_path):  # noqa: F811
    cfg = config_for(recipe, instances, tmp_path)
    runner = build_runner(cfg)
    runner.train()
    run = tmp_path / 'run'
    last = Path((run / 'last_checkpoint').read_text())
    assert last.is_file()
    assert last.with_name(f'{last.name}.sha256').is_file()  # written by the suite
    assert list(Path(runner.log_dir).glob('first_batches/*.jpg'))
    complete = Config.fromfile(run / 'run.complete.py')
    assert 'downstream.running' in complete.custom_imports.imports
    report = evaluate(TestOptions(str(run / 'run.complete.py'), checkpoint=str(last)))
    assert FIGURES[recipe] in report['metrics'] or recipe == RETINANET  # it may detect nothing yet
    assert list(run.glob('*/metrics.json'))


def test_a_model_with_the_replaced_backbone_is_left_out(instances, tmp_path, capsys):  # noqa: F811
    """Cityscapes' recipes start from a whole detector with a ResNet-50."""
    recipe = 'mmdet::cityscapes/faster-rcnn_r50_fpn_1x_cityscapes.py'
    assert config_for(recipe, instances, tmp_path).load_from is None
    assert 'is left out (load_from)' in capsys.readouterr().out
    assert read_config(TrainOptions(recipe, backbone='convnext-atto')).load_from is None
    assert 'a whole model with the backbone that is replaced' in capsys.readouterr().out
    assert 'faster_rcnn_r50' in read_config(TrainOptions(recipe)).load_from


def test_hooks_that_a_config_has_or_leaves_out_stay(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(
        f"_base_ = '{RETINANET}'\ndefault_hooks = dict(checkpoint=dict(interval=7), hanging=None)\n"
    )
    options = TrainOptions(str(path), cfg_options={'default_hooks.first_batches.batches': 1})
    hooks = training_config(options).default_hooks
    assert (hooks.checkpoint.type, hooks.checkpoint.interval) == ('SafeCheckpointHook', 7)
    assert 'save_best' not in hooks.checkpoint  # mmdet's recipe saves no best one
    assert hooks.hanging is None
    assert (hooks.finite.type, hooks.first_batches.batches) == ('FiniteLossHook', 1)
    assert hooks.visualization.type == 'DetVisualizationHook'


def test_mmengines_own_hook_can_save(instances, tmp_path):  # noqa: F811
    """Its third argument has a place."""
    cfg = config_for(RETINANET, instances, tmp_path)
    cfg.default_hooks.checkpoint.type = 'CheckpointHook'
    SuiteRunner.from_cfg(cfg).train()
    assert (tmp_path / 'run' / 'epoch_1.pth').is_file()


def test_figures_of_any_metric_are_written(shapes, tmp_path, monkeypatch):
    """Those of a metric of one's own may be numbers of NumPy, arrays or tensors."""
    figures = dict(mIoU=np.float32(0.5), own=torch.tensor(2.0), each=np.array([1.0, 3.0]), name='a')
    monkeypatch.setattr(SuiteRunner, 'test', lambda self: figures)
    torch.save({'state_dict': {'a': torch.ones(1)}}, tmp_path / 'a.pth')
    config = write_tiny_config('segmentation', shapes, tmp_path)
    with config.open('a') as file:
        file.write(
            "\ntest_evaluator = dict(_delete_=True, type='IoUMetric', iou_metrics=['mIoU'])\n"
        )
    evaluate(
        TestOptions(str(config), checkpoint=str(tmp_path / 'a.pth'), work_dir=str(tmp_path / 'run'))
    )
    written = read_metrics(tmp_path / 'run')
    assert written == dict(mIoU=0.5, own=2.0, each=[1.0, 3.0], name='a')
