"""Exported files, opened: one interface for ONNX, OpenVINO and PyTorch."""

from __future__ import annotations

import json
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch

from backbones.errors import ConfigError, WeightsError
from backbones.weights.sources import file_name
from backbones.weights.timm_catalog import first_line

from .standalone import FORMATS, ExportedModel, check_images, facts_of_texts

#: Name of a file -> its format.
SUFFIXES = {**FORMATS, '.pt2': 'torch'}
#: Under this name a ``.pt2`` has its facts.
TORCH_FACTS = 'facts.json'
_INSTALL = "pip install -e '.[export]'"


def is_exported(location: str | Path) -> bool:
    """Whether a checkpoint is an exported file, by its name: a path, a URL or ``hf:``."""
    return Path(file_name(str(location))).suffix in SUFFIXES


def file_bytes(path: Path) -> int:
    """What an exported file takes, with the weights that OpenVINO has beside it."""
    beside = [path.with_suffix('.bin')] if path.suffix == '.xml' else []
    return sum(one.stat().st_size for one in (path, *beside))


def require_package(name: str, purpose: str) -> None:
    """ConfigError unless a package of the extra ``export`` can be imported."""
    try:
        __import__(name)
    except ImportError as error:
        raise ConfigError(f'{purpose} needs {name}, which is not installed: {_INSTALL}.') from error


def open_exported(
    path: str | Path, threads: int | None = None, device: str | None = None
) -> ExportedModel:
    """A file of tools/export.py, ready to run.

    Args:
        path: ``.onnx``, ``.xml`` or ``.pt2``.
        threads: Of the CPU; None: as many as PyTorch uses. A ``.pt2`` takes PyTorch's.
        device: ``'cpu'``, or None: a GPU where the runtime can use one.

    Raises:
        WeightsError: It cannot be read, or is no file of tools/export.py.
        ConfigError: What runs it is not installed.
    """
    suffix = Path(path).suffix
    if not Path(path).is_file():
        raise WeightsError(f'exported model {path} does not exist.')
    package = {'.onnx': 'onnxruntime', '.xml': 'openvino'}.get(suffix)
    if package:
        require_package(package, str(path))
    try:
        if suffix == '.pt2':
            return TorchFile(path, device)
        providers = ['CPUExecutionProvider'] if device == 'cpu' else None
        return ExportedModel(path, threads or torch.get_num_threads(), providers)
    except ValueError as error:
        raise WeightsError(str(error)) from error


class TorchFile(ExportedModel):
    """A ``.pt2`` file: a program of ``torch.export``, which PyTorch runs.

    Args:
        path: The file.
        device: ``'cpu'`` or ``'cuda'``; None: a GPU if there is one.

    Raises:
        ValueError: It is none of this suite, or holds pickles or compiled code.
    """

    def __init__(self, path: str | Path, device: str | None = None) -> None:
        self.path = Path(path)
        self.facts = facts_of_texts(_checked_facts(self.path), str(path))
        try:
            with warnings.catch_warnings():
                # PyTorch makes tensors of a buffer that it does not write to.
                warnings.simplefilter('ignore', UserWarning)
                program = torch.export.load(self.path)
        except Exception as error:  # whatever a damaged archive makes PyTorch raise
            raise ValueError(f'{path} cannot be read: {first_line(error)}') from error
        self.device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
        self._module = program.module().to(self.device)
        self._outputs = list(self.facts['outputs'])

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        check_images(images, self.facts)
        batch = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        with torch.no_grad():
            results = self._module(batch)
        results = results if isinstance(results, (tuple, list)) else (results,)
        return {name: value.cpu().numpy() for name, value in zip(self._outputs, results)}


def _checked_facts(path: Path) -> dict:
    """The facts of a ``.pt2``, which is refused where loading it would unpickle objects or run a library.

    PyTorch reads the sizes in a graph as expressions of Python all the same: only files that one trusts
    may be loaded.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            own = [name for name in names if name.endswith(f'/extra/{TORCH_FACTS}')]
            texts = json.loads(archive.read(own[0])) if own else {}
            configs = [name for name in names if name.endswith('_config.json')]
            suspect = any(b'"use_pickle": true' in archive.read(name) for name in configs)
            for name in names:
                if '/sample_inputs/' in name:
                    suspect = suspect or bool(
                        archive.read(name)
                    )  # none are written; read as a pickle
                elif name.endswith('.pt') or '/aotinductor/' in name:
                    suspect = True
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f'{path} cannot be read: {error}') from error
    if suspect:
        raise ValueError(f'{path} holds more than a graph and tensors; it is not loaded.')
    return texts
