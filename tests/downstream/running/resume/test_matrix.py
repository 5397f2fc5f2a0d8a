"""Two, three and four processes: exact resume, a stop with a slow disk, sharding, sliding windows."""

import json
from pathlib import Path

import cv2
import pytest
import torch
import torch.distributed as dist

from downstream.data.shapes import make_shapes
from downstream.running import config as run_config
from downstream.running.checkpoint import files
from downstream.running.hooks.preemption import PreemptedError
from downstream.running.test import evaluate
from downstream.running.train import train
from tests.conftest import ROOT, write_tiny_config
from tests.downstream.running.hooks.test_preemption import LateSignalHook
from tests.downstream.running.tiny_run import ADAMW, tiny_run
from tests.support import processes

from .test_exact_resume import TWISTED, require_equal_parts, require_same_training

pytestmark = pytest.mark.slow
COUNTS = pytest.mark.parametrize('count', [2, 3, 4])
TWO_PASSES = ADAMW | dict(accumulative_counts=2)
RUNS = {
    'whole': {},
    'unused sought': dict(find_unused_parameters=True),
    'sharded': dict(sharded=True),
    'accumulated': dict(optim_wrapper=TWO_PASSES),
    'sharded and accumulated': dict(sharded=True, optim_wrapper=TWO_PASSES),
    'reduced late': dict(sharded=dict(sync_every_pass=False), optim_wrapper=TWO_PASSES),
}


@COUNTS
@pytest.mark.parametrize('changes', RUNS.values(), ids=RUNS)
def test_a_resumed_run_is_the_uninterrupted_one(count, changes, tmp_path):
    require_equal_parts(count, tmp_path, **changes)


def stop_by_signal(folder: Path, **changes) -> None:
    """A run as a whole; one that SIGTERM stops while its disk is slow, and its end."""
    changes = dict(model=TWISTED, epochs=6, **changes)
    finite = dict(type='FiniteLossHook')
    hooks = [finite, LateSignalHook(seconds=1)]
    tiny_run(folder / 'whole', custom_hooks=[finite], **changes)
    stopping = dict(preemption=dict(type='PreemptionHook'), checkpoint=None)
    with pytest.raises(PreemptedError, match='SIGTERM after saving'):
        tiny_run(folder / 'parts', custom_hooks=hooks, default_hooks=stopping, **changes)
    assert files.newest_whole(folder / 'parts')[0].name == files.INTERRUPTED
    tiny_run(folder / 'parts', custom_hooks=[finite], request='auto', **changes)


@COUNTS
@pytest.mark.parametrize('sharded', [False, True])
def test_a_run_that_was_told_to_stop_goes_on_exactly(count, sharded, tmp_path):
    arguments = [{'folder': tmp_path, 'sharded': sharded}] * count
    processes.finish(processes.start(stop_by_signal, tmp_path, arguments), tmp_path)
    require_same_training(tmp_path / 'parts', tmp_path / 'whole')


LINEAR = """
_base_ = [{bases}]
from downstream.drop_in import linear_segmentor, num_classes

model = num_classes(_base_.model, 4, linear_segmentor('convnext-atto', frozen_stages=4))
model['data_preprocessor'].update(size=_base_.crop_size)
train_cfg = dict(max_iters=2, val_interval=2)
train_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(data_root={root!r}))
val_dataloader = dict(num_workers=0, dataset=dict(data_root={root!r}))
test_dataloader = val_dataloader
default_hooks = dict(checkpoint=dict(interval=1))
"""
LINEAR_BASES = (
    'methods/linear.py',
    'datasets/shapes-masks.py',
    'schedules/ade20k-40k.py',
    'runtime/segmentation.py',
)
# Windows of the larger images: 4, of the smaller ones: 2.
SLIDE = """
model['test_cfg'] = dict(mode='slide', crop_size=(192, 192), stride=(128, 128))
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, _delete_=True),
    paramwise_cfg=dict(decay_rate=1.0),
)
randomness = dict(seed=7)
"""


