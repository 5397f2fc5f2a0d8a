"""Images and masks of a segmenter on their way to the device."""

from __future__ import annotations

from mmengine.registry import MODELS
from mmseg.models import SegDataPreProcessor

from downstream.data.preprocessing import AsyncInputs


@MODELS.register_module()
class AsyncSegDataPreProcessor(AsyncInputs, SegDataPreProcessor):
    """mmseg's ``SegDataPreProcessor`` that copies images asynchronously."""
