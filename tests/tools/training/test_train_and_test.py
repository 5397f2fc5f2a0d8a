"""Both tasks from end to end on tiny data: train, checkpoint, resume, test, two processes."""

import json
import os
import pickle
import socket
import subprocess
import sys
from collections import defaultdict

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from downstream.analysis import kept, segmentation
from tests.conftest import (
    ROOT,
    assert_figures_are_pycocotools,
    read_metrics,
    write_tiny_config,
)
from tests.support import processes

TASKS = ('detection', 'segmentation')
LAST = {'detection': 'epoch_1.pth', 'segmentation': 'iter_2.pth'}


@pytest.fixture(scope='module')
def trained(tmp_path_factory, shapes):
    """Config and work dir of a finished training, by task."""
    made = {}

    def get(task: str):
        if task not in made:
            folder = tmp_path_factory.mktemp(task)
            config = write_tiny_config(task, shapes, folder)
            words = ('train', config, '--work-dir', folder / 'run')
            code, shown = processes.run_tool(*words, folder=folder / 'out')
            assert code == 0, shown
            made[task] = config, folder / 'run', shown
        return made[task]

    return get


@pytest.mark.parametrize('task', TASKS)
def test_training_leaves_a_checkpoint_a_log_and_a_complete_config(task, trained):
    config, work_dir, _ = trained(task)
    assert torch.load(work_dir / LAST[task], weights_only=False)['state_dict']
    assert (work_dir / 'last_checkpoint').read_text().endswith(LAST[task])
    (log,) = work_dir.glob('*/*.log')
    metric = 'coco/segm_mAP' if task == 'detection' else 'mIoU'
    assert metric in log.read_text()
    dumped = Config.fromfile(work_dir / config.name)
    assert dumped.model == Config.fromfile(config).model
    batch = dumped.train_dataloader.batch_size
    drawn = sorted(path.name for path in work_dir.glob('*/first_batches/*'))
    assert drawn == [f'{n:03d}_{place:02d}.jpg' for n in (1, 2) for place in range(1, batch + 1)]


@pytest.mark.parametrize('task', TASKS)
def test_output_is_for_a_person(task, trained):
    _, _, out = trained(task)
    lines = out.splitlines()
    assert len(lines) < 60
    assert any('loss:' in line and 'eta:' in line for line in lines)
    assert not [line for line in lines if 'backbone.' in line]


def test_detection_figures_equal_pycocotools_by_hand(trained, shapes, tool, tmp_path):
    config, work_dir, _ = trained('detection')
    result = tool(
        'test',
        config,
        work_dir / 'epoch_1.pth',
        '--work-dir',
        tmp_path / 'test',
        '--out',
        tmp_path / 'out',
        '--show-dir',
        tmp_path / 'pictures',
    )
    assert result.code == 0, result.err
    metrics = read_metrics(tmp_path / 'test')
    assert 'triangle' in result.out
    assert 'metrics.json' in result.out
    for kind in ('bbox', 'segm'):
        assert_figures_are_pycocotools(tmp_path / 'test', tmp_path / 'out', shapes, kind)
        assert set(metrics[kind]['per_class']) == {'circle', 'square', 'triangle'}
    (test,) = kept.find_tests(tmp_path / 'test')
    assert test.data['images'] == 3
    assert test.data['protocol']['pipeline'][1] == {
        'type': 'Resize', 'scale': [160, 128], 'keep_ratio': True
    }  # fmt: skip
    assert test.data['folder'] == str(shapes / 'images' / 'validation')
    by_metric = json.loads((tmp_path / 'out' / 'detections.segm.json').read_text())
    again = kept.predictions_of(test)['annotations']
    keys = ('image_id', 'category_id', 'bbox', 'score', 'segmentation')
    assert [[one[k] for k in keys] for one in again] == [
        [one[k] for k in keys] for one in by_metric
    ]
    ann_file = shapes / 'annotations' / 'instances_validation.json'
    assert kept.truth_of(test)['annotations'] == json.loads(ann_file.read_text())['annotations']
    pictures = list((tmp_path / 'pictures').iterdir())
    assert len(pictures) == 3
    height, width = cv2.imread(str(pictures[0])).shape[:2]
    assert width == 2 * 320  # ground truth beside prediction
    assert 256 < height < 280  # and their titles


