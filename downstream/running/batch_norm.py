"""BatchNorm that sees a single value of a channel, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from backbones.errors import ConfigError

# The first words of PyTorch's ValueError; the size of the maps follows.
_SINGLE_VALUE = 'Expected more than 1 value per channel when training'


@contextmanager
def explain_single_values() -> Iterator[None]:
    """Raise a ConfigError with what to change where a BatchNorm is to be trained on one value.

    A head that pools to 1 x 1 (UperNet's, PSPNet's, DeepLab's) does that with one image a process; on
    GPUs SyncBN joins the values of all processes, on a CPU it is BatchNorm.
    """
    try:
        yield
    except ValueError as error:
        if not str(error).startswith(_SINGLE_VALUE):
            raise
        size = str(error).partition('got input size ')[2] or 'one value a channel'
        raise ConfigError(
            f'BatchNorm has no variance over a single value, and gets one: {size}. Take at least two '
            'images a process: --batch-size 2, or train_dataloader.batch_size=2 with '
            'train_dataloader.drop_last=True.'
        ) from error
