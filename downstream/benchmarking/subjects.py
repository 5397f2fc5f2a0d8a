"""What is timed: a model of a config or an exported file, and what is known of it before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import BaseDataElement

from backbones.errors import ConfigError
from downstream.data.pipelines import padded_size
from downstream.exporting.files import file_bytes
from downstream.exporting.standalone import ExportedModel
from downstream.running.checkpoint.locate import local_checkpoint
from downstream.running.checkpoint.read import matching_tensors, read
from downstream.running.gpu_memory import PREDICTING, explain_full_gpu
from downstream.running.weights.initialise import initialise_randomly
from downstream.zoo.complexity import build_on_meta, gmacs, parameters

from .names import Named

_RUNTIMES = {'.onnx': 'ONNX Runtime', '.xml': 'OpenVINO', '.pt2': 'torch.export'}


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model before it runs.

    Attributes:
        name: Of :class:`.names.Named`.
        runtime: What runs it.
        precision: Of its weights and sums, in words.
        parameters: Of the whole model, of a file those in it; None of a file that does not say.
        gmacs: Billions of multiply-adds of one picture; None where they cannot be counted.
        weight_bytes: What parameters and buffers take, or the file.
    """

    name: str
    runtime: str
    precision: str
    parameters: int | None
    gmacs: float | None
    weight_bytes: int


@dataclass(frozen=True)
class Subject:
    """A model that is timed from the pixels in memory to its predictions.

    That is what ``tools/test.py`` does between loading a picture and its metrics: normalisation, padding,
    network, non-maximum suppression, masks at the size of the picture.

    Attributes:
        facts: What is known of it before it runs.
        model: Takes what a pipeline packs, by ``test_step``.
        scope: ``'mmdet'`` or ``'mmseg'``.
        device: Where it runs.
        dtype: Of mixed precision; None: as the model is.
    """

    facts: ModelFacts
    model: BaseModel
    scope: str
    device: torch.device
    dtype: torch.dtype | None = None

    def run(self, pictures: Sequence[np.ndarray]) -> int | None:
        """Predict on a batch, and wait for the result.

        Args:
            pictures: ``(H, W, bands)`` of uint8, in the order B, G, R.

        Returns:
            The number of objects; None of a segmenter.
        """
        data = {
            'inputs': [torch.from_numpy(one).permute(2, 0, 1).contiguous() for one in pictures],
            'data_samples': [_sample(self.scope, one.shape[:2]) for one in pictures],
        }
        precision = torch.autocast(self.device.type, self.dtype) if self.dtype else nullcontext()
        scope = DefaultScope.overwrite_default_scope(self.scope)
        with scope, torch.no_grad(), precision, explain_full_gpu(PREDICTING):
            results = self.model.test_step(data)
            wait_for(self.device)
        if self.scope == 'mmseg':
            return None
        return sum(len(result.pred_instances) for result in results)

    def prepare(self, pictures: Sequence[np.ndarray]) -> None:
        """Run on small pictures, such that libraries set up what they make once in a process."""
        # A model that cannot run on small ones says so, if at all, of those that are timed.
        with suppress(Exception):
            self.run(pictures)


def pytorch_subject(
    named: Named,
    cfg: Config,
    size: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> Subject:
    """A model of a config in PyTorch.

    Args:
        named: The model.
        cfg: Its config, of :func:`.names.config_of`.
        size: Height and width of the pictures, for multiply-adds.
        device: Where it runs.
        dtype: Of mixed precision; None: float32.

    Raises:
        UserError: The config or the checkpoint cannot be used.
    """
    count, macs = counts(cfg, size, named.name)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = _built(cfg, named).to(device).eval()
    tensors = [*model.parameters(), *model.buffers()]
    facts = ModelFacts(
        name=named.name,
        runtime='PyTorch',
        precision='fp32' if dtype is None else f'{str(dtype).rpartition(".")[2]} (mixed)',
        parameters=count,
        gmacs=macs,
        weight_bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
    )
    return Subject(facts, model, cfg.default_scope, device, dtype)


def exported_subject(
    named: Named, cfg: Config, size: tuple[int, int], device: torch.device
) -> Subject:
    """An exported file, on as many threads as PyTorch has now.

    Args:
        named: The model; it has a file.
        cfg: The config that the file is given with, of :func:`.names.config_of`.
        size: As of :func:`pytorch_subject`.
        device: Likewise.

    Raises:
        UserError: The file cannot be used, is of the other task, or does not run on ``device``.
    """
    # It imports mmdet and mmseg whole.
    from downstream.exporting.models import use_exported

    path = local_checkpoint(str(named.file))
    count, macs = counts(cfg, size, named.name, testing=True)
    cfg = deepcopy(cfg)
    use_exported(cfg, str(path), device='cpu' if device.type == 'cpu' else None)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model).eval()
    opened: ExportedModel = model.file.model
    runtime = _RUNTIMES[path.suffix]
    if opened.device != device.type:
        raise ConfigError(
            f'{named.name}: {runtime} runs it on {opened.device} here, not on {device.type}; give '
            f'--device {opened.device}.'
        )
    stated = opened.facts.get('parameters')
    facts = ModelFacts(
        name=named.name,
        runtime=runtime,
        precision=opened.facts['precision'],
        parameters=stated,
        # Of a file that is another model than the config's they are unknown.
        gmacs=macs if stated == count else None,
        weight_bytes=file_bytes(path),
    )
    return Subject(facts, model, cfg.default_scope, device)


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    elif device.type == 'mps':
        torch.mps.synchronize()


def counts(
    cfg: Config, size: tuple[int, int], name: str, testing: bool = False
) -> tuple[int, float | None]:
    """Parameters, and billions of multiply-adds of a picture of ``size``; None if not to be counted.

    Args:
        cfg: Of the model.
        size: Height and width.
        name: Of the model, for messages.
        testing: Without the auxiliary head, which training alone uses.
    """
    model = build_on_meta(cfg)
    count = parameters(model)
    auxiliary = getattr(model, 'auxiliary_head', None)
    if testing and auxiliary is not None:
        count -= parameters(auxiliary)
    try:
        return count, gmacs(model, padded_size(size, cfg.model.data_preprocessor))
    except Exception as error:  # a head that the counter does not know, or an operator without meta
        print_log(f'{name}: multiply-adds cannot be counted ({type(error).__name__}).', 'current')
        return count, None


def _built(cfg: Config, named: Named) -> BaseModel:
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    if named.file is None:
        initialise_randomly(model)
    else:
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
