"""Images and masks of a detector on their way to the device."""

from __future__ import annotations

import numpy as np
import torch
from mmcv.ops import roi_align
from mmdet.models import DetDataPreprocessor
from mmdet.structures.mask import BitmapMasks
from mmengine.registry import MODELS
from torch import Tensor

from downstream.data.preprocessing import AsyncInputs


@MODELS.register_module()
class AsyncDetDataPreprocessor(AsyncInputs, DetDataPreprocessor):
    """mmdet's ``DetDataPreprocessor`` that copies images asynchronously, and masks once per image."""

    def forward(self, data: dict, training: bool = False) -> dict:
        """``data``: ``inputs`` of images ``(C, H, W)`` and ``data_samples``, as the loader gives them."""
        prepared = super().forward(data, training)
        for sample in (prepared.get('data_samples') or ()) if training else ():
            masks = sample.gt_instances.get('masks')
            if type(masks) is BitmapMasks:
                sample.gt_instances.masks = DeviceBitmapMasks(
                    masks.masks, masks.height, masks.width
                )
        return prepared


class DeviceBitmapMasks(BitmapMasks):
    """Bitmaps that are copied to a device once, not by each stage of a cascade.

    Their array must not be changed afterwards.
    """

    _copies: dict[torch.device, Tensor] | None = None

    def on(self, device: torch.device | str) -> Tensor:
        """The bitmaps ``(N, H, W)`` on ``device``."""
        self._copies = {} if self._copies is None else self._copies
        device = torch.device(device)
        if device not in self._copies:
            self._copies[device] = torch.from_numpy(self.masks).to(device)
        return self._copies[device]

    def crop_and_resize(
        self,
        bboxes: np.ndarray | Tensor,
        out_shape: tuple[int, int],
        inds: np.ndarray | Tensor,
        device: torch.device | str = 'cpu',
        interpolation: str = 'bilinear',
        binarize: bool = True,
    ) -> BitmapMasks:
        """Masks ``inds`` ``(K,)`` in the boxes ``bboxes`` ``(K, 4)``, resized to ``out_shape``.

        As mmdet's: RoIAlign of the bitmaps, set where it is at least 0.5.
        """
        if not len(self.masks) or not len(bboxes):
            return super().crop_and_resize(bboxes, out_shape, inds, device, interpolation, binarize)
        # One copy instead of two; float32 holds the number of any mask of an image.
        columns = [torch.as_tensor(inds)[:, None], torch.as_tensor(bboxes)]
        chosen, boxes = torch.cat(columns, dim=1).to(device).split([1, 4], dim=1)
        numbers = torch.arange(len(boxes), device=device, dtype=boxes.dtype)
        rois = torch.cat([numbers[:, None], boxes], dim=1)
        bitmaps = self.on(device)[chosen[:, 0].long()].to(rois.dtype)
        resized = roi_align(bitmaps[:, None], rois, out_shape, 1.0, 0, 'avg', True)[:, 0]
        resized = resized >= 0.5 if binarize else resized
        return BitmapMasks(resized.cpu().numpy(), *out_shape)
