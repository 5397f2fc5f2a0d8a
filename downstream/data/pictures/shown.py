"""What a picture of an image shows: the pixels that the network gets, in colours."""

from __future__ import annotations

import mmcv
import numpy as np

from downstream.data.images.loading import LoadBands
from downstream.data.reading import CheckedLoader, loaders_of


def shown_image(dataset: object, path: str) -> np.ndarray:
    """The image in ``path`` as a data set loads it, ``(H, W, 3)`` of uint8, RGB.

    Its size and its orientation are those of the annotations. Of images of other bands three are shown
    (:class:`~downstream.data.images.loading.LoadBands`).

    Args:
        dataset: The data set whose sample is to be drawn; its pipeline loads images from files.
        path: The file.
    """
    loader = next((loader for loader in loaders_of(dataset) if loader.loads_image), None)
    if loader is None:  # images that come with the data set in another way
        return mmcv.imread(path, channel_order='rgb')
    return picture_of(loader, loader.image(path))


def picture_of(loader: CheckedLoader, image: np.ndarray) -> np.ndarray:
    """An image that ``loader`` returned as a picture, ``(H, W, 3)`` of uint8, RGB."""
    if isinstance(loader.transform, LoadBands):
        return loader.transform.picture(image)
    if image.ndim == 2 or image.shape[2] == 1:
        image = np.broadcast_to(image.reshape(*image.shape[:2], 1), (*image.shape[:2], 3))
    return np.ascontiguousarray(image[..., 2::-1], dtype=np.uint8)
