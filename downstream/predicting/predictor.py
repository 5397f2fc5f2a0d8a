"""A trained model that predicts: pictures in, typed results out, by the pipeline of its test."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.device import get_device
from mmengine.registry import MODELS, DefaultScope
from PIL import Image, ImageOps
from torch import Tensor

from backbones.errors import ConfigError, DataError, UserError
from downstream.data.images.loading import LoadBands
from downstream.data.pictures.shown import picture_of
from downstream.data.pipelines import innermost, without_annotations
from downstream.data.reading import (
    CheckedLoader,
    UnreadableError,
    check_reading,
    loaders_of,
)
from downstream.distributed.wrapping import trained_part
from downstream.exporting.files import is_exported
from downstream.running.checkpoint.read import matching_tensors, read
from downstream.running.config import TestOptions, task_of, testing_config
from downstream.running.gpu_memory import PREDICTING, GPUMemoryError, explain_full_gpu
from downstream.running.options.precision import half_precision
from downstream.tiles.model import batches

from .ahead import ahead
from .classes import classes_of_model
from .download import download
from .results import Detections, LabelMap, Result, encoded_masks
from .sources import is_url

Picture = str | Path | np.ndarray | Image.Image
# Threads that load pictures, and how many pictures wait for the model beside its batch.
_LOADERS = 2
# A model that has failed on so many pictures, and on all of them, is not tried any further.
_HOPELESS = 3


@dataclass
class Prepared:
    """A picture on its way into the model.

    Attributes:
        name: As in :class:`.results.Result`.
        inputs: What the pipeline of the test packs.
        picture: Returns the picture, to draw on.
        tag: Whatever the caller wants back with the result.
    """

    name: str
    inputs: dict
    picture: Callable[[], np.ndarray]
    tag: object = None


class Predictor:
    """A detector or segmenter with trained weights.

    It loads, scales and normalises pictures as ``tools/test.py`` does for the same config, and gives the
    same results to the last bit. Nothing is written.

    Args:
        config: A config file, or the name of a recipe. None: the one beside the checkpoint, where
            training writes it.
        checkpoint: What training wrote, a published model, or a file of tools/export.py; a path or a
            URL. It also says the classes.
        backbone: Another backbone than the config's, as in training.
        device: ``'cpu'``, ``'cuda'``, ``'cuda:1'``; None: a GPU if there is one.
        score: The least score of the objects that are returned; None: all that the model finds.
        tta: Test-time augmentation: several scales and flips.
        amp: Mixed precision: ``'fp16'``, ``'bf16'``, or ``'auto'``, which is fp16 on CUDA and bf16 on the
            CPU. None: float32.
        tile: Side in pixels of the tiles that larger pictures are cut into; None: whole pictures.
        overlap: The part of a tile that it shares with the next one, 0 to 0.5; None: 0.2.
        batch_size: How many pictures or tiles the model gets at once.
        channels: As in training, for images that are not 8-bit RGB.
        bands: Likewise.
        cfg_options: Changes of the config.

    Attributes:
        task: ``'detection'`` or ``'segmentation'``.
        classes: Their names.

    Raises:
        ConfigError: A value or a combination is not possible.
        WeightsError: The checkpoint cannot be read or does not match the model.
    """

    def __init__(
        self,
        config: str | Path | None,
        checkpoint: str | Path,
        *,
        backbone: str | None = None,
        device: str | None = None,
        score: float | None = None,
        tta: bool = False,
        amp: str | None = None,
        tile: int | None = None,
        overlap: float | None = None,
        batch_size: int = 1,
        channels: int | None = None,
        bands: Sequence[int] | None = None,
        cfg_options: Mapping | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f'--batch {batch_size}: give 1 or more pictures.')
        if score is not None and not 0 <= score <= 1:
            raise ConfigError(f'--score {score}: give a score from 0 to 1.')
        self.device = usable_device(device)
        self.score, self.batch_size = score, batch_size
        self._dtype = half_dtype(amp, self.device)
        options = TestOptions(
            config=str(config or _config_beside(Path(checkpoint))),
            checkpoint=str(checkpoint),
            backbone=backbone,
            tta=tta,
            tile=tile,
            overlap=overlap,
            channels=channels,
            bands=tuple(bands) if bands else None,
            cfg_options={**(cfg_options or {}), 'test_dataloader.batch_size': batch_size},
        )
        cfg = testing_config(options)
        self.task = task_of(cfg)
        self._scope = cfg.default_scope
        self._pads = self.task == 'detection'
        with DefaultScope.overwrite_default_scope(self._scope):
            if is_exported(checkpoint):
                if amp:
                    raise ConfigError(
                        f'--amp: the precision of {checkpoint} is its own; leave it out.'
                    )
                model = MODELS.build(cfg.model)
                exported: Any = trained_part(model)
                content = {'meta': {'dataset_meta': exported.file.facts}}
                self._classes = classes_of_model(cfg, content, str(checkpoint))
            else:
                content = read(checkpoint, mmap=True)
                # Before the weights: of other classes they do not fit, and this error says why.
                self._classes = classes_of_model(cfg, content, str(checkpoint))
                model = loaded_model(cfg, content, str(checkpoint))
            self._model = model.to(self.device).eval()
            self._load, self._steps = _pipeline(cfg)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their labels."""
        return self._classes.names

    def __call__(
        self, source: Picture | list[Picture] | tuple[Picture, ...]
    ) -> Result | list[Result]:
        """Predict.

        Args:
            source: A path or URL, an array, a PIL image, or a list of these. Arrays are ``(H, W, 3)`` of
                uint8, BGR as OpenCV reads them; of a model for other bands ``(H, W, bands)``.

        Returns:
            :class:`.results.Detections` or :class:`.results.LabelMap`; a list for a list.

        Raises:
            DataError: A picture cannot be read, or an array has another form.
        """
        if isinstance(source, (list, tuple)):
            return list(self.stream(source))
        return next(self.stream([source]))

    def stream(self, sources: Iterable[Picture]) -> Iterator[Result]:
        """The same for any number of pictures, one result after another, in flat memory.

        Pictures are loaded beside the model. Those of one batch are predicted together.
        """
        loaded = ahead(self.load, sources, _LOADERS, self.batch_size + _LOADERS)
        for prepared, sample in self.predicted(loaded):
            yield self.result(prepared, sample)

    def load(self, source: Picture, name: str | None = None) -> Prepared:
        """Load one picture and prepare it for the model.

        Args:
            source: As in :meth:`__call__`.
            name: What to call it; None: its path or URL.

        Raises:
            DataError: It cannot be read, or has another form.
        """
        if isinstance(source, (str, Path)):
            place = str(source)
            if is_url(place):
                with tempfile.TemporaryDirectory() as folder:
                    image = self._read(str(download(place, Path(folder, 'picture'))))
            else:
                image = self._read(place)
            # A list of results does not hold all pictures in memory.
            picture = partial(self._picture_in, place)
        else:
            place = 'array'
            image = _as_loaded(source, self._load)
            picture = partial(self._shown, image)
        return self._prepared(image, place, name or place, picture)

    def load_once(self, source: Picture, name: str) -> Prepared:
        """The same for a picture that is drawn soon: it is held, and not read again."""
        if isinstance(source, (str, Path)):
            place, image = str(source), self._read(str(source))
        else:
            place, image = name, _as_loaded(source, self._load)
        return self._prepared(image, place, name, partial(self._shown, image))

    def _read(self, path: str) -> np.ndarray:
        if not Path(path).is_file():
            raise UnreadableError(f'{path} does not exist.')
        return self._load.image(path)

    def _picture_in(self, place: str) -> np.ndarray:
        if not is_url(place):
            return self._shown(self._read(place))
        with tempfile.TemporaryDirectory() as folder:
            return self._shown(self._read(str(download(place, Path(folder, 'picture')))))

    def _shown(self, image: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(picture_of(self._load, image)[..., ::-1])

    def _prepared(
        self, image: np.ndarray, place: str, name: str, picture: Callable[[], np.ndarray]
    ) -> Prepared:
        size = image.shape[:2]
        results = {'img_path': place, 'img_id': 0, 'img': image, 'img_shape': size}
        results |= {
            'ori_shape': size,
            'seg_fields': [],
            'reduce_zero_label': self._classes.shift > 0,
        }
        try:
            return Prepared(name, self._steps(results), picture)
        except Exception as error:  # transforms raise whatever they meet, of a picture of one pixel
            raise UnreadableError(
                f'{name}, {size[1]} x {size[0]} pixels, cannot be prepared for the model: '
                f'{type(error).__name__}: {error}'
            ) from error

    def predicted(
        self,
        loaded: Iterable[Prepared],
        failed: Callable[[Prepared, DataError], None] | None = None,
    ) -> Iterator[tuple[Prepared, object]]:
        """Pictures that are loaded, each with the data sample that the model returns for it.

        Args:
            loaded: The pictures.
            failed: Called for a picture that makes the model fail, with an error that names it; the
                others are predicted. None: the error is raised.

        Raises:
            DataError: The model fails on each of the first three pictures: the fault is not theirs.
            GPUMemoryError: The first batch of several pictures does not fit into the memory of the GPU.
        """
        waiting: list[Prepared] = []

        def inputs() -> Iterator[dict]:
            for prepared in loaded:
                waiting.append(prepared)
                yield prepared.inputs

        equal_shapes = not self._pads
        works, failures = False, 0
        for batch in batches(inputs(), self.batch_size, equal_shapes):
            done, waiting[: len(batch)] = waiting[: len(batch)], []
            for prepared, outcome in zip(done, self._outcomes(batch, raises_memory=not works)):
                prepared.inputs = {}  # the pixels are not needed any more
                if not isinstance(outcome, Exception):
                    works = True
                    yield prepared, outcome
                    continue
                error = _failure_on(prepared.name, outcome)
                if failed is None:
                    raise error from outcome
                failures += 1
                if not works and failures == _HOPELESS:
                    raise DataError(
                        f'the model fails on each of the first {_HOPELESS} pictures; the last: {error}'
                    ) from outcome
                failed(prepared, error)

    def _outcomes(self, batch: list[dict], raises_memory: bool) -> list:
        """For each picture of a batch its data sample, or the error that it raises on its own."""
        try:
            return self._tested(batch)
        except Exception as error:  # a network raises whatever it meets
            if len(batch) > 1 and raises_memory and isinstance(error, GPUMemoryError):
                raise
            traceback.clear_frames(error.__traceback__)  # they hold the tensors of the batch
            if len(batch) == 1:
                return [error]
        return [self._outcomes([one], raises_memory)[0] for one in batch]

    def _tested(self, batch: list[dict]) -> list:
        precision = torch.autocast(self.device.type, self._dtype) if self._dtype else nullcontext()
        scope = DefaultScope.overwrite_default_scope(self._scope)
        with scope, torch.no_grad(), precision, explain_full_gpu(PREDICTING):
            return self._model.test_step(pseudo_collate(batch))

    def result(self, prepared: Prepared, sample: Any) -> Result:
        """The result for a picture from the data sample that the model returned."""
        height, width = sample.ori_shape
        common: dict[str, Any] = dict(
            name=prepared.name,
            height=int(height),
            width=int(width),
            classes=self._classes.names,
            picture=prepared.picture,
        )
        if self.task == 'segmentation':
            labels = sample.pred_sem_seg.data.squeeze(0).cpu().numpy()
            kind = np.uint8 if len(self._classes.names) <= 256 else np.int16
            return LabelMap(
                **common,
                labels=labels.astype(kind),
                shift=self._classes.shift,
            )
        return Detections(**common, **_arrays(sample.pred_instances, self.score))


def _failure_on(name: str, error: Exception) -> UnreadableError:
    """What to say where a picture makes the model raise ``error``."""
    reason = str(error)
    if not isinstance(error, UserError):
        last = traceback.extract_tb(error.__traceback__)[-1]
        text = next(iter(reason.splitlines()), '')
        reason = f'{type(error).__name__}: {text} ({Path(last.filename).name}, line {last.lineno})'
    return UnreadableError(f'{name} makes the model fail: {reason}')


def _arrays(instances: Any, score: float | None) -> dict:
    """The fields of :class:`.results.Detections` from mmdet's instances."""
    scores = instances.scores.float().cpu().numpy()
    kept = np.flatnonzero(scores >= np.float32(-1 if score is None else score))
    masks = instances.get('masks')
    if isinstance(masks, Tensor):
        masks = encoded_masks(masks.cpu().numpy()[kept])
    elif masks is not None:
        masks = [masks[place] for place in kept]
    return dict(
        boxes=instances.bboxes.float().cpu().numpy()[kept],
        labels=instances.labels.cpu().numpy()[kept],
        scores=scores[kept],
        masks=masks,
    )


def loaded_model(cfg: Config, content: dict, checkpoint: str) -> torch.nn.Module:
    """The model of a complete config with the weights of a checkpoint.

    Args:
        cfg: The config; its scope is the default one.
        content: Of the checkpoint.
        checkpoint: Its name, for messages.

    Raises:
        WeightsError: They do not match.
    """
    model = MODELS.build(cfg.model)
    trained = trained_part(model)
    trained.load_state_dict(matching_tensors(content['state_dict'], trained, checkpoint))
    return model


def _pipeline(cfg: Config) -> tuple[CheckedLoader, Compose]:
    """The transform that loads an image, and those that follow it without annotations."""
    dataset = innermost(cfg.test_dataloader.dataset)
    # The user names the files, so they may be anywhere.
    anywhere = SimpleNamespace(
        pipeline=Compose(without_annotations(dataset.pipeline)), data_root=Path().absolute().anchor
    )
    check_reading(anywhere)
    steps = anywhere.pipeline.transforms
    first = next(loaders_of(anywhere), None)
    if not steps or first is not steps[0] or not first.loads_image:
        raise ConfigError('the test pipeline of the config does not begin with loading an image.')
    anywhere.pipeline.transforms = steps[1:]
    return first, anywhere.pipeline


def _as_loaded(source: np.ndarray | Image.Image, load: CheckedLoader) -> np.ndarray:
    """An array as the loader would return it; DataError if it has another form."""
    if isinstance(source, Image.Image):
        source = np.asarray(ImageOps.exif_transpose(source).convert('RGB'))[..., ::-1]
    image = np.asarray(source)
    if isinstance(load.transform, LoadBands):
        bands = len(load.transform.bands)
        if image.ndim != 3 or image.shape[2] != bands or image.dtype.kind not in 'uif':
            raise DataError(
                f'an array of shape {image.shape} and type {image.dtype}: give (H, W, {bands}), the '
                'bands that the model was trained on, in their order.'
            )
        return np.ascontiguousarray(
            image, dtype=np.uint8 if image.dtype == np.uint8 else np.float32
        )
    if image.ndim == 2 and image.dtype == np.uint8:
        image = np.broadcast_to(image[..., None], (*image.shape, 3))
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise DataError(
            f'an array of shape {image.shape} and type {image.dtype}: give (H, W, 3) of uint8, BGR as '
            'OpenCV reads it.'
        )
    is_float = getattr(load.transform, 'to_float32', False)
    return np.ascontiguousarray(image, dtype=np.float32 if is_float else np.uint8)


def _config_beside(checkpoint: Path) -> Path:
    """The config that training wrote into the folder of a checkpoint."""
    configs = sorted(checkpoint.parent.glob('*.py'))
    if len(configs) != 1:
        raise ConfigError(
            f'{checkpoint.parent} has {len(configs)} configs (.py); name the one of {checkpoint.name}.'
        )
    return configs[0]


def usable_device(name: str | None) -> torch.device:
    """The device of a name; None: a GPU if there is one.

    Raises:
        ConfigError: It cannot be used.
    """
    try:
        device = torch.device(name or get_device())
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        reason = str(error).splitlines()[0]
        raise ConfigError(f'--device {name} cannot be used: {reason}') from error
    return device


def half_dtype(amp: str | None, device: torch.device) -> torch.dtype | None:
    """The precision of ``--amp`` on a device: None for None, that of the device for ``'auto'``."""
    if amp is None:
        return None
    half = half_precision(amp, device.type == 'cuda')
    return torch.float16 if half == 'fp16' else torch.bfloat16
