"""Exported files in the place of a model: the same data, test-time augmentation, tiles and evaluator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from mmdet.models.detectors import BaseDetector
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from mmseg.models.segmentors import EncoderDecoder
from mmseg.models.segmentors.base import BaseSegmentor
from torch import Tensor, nn

from backbones.errors import ConfigError, DataError
from downstream.data.files import shortened

from .files import open_exported
from .standalone import ExportedModel, check_images, pasted

# The file that use_exported has opened for the model that is built next: opening compiles the network.
_OPENED: dict[tuple[str, int], ExportedModel] = {}


def _version_of(path: str) -> tuple[str, int]:
    """A file by its name and the time of its last change."""
    return path, Path(path).stat().st_mtime_ns if Path(path).exists() else 0


class _File:
    """An exported file and how it takes the pictures of a pipeline."""

    def __init__(self, path: str) -> None:
        opened = _OPENED.pop(_version_of(path), None)
        self.model = opened or open_exported(path)
        self.facts = self.model.facts

    def _advice(self, shape: Sequence[int]) -> str:
        """What helps where pictures of ``(N, H, W, C)`` are refused."""
        taken = self.facts['input']
        batch, *sizes = (taken[name] for name in ('batch', 'height', 'width'))
        if any(want not in (None, size) for want, size in zip(sizes, shape[1:3])):
            return ' Give it such pictures, or export with --size dynamic.'
        if batch not in (None, 1, shape[0]):
            return ' Give it so many at once, or export with --batch dynamic.'
        return ''

    def run(self, images: Tensor) -> dict[str, Tensor]:
        """The outputs for ``(N, C, H, W)`` as a pipeline packs them, one by one if the file wants it."""
        pixels = images.permute(0, 2, 3, 1).cpu().numpy()
        pixels = np.ascontiguousarray(pixels, dtype=self.facts['input']['dtype'])
        one_by_one = self.facts['input']['batch'] == 1
        batches = np.split(pixels, len(pixels)) if one_by_one else [pixels]
        try:
            for batch in batches:
                check_images(batch, self.facts)
        except ValueError as error:
            raise DataError(f'{self.model.path}: {error}{self._advice(pixels.shape)}') from error
        try:
            found = [self.model.run(batch) for batch in batches]
        except ValueError as error:
            raise DataError(f'{self.model.path}: {error}') from error
        return {
            name: torch.from_numpy(_joined([outputs[name] for outputs in found])).to(images.device)
            for name in found[0]
        }


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    """Arrays one after another; one alone, which for a segmenter is large, is not copied."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


@MODELS.register_module()
class ExportedSegmenter(EncoderDecoder):
    """An exported segmenter as mmseg's test loop takes one.

    Args:
        file: Its path.
        test_cfg: Mode of the inference, as of an ``EncoderDecoder``; windows are what the file sees.
    """

    def __init__(self, file: str, test_cfg: Mapping | None = None) -> None:
        BaseSegmentor.__init__(self, data_preprocessor=dict(type='BaseDataPreprocessor'))
        self.file = _File(file)
        facts = self.file.facts
        self.test_cfg = ConfigDict({'mode': 'whole', **(test_cfg or {})})
        self.num_classes = len(facts['classes'])
        self.out_channels = facts['score_channels']
        self.align_corners = False
        self.decode_head = _Threshold(facts['threshold'])

    def predict(self, inputs: Tensor | Sequence[Tensor], data_samples: list) -> list:
        """As mmseg's; ``inputs`` are pictures as the pipeline packs them."""
        images = inputs if isinstance(inputs, Tensor) else torch.stack(list(inputs))
        # Float, such that logits may be added up in tensors made like it.
        return super().predict(images.float(), data_samples)

    def encode_decode(self, inputs: Tensor, batch_img_metas: Sequence[Mapping]) -> Tensor:
        """Logits ``(N, classes, H, W)``; of a file of classes 1 for each pixel's class, 0 elsewhere."""
        found = self.file.run(inputs)
        if 'logits' in found:
            return found['logits']
        classes = found['classes'].long()
        if self.out_channels == 1:
            return torch.where(classes == 1, 1e4, -1e4)[:, None]
        return nn.functional.one_hot(classes, self.out_channels).permute(0, 3, 1, 2).float()


