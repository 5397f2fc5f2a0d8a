"""A loss or a gradient that is infinite or NaN stops a run, or is skipped, before the weights change."""

import copy
import io
from contextlib import contextmanager

import pytest
import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS, OPTIM_WRAPPERS

from downstream.distributed import flags
from downstream.running.checkpoint import files
from downstream.running.hooks.finite import NotFiniteError
from tests.conftest import write_tiny_config
from tests.downstream.running.tiny_run import tiny_run
from tests.support import processes


@HOOKS.register_module()
class PoisonHook(Hook):
    """Makes the loss or a gradient infinite or NaN in one iteration, in all processes or in one."""

    def __init__(self, what: str, step: int = 4, rank: int | None = None) -> None:
        self.what, self.step, self.rank = what, step, rank

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter != self.step or self.rank not in (None, runner.rank):
            return
        model = getattr(runner.model, 'module', runner.model)
        if self.what == 'loss':
            data_batch['inputs'][0][0] = float('inf')
        elif self.what == 'loss alone':
            # the loss is infinite, and its gradients are finite
            handle = model.register_forward_hook(
                lambda model, inputs, output: (
                    handle.remove(), {'loss': output['loss'] + float('inf')},
                )[1],
                prepend=True,
            )  # fmt: skip
        else:
            handle = model.net[3].bias.register_hook(
                lambda grad: (handle.remove(), grad * float('nan'))[1]
            )


def hooks_of(what: str, step: int = 4, rank: int | None = None, **finite) -> list[dict]:
    poison = dict(type='PoisonHook', what=what, step=step, rank=rank)
    return [dict(type='FiniteLossHook', **finite), poison]


@pytest.mark.parametrize('what', ['loss', 'gradient'])
def test_a_run_stops_before_the_weights_change(what, tmp_path):
    with pytest.raises(NotFiniteError, match='iteration 4: .*not finite') as caught:
        tiny_run(tmp_path, custom_hooks=hooks_of(what))
    if what == 'gradient':
        assert 'net.3.bias' in str(caught.value)
    content = torch.load(tmp_path / 'not_finite_iter4_rank0.pth')
    assert len(content['inputs']) == 4
    assert files.newest_whole(tmp_path)[1]['meta']['iter'] == 4
    state = files.newest_whole(tmp_path)[1]['state_dict']
    assert all(torch.isfinite(v).all() for v in state.values() if v.is_floating_point())


@HOOKS.register_module()
class RecordingHook(Hook):
    """Records weights, averages and counts of the optimizer after every iteration."""

    priority = 'VERY_LOW'
    seen: list = []

    def before_train(self, runner) -> None:
        self.seen.clear()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        model = getattr(runner.model, 'module', runner.model)
        weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer = copy.deepcopy(runner.optim_wrapper.optimizer.state_dict()['state'])
        self.seen.append((weights, optimizer, runner.optim_wrapper.inner_count))


@pytest.mark.parametrize('what', ['loss', 'loss alone', 'gradient'])
def test_a_skipped_step_changes_neither_weights_nor_optimizer(what, tmp_path, capsys):
    hooks = [*hooks_of(what, step=6, skips=1), dict(type='RecordingHook')]
    tiny_run(tmp_path, custom_hooks=hooks)
    (before, optimizer, _), (after, same, count), (later, _, _) = RecordingHook.seen[5:8]
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert optimizer[0]['step'] == same[0]['step'] == 6
    assert torch.equal(optimizer[0]['exp_avg'], same[0]['exp_avg'])
    assert count == 7
    assert not torch.equal(later['net.0.weight'], after['net.0.weight'])
    assert 'The step is skipped; 0 more may be' in capsys.readouterr().out


@pytest.mark.parametrize('what', ['loss', 'gradient'])
def test_accumulated_passes_are_skipped_together(what, tmp_path, capsys):
    """The optimizer steps in the same iterations as without a skip."""
    wrapper = dict(
        type='OptimWrapper', accumulative_counts=3, optimizer=dict(type='AdamW', lr=0.01)
    )
    hooks = [*hooks_of(what, step=4, skips=1), dict(type='RecordingHook')]
    tiny_run(tmp_path, custom_hooks=hooks, optim_wrapper=wrapper)
    weights = [seen[0]['net.0.weight'] for seen in RecordingHook.seen]
    changed = [
        i for i in range(1, len(weights)) if not torch.equal(weights[i], weights[i - 1])
    ]  # fmt: skip
    assert changed == [2, 8, 11, 14]
    assert [seen[2] for seen in RecordingHook.seen] == list(range(1, 16))
    assert 'skipped with the gradients of its 3 passes' in capsys.readouterr().out


def test_nothing_of_the_hook_stays_in_the_model(tmp_path):
    runner = tiny_run(tmp_path, custom_hooks=[dict(type='FiniteLossHook')])
    model = runner.model
    assert 'parse_losses' not in vars(model)
    assert not {'step', 'update_params'} & set(vars(runner.optim_wrapper))
    copied = copy.deepcopy(model)
    torch.save(model, io.BytesIO())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), copied.parameters()))
    assert not model._forward_hooks
    assert not runner.optim_wrapper.optimizer._optimizer_step_pre_hooks


