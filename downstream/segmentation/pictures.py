"""Pictures of the ground truth beside the prediction for every tested image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.visualization import Visualizer
from mmseg.structures import SegDataSample

from downstream.data.shown import shown_image


@HOOKS.register_module()
class SegmentationPicturesHook(Hook):
    """Saves or shows a picture of every tested image.

    mmseg's own hook has no option for the folder; the arguments here are those of mmdet's hook.

    Args:
        draw: Whether the hook is active.
        test_out_dir: Folder for the pictures, within the folder of the test's log. Each picture has the
            name of its image. None: pictures are not saved.
        show: Whether to show each picture in a window.
        wait_time: Seconds for which a window is shown.
    """

    def __init__(
        self,
        draw: bool = False,
        test_out_dir: str | None = None,
        show: bool = False,
        wait_time: float = 0.0,
    ) -> None:
        self.draw = draw
        self.test_out_dir = test_out_dir
        self.show = show
        self.wait_time = wait_time

    def after_test_iter(
        self,
        runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[SegDataSample] = (),
    ) -> None:
        if not self.draw:
            return
        visualizer = Visualizer.get_current_instance()
        for sample in outputs:
            path = Path(sample.img_path)
            out_file = None
            if self.test_out_dir:
                folder = Path(runner.work_dir, runner.timestamp, self.test_out_dir)
                folder.mkdir(parents=True, exist_ok=True)
                out_file = str(folder / path.with_suffix('.jpg').name)
            visualizer.add_datasample(
                path.name,
                shown_image(runner.test_dataloader.dataset, str(path)),
                sample,
                show=self.show,
                wait_time=self.wait_time,
                out_file=out_file,
                with_labels=False,
            )
