"""Importing mmdet and mmseg without what they print about parts that nobody asked for."""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings


def import_quietly(*modules: str) -> None:
    """Import ``modules``; standard output stays clean for those who read it by program."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')
        for module in modules:
            importlib.import_module(module)
