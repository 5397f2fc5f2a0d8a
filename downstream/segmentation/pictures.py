"""Pictures of a test: ground truth beside prediction, in a folder of the user's choice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mmcv
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.visualization import Visualizer
from mmseg.structures import SegDataSample


@HOOKS.register_module()
class SegmentationPicturesHook(Hook):
    """Draws every tested image; mmseg's hook has no folder to name, mmdet's has.

    Args:
        draw: Whether to do anything.
        test_out_dir: Folder for the pictures, named as the images.
        show: Show each picture in a window, for ``wait_time`` seconds.
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
                mmcv.imread(str(path), channel_order='rgb'),
                sample,
                show=self.show,
                wait_time=self.wait_time,
                out_file=out_file,
                with_labels=False,
            )
