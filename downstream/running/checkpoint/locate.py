"""From what a user calls a trained model to its file on this machine."""

from __future__ import annotations

import re
from pathlib import Path

from backbones.errors import WeightsError
from backbones.weights.download import local_file
from backbones.weights.sources import find

# OpenVINO writes a model into two files and reads the second one from beside the first.
_BESIDE = {'.xml': '.bin'}
#: How names of trained models end, other than those of exported files.
CHECKPOINT_SUFFIXES = ('.pth', '.pt', '.safetensors', '.bin', '.ckpt')
_REMOTE = ('http://', 'https://', 'hf:')


def is_remote(location: str) -> bool:
    """Whether a trained model is elsewhere: a URL, or ``hf:``."""
    return location.startswith(_REMOTE)


def local_checkpoint(location: str | Path) -> Path:
    """The file of a trained model, downloaded if it is not there.

    Args:
        location: A path, a URL, or ``hf:<user>/<repo>[/<file>][@<revision>]``, a file of the Hugging Face
            Hub; without ``<file>`` it is ``model.safetensors`` or ``pytorch_model.bin``.

    Returns:
        The path of a checkpoint or of an exported model. The second file of OpenVINO is beside the first.

    Raises:
        WeightsError: There is no such file, or it cannot be downloaded.
    """
    location = str(location)
    if not is_remote(location):
        if not Path(location).is_file():
            raise WeightsError(f'checkpoint {location} does not exist.')
        return Path(location)
    path = local_file(find(location))
    second = _BESIDE.get(path.suffix)
    if second:
        # A revision or the query of a URL may follow the name.
        local_file(find(re.sub(rf'{re.escape(path.suffix)}(?=$|[@?#])', second, location, count=1)))
        if not path.with_suffix(second).is_file():
            raise WeightsError(
                f'{location}: {path.stem}{second} of it is not beside it: the repository changed during '
                'the download; start again.'
            )
    return path
