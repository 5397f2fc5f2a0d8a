"""What exact resume, guards and watches cost an iteration, beside mmengine's own loop and hooks.

python -m benchmarks.runs
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from pathlib import Path

import downstream  # noqa: F401  before mmdet
from downstream.benchmarking.timing import Timings, interleave
from downstream.data.shapes import make_shapes
from downstream.running.config import TrainOptions, training_config
from downstream.running.runner import SuiteRunner

CONFIGS = {
    'detection': 'configs/det/cascade-mask-rcnn_convnext-atto_shapes.py',
    'segmentation': 'configs/seg/upernet_convnext-atto_shapes.py',
}
OWN_HOOKS = ('finite', 'unreadable', 'preemption', 'hanging', 'progress')


def iterations(task: str, root: Path) -> dict:
    """A function per runner that does one training iteration, data loading included."""
    from mmengine.runner import Runner

    options = TrainOptions(CONFIGS[task], str(root / 'run'))
    cfg = training_config(options)
    cfg.randomness = {'seed': 0}
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = f'{root}/shapes/'
        loader.update(num_workers=0, persistent_workers=False)
    plain = copy.deepcopy(cfg)
    for name in OWN_HOOKS:
        plain.default_hooks.pop(name)
    plain.default_hooks.checkpoint = {'type': 'CheckpointHook', 'interval': 10**6}
    steps = {}
    for name, build, own in (('mmengine', Runner, plain), ('this suite', SuiteRunner, cfg)):
        own.work_dir = str(root / name.replace(' ', '-'))
        own.experiment_name = f'{task}-{name}'
        runner = build.from_cfg(own)
        steps[name] = _one_iteration(runner)
    return steps


def _one_iteration(runner):
    # All that train() does before its first iteration; then the loop is driven from here.
    loop = runner.build_train_loop(runner._train_loop)
    runner._train_loop = loop
    loop.run = lambda: None
    runner._val_loop = runner._val_evaluator = None
    runner.train()
    runner.call_hook('before_train')
    runner.call_hook('before_train_epoch')
    runner.model.train()

    def batches():
        while True:
            yield from loop.dataloader

    endless = batches()

    def step() -> None:
        batch = next(endless)
        if hasattr(loop, 'dataloader_iterator'):
            loop.run_iter(batch)
        else:
            loop.run_iter(0, batch)

    return step


def measure(task: str, rounds: int) -> Timings:
    """Iterations of both runners, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_shapes(root / 'shapes', training=16, validation=1)
        return interleave(iterations(task, root), rounds, warm_up=3, title=task)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=40)
    rounds = parser.parse_args().rounds
    for task in CONFIGS:
        timings = measure(task, rounds)
        ratio = timings.speed('mmengine', 'this suite')
        print(
            f'{task}: mmengine {1000 * timings.spread("mmengine").median:.1f} ms, this suite '
            f'{1000 * timings.spread("this suite").median:.1f} ms an iteration; time ratio {ratio:.3f}'
        )


if __name__ == '__main__':
    main()
