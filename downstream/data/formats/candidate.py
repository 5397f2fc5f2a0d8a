"""What a reader says of a folder or file that it recognises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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
