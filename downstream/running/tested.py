"""What a test tested, with what protocol and where: the part ``data`` of ``metrics.json``."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dist import get_world_size
from mmengine.runner import Runner

from backbones.weights.download import sha256
from downstream.exporting.files import is_exported

from .checkpoint.locate import local_checkpoint
from .config import TestOptions

_PACKAGES = (
    'torch',
    'torchvision',
    'timm',
    'onedl-mmengine',
    'onedl-mmcv',
    'onedl-mmdetection',
    'onedl-mmsegmentation',
    'mmengine',
    'mmcv',
    'mmdet',
    'mmsegmentation',
    'onnxruntime',
    'openvino',
    'hotcoco',
    'pycocotools',
    'numpy',
)
# Where files are and how they are read: two tests of the same protocol may differ in these.
_PLACES = {
    'backend_args',
    'file_client_args',
    'ann_file',
    'save_dir',
    'output_dir',
    'outfile_prefix',
}


def tested(cfg: Config, options: TestOptions, runner: Runner, seconds: float) -> dict:
    """What to record of a test.

    Args:
        cfg: The config of the test.
        options: Its command line.
        runner: Its runner, after the test.
        seconds: What the test took.

    Returns:
        ``weights``, the SHA-256 of the checkpoint, None for an exported file; ``classes``; ``folder`` of
        the images, None where the data set has no single one; :func:`protocol`; ``time`` of the end in
        UTC; ``seconds``; ``environment``.
    """
    loop = runner.test_loop
    dataset = loop.dataloader.dataset
    exported = is_exported(options.checkpoint)
    return {
        'weights': None if exported else sha256(local_checkpoint(options.checkpoint)),
        'classes': [
            str(name).strip() for name in (loop.evaluator.dataset_meta or {}).get('classes', ())
        ],
        'folder': _image_folder(dataset),
        'protocol': protocol(cfg, options),
        'time': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'seconds': round(seconds, 3),
        'environment': environment(),
    }


def protocol(cfg: Config, options: TestOptions) -> dict:
    """What decides the figures of a test beside weights and data.

    Args:
        cfg: The complete config of the test.
        options: Its command line.

    Returns:
        ``tta``, ``tile``, ``overlap``, ``pipeline``, ``model``, its rules for predictions, and
        ``metric``, each as in the config without places of files.
    """
    return {
        'tta': options.tta,
        'tile': options.tile,
        'overlap': options.overlap,
        'pipeline': _plain(cfg.test_dataloader.dataset.get('pipeline')),
        'model': _plain(_rules_of(cfg.model)),
        'metric': _plain(cfg.test_evaluator),
    }


def environment() -> dict:
    """Versions, device and number of processes of this process."""
    return {
        'python': platform.python_version(),
        'system': platform.platform(),
        'device': torch.cuda.get_device_name() if torch.cuda.is_available() else _cpu(),
        'processes': get_world_size(),
        'versions': dict(_versions(_PACKAGES)),
    }


def _versions(names: Iterable[str]) -> Iterable[tuple[str, str]]:
    for name in names:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def _cpu() -> str:
    lines = Path('/proc/cpuinfo')
    if lines.is_file():
        for line in lines.read_text().splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    return platform.processor() or platform.machine()


def _image_folder(dataset: object) -> str | None:
    prefix = getattr(dataset, 'data_prefix', None) or {}
    folder = prefix.get('img') or prefix.get('img_path')
    return str(Path(folder).resolve()) if folder and '://' not in folder else None


def _rules_of(model: ConfigDict) -> dict:
    """The settings that decide which predictions a model returns, under test-time augmentation too."""
    inner = model.get('module') or model
    return {
        key: part[key]
        for part in (inner, model)
        for key in ('test_cfg', 'tta_cfg')
        if part.get(key)
    }


def _plain(value: object) -> object:
    """A part of a config as JSON has it, without the places of files."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items() if key not in _PLACES}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
