"""What a test of segmentation keeps beside its figures: counts of each image, and the label maps.

Counting an image of 512 x 683 pixels takes 5 ms, one of 1024 x 2048 30 ms. Label maps are PNGs in one
file: class indices, and the largest value of their type where nothing is annotated.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.dist import get_world_size
from mmengine.logging import print_log

from backbones.errors import DataError
from downstream.distributed.gather import DataOnlyMetric
from downstream.segmentation.metric import SegmentationMetric

from . import files
from .region_counts import count_image

FILE = 'counts.npz'
MAPS = 'label_maps.npz'
# Bytes of label maps that a test leaves unasked, as of detections.
MAX_BYTES = 2**28
FORMAT = 1
_TABLES = ('confusion', 'boundary', 'regions')
# Runs of equal pixels are what label maps consist of: as small as by other ways, five times as fast.
_PNG = (cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)


@dataclass(frozen=True)
class KeptCounts:
    """Pixel counts of ``N`` images."""

    root: str
    """The folder that all images are in."""
    names: tuple[str, ...]
    """``N`` paths below ``root``."""
    sizes: np.ndarray
    """``(N, 2)``, height and width."""
    digests: tuple[str, ...]
    """Of each image's annotation."""
    classes: tuple[str, ...]
    """``C`` names."""
    confusion: np.ndarray
    """``(n, 4)`` of int64: image, and the columns of :attr:`.region_counts.ImageCounts.confusion`."""
    boundary: np.ndarray
    """``(m, 5)``: image, and those of :attr:`.region_counts.ImageCounts.boundary`."""
    regions: np.ndarray
    """``(k, 5)``: image, and those of :attr:`.region_counts.ImageCounts.regions`."""


