"""Images that cannot be read while training: fatal, or left out and counted."""

from __future__ import annotations

from collections.abc import Mapping

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from downstream.data.reading import UnreadableError
from downstream.distributed.gather import gather

# Under this name a sample carries what it stands in for.
STANDS_IN_FOR = 'stands_in_for'
_SHOWN = 20


@HOOKS.register_module()
class UnreadableImagesHook(Hook):
    """Stops a training that meets more unreadable files than it may leave out.

    Another sample, drawn at random, stands in for one that cannot be read. Validation and tests stop at
    the first such file: figures of fewer images compare with nothing.

    Args:
        skips: How many files each process may leave out.
    """

    priority = 'VERY_HIGH'

    def __init__(self, skips: int = 0) -> None:
        self.skips = skips
        self._found: dict[str, None] = {}

    def before_train_iter(self, runner, batch_idx: int, data_batch: Mapping | None = None) -> None:
        samples = data_batch.get('data_samples') if isinstance(data_batch, Mapping) else None
        for sample in samples if isinstance(samples, list) else ():
            for message in sample.metainfo.get(STANDS_IN_FOR, ()):
                if message in self._found:
                    continue
                self._found[message] = None
                if len(self._found) > self.skips:
                    raise UnreadableError(
                        f'{message}. {len(self._found) - 1} files were left out before, and no more may '
                        'be (default_hooks.unreadable.skips).'
                    )
                runner.logger.warning(f'{message}; another sample stands in for it.')

    def after_train(self, runner) -> None:
        parts = gather(list(self._found))
        if not is_main_process():
            return
        found = sorted({message for part in parts for message in part})
        if found:
            shown = '\n  '.join(found[:_SHOWN]) + ('\n  ...' if len(found) > _SHOWN else '')
            runner.logger.warning(f'{len(found)} files were left out of the training:\n  {shown}')