class _Threshold(nn.Module):
    """What of a head is asked for after the logits: from which probability on a pixel is of the class."""

    def __init__(self, threshold: float | None) -> None:
        super().__init__()
        self.threshold = threshold


@MODELS.register_module()
class ExportedDetector(BaseDetector):
    """An exported detector as mmdet's test loop takes one.

    Args:
        file: Its path.
    """

    def __init__(self, file: str) -> None:
        super().__init__(data_preprocessor=dict(type='BaseDataPreprocessor'))
        self.file = _File(file)

    def predict(self, batch_inputs: Sequence[Tensor], batch_data_samples: list) -> list:
        """Boxes in pixels of the original picture, scores, labels and masks, as mmdet's detectors."""
        results = [
            self._found(image, sample.metainfo)
            for image, sample in zip(batch_inputs, batch_data_samples)
        ]
        return self.add_pred_to_datasample(batch_data_samples, results)

    def _found(self, image: Tensor, meta: Mapping) -> InstanceData:
        found = self.file.run(image[None])
        boxes = found['boxes']
        boxes = boxes / boxes.new_tensor(meta.get('scale_factor', (1, 1))).repeat((1, 2))
        instances = InstanceData(bboxes=boxes, scores=found['scores'], labels=found['labels'])
        if 'masks' in found:
            instances.masks = self._pasted(found['masks'], boxes, *meta['ori_shape'][:2])
        return instances

    def _pasted(self, masks: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
        whole = torch.zeros((len(masks), height, width), dtype=torch.bool)
        threshold = self.file.facts['mask_threshold']
        for place, (mask, box) in enumerate(zip(masks.cpu().numpy(), boxes.cpu().numpy())):
            whole[place] = torch.from_numpy(pasted(mask, box, height, width, threshold))
        return whole.to(masks.device)

    def loss(self, *args: object, **kwargs: object) -> dict:
        raise ConfigError('an exported file cannot be trained.')

    def extract_feat(self, batch_inputs: Tensor) -> tuple:
        raise ConfigError('an exported file has no feature maps to return.')

    def _forward(self, *args: object, **kwargs: object) -> tuple:
        raise ConfigError('an exported file has no outputs before its decoding.')


def use_exported(
    cfg: Config, path: str, threads: int | None = None, device: str | None = None
) -> None:
    """Let a file take the place of the model in a config to test with.

    Args:
        cfg: A complete config; changed in place.
        path: The file.
        threads: As of :func:`.files.open_exported`.
        device: Likewise.

    Raises:
        ConfigError: It is of the other task, or reads other images than the config.
        WeightsError: It cannot be read.
    """
    opened = open_exported(path, threads, device)
    facts = opened.facts
    tasks = {'mmdet': 'detection', 'mmseg': 'segmentation'}
    if facts['task'] != tasks[cfg.default_scope]:
        raise ConfigError(
            f'{path} is for {facts["task"]}, the config for {tasks[cfg.default_scope]}.'
        )
    test_cfg = cfg.model.get('test_cfg') or {}
    if facts['task'] == 'detection':
        cfg.model = ConfigDict(type='ExportedDetector', file=str(path))
    else:
        cfg.model = ConfigDict(type='ExportedSegmenter', file=str(path), test_cfg=test_cfg)
    _OPENED.clear()
    _OPENED[_version_of(str(path))] = opened


def require_classes(facts: Mapping, names: Sequence[str], path: str) -> None:
    """ConfigError unless a file is of the classes of a data set.

    Args:
        facts: Of the file.
        names: Of the data set.
        path: Of the file, for messages.
    """
    own, given = [str(name).strip() for name in facts['classes']], [str(n).strip() for n in names]
    if own != given:
        raise ConfigError(
            f'{path} is of the classes {shortened(own, 4)}, the data of the config are of '
            f'{shortened(given, 4)}; give the config that it was exported with.'
        )