def test_a_second_training_checks_once(tmp_path, monkeypatch):
    """Neither a finished training nor a failed one leaves its check behind."""
    checks = []
    monkeypatch.setattr(
        'downstream.running.hooks.finite.maximum',
        lambda *values: checks.append(values) or flags.maximum(*values),
    )
    runner = tiny_run(tmp_path, custom_hooks=[dict(type='FiniteLossHook')], epochs=1)
    assert len(checks) == 3
    runner.train_loop._epoch = runner.train_loop._iter = 0
    runner.train()
    assert len(checks) == 6
    with pytest.raises(NotFiniteError):
        tiny_run(tmp_path / 'failed', custom_hooks=hooks_of('gradient', step=0))


def test_a_failed_training_leaves_nothing_in_the_model(tmp_path):
    models = []

    @HOOKS.register_module(force=True)
    class ModelHook(Hook):
        def before_train(self, runner) -> None:
            models.append(runner.model)

    with pytest.raises(NotFiniteError):
        tiny_run(tmp_path, custom_hooks=[*hooks_of('loss', step=1), dict(type='ModelHook')])
    assert not models[0]._forward_hooks
    copy.deepcopy(models[0])


@OPTIM_WRAPPERS.register_module()
class ScaledOptimWrapper(OptimWrapper):
    """mmengine's AmpOptimWrapper demands CUDA; this one has torch's GradScaler on the CPU."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.loss_scaler = torch.amp.GradScaler('cpu', init_scale=2.0**10)

    @contextmanager
    def optim_context(self, model):
        with super().optim_context(model):
            yield

    def backward(self, loss, **kwargs) -> None:
        self.loss_scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs) -> None:
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.loss_scaler.update()


SCALED = dict(type='ScaledOptimWrapper', optimizer=dict(type='AdamW', lr=0.01))


def test_the_loss_scaler_skips_infinite_gradients_by_itself(tmp_path, capsys):
    runner = tiny_run(tmp_path, custom_hooks=hooks_of('gradient'), optim_wrapper=SCALED)
    assert runner.iter == 15
    assert runner.optim_wrapper.loss_scaler.get_scale() == 2.0**9
    assert 'skipped' not in capsys.readouterr().out


@pytest.mark.parametrize('what', ['loss', 'loss alone'])
def test_an_infinite_loss_stops_a_scaled_run_too(what, tmp_path):
    hooks = [*hooks_of(what), dict(type='RecordingHook')]
    with pytest.raises(NotFiniteError, match='iteration 4: the loss is not finite'):
        tiny_run(tmp_path, custom_hooks=hooks, optim_wrapper=SCALED)


def test_the_former_name_still_works(tmp_path):
    with pytest.raises(NotFiniteError):
        tiny_run(tmp_path, custom_hooks=[dict(type='FiniteGuardHook'), hooks_of('loss')[1]])


def run_poisoned(**arguments) -> None:
    """A run where the hooks of this module are known."""
    tiny_run(**arguments)


@pytest.mark.parametrize('sharded', [False, True])
def test_all_processes_stop_for_one(sharded, tmp_path):
    """The loss of rank 1 is infinite and all gradients are finite: only the flag tells rank 0."""
    hooks = hooks_of('loss alone', rank=1)
    arguments = {'work_dir': tmp_path / 'run', 'custom_hooks': hooks, 'sharded': sharded}
    for process in processes.start(run_poisoned, tmp_path, [arguments] * 2):
        process.join(60)
        assert process.exitcode == 2, (tmp_path / 'out0').read_text()
    assert 'a loss or a gradient of rank 1 is not finite' in (tmp_path / 'out0').read_text()
    assert 'rank 1: iteration 4: the loss is not finite' in (tmp_path / 'out1').read_text()


def count_exchanges(**arguments) -> None:
    """Count the all_reduces of a training of 6 steps, apart from DDP's."""
    count, reduce = [], dist.all_reduce

    def counting(tensor, *args, **kwargs):
        count.append(tensor.numel())
        return reduce(tensor, *args, **kwargs)

    dist.all_reduce = counting
    hook = dict(type='CountingHook')
    CountingHook.count = count
    tiny_run(custom_hooks=[*arguments.pop('hooks'), hook], epochs=3, **arguments)
    print('exchanges', CountingHook.found)


@HOOKS.register_module()
class CountingHook(Hook):
    count: list = []
    found: list = []

    def before_train(self, runner) -> None:
        self.count.clear()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        type(self).found = list(self.count)


@pytest.mark.parametrize(
    'hooks',
    [
        [dict(type='FiniteLossHook'), dict(type='PreemptionHook')],
        [dict(type='FiniteLossHook')],
        [dict(type='PreemptionHook')],
    ],
    ids=['both', 'finite', 'preemption'],
)
def test_a_step_costs_one_exchange(hooks, tmp_path):
    arguments = {'work_dir': tmp_path / 'run', 'hooks': hooks}
    for process in processes.start(count_exchanges, tmp_path, [arguments] * 2):
        process.join(60)
        assert process.exitcode == 0, (tmp_path / 'out0').read_text()
    line = (tmp_path / 'out0').read_text().split('exchanges ')[1].splitlines()[0]
    # the last one of a hook that comes later is not counted yet
    assert len(line.split(',')) in (5, 6), line


def test_the_images_of_a_bad_step_are_named(tool, shapes, tmp_path):
    config = write_tiny_config('detection', shapes, tmp_path)
    with open(config, 'a') as file:
        file.write("optim_wrapper = dict(optimizer=dict(lr=float('inf')))\n")
    result = tool('train', config, '--work-dir', tmp_path / 'run')
    assert result.code == 2, result.out[-2000:]
    assert 'not finite' in result.err
    assert 'images [' in result.err
    assert len(result.err.strip().splitlines()) == 1
