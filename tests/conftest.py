"""What all tests share. The operators come before anything imports mmdet, mmseg or mmcv.ops."""

import contextlib
import gc
import io
import json
import os
import runpy
import sys
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

# Tests are small: more threads than free cores make them many times slower.
os.environ.setdefault('OMP_NUM_THREADS', '1')

import torch

if not torch.cuda.is_available():
    # Triton's kernels are interpreted; it asks when it is imported.
    os.environ.setdefault('TRITON_INTERPRET', '1')

import pytest
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import downstream  # noqa: F401
from downstream.data.shapes import make_shapes
from downstream.quiet import KNOWN_WARNINGS
from downstream.running.config_text import import_formatter

from .support.c_ways import way  # noqa: F401  a fixture

# Processes of pytest start at the same moment, each as the first of a fresh machine.
import_formatter()

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = {
    'detection': 'configs/det/cascade-mask-rcnn_convnext-atto_shapes.py',
    'segmentation': 'configs/seg/upernet_convnext-atto_shapes.py',
}
# The embedded example, cut down to two steps an epoch on small pictures with few proposals.
TINY_CONFIG = {
    'detection': """
_base_ = '{base}'
data_root = {root!r}
train_cfg = dict(max_epochs=1, val_interval=1)
resize = dict(type='Resize', scale=(160, 128), keep_ratio=True)
train_pipeline = [*_base_.train_pipeline[:2], resize, *_base_.train_pipeline[2:]]
test_pipeline = [_base_.test_pipeline[0], resize, *_base_.test_pipeline[2:]]
train_dataloader = dict(
    num_workers=0, dataset=dict(data_root=data_root, pipeline=train_pipeline)
)
val_dataloader = dict(
    num_workers=0, dataset=dict(data_root=data_root, pipeline=test_pipeline)
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_validation.json')
test_evaluator = val_evaluator
model = dict(
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=100, max_per_img=50),
        rcnn=[
            dict(stage, sampler=dict(stage.sampler, num=16))
            for stage in _base_.model.train_cfg.rcnn
        ],
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=100, max_per_img=30),
        # An untrained detector must find something, or figures and masks go untested.
        rcnn=dict(score_thr=0.0, max_per_img=20),
    ),
)
""",
    'segmentation': """
_base_ = '{base}'
data_root = {root!r}
train_cfg = dict(max_iters=2, val_interval=2)
crop_size = (128, 128)
train_pipeline = [
    dict(step, crop_size=crop_size) if step.type == 'RandomCrop' else step
    for step in _base_.train_pipeline
]
train_dataloader = dict(
    batch_size=2, num_workers=0, dataset=dict(data_root=data_root, pipeline=train_pipeline)
)
val_dataloader = dict(num_workers=0, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
default_hooks = dict(checkpoint=dict(interval=1))
model = dict(data_preprocessor=dict(size=crop_size))
""",
}


EMBEDDED_AS_COCO = """
from downstream.data.pipelines import resized

data_root = {root!r}
metainfo = dict(classes=('circle', 'square', 'triangle'))
"""
LOADER_AS_COCO = """
{part}_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/instances_{folder}.json',
        data_prefix=dict(img='images/{folder}/'),
        pipeline=resized(_base_.{pipeline}, {scale}),
    ),
)
"""
TESTED_AS_COCO = """
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_validation.json')
test_evaluator = val_evaluator
"""


def pytest_configure(config: pytest.Config) -> None:
    """What a user does not see of a run, pytest's summary does not show either."""
    for known in KNOWN_WARNINGS:
        config.addinivalue_line(
            'filterwarnings', f'ignore:{known.message}:UserWarning:{known.module}'
        )


@pytest.fixture(autouse=True, scope='module')
def what_was_imported_is_not_looked_at_again():
    """It lives until the end; mmengine collects for every data set that is built."""
    gc.collect()
    gc.freeze()


@dataclass
class Result:
    """How a command line ended."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def no_scope_left_behind():
    """mmengine's default scope is global: a test for mmseg must not change one for mmdet."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


@pytest.fixture
def tool(capfd, monkeypatch):
    """Runs a script of tools/ in this process: ``tool('train', config, '--amp')``."""

    def run(name: str, *words) -> Result:
        monkeypatch.setattr(sys, 'argv', [f'tools/{name}.py', *map(str, words)])
        # A new process has no logger yet; those of former runs write to streams that are closed.
        monkeypatch.setattr(MMLogger, '_instance_dict', OrderedDict())
        code = 0
        try:
            runpy.run_path(str(ROOT / 'tools' / f'{name}.py'), run_name='__main__')
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capfd.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture(scope='session')
def shapes(tmp_path_factory) -> Path:
    """A small embedded data set, shared: do not write into it."""
    root = tmp_path_factory.mktemp('data') / 'shapes'
    make_shapes(root, training=4, validation=3)
    return root


def write_tiny_config(task: str, root: Path, folder: Path) -> Path:
    """The config of a short run of ``task`` on the data in ``root``."""
    path = folder / f'{task}.py'
    path.write_text(TINY_CONFIG[task].format(base=ROOT / EXAMPLES[task], root=f'{root}/'))
    return path


def embedded_as_coco(root: Path, scale: float) -> str:
    """What replaces the data of a recipe for COCO; ``scale`` is that of its images."""
    parts = (('train', 'training', 'train_pipeline'), ('val', 'validation', 'test_pipeline'))
    loaders = [
        LOADER_AS_COCO.format(part=part, folder=folder, pipeline=pipeline, scale=scale)
        for part, folder, pipeline in parts
    ]
    return ''.join([EMBEDDED_AS_COCO.format(root=f'{root}/'), *loaders, TESTED_AS_COCO])


def read_metrics(work_dir: Path) -> dict:
    """The figures that the newest test wrote."""
    files = sorted(work_dir.glob('*/metrics.json'), key=lambda p: p.stat().st_mtime_ns)
    return json.loads(files[-1].read_text())['metrics']


def coco_by_hand(ann_file: Path, detections: Path, kind: str) -> dict[str, float | None]:
    """The six AP of saved detections as pycocotools computes them, None where it says -1."""
    truth = COCO(str(ann_file))
    found = json.loads(detections.read_text())
    if kind == 'segm':
        found = [{k: v for k, v in detection.items() if k != 'bbox'} for detection in found]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(found), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl')
    return {n: None if v < 0 else v for n, v in zip(names, evaluation.stats)}


def assert_figures_are_pycocotools(work_dir: Path, saved: Path, root: Path, kind: str) -> None:
    """Fail unless a test has the figures that pycocotools computes from the detections it saved.

    Args:
        work_dir: Where the test wrote its figures.
        saved: The folder of its detections, ``--out``.
        root: The embedded data set, whose validation images were tested.
        kind: ``'bbox'`` or ``'segm'``.
    """
    truth = root / 'annotations' / 'instances_validation.json'
    by_hand = coco_by_hand(truth, saved / f'detections.{kind}.json', kind)
    figures = read_metrics(work_dir)[kind]
    assert {name: figures[name] for name in by_hand} == by_hand