def test_segmentation_figures_equal_counting_by_hand(trained, shapes, tool, tmp_path):
    config, work_dir, _ = trained('segmentation')
    result = tool(
        'test',
        config,
        work_dir / 'iter_2.pth',
        '--work-dir',
        tmp_path / 'test',
        '--out',
        tmp_path / 'out',
        '--show-dir',
        tmp_path / 'pictures',
    )
    assert result.code == 0, result.err
    metrics = read_metrics(tmp_path / 'test')
    both, either = np.zeros(5), np.zeros(5)
    for path in sorted((tmp_path / 'out').iterdir()):
        predicted = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        label = cv2.imread(
            str(shapes / 'annotations' / 'validation' / path.name), cv2.IMREAD_UNCHANGED
        )
        for k in range(1, 5):
            both[k] += ((predicted == k) & (label == k)).sum()
            either[k] += (((predicted == k) | (label == k)) & (label > 0)).sum()
    ious = 100 * both[1:] / either[1:]
    assert metrics['mIoU'] == pytest.approx(np.nanmean(ious), abs=1e-9)
    assert list(metrics['per_class']) == ['background', 'circle', 'square', 'triangle']
    (test,) = kept.find_tests(tmp_path / 'test')
    assert (test.data['images'], test.data['kept']) == (3, ['counts.npz', 'label_maps.npz'])
    counts = kept.counts_of(test)
    assert counts.root == str(shapes / 'images' / 'validation')
    maps = zip(counts.names, kept.predicted_masks_of(test), kept.annotated_masks_of(test))
    for name, predicted, annotated in maps:
        file = f'{name.rpartition(".")[0]}.png'
        written = cv2.imread(str(tmp_path / 'out' / file), cv2.IMREAD_UNCHANGED)
        label = cv2.imread(str(shapes / 'annotations' / 'validation' / file), cv2.IMREAD_UNCHANGED)
        assert (predicted + 1 == written).all()
        assert (annotated + 1 == label).all()
    figures = segmentation.analyse(counts)
    assert figures.mean_iou == metrics['mIoU']
    assert figures.mean_boundary_iou is not None
    pictures = list((tmp_path / 'pictures').iterdir())
    assert len(pictures) == 3
    assert cv2.imread(str(pictures[0])).shape[1] == 2 * 320


@pytest.mark.parametrize('task', TASKS)
def test_tta_and_pickled_predictions(task, trained, tool, tmp_path):
    config, work_dir, _ = trained(task)
    words = (config, work_dir / LAST[task], '--work-dir', tmp_path, '--tta')
    result = tool('test', *words, '--out', tmp_path / 'out.pkl')
    assert result.code == 0, result.err
    metrics = read_metrics(tmp_path)
    assert 'bbox' in metrics or 'mIoU' in metrics
    predictions = pickle.loads((tmp_path / 'out.pkl').read_bytes())
    assert len(predictions) == 3
    if task == 'detection':
        instances = predictions[0]['pred_instances']
        assert len(instances['masks']) == len(instances['bboxes']) > 0


@pytest.mark.parametrize('task', TASKS)
def test_tta_needs_nothing_in_the_config(task, trained, tool, tmp_path):
    config, work_dir, _ = trained(task)
    changes = ('--cfg-options', 'tta_model=None', 'tta_pipeline=None')
    words = (config, work_dir / LAST[task], '--work-dir', tmp_path, '--tta')
    result = tool('test', *words, *changes)
    assert result.code == 0, result.err


@pytest.mark.parametrize('task', TASKS)
def test_resume_goes_on_where_it_stopped(task, trained, tool, tmp_path):
    config, work_dir, _ = trained(task)
    longer = 'train_cfg.max_epochs=2' if task == 'detection' else 'train_cfg.max_iters=3'
    result = tool(
        'train',
        config,
        '--work-dir',
        tmp_path,
        '--resume',
        work_dir / LAST[task],
        '--cfg-options',
        longer,
    )
    assert result.code == 0, result.err
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'resumed epoch: 1, iter: 2' in log if task == 'detection' else 'iter: 2' in log
    final = tmp_path / ('epoch_2.pth' if task == 'detection' else 'iter_3.pth')
    assert torch.load(final, weights_only=False)['meta']['iter'] == (
        4 if task == 'detection' else 3
    )
    assert not (tmp_path / LAST[task]).exists()


