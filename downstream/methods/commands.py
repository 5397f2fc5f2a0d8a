"""What ``tools/methods.py`` does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path

from backbones.errors import ConfigError
from downstream.atomic import atomic

from . import page
from .recipes import methods
from .trial import Outcome, try_method

KEPT = Path(__file__).with_name('methods.json')
BACKBONES = ('convnext-atto', 'timm:resnet18')


def try_methods(
    patterns: Sequence[str],
    backbones: Sequence[str] | None = None,
    keep: str | None = None,
    missing: bool = False,
) -> dict[str, dict[str, Outcome]]:
    """Try every method whose key matches a pattern, print what comes of each, and keep it.

    Args:
        patterns: Of ``mmdet::retinanet`` and the like.
        backbones: Names; None: those of the page.
        keep: A JSON file that is read first and written after every method.
        missing: Leave out what the file has.

    Returns:
        The outcomes by method and backbone.

    Raises:
        ConfigError: No method matches.
    """
    chosen = [m for m in methods() if any(fnmatch(m.key, pattern) for pattern in patterns)]
    if not chosen:
        raise ConfigError(f'no method matches {", ".join(patterns)}; e.g. mmdet::retinanet.')
    kept = read_kept(Path(keep)) if keep and Path(keep).is_file() else {}
    found: dict[str, dict[str, Outcome]] = {}
    for method in chosen:
        for backbone in backbones or BACKBONES:
            if missing and backbone in kept.get(method.key, {}):
                continue
            outcome = try_method(method, backbone)
            found.setdefault(method.key, {})[backbone] = outcome
            kept.setdefault(method.key, {})[backbone] = outcome
            print(
                f'{outcome.status:<10}  {method.key:<28}  {backbone:<14}  {outcome.note}',
                flush=True,
            )
        if keep:
            _write(Path(keep), kept)
    return found


def read_kept(path: Path) -> dict[str, dict[str, Outcome]]:
    """The outcomes of a file that :func:`try_methods` wrote, by method and backbone."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        return {
            key: {backbone: Outcome(**fields) for backbone, fields in row.items()}
            for key, row in content.items()
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f'{path} holds no results of tools/methods.py: {error}') from error


def write_page(kept: str | None = None) -> None:
    """Write docs/methods.md.

    Raises:
        ConfigError: There are no such results, or no docs to write into.
    """
    page.write(read_kept(Path(kept) if kept else KEPT))


def _write(path: Path, kept: dict[str, dict[str, Outcome]]) -> None:
    content = {
        key: {backbone: asdict(outcome) for backbone, outcome in kept[key].items()}
        for key in sorted(kept)
    }
    with atomic(path) as file:
        file.write(json.dumps(content, indent=1) + '\n')
