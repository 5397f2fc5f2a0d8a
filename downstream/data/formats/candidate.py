"""What a reader says of a folder or file that it recognises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from backbones.errors import DataError

from .found import Found


@dataclass(frozen=True)
class Candidate:
    """A way to read a data set.

    Attributes:
        format: As in :class:`Found`.
        source: What to name on the command line to read just this.
        read: Reads it.
        task: ``'detection'`` (its polygons may be drawn as masks) or ``'segmentation'``.
    """

    format: str
    source: Path
    read: Callable[[], Found]
    task: str = 'detection'


def refusing_empty(
    read: Callable[[], Found], recognised: Sequence[Path], searched: Sequence[Path]
) -> Callable[[], Found]:
    """``read``, after a DataError where a file of no bytes lies beside a recognised one.

    A copy that failed leaves such a file. Without it the part or the image that it is of would be
    missing, and a set might be trained on its validation part.

    Args:
        read: Reads ``recognised``.
        recognised: Files of a format.
        searched: All files that could have been of it.
    """
    folders = {path.parent for path in recognised}
    empty = [path for path in searched if path.parent in folders and not path.stat().st_size]

    def refuse() -> Found:
        raise DataError(f'{empty[0]} is empty. Copy it again, or remove it.')

    return refuse if empty else read
