"""Pictures of validations and tests: ground truth beside prediction, on the pixels that the model saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.visualization import Visualizer

from downstream.data.pictures.shown import shown_image
from downstream.data.pictures.truth import as_array, draw_truth
from downstream.drawing import (
    beside,
    class_palette,
    draw_detections,
    draw_segmentation,
    file_content,
    legend,
    text_px,
)

# Formats that pictures may have; others become PNG.
_WRITTEN = ('.bmp', '.jpeg', '.jpg', '.png', '.webp')


class _WithClasses(Protocol):
    """A data set of images whose classes are known."""

    metainfo: Mapping[str, Any]


class PicturesHook(Hook):
    """Saves or shows a picture of every tested image, and of some in a validation.

    Images are loaded as the data set does: other bands, 16 bits, EXIF orientations.

    Args:
        draw: Whether the hook is active.
        interval: A validation draws the first image of every so many iterations, for the visualizer's
            back ends.
        score_thr: Detections below it are not drawn.
        test_out_dir: Folder for the pictures of a test, within the folder of its log. Each picture has
            the name of its image, in a folder of the same name if the data set has folders. None: they
            go to the visualizer's back ends.
        show: Whether to show each picture in a window.
        wait_time: Seconds for which a window is shown.
    """

    def __init__(
        self,
        draw: bool = False,
        interval: int = 50,
        score_thr: float = 0.3,
        show: bool = False,
        wait_time: float = 0.0,
        test_out_dir: str | None = None,
    ) -> None:
        self.draw = draw
        self.interval = interval
        self.score_thr = score_thr
        self.show = show
        self.wait_time = wait_time
        self.test_out_dir = test_out_dir
        self._tested = 0

    def panels(
        self, image: np.ndarray, sample: Any, classes: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Title -> picture: of the ground truth where the sample has it, and of the prediction.

        Args:
            image: BGR ``(H, W, 3)`` of uint8.
            sample: What the model returned for it.
            classes: Names.
        """
        truth = draw_truth(image, sample, classes)
        panels = {} if truth is None else {'ground truth': truth}
        return {**panels, 'prediction': self.prediction(image, sample, classes)}

    def prediction(self, image: np.ndarray, sample: Any, classes: Sequence[str]) -> np.ndarray:
        """An image with what the model returned for it; arguments as for :meth:`panels`."""
        raise NotImplementedError

    def after_val_iter(
        self, runner, batch_idx: int, data_batch: dict | None = None, outputs: Sequence[Any] = ()
    ) -> None:
        step = runner.iter + batch_idx
        if self.draw and step % self.interval == 0:
            dataset = runner.val_dataloader.dataset
            self._give(outputs[0], self.picture(dataset, outputs[0]), 'val_img', step)

    def after_test_iter(
        self, runner, batch_idx: int, data_batch: dict | None = None, outputs: Sequence[Any] = ()
    ) -> None:
        if not self.draw:
            return
        dataset = runner.test_dataloader.dataset
        for sample in outputs:
            self._tested += 1
            picture = self.picture(dataset, sample)
            if self.test_out_dir is not None:
                folder = Path(runner.work_dir, runner.timestamp, self.test_out_dir)
                _write(picture, folder / _name(dataset, sample.img_path))
            if self.show or self.test_out_dir is None:
                self._give(sample, picture, 'test_img', self._tested)

    def picture(self, dataset: _WithClasses, sample: Any) -> np.ndarray:
        """Ground truth, where there is one, beside the prediction: BGR of uint8.

        Args:
            dataset: Where the image comes from.
            sample: What the model returned for it.
        """
        # The classes of the innermost data set, which wrappers pass on.
        classes = dataset.metainfo['classes']
        image = np.ascontiguousarray(shown_image(dataset, sample.img_path)[..., ::-1])
        panels = self.panels(image, sample, classes)
        return beside(list(panels.values()), list(panels))

    def _give(self, sample: Any, picture: np.ndarray, name: str, step: int) -> None:
        """Show a picture, or pass it on to the visualizer's back ends."""
        visualizer, rgb = Visualizer.get_current_instance(), picture[..., ::-1]
        if self.show:
            visualizer.show(rgb, win_name=Path(sample.img_path).name, wait_time=self.wait_time)
        else:
            visualizer.add_image(name, rgb, step)


@HOOKS.register_module()
class DetectionPicturesHook(PicturesHook):
    """Objects with their boxes, masks, classes and scores."""

    def prediction(self, image: np.ndarray, sample: Any, classes: Sequence[str]) -> np.ndarray:
        """See :meth:`PicturesHook.prediction`."""
        found = sample.pred_instances
        found = found[found.scores >= self.score_thr]
        masks = found.get('masks')
        return draw_detections(
            image,
            as_array(found.bboxes),
            as_array(found.labels),
            as_array(found.scores),
            masks if masks is None or isinstance(masks, list) else as_array(masks),
            classes,
        )


@HOOKS.register_module()
class SegmentationPicturesHook(PicturesHook):
    """Pixels tinted by their class, above the names of the classes."""

    def prediction(self, image: np.ndarray, sample: Any, classes: Sequence[str]) -> np.ndarray:
        """See :meth:`PicturesHook.prediction`."""
        return draw_segmentation(image, as_array(sample.pred_sem_seg.data[0]), classes)

    def picture(self, dataset: _WithClasses, sample: Any) -> np.ndarray:
        """See :meth:`PicturesHook.picture`."""
        picture = super().picture(dataset, sample)
        classes = dataset.metainfo['classes']
        present = np.unique(
            np.concatenate(
                [
                    as_array(sample.get(k).data).ravel()
                    for k in ('gt_sem_seg', 'pred_sem_seg')
                    if k in sample
                ]
            )
        )
        named = {int(i): classes[i] for i in present if 0 <= i < len(classes)}
        palette = class_palette(classes)[:, ::-1]
        strip = legend(
            named, palette, picture.shape[1], text_px(picture[:, : picture.shape[1] // 2])
        )
        return np.vstack([picture, strip])


def _name(dataset: object, path: str) -> Path:
    """Where the picture of an image goes within its folder: as the image lies within the data set."""
    while (inner := getattr(dataset, 'dataset', None)) is not None:
        dataset = inner
    prefixes = getattr(dataset, 'data_prefix', None) or {}
    root = prefixes.get('img_path') or prefixes.get('img') or ''
    file = Path(path)
    inside = file.relative_to(root) if root and file.is_relative_to(root) else Path(file.name)
    return inside if inside.suffix.lower() in _WRITTEN else inside.with_suffix('.png')


def _write(picture: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # OpenCV's own function returns False where a disk is full; this raises.
    path.write_bytes(file_content(picture, path.suffix))
