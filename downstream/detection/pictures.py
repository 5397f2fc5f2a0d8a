"""Pictures of a test: ground truth beside prediction, drawn on the pixels that the detector saw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmdet.engine.hooks import DetVisualizationHook
from mmdet.structures import DetDataSample
from mmengine.registry import HOOKS
from mmengine.visualization import Visualizer

from downstream.data.shown import shown_image

# Formats that pictures may have; others become PNG.
_WRITTEN = ('.bmp', '.jpeg', '.jpg', '.png', '.webp')


@HOOKS.register_module()
class DetectionPicturesHook(DetVisualizationHook):
    """mmdet's ``DetVisualizationHook``, for images that mmcv cannot read as it reads 8-bit RGB.

    It loads them as the data set does: other bands, 16 bits, EXIF orientations.
    """

    def after_val_iter(
        self,
        runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[DetDataSample] = (),
    ) -> None:
        step = runner.iter + batch_idx
        if self.draw and step % self.interval == 0:
            # the first of the batch
            self._draw(runner.val_dataloader.dataset, outputs[0], 'val_img', None, step)

    def after_test_iter(
        self,
        runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[DetDataSample] = (),
    ) -> None:
        if not self.draw:
            return
        for sample in outputs:
            self._test_index += 1
            out_file = None
            if self.test_out_dir is not None:
                folder = Path(runner.work_dir, runner.timestamp, self.test_out_dir)
                folder.mkdir(parents=True, exist_ok=True)
                path = Path(sample.img_path)
                suffix = path.suffix if path.suffix.lower() in _WRITTEN else '.png'
                out_file = str(folder / path.with_suffix(suffix).name)
            dataset = runner.test_dataloader.dataset
            self._draw(dataset, sample, 'test_img', out_file, self._test_index)

    def _draw(
        self, dataset: object, sample: DetDataSample, name: str, out_file: str | None, step: int
    ) -> None:
        Visualizer.get_current_instance().add_datasample(
            Path(sample.img_path).name if self.show else name,
            shown_image(dataset, sample.img_path),
            data_sample=sample,
            show=self.show,
            wait_time=self.wait_time,
            pred_score_thr=self.score_thr,
            out_file=out_file,
            step=step,
        )
