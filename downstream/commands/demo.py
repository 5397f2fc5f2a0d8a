"""The embedded example from data to figures: made, trained, tested and drawn, each step once."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

from mmengine.config import Config

from downstream.data.shapes import make_shapes
from downstream.running.config import TestOptions, TrainOptions, read_config
from downstream.running.test import evaluate, print_report, write_json
from downstream.running.train import train

CONFIGS = {
    'detection': 'configs/det/cascade-mask-rcnn_convnext-atto_shapes.py',
    'segmentation': 'configs/seg/upernet_convnext-atto_shapes.py',
}


def demo(task: str) -> dict:
    """Run the example of ``task``; what an earlier call finished is not done again.

    An interrupted training goes on from its last checkpoint. Another config or version of the
    example starts anew.

    Returns:
        The summary, which is also in ``<work dir>/demo.json``: the report of
        :func:`~downstream.running.test.evaluate` with the paths of log, checkpoint and pictures.
    """
    config = CONFIGS[task]
    cfg = read_config(TrainOptions(config))
    work_dir = Path(cfg.work_dir)
    pictures = work_dir / 'pictures'
    fingerprint = hashlib.sha256(cfg.pretty_text.encode()).hexdigest()[:12]
    state_file, summary_file = work_dir / 'demo-state.json', work_dir / 'demo.json'
    make_shapes(Path(cfg.data_root))

    state = json.loads(state_file.read_text()) if state_file.is_file() else {}
    same = state.get('fingerprint') == fingerprint
    if same and summary_file.is_file():
        summary = json.loads(summary_file.read_text())
        print(f'Nothing to do: {summary_file} is up to date.')
        print_summary(summary)
        return summary
    work_dir.mkdir(parents=True, exist_ok=True)
    summary_file.unlink(missing_ok=True)
    started = time.time()
    checkpoint = _final_checkpoint(cfg, work_dir)
    if not (same and state['log'] and checkpoint.is_file()):
        go_on = same and (work_dir / 'last_checkpoint').is_file()
        write_json(state_file, {'fingerprint': fingerprint, 'log': None})
        runner = train(TrainOptions(config, resume='auto' if go_on else None))
        state = {'fingerprint': fingerprint, 'log': os.path.relpath(runner.logger.log_file)}
        write_json(state_file, state)
    options = TestOptions(config, checkpoint=str(checkpoint), show_dir=str(pictures))
    report = evaluate(options, show_report=False)
    summary = report | {
        'seconds': round(time.time() - started),
        'log': state['log'],
        'pictures': str(pictures),
    }
    write_json(summary_file, summary)
    print_summary(summary)
    return summary


def _final_checkpoint(cfg: Config, work_dir: Path) -> Path:
    if 'max_epochs' in cfg.train_cfg:
        return work_dir / f'epoch_{cfg.train_cfg.max_epochs}.pth'
    return work_dir / f'iter_{cfg.train_cfg.max_iters}.pth'


def print_summary(summary: dict) -> None:
    """The figures, and the paths of log, checkpoint and pictures."""
    print_report(summary)
    print(f'Trained and tested in {summary["seconds"]} s.')
    for name in ('log', 'checkpoint', 'pictures'):
        print(f'{name:>11}: {summary[name]}')
