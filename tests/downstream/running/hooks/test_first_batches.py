"""Pictures of the first batches under ``compile``: the same pictures, and the same run."""

import pytest
import torch
from mmengine.config import Config

from downstream.running.runner import SuiteRunner
from tests.conftest import write_tiny_config


def run(task: str, shapes, folder, **changes) -> tuple[dict, dict]:
    """Pictures by name, and the weights in the end."""
    folder.mkdir()
    cfg = Config.fromfile(write_tiny_config(task, shapes, folder))
    cfg.work_dir = str(folder / 'run')
    cfg.randomness = dict(seed=3)
    cfg.train_dataloader.persistent_workers = False
    # Random sizes for the batch, as YOLOX has them, drawn by Python's own numbers.
    cfg.model.data_preprocessor.batch_augments = changes.pop('augments', None)
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.default_hooks.checkpoint.save_best = None
    cfg.merge_from_dict(changes)
    runner = SuiteRunner.from_cfg(cfg)
    runner.train()
    pictures = {
        path.name: path.read_bytes() for path in (folder / 'run').glob('*/first_batches/*.jpg')
    }
    return pictures, runner.model.state_dict()


SIZES = [dict(type='BatchSyncRandomResize', random_size_range=(64, 160), interval=1)]


@pytest.mark.parametrize(('task', 'augments'), [('detection', SIZES), ('segmentation', None)])
def test_a_compiled_run_draws_the_same_pictures_and_changes_nothing(
    task, augments, shapes, tmp_path, monkeypatch
):
    expected, weights = run(task, shapes, tmp_path / 'plain', augments=augments)
    # The compiler itself takes a minute; what it compiles here is its own business.
    monkeypatch.setattr(torch, 'compile', lambda step, **options: step)
    changes = {'compile': {'backend': 'eager'}}
    pictures, found = run(task, shapes, tmp_path / 'compiled', augments=augments, **changes)
    assert len(pictures) == 4
    assert pictures == expected
    assert all(torch.equal(found[name], value) for name, value in weights.items())


@pytest.mark.slow
def test_a_step_that_is_really_compiled(shapes, tmp_path):
    expected, _ = run('segmentation', shapes, tmp_path / 'plain')
    torch._dynamo.reset()
    pictures, _ = run(
        'segmentation', shapes, tmp_path / 'compiled', **{'compile': {'backend': 'eager'}}
    )
    assert pictures == expected
    assert pictures