@pytest.mark.parametrize('task', TASKS)
def test_bfloat16_trains_on_the_cpu(task, shapes, tool, tmp_path):
    config = write_tiny_config(task, shapes, tmp_path)
    result = tool('train', config, '--work-dir', tmp_path / 'run', '--amp', 'bf16')
    assert result.code == 0, result.err
    assert 'BFloat16OptimWrapper' in (tmp_path / 'run' / config.name).read_text()
    assert (tmp_path / 'run' / LAST[task]).is_file()


def test_spawned_workers_load_data(shapes, tmp_path):
    config = write_tiny_config('detection', shapes, tmp_path)
    changes = ['train_dataloader.num_workers=1', 'env_cfg.mp_cfg.mp_start_method=spawn']
    words = (config, '--work-dir', tmp_path / 'run', '--cfg-options', *changes)
    code, shown = processes.run_tool('train', *words, folder=tmp_path / 'out')
    assert code == 0, shown
    assert (tmp_path / 'run' / 'epoch_1.pth').is_file()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def launch(script: str, *words, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        ['bash', ROOT / 'tools' / script, *map(str, words)],
        env={**os.environ, 'PYTHON': sys.executable, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_two_processes_train_resume_and_measure_as_one(shapes, tool, tmp_path):
    """Segmentation, trained by the shell script; for that which tests see below."""
    config = write_tiny_config('segmentation', shapes, tmp_path)
    work_dir = tmp_path / 'run'
    options = ['--work-dir', work_dir]
    result = launch('dist_train.sh', config, 2, *options, PORT=str(free_port()))
    assert result.returncode == 0, result.stderr
    assert (work_dir / 'iter_2.pth').is_file()

    code, shown = processes.run_tool(
        'train', config, *options, '--resume', '--cfg-options', 'train_cfg.max_iters=4',
        folder=tmp_path / 'out', count=2,
    )  # fmt: skip
    assert code == 0, shown
    last = work_dir / 'iter_4.pth'
    words = (config, last, '--work-dir', tmp_path / 'two')
    code, shown = processes.run_tool('test', *words, folder=tmp_path / 'out', count=2)
    assert code == 0, shown
    assert tool('test', config, last, '--work-dir', tmp_path / 'one').code == 0
    assert read_metrics(tmp_path / 'two') == read_metrics(tmp_path / 'one')
    one, two = (kept.find_tests(tmp_path / name)[0] for name in ('one', 'two'))
    assert one.data['digest'] == two.data['digest']
    for name, table in vars(kept.counts_of(one)).items():
        assert np.array_equal(table, getattr(kept.counts_of(two), name))
    for pair in zip(kept.predicted_masks_of(one), kept.predicted_masks_of(two), strict=True):
        assert (pair[0] == pair[1]).all()


def test_the_script_that_tests_launches_as_the_one_that_trains(tmp_path):
    """The one that trains is run as it is above."""
    shows = tmp_path / 'python'
    shows.write_text('#!/bin/sh\nprintf "%s\\n" "$PET_SHUTDOWN_TIMEOUT" "$PYTHONPATH" "$@"\n')
    shows.chmod(0o755)
    words = {}
    for name, before in (('train', ['a.py']), ('test', ['a.py', 'b.pth'])):
        result = launch(f'dist_{name}.sh', *before, 2, '--amp', PYTHON=str(shows), PORT='1')
        assert result.returncode == 0, result.stderr
        lines = result.stdout.splitlines()
        start = lines.index(str(ROOT / 'tools' / f'{name}.py'))
        assert lines[start + 1 :] == [*before, '--launcher', 'pytorch', '--amp']
        words[name] = lines[:start]
    assert '--nproc_per_node=2' in words['test']
    assert words['test'] == words['train']


def test_two_processes_detect_as_one(shapes, tool, tmp_path):
    config = write_tiny_config('detection', shapes, tmp_path)
    work_dir, two = tmp_path / 'run', {'folder': tmp_path / 'out', 'count': 2}
    for changes in ((), ('--resume', '--cfg-options', 'train_cfg.max_epochs=2')):
        words = (config, '--work-dir', work_dir, *changes)
        code, shown = processes.run_tool('train', *words, **two)
        assert code == 0, shown
    last = work_dir / 'epoch_2.pth'
    words = (config, last, '--work-dir', tmp_path / 'two')
    code, shown = processes.run_tool('test', *words, **two)
    assert code == 0, shown
    assert tool('test', config, last, '--work-dir', tmp_path / 'one').code == 0
    figures = [read_metrics(tmp_path / name) for name in ('two', 'one')]
    assert figures[0].keys() == figures[1].keys()
    for name, value in figures[0].items():
        if not isinstance(value, dict):
            assert value == pytest.approx(figures[1][name], abs=1e-3, nan_ok=True), name
    (of_two,), (of_one,) = (kept.find_tests(tmp_path / name) for name in ('two', 'one'))
    assert_same_detections(kept.predictions_of(of_two), kept.predictions_of(of_one))


def assert_same_detections(first: dict, second: dict) -> None:
    """Fail unless two results hold the same objects, up to rounding.

    Processes may have different numbers of threads, and then sums are rounded differently on some CPUs:
    scores differ in their last digit, and neighbours in the order of scores change places.
    """
    assert first['images'] == second['images']
    assert first['categories'] == second['categories']
    firsts, seconds = boxes_by_group(first), boxes_by_group(second)
    assert firsts.keys() == seconds.keys()
    for key, rows in firsts.items():
        assert len(rows) == len(seconds[key])
        distances = torch.cdist(rows, seconds[key], p=torch.inf)
        assert distances.argmin(0).unique().numel() == len(rows)
        assert distances.amin(0).max() < 0.01  # pixels, and thousandths of a score


def boxes_by_group(result: dict) -> dict[tuple[int, int], torch.Tensor]:
    """Boxes and, in thousandths, scores by image and category."""
    rows = defaultdict(list)
    for found in result['annotations']:
        rows[found['image_id'], found['category_id']].append([*found['bbox'], 1e3 * found['score']])
    return {key: torch.tensor(values, dtype=torch.float64) for key, values in rows.items()}


def test_testing_leaves_the_config_of_the_training_alone(trained, tool):
    config, work_dir, _ = trained('segmentation')
    before = (work_dir / config.name).read_text()
    assert tool('test', config, work_dir / 'iter_2.pth', '--work-dir', work_dir).code == 0
    assert (work_dir / config.name).read_text() == before


def test_mmdets_own_api_runs_on_the_dumped_config(trained, shapes):
    from mmdet.apis import inference_detector, init_detector

    config, work_dir, _ = trained('detection')
    model = init_detector(str(work_dir / config.name), str(work_dir / 'epoch_1.pth'), device='cpu')
    image = next((shapes / 'images' / 'validation').iterdir())
    found = inference_detector(model, str(image)).pred_instances
    assert len(found) > 0
    assert found.masks.shape[1:] == (256, 320)


def test_mmsegs_own_api_runs_on_the_dumped_config(trained, shapes):
    from mmseg.apis import inference_model, init_model

    config, work_dir, _ = trained('segmentation')
    model = init_model(str(work_dir / config.name), str(work_dir / 'iter_2.pth'), device='cpu')
    image = next((shapes / 'images' / 'validation').iterdir())
    assert inference_model(model, str(image)).pred_sem_seg.data.shape == (1, 256, 320)


@pytest.mark.parametrize('tool_name', ['train', 'test'])
def test_slurm_script_asks_srun_for_the_right_tasks(tool_name, tmp_path):
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    result = subprocess.run(
        ['bash', ROOT / 'tools' / f'slurm_{tool_name}.sh', 'part', 'job', 'a.py', 'b', '--amp'],
        env={**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'GPUS': '16'},
        capture_output=True,
        text=True,
        check=True,
    )
    words = result.stdout.splitlines()
    assert {'--ntasks=16', '--ntasks-per-node=8', '--gres=gpu:8', '--job-name=job'} <= set(words)
    assert words[words.index('a.py') - 1].endswith(f'tools/{tool_name}.py')
    middle = ['--work-dir', 'b'] if tool_name == 'train' else ['b']
    assert words[words.index('a.py') + 1 :] == [*middle, '--launcher', 'slurm', '--amp']