@pytest.fixture(scope='module')
def two_sizes(tmp_path_factory) -> Path:
    """The embedded data set with every second image of the validation cut."""
    root = tmp_path_factory.mktemp('data') / 'shapes'
    make_shapes(root, training=8, validation=5)
    for split in ('images', 'annotations'):
        for path in sorted((root / split / 'validation').iterdir())[::2]:
            cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[:128, :200])
    return root


def config_of(kind: str, root: Path, folder: Path) -> Path:
    if kind == 'upernet':
        path = write_tiny_config('segmentation', root, folder)
        text = path.read_text() + 'model = dict()\n'
    else:
        path = folder / 'linear.py'
        bases = ', '.join(repr(str(ROOT / 'configs' / '_base_' / base)) for base in LINEAR_BASES)
        text = LINEAR.format(bases=bases, root=f'{root}/')
    path.write_text(text + SLIDE)
    return path


def train_and_test(config: str, folder: Path, sharded: bool | dict) -> None:
    """Train with a validation by sliding windows, test the checkpoint; leave both figures."""
    common = dict(config=config, launcher='pytorch', cfg_options={'sharded': sharded})
    runner = train(run_config.TrainOptions(work_dir=str(folder), **common), check_data='no')
    validated = runner.message_hub.get_scalar('val/mIoU').current()
    require_same_everywhere(runner.unwrapped_model)
    options = run_config.TestOptions(
        work_dir=str(folder), checkpoint=str(folder / 'iter_2.pth'), **common
    )
    tested = evaluate(options, show_report=False)['metrics']['mIoU']
    if dist.get_rank() == 0:
        (folder / 'figures.json').write_text(json.dumps([float(validated), tested]))
    dist.barrier()


def require_same_everywhere(model: torch.nn.Module) -> None:
    """The trained parameters are those of the first process: gradients were averaged."""
    for parameter in model.parameters():
        if isinstance(parameter, torch.distributed.tensor.DTensor):
            continue
        first = parameter.detach().clone()
        dist.broadcast(first, 0)
        assert torch.equal(first, parameter)


def trained(config: Path, folder: Path, count: int, sharded: bool | dict) -> tuple[dict, list]:
    """The weights that ``count`` processes end with, and mIoU of their validation and of a test."""
    arguments = [{'config': str(config), 'folder': folder, 'sharded': sharded}] * count
    processes.finish(processes.start(train_and_test, folder, arguments), folder, 300)
    weights = files.verified(folder / 'iter_2.pth')['state_dict']
    return weights, json.loads((folder / 'figures.json').read_text())


@COUNTS
@pytest.mark.parametrize('kind', ['upernet', 'linear'])
def test_sliding_windows_over_images_of_two_sizes(count, kind, two_sizes, tmp_path):
    """Sharded or not: the same weights and figures."""
    config = config_of(kind, two_sizes, tmp_path)
    expected, of_whole = trained(config, tmp_path / 'whole', count, sharded=False)
    found, of_sharded = trained(config, tmp_path / 'sharded', count, sharded=True)
    if kind == 'linear':
        # UperNet's running statistics are each process's own on a CPU; a test has those of the first.
        assert of_whole[0] == of_whole[1]
        assert of_sharded[0] == of_sharded[1]
    assert of_sharded == pytest.approx(
        of_whole, abs=0.05
    )  # percent; a few pixels may be another class
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-5, msg=key)


def test_blocks_in_bfloat16_learn_the_same(two_sizes, tmp_path):
    """Two steps of a segmenter: the weights change as in float32, up to rounding of the blocks."""
    config = config_of('upernet', two_sizes, tmp_path)
    expected, _ = trained(config, tmp_path / 'whole', 2, sharded=False)
    rounded = {'param_dtype': 'bfloat16'}
    found, _ = trained(config, tmp_path / 'sharded', 2, sharded=rounded)
    first = files.verified(tmp_path / 'whole' / 'iter_1.pth')['state_dict']
    names = [name for name, value in expected.items() if value.is_floating_point()]
    change = sum((expected[n] - first[n]).double().square().sum() for n in names).sqrt()
    error = sum((found[n] - expected[n]).double().square().sum() for n in names).sqrt()
    assert 0 < error < 0.1 * change
