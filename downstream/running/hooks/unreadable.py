"""Files that cannot be read while training: an error, or replaced and counted."""

from __future__ import annotations

from collections.abc import Mapping

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from downstream.data.reading import UnreadableError
from downstream.distributed.gather import gather

# Key of a sample's metainfo: the errors of the files that it replaces.
STANDS_IN_FOR = 'stands_in_for'
_SHOWN = 20


@HOOKS.register_module()
class UnreadableImagesHook(Hook):
    """Stops a training with more unreadable files than ``skips``.

    Another sample, drawn at random, replaces one that cannot be read. Validation and tests stop at the
    first such file, because metrics of fewer images are not comparable.

    Args:
        skips: How many files each process may replace.
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
                        f'{message}. {len(self._found) - 1} files were replaced before it, and '
                        'default_hooks.unreadable.skips allows no more.'
                    )
                runner.logger.warning(f'{message}; another sample replaces it.')

    def after_train(self, runner) -> None:
        parts = gather(list(self._found))
        if parts is None:  # on all processes but the first
            return
        found = sorted({message for part in parts for message in part})
        if found:
            shown = '\n  '.join(found[:_SHOWN]) + ('\n  ...' if len(found) > _SHOWN else '')
            runner.logger.warning(
                f'{len(found)} files were replaced by others in the training:\n  {shown}'
            )
