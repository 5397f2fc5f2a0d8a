"""Detectors and segmenters that were trained: their files have their figures, and find what they find."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('onnxscript')
pytest.importorskip('onnxruntime')
pytest.importorskip('openvino')

from downstream.data.shapes import make_shapes
from downstream.predicting import Predictor
from tests.conftest import EXAMPLES, ROOT, read_metrics
from tests.downstream.exporting.pictures import picture

# The embedded example on smaller pictures; long enough that figures are far from 0.
CONFIG = {
    'detection': """
_base_ = '{base}'
data_root = {root!r}
train_cfg = dict(max_epochs=6, val_interval=6)
train_pipeline = [
    *_base_.train_pipeline[:2],
    dict(type='Resize', scale=(160, 128), keep_ratio=True),
    *_base_.train_pipeline[2:],
]
test_pipeline = [
    _base_.test_pipeline[0],
    dict(type='Resize', scale={scale}, keep_ratio=True),
    *_base_.test_pipeline[2:],
]
train_dataloader = dict(num_workers=0, dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(num_workers=0, dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_validation.json')
test_evaluator = val_evaluator
randomness = dict(seed=0)
""",
    'segmentation': """
_base_ = '{base}'
data_root = {root!r}
train_cfg = dict(max_iters=120, val_interval=120)
crop_size = (128, 128)
resize = dict(type='Resize', scale={scale}, keep_ratio=True)
train_pipeline = [
    *_base_.train_pipeline[:2],
    resize,
    dict(type='RandomCrop', crop_size=crop_size),
    *_base_.train_pipeline[3:],
]
test_pipeline = [_base_.test_pipeline[0], resize, *_base_.test_pipeline[1:]]
train_dataloader = dict(num_workers=0, dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(num_workers=0, dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
model = dict(data_preprocessor=dict(size=crop_size))
randomness = dict(seed=0)
""",
}
TRAINED = (160, 128)
SCALES = [TRAINED, (128, 104), (224, 176)]
FORMATS = {'.onnx': 1e-3, '.xml': 1e-3, '-fp16.onnx': 3e-3}


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('data') / 'shapes'
    make_shapes(root, training=48, validation=24)
    return root


def write_configs(task: str, root: Path, folder: Path) -> list[Path]:
    """A config for each of the scales."""
    paths = [folder / f'{task}_{width}.py' for width, _ in SCALES]
    for path, scale in zip(paths, SCALES):
        base = ROOT / EXAMPLES[task]
        path.write_text(CONFIG[task].format(base=base, root=f'{root}/', scale=scale))
    return paths


def figures(tool, config: Path, model: Path, work_dir: Path) -> dict[str, float]:
    """AP of boxes and masks, or mIoU, 0 to 1."""
    result = tool('test', config, model, '--work-dir', work_dir)
    assert result.code == 0, result.err
    metrics = read_metrics(work_dir)
    if 'mIoU' in metrics:
        return {'mIoU': metrics['mIoU'] / 100}
    return {kind: metrics[kind]['AP'] for kind in ('bbox', 'segm')}


def unusual_pictures() -> list[np.ndarray]:
    """Blank, a single pixel, larger than any before."""
    blank = np.full((128, 160, 3), 114, np.uint8)
    return [blank, *(picture(*size) for size in ((1, 1), (417, 530)))]


def compare_detections(model, file) -> None:
    assert len(file.boxes) == len(model.boxes)
    assert np.array_equal(file.labels, model.labels)
    np.testing.assert_allclose(file.boxes, model.boxes, atol=1e-2)
    np.testing.assert_allclose(file.scores, model.scores, atol=1e-4)
    if len(model.boxes):
        assert (file.mask_arrays() != model.mask_arrays()).mean() < 1e-3


def check_files(tool, task: str, configs: list[Path], checkpoint: Path, folder: Path) -> None:
    """Export a checkpoint in each format, and compare figures and predictions with its own."""
    files = {suffix: folder / f'model{suffix}' for suffix in FORMATS}
    for suffix, path in files.items():
        half = ['--precision', 'fp16'] if 'fp16' in suffix else []
        result = tool('export', configs[0], checkpoint, '--out', path, *half)
        assert result.code == 0, result.err
    for config, scale in zip(configs, SCALES):
        expected = figures(tool, config, checkpoint, folder / f'model-{scale[0]}')
        assert min(expected.values()) > 0.05
        for suffix, path in files.items():
            found = figures(tool, config, path, folder / f'{suffix[1:]}-{scale[0]}')
            assert found == pytest.approx(expected, abs=FORMATS[suffix]), (suffix, scale)
    model = Predictor(configs[0], checkpoint, device='cpu')
    for suffix in ('.onnx', '.xml'):
        file = Predictor(configs[0], files[suffix], device='cpu')
        for one in unusual_pictures():
            if task == 'detection':
                compare_detections(model(one), file(one))
            else:
                assert (file(one).labels == model(one).labels).mean() > 0.999


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize('task', list(CONFIG))
def test_files_of_a_trained_model_have_its_figures(tool, data, tmp_path, task):
    configs = write_configs(task, data, tmp_path)
    trained = tool('train', configs[0], '--work-dir', tmp_path / 'trained')
    assert trained.code == 0, trained.err
    checkpoint = Path((tmp_path / 'trained' / 'last_checkpoint').read_text())
    check_files(tool, task, configs, checkpoint, tmp_path)
