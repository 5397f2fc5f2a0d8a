"""A detector or segmenter that tests pictures in tiles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.dataset import Compose, pseudo_collate
from mmengine.model import BaseModel, BaseTTAModel
from mmengine.registry import MODELS, TRANSFORMS
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import Tensor

from .blend import BlendedClasses
from .objects import FoundObjects, merge
from .region import Region
from .windows import DEFAULT_OVERLAP, Tiling, Window


@TRANSFORMS.register_module()
class PackPicture(BaseTransform):
    """Packs an image as it was loaded, with its annotations: ``inputs`` is ``(H, W, C)``.

    The model cuts it into tiles, each of which goes through the rest of the pipeline.

    Args:
        pack: Config of the transform that packs the annotations, ``PackDetInputs`` or ``PackSegInputs``.
    """

    def __init__(self, pack: Mapping) -> None:
        self.pack = TRANSFORMS.build(dict(pack))

    def transform(self, results: dict) -> dict:
        image = results.pop('img')
        return {**self.pack(results), 'inputs': torch.from_numpy(image)}


class TiledModel(BaseModel):
    """Tests pictures that are larger than a tile in tiles, and all others as they are.

    Args:
        module: The model, or that of test-time augmentation around it.
        pipeline: What is done to an image between loading and the model.
        tile: Height and width of a tile in pixels of the picture.
        overlap: As in :class:`.windows.Tiling`.
        batch_size: How many tiles the model gets at once.

    Raises:
        ConfigError: ``tile`` or ``overlap`` is out of range.
    """

    equal_shapes: bool

    def __init__(
        self,
        module: Mapping | torch.nn.Module,
        pipeline: Sequence[Mapping],
        tile: int,
        overlap: float = DEFAULT_OVERLAP,
        batch_size: int = 1,
    ) -> None:
        super().__init__()
        self.module: Any = (
            module if isinstance(module, torch.nn.Module) else MODELS.build(dict(module))
        )
        self.pipeline = Compose(list(pipeline))
        self.tiling = Tiling(tile, overlap)
        self.batch_size = batch_size

    def forward(self, *args: object, **kwargs: object) -> object:
        """What the model itself computes, of inputs that are no tiles."""
        return self.module(*args, **kwargs)

    def test_step(self, data: Mapping) -> list[BaseDataElement]:
        """Predictions for pictures.

        Args:
            data: ``inputs``, a list of ``(H, W, C)`` as :class:`PackPicture` packs them, and
                ``data_samples``.
        """
        pictures = [picture.numpy() for picture in data['inputs']]
        samples = data['data_samples']
        fitting = [i for i, picture in enumerate(pictures) if self._fits(picture)]
        # As one batch: the same as without tiles.
        whole = self._prepared(
            (pictures[i], Window(0, 0, *pictures[i].shape[1::-1]), samples[i]) for i in fitting
        )
        numbers = iter(fitting)
        for batch in batches(whole, len(pictures), self.equal_shapes):
            for predicted in self._tested(batch):
                self._take(samples[next(numbers)], predicted)
        for picture, sample in zip(pictures, samples):
            if not self._fits(picture):
                self._merge(picture, sample)
        return samples

    def _fits(self, picture: np.ndarray) -> bool:
        return max(picture.shape[:2]) <= self.tiling.tile

    def _prepared(
        self, parts: Iterable[tuple[np.ndarray, Window, BaseDataElement]]
    ) -> Iterator[dict]:
        for picture, window, sample in parts:
            image = picture[window.top : window.bottom, window.left : window.right]
            size = image.shape[:2]
            known = {
                k: v for k, v in sample.metainfo.items() if k not in ('flip', 'flip_direction')
            }
            yield self.pipeline(
                {
                    **known,
                    'img': np.ascontiguousarray(image),
                    'img_shape': size,
                    'ori_shape': size,
                }
            )

    def _tested(self, batch: list[dict]) -> list[BaseDataElement]:
        return self.module.test_step(pseudo_collate(batch))

    def _tiles(self, picture: np.ndarray, sample: BaseDataElement) -> Iterator[tuple]:
        """Every tile of a picture with its prediction."""
        windows = list(chain(*self.tiling.rows(*picture.shape[:2])))
        prepared = self._prepared((picture, window, sample) for window in windows)
        place = 0
        for batch in batches(prepared, self.batch_size, self.equal_shapes):
            for predicted in self._scored(batch):
                yield windows[place], predicted
                place += 1

    def _scored(self, batch: list[dict]) -> list:
        """What is merged of the tiles of a batch."""
        return self._tested(batch)

    def _take(self, sample: BaseDataElement, predicted: BaseDataElement) -> None:
        """Give a sample the prediction of the one tile that it is."""
        raise NotImplementedError

    def _merge(self, picture: np.ndarray, sample: BaseDataElement) -> None:
        """Give a sample the prediction that is merged from tiles."""
        raise NotImplementedError


@MODELS.register_module()
class TiledDetector(TiledModel):
    """Objects of all tiles, merged across seams by :func:`.objects.merge`.

    Masks of pictures in several tiles are run lengths: as pixels of the whole picture they would need
    its memory once for each object.
    """

    equal_shapes = False

    def _take(self, sample: BaseDataElement, predicted: BaseDataElement) -> None:
        sample.pred_instances = predicted.pred_instances

    def _merge(self, picture: np.ndarray, sample: BaseDataElement) -> None:
        height, width = picture.shape[:2]
        tiles = [_found(window, tested) for window, tested in self._tiles(picture, sample)]
        merged = merge(tiles, height, width)
        instances = InstanceData(
            bboxes=torch.from_numpy(merged.boxes),
            scores=torch.from_numpy(merged.scores),
            labels=torch.from_numpy(merged.labels),
        )
        if merged.regions is not None:
            instances.masks = [region.run_lengths(height, width) for region in merged.regions]
        sample.pred_instances = instances


def _found(window: Window, predicted: BaseDataElement) -> FoundObjects:
    instances = predicted.pred_instances
    shift = np.array([window.left, window.top] * 2, np.float32)
    regions = None
    if 'masks' in instances:
        masks = instances.masks
        masks = masks.cpu().numpy() if isinstance(masks, Tensor) else np.asarray(masks)
        regions = [Region.of_mask(mask, window) for mask in masks]
    return FoundObjects(
        window,
        instances.bboxes.float().cpu().numpy() + shift,
        instances.scores.float().cpu().numpy(),
        instances.labels.cpu().numpy(),
        regions,
    )


@MODELS.register_module()
class TiledSegmenter(TiledModel):
    """Scores of all tiles, blended across seams by :class:`.blend.BlendedClasses`.

    Of a model with test-time augmentation the mean probabilities of the views are blended.
    """

    equal_shapes = True

    def _take(self, sample: BaseDataElement, predicted: BaseDataElement) -> None:
        sample.pred_sem_seg = predicted.pred_sem_seg

    def _merge(self, picture: np.ndarray, sample: BaseDataElement) -> None:
        height, width = picture.shape[:2]
        blended = BlendedClasses(self.tiling, height, width, self._decide)
        for window, scores in self._tiles(picture, sample):
            blended.add(window, scores)
        sample.pred_sem_seg = PixelData(data=blended.classes[None])

    @property
    def _segmenter(self) -> Any:
        return self.module.module if isinstance(self.module, BaseTTAModel) else self.module

    def _decide(self, scores: Tensor) -> Tensor:
        if len(scores) > 1:
            return scores.argmax(0)
        return scores[0] > self._segmenter.decode_head.threshold

    def _scored(self, batch: list[dict]) -> list[Tensor]:
        if not isinstance(self.module, BaseTTAModel):
            return [sample.seg_logits.data for sample in self._tested(batch)]
        data = pseudo_collate(batch)
        views = [
            {key: value[place] for key, value in data.items()}
            for place in range(len(data['inputs']))
        ]
        total: list[Tensor] = []
        for view in views:
            found = [sample.seg_logits.data for sample in self._segmenter.test_step(view)]
            # mmseg returns the probability where there is one score for two classes
            found = [scores.softmax(0) if len(scores) > 1 else scores for scores in found]
            total = [a + b for a, b in zip(total, found)] if total else found
        return [scores / len(views) for scores in total]


def batches(prepared: Iterable[dict], batch_size: int, equal_shapes: bool) -> Iterator[list[dict]]:
    """Consecutive samples in batches.

    Args:
        prepared: What a pipeline returns.
        batch_size: The most samples of a batch.
        equal_shapes: A batch ends before a sample of another shape. mmseg takes no others; mmdet pads.
    """
    batch: list[dict] = []
    for sample in prepared:
        if batch and equal_shapes and shapes_of(sample) != shapes_of(batch[0]):
            yield batch
            batch = []
        batch.append(sample)
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def shapes_of(sample: Mapping) -> list[torch.Size]:
    """The shapes of the images of a sample, one for each view."""
    inputs = sample['inputs']
    return [view.shape for view in (inputs if isinstance(inputs, list) else [inputs])]
