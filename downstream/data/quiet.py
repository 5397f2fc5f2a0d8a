"""Standard output without the progress reports of pycocotools."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator

_CHATTER = ('loading annotations into memory', 'Done (t=', 'creating index', 'index created')


@contextlib.contextmanager
def without_coco_output() -> Iterator[None]:
    """Drop the four lines that pycocotools prints for every annotation file; print all others.

    It prints by ``print``, which no logger or warning filter reaches.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        for line in printed.getvalue().splitlines(keepends=True):
            if not line.startswith(_CHATTER):
                sys.stdout.write(line)