class ImageCountsMetric(DataOnlyMetric):
    """Counts each image of a test; has no figures of its own.

    Args:
        classes: Names of the classes.
        ignore_index: The value of pixels without annotation.
    """

    default_prefix = ''  # None is the same, but mmengine warns of it
    results_on_cpu = True

    def __init__(self, classes: Sequence[str], ignore_index: int) -> None:
        super().__init__()
        self.classes = [str(name).strip() for name in classes]
        self.ignore_index = ignore_index
        self.kept: list[dict] = []
        self._bytes: int | None = 0

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count each of the ``data_samples``: ``pred_sem_seg`` and ``gt_sem_seg``."""
        for sample in data_samples:
            # Less to copy from a GPU than the 64 bits of a prediction.
            predicted, annotated = (
                sample[key]['data'].squeeze().to(torch.int16).cpu().numpy()
                for key in ('pred_sem_seg', 'gt_sem_seg')
            )
            annotated = np.where(annotated == self.ignore_index, -1, annotated)
            counts = count_image(predicted, annotated, len(self.classes))
            maps = [self._png(labels) for labels in (predicted, annotated)]
            pixels = annotated.astype('<i2')
            self.results.append(
                {
                    'path': str(sample.get('img_path') or '?'),
                    'size': list(predicted.shape),
                    'digest': hashlib.sha256(pixels.tobytes()).hexdigest()[:16],
                    'maps': maps,
                    **{name: getattr(counts, name) for name in _TABLES},
                }
            )
            self._drop_large_maps(sum(map(len, maps)))

    def _png(self, labels: np.ndarray) -> np.ndarray:
        kind = np.uint8 if len(self.classes) < 256 else np.uint16
        # -1 becomes the largest value.
        return cv2.imencode('.png', labels.astype(kind), _PNG)[1]

    def _drop_large_maps(self, added: int) -> None:
        """Hold no maps in memory that will not be kept: each process has its part of the space."""
        if self._bytes is not None:
            self._bytes += added
            if self._bytes <= MAX_BYTES / get_world_size():
                return
            self._bytes = None
        for result in self.results:
            result.pop('maps', None)

    def compute_metrics(self, results: list) -> dict:
        """Hold on to the results of all processes; there are no figures."""
        self.kept = results
        return {}


def prepare(metrics: list) -> None:
    """Let a metric count the images, beside the one that computes the figures."""
    for metric in metrics:
        if isinstance(metric, SegmentationMetric) and not metric.format_only:
            classes = metric.dataset_meta['classes']
            metrics.append(ImageCountsMetric(classes, metric.ignore_index))
            return


def write(metrics: Sequence, folder: Path) -> dict:
    """Keep the counts, and the label maps where they are small.

    Args:
        metrics: Those of the test, after it, on the first process.
        folder: Where ``metrics.json`` will be.

    Returns:
        For ``metrics.json``: ``digest`` of the annotations, ``images`` (how many were tested) and
        ``kept`` (names of files in ``folder``). Empty where nothing can be kept; the log says why.
    """
    metric = next((one for one in metrics if isinstance(one, ImageCountsMetric)), None)
    if metric is None or not metric.kept:
        print_log(
            'Nothing was kept for a report: test_evaluator has no SegmentationMetric that computes '
            'figures.',
            'current',
        )
        return {}
    results = metric.kept
    digests = [one['digest'] for one in results]
    root, names = _below([one['path'] for one in results])
    header = {'root': root, 'names': names, 'classes': metric.classes, 'digests': digests}
    tables = {name: _table([one[name] for one in results]) for name in _TABLES}
    tables['sizes'] = np.array([one['size'] for one in results])
    files.save(folder / FILE, FORMAT, header, tables, compressed=True)
    kept = [FILE]
    if all('maps' in one for one in results):
        pngs = [png for one in results for png in one['maps']]
        lengths = np.array([len(png) for png in pngs], np.int64).reshape(-1, 2)
        maps = {'lengths': lengths, 'pngs': np.concatenate(pngs)}
        files.save(folder / MAPS, FORMAT, {'names': names}, maps, compressed=True)
        kept.append(MAPS)
    else:
        print_log(
            f'The label maps were not kept for a report: they take more than {MAX_BYTES / 2**20:.0f} MB. '
            '--out FOLDER writes them.',
            'current',
            logging.WARNING,
        )
    # Of the same images in whatever order.
    together = '\n'.join(sorted(f'{name} {digest}' for name, digest in zip(names, digests)))
    digest = hashlib.sha256(together.encode()).hexdigest()
    return {'digest': digest, 'images': len(results), 'kept': kept}


def read_counts(path: Path) -> KeptCounts:
    """The kept counts of a test.

    Raises:
        DataError: The file is damaged or of another version.
    """
    header, arrays = files.read(path, FORMAT)
    return KeptCounts(
        root=header['root'],
        names=tuple(header['names']),
        sizes=arrays['sizes'],
        digests=tuple(header['digests']),
        classes=tuple(header['classes']),
        confusion=arrays['confusion'],
        boundary=arrays['boundary'],
        regions=arrays['regions'],
    )


class LabelMaps:
    """Label maps of a test, in the order of its counts, decoded when they are asked for.

    An item is ``(H, W)`` of int32: class indices, -1 where there is none.

    Args:
        path: The file.
        annotated: The annotations, not the predictions.

    Raises:
        DataError: The file is damaged or of another version.
    """

    def __init__(self, path: Path, annotated: bool = False) -> None:
        self._path = path
        _, arrays = files.read(path, FORMAT)
        self._pngs = arrays['pngs']
        ends = np.cumsum(arrays['lengths'].ravel()).reshape(-1, 2)
        self._ends = ends[:, int(annotated)]
        self._lengths = arrays['lengths'][:, int(annotated)]

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, place: int) -> np.ndarray:
        end, length = self._ends[place], self._lengths[place]
        labels: np.ndarray | None = cv2.imdecode(
            self._pngs[end - length : end], cv2.IMREAD_UNCHANGED
        )
        if labels is None:
            raise DataError(f'{self._path} is damaged; run the test again.')
        none = np.iinfo(labels.dtype).max
        return np.where(labels == none, -1, labels.astype(np.int32))

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[place] for place in range(len(self)))


def _below(paths: Sequence[str]) -> tuple[str, list[str]]:
    """The folder of all images, and their paths below it."""
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    return root, [Path(os.path.relpath(path, root or None)).as_posix() for path in paths]


def _table(parts: Sequence[np.ndarray]) -> np.ndarray:
    """One table of all images, whose first column is the image."""
    images = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return np.column_stack([images, np.concatenate(parts)])
