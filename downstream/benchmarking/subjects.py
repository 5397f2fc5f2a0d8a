"""What is timed: a model of a config, and what is known of it before it runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import BaseDataElement
from torch import nn

from backbones.errors import ConfigError
from downstream.running.checkpoint.read import matching_tensors, read
from downstream.running.config import RunOptions, TestOptions, read_config, testing_config
from downstream.running.gpu_memory import PREDICTING, explain_full_gpu
from downstream.zoo.complexity import build_on_meta, gmacs, parameters

_CHECKPOINTS = ('.pth', '.pt', '.safetensors', '.bin', '.ckpt')
_REMOTE = ('http://', 'https://', 'hf:')


@dataclass(frozen=True)
class Named:
    """A model as the command line names it.

    Attributes:
        name: In tables; no two have the same one.
        options: Its config.
        file: A checkpoint of the config; None: random weights.
    """

    name: str
    options: RunOptions
    file: str | None = None


def named(
    options: RunOptions, files: Sequence[str], against: Sequence[str]
) -> tuple[list[Named], list[Named]]:
    """The models of a command line, and those that they are compared with.

    Args:
        options: The config.
        files: Checkpoints of it; none: the config with random weights.
        against: Checkpoints of it, or other configs.

    Raises:
        ConfigError: A word of ``files`` is a config, or a model is named twice.
    """
    wrong = next((word for word in files if _is_config(word)), None)
    if wrong is not None:
        raise ConfigError(f'{wrong} is a second config: give it as --against {wrong}.')
    stem = _stem(options.config) + (f' {options.backbone}' if options.backbone else '')
    own = [Named(word, options, word) for word in files] or [Named(stem, options)]
    others = [
        Named(_stem(word), RunOptions(word)) if _is_config(word) else Named(word, options, word)
        for word in against
    ]
    names = [one.name for one in [*own, *others]]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f'{twice} is named twice; name each model once.')
    return own, others


def _is_config(word: str) -> bool:
    if word.startswith(_REMOTE) or Path(word).suffix in _CHECKPOINTS:
        return False
    return Path(word).suffix == '.py' or not Path(word).is_file() or '::' in word


def _stem(config: str) -> str:
    return Path(config.rpartition('::')[2]).name.removesuffix('.py')


class Subject(ABC):
    """A model that can be run.

    Attributes:
        name: Of :class:`Named`.
        runtime: What runs it.
        precision: Of its weights and sums, in words.
        parameters: Of the whole model.
        gmacs: Billions of multiply-adds of one picture; None where they cannot be counted.
        weight_bytes: What parameters and buffers take, or the file.
    """

    name: str
    runtime: str
    precision: str
    parameters: int
    gmacs: float | None
    weight_bytes: int

    @abstractmethod
    def run(self, pictures: Sequence[np.ndarray]) -> int | None:
        """Predict on a batch, and wait for the result.

        Args:
            pictures: ``(H, W, bands)`` of uint8, in the order B, G, R.

        Returns:
            The number of objects; None of a segmenter.
        """

    def prepare(self, pictures: Sequence[np.ndarray]) -> None:
        """Run on small pictures, such that libraries set up what they make once in a process."""
        # A model that cannot run on small ones says so, if at all, of those that are timed.
        with suppress(Exception):
            self.run(pictures)


class PyTorchSubject(Subject):
    """A model of a config in PyTorch, from the pixels in memory to its predictions.

    That is what ``tools/test.py`` does between loading a picture and its metrics: normalisation, padding,
    network, non-maximum suppression, masks at the size of the picture.

    Args:
        named: The model.
        cfg: Its config, of :func:`config_of`.
        size: Height and width of the pictures, for multiply-adds.
        device: Where it runs.
        dtype: Of mixed precision; None: float32.

    Raises:
        UserError: The config or the checkpoint cannot be used.
    """

    runtime = 'PyTorch'

    def __init__(
        self,
        named: Named,
        cfg: Config,
        size: tuple[int, int],
        device: torch.device,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.name, self._device, self._dtype = named.name, device, dtype
        self.precision = 'fp32' if dtype is None else f'{str(dtype).rpartition(".")[2]} (mixed)'
        self._scope = cfg.default_scope
        self.parameters, self.gmacs = counts(cfg, size, named.name)
        with DefaultScope.overwrite_default_scope(self._scope):
            model = _built(cfg, named)
        self._model: Any = model.to(device).eval()  # mmengine's BaseModel, whose test_step runs
        tensors = [*self._model.parameters(), *self._model.buffers()]
        self.weight_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def run(self, pictures: Sequence[np.ndarray]) -> int | None:
        """See :meth:`Subject.run`."""
        data = {
            'inputs': [torch.from_numpy(one).permute(2, 0, 1).contiguous() for one in pictures],
            'data_samples': [_sample(self._scope, one.shape[:2]) for one in pictures],
        }
        precision = torch.autocast(self._device.type, self._dtype) if self._dtype else nullcontext()
        scope = DefaultScope.overwrite_default_scope(self._scope)
        with scope, torch.no_grad(), precision, explain_full_gpu(PREDICTING):
            results = self._model.test_step(data)
            wait_for(self._device)
        if self._scope == 'mmseg':
            return None
        return sum(len(result.pred_instances) for result in results)


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    elif device.type == 'mps':
        torch.mps.synchronize()


def config_of(named: Named) -> Config:
    """The complete config of a model.

    Without a checkpoint a detector returns as many objects as it may: random weights would find none, and
    what comes after the network would go untimed.

    Raises:
        UserError: The config or the checkpoint cannot be used.
    """
    options = named.options
    if named.file is not None:
        shared = {key: getattr(options, key) for key in vars(RunOptions(''))}
        return testing_config(TestOptions(**shared, checkpoint=named.file))
    cfg = read_config(options)
    cfg.model.backbone.init_cfg = None
    _accept_all(cfg.model.get('test_cfg'))
    return cfg


def _accept_all(rules: object) -> None:
    if isinstance(rules, (list, tuple)):
        for one in rules:
            _accept_all(one)
    elif isinstance(rules, Mapping):
        if 'score_thr' in rules:
            rules['score_thr'] = 0.0  # type: ignore[index]
        for one in rules.values():
            _accept_all(one)


def counts(cfg: Config, size: tuple[int, int], name: str) -> tuple[int, float | None]:
    """Parameters, and billions of multiply-adds of a picture of ``size``; None if not to be counted."""
    model = build_on_meta(cfg)
    divisor = cfg.model.data_preprocessor.get('pad_size_divisor') or 1
    padded = [-(-side // divisor) * divisor for side in size]
    try:
        return parameters(model), gmacs(model, padded)
    except Exception as error:  # a head that the counter does not know, or an operator without meta
        print_log(f'{name}: multiply-adds cannot be counted ({type(error).__name__}).', 'current')
        return parameters(model), None


def _built(cfg: Config, named: Named) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    if named.file is not None:
        state = read(named.file, mmap=True)['state_dict']
        model.load_state_dict(matching_tensors(state, model, named.file))
    return model


def _sample(scope: str, size: tuple[int, int]) -> BaseDataElement:
    if scope == 'mmseg':
        from mmseg.structures import SegDataSample as Sample  # mmdet and mmseg take long to import
    else:
        from mmdet.structures import DetDataSample as Sample
    meta = {'img_shape': size, 'ori_shape': size, 'pad_shape': size, 'scale_factor': (1.0, 1.0)}
    return Sample(metainfo={**meta, 'img_id': 0, 'img_path': ''})
