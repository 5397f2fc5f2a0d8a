"""What a model sees of a batch: images after augmentation, with what it is to learn from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from downstream.drawing import captioned, draw_detections, draw_segmentation

from .images.loading import LoadBands
from .reading import loaders_of

_IGNORED = 'ignored'


class BatchPictures:
    """Draws what a data preprocessor hands to the model.

    Args:
        dataset: Where the images come from: its classes, its colours, and how its bands are shown.
        preprocessor: Of the model. Images are shown without its normalisation.
    """

    def __init__(self, dataset: object, preprocessor: nn.Module) -> None:
        meta = getattr(dataset, 'metainfo', None) or {}
        self.classes = tuple(meta.get('classes') or ())
        # Detectors have the suite's colours; the colours of masks are part of many data sets.
        self.palette = meta.get('palette')
        self.preprocessor = preprocessor
        found = [loader.transform for loader in loaders_of(dataset)]
        self._bands = next((one for one in found if isinstance(one, LoadBands)), None)

    def draw(self, batch: Mapping) -> list[np.ndarray]:
        """A picture of each image of a batch, BGR, with the name of its file above it.

        Args:
            batch: What the preprocessor returns: ``inputs`` ``(N, C, H, W)`` and ``data_samples``.
        """
        samples = batch['data_samples']
        return [self._one(image, sample) for image, sample in zip(batch['inputs'], samples)]

    def _one(self, image: Tensor, sample: object) -> np.ndarray:
        picture = self._shown(image)
        if 'gt_sem_seg' in sample:
            classes = as_array(sample.gt_sem_seg.data[0])
            height, width = classes.shape
            picture = draw_segmentation(
                picture[:height, :width], classes, self.classes, self.palette
            )
        elif 'gt_instances' in sample:
            picture = self._with_objects(picture, sample)
        name = str(sample.metainfo.get('img_path') or sample.metainfo.get('img_id', ''))
        height, width = image.shape[-2:]
        return captioned(picture, f'{name.rpartition("/")[2]}  {width}x{height}')

    def _with_objects(self, picture: np.ndarray, sample: object) -> np.ndarray:
        objects, ignored = sample.gt_instances, sample.get('ignored_instances')
        boxes, labels = _boxes(objects), as_array(objects.labels)
        texts = [
            self.classes[label] if label < len(self.classes) else str(label) for label in labels
        ]
        masks = _masks(objects, picture.shape[:2])
        if ignored is not None and len(ignored):
            boxes = np.concatenate([boxes, _boxes(ignored)])
            labels = np.concatenate([labels, [len(self.classes)] * len(ignored)])
            texts += [_IGNORED] * len(ignored)
            if masks is not None:
                more = _masks(ignored, picture.shape[:2])
                masks += more or [np.zeros(picture.shape[:2], np.uint8)] * len(ignored)
        return draw_detections(
            picture, boxes, labels, masks=masks, classes=(*self.classes, _IGNORED), captions=texts
        )

    def _shown(self, image: Tensor) -> np.ndarray:
        """``(C, H, W)`` as the model gets it -> BGR ``(H, W, 3)`` of uint8."""
        image = image.detach().float().cpu()
        mean, std = (getattr(self.preprocessor, name, None) for name in ('mean', 'std'))
        if getattr(self.preprocessor, '_enable_normalize', mean is not None):
            image = image * std.cpu() + mean.cpu()
        pixels = image.permute(1, 2, 0).numpy()
        if self._bands is not None:
            if pixels.min() >= -0.5 and 1.5 < pixels.max() < 255.5:  # 8 bits
                pixels = pixels.round().astype(np.uint8)
            return np.ascontiguousarray(self._bands.picture(pixels)[..., ::-1])
        pixels = pixels.round().clip(0, 255).astype(np.uint8)
        if pixels.shape[2] != 3:
            return np.ascontiguousarray(np.broadcast_to(pixels[..., :1], (*pixels.shape[:2], 3)))
        # OpenMMLab loads BGR; a preprocessor of RGB networks exchanges the channels.
        return np.ascontiguousarray(pixels[..., ::-1] if self._exchanges() else pixels)

    def _exchanges(self) -> bool:
        own = getattr(self.preprocessor, 'exchanges_channels', False)
        return own or getattr(self.preprocessor, '_channel_conversion', False)


def as_array(values: object) -> np.ndarray:
    """A tensor, or boxes of one of mmdet's types, as an array."""
    return getattr(values, 'tensor', values).detach().cpu().numpy()


def _boxes(objects: object) -> np.ndarray:
    return as_array(objects.bboxes).reshape(-1, 4)


def _masks(objects: object, shape: Sequence[int]) -> list[np.ndarray] | None:
    if 'masks' not in objects:
        return None
    padded = []
    for mask in objects.masks.to_ndarray():
        height, width = min(mask.shape[0], shape[0]), min(mask.shape[1], shape[1])
        region = np.zeros(shape, np.uint8)
        region[:height, :width] = mask[:height, :width]
        padded.append(region)
    return padded
