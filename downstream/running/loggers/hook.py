"""What loggers get of a training besides the lines of its log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.visualization import Visualizer

from downstream.running.hooks.first_batches import FOLDER, FirstBatchesHook
from downstream.running.hooks.pictures import PicturesHook

from .background import BackgroundLogger
from .service import flat_settings


def background_loggers(visualizer: Visualizer) -> list[BackgroundLogger]:
    """The loggers among the back ends of a visualizer."""
    return [one for one in visualizer._vis_backends.values() if isinstance(one, BackgroundLogger)]


class LoggersHook(Hook):
    """Begins and ends the loggers of a training; gives them pictures and figures of each class.

    For the main process. :class:`downstream.running.runner.SuiteRunner` registers it where its visualizer
    has loggers.

    Args:
        loggers: Those of the run.
        pictures: How many pictures of the first batches, and of each validation, they get.
    """

    # LoggerHook, which comes later, closes the back ends one by one; here they end at the same time.
    priority = 'NORMAL'

    def __init__(self, loggers: Sequence[BackgroundLogger], pictures: int = 4) -> None:
        self.loggers = loggers
        self.pictures = pictures
        self._sent = 0

    def before_train(self, runner: Runner) -> None:
        for logger in self.loggers:
            logger.begin(runner.work_dir, lambda: runner.iter)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self._send_first_batches(runner)

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] = ()
    ) -> None:
        draws = next((hook for hook in runner.hooks if isinstance(hook, PicturesHook)), None)
        if batch_idx >= self.pictures or draws is None or not outputs:
            return
        try:
            picture = draws.picture(runner.val_dataloader.dataset, outputs[0])
        except Exception as error:
            runner.logger.warning(
                f'loggers: a validation could not be drawn: {type(error).__name__}: {error}'
            )
            self.pictures = 0
            return
        for logger in self.loggers:
            logger.add_image(f'val/{batch_idx + 1}', picture[..., ::-1])

    def after_val_epoch(self, runner: Runner, metrics: Mapping[str, float] | None = None) -> None:
        for metric in runner.val_evaluator.metrics:
            figures = per_class_figures(getattr(metric, 'report', {}))
            for logger in self.loggers:
                logger.record(figures)

    def after_run(self, runner: Runner) -> None:
        self._end(failed=False)

    def close(self) -> None:
        """End the loggers of a run that did not reach its end."""
        self._end(failed=True)

    def _end(self, failed: bool) -> None:
        for logger in self.loggers:
            logger.stop(failed)
        for logger in self.loggers:
            logger.close()

    def _send_first_batches(self, runner: Runner) -> None:
        """The pictures that :class:`FirstBatchesHook` has written meanwhile."""
        drawn = next((one for one in runner.hooks if isinstance(one, FirstBatchesHook)), None)
        for file in drawn.written[self._sent : self.pictures] if drawn else ():
            self._sent += 1
            picture = cv2.imread(str(file))
            if picture is None:
                continue
            for logger in self.loggers:
                logger.add_image(f'{FOLDER}/{file.stem}', picture[..., ::-1])


def per_class_figures(report: Mapping[str, Any]) -> dict[str, float]:
    """What an evaluation reports of each class: ``{'val_per_class/bbox/AP/cat': 0.4, ...}``.

    Args:
        report: That of a metric of this suite: ``per_class`` at the top, or within each kind.
    """
    nested = {'': report, **{k: v for k, v in report.items() if isinstance(v, Mapping)}}
    figures: dict[str, float] = {}
    for kind, part in nested.items():
        for name, value in (part.get('per_class') or {}).items():
            flat = flat_settings({'AP': value} if not isinstance(value, Mapping) else value)
            figures |= {
                '/'.join(filter(None, ('val_per_class', kind, figure, name))): number
                for figure, number in flat.items()
                if not isinstance(number, str)
            }
    return figures
