"""The text of a config: what a recipe is changed in, each change with its reason."""

from __future__ import annotations

import hashlib
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from backbones.errors import ConfigError
from downstream.atomic import atomic
from downstream.paths import CONFIGS

_WIDTH = 96
_MARK = '# Unchanged since it was written: '


def code(value: object, indent: int = 0) -> str:
    """A value as Python, wrapped where a line would be too long; mappings as ``dict(...)``.

    Args:
        value: Of numbers, texts, lists, tuples and mappings whose keys are names; :class:`Name` stands
            for a variable.
        indent: Columns before its continuation lines.
    """
    if isinstance(value, Mapping):
        parts, brackets = [f'{k}={code(v, indent + 4)}' for k, v in value.items()], ('dict(', ')')
    elif isinstance(value, (list, tuple)):
        parts = [code(v, indent + 4) for v in value]
        brackets = (
            ('[', ']') if isinstance(value, list) else ('(', ',)' if len(value) == 1 else ')')
        )
    else:
        return value.text if isinstance(value, Name) else repr(value)
    line = brackets[0] + ', '.join(parts) + brackets[1]
    if len(line) + indent <= _WIDTH and '\n' not in line:
        return line
    space = ' ' * (indent + 4)
    if isinstance(value, Mapping) or any('(' in part or '[' in part for part in parts):
        body = ''.join(f'{space}{part},\n' for part in parts)
    else:
        body = _filled(parts, space)
    return f'{brackets[0]}\n{body}{" " * indent}{brackets[1].lstrip(",")}'


def _filled(parts: Sequence[str], space: str) -> str:
    """Short values, as many in a line as fit."""
    lines, line = [], ''
    for part in parts:
        if line and len(space) + len(line) + len(part) + 2 > _WIDTH:
            lines.append(line)
            line = ''
        line += f'{" " if line else ""}{part},'
    return ''.join(f'{space}{text}\n' for text in [*lines, line])


class Name:
    """A piece of code within a value: a variable, an expression."""

    def __init__(self, text: str) -> None:
        self.text = text


def assignment(name: str, value: object, *reasons: str) -> str:
    """``name = value`` below comments that say why."""
    comments = ''.join(f'# {line}\n' for reason in reasons for line in _wrapped(reason))
    return f'{comments}{name} = {code(value)}\n'


def _wrapped(text: str) -> Sequence[str]:
    return textwrap.wrap(text, _WIDTH - 2)


def path_of_base(recipe: Path, config: Path) -> str:
    """How the config ``config`` names its recipe: relative where both are in one clone, else absolute."""
    root = CONFIGS.parent
    if recipe.is_relative_to(root) and config.resolve().is_relative_to(root):
        return Path(os.path.relpath(recipe, config.resolve().parent)).as_posix()
    return recipe.as_posix()


def write(path: Path, text: str) -> bool:
    """Write a config, unless a person has changed the one that is there.

    Args:
        path: Of the config.
        text: Its content. The first line that is written besides has its digest.

    Returns:
        Whether a file of another content was replaced or a new one made.

    Raises:
        ConfigError: The file that is there was edited, and differs.
    """
    marked = with_digest(text)
    if path.is_file():
        former = path.read_text()
        if former == marked:
            return False
        if not is_as_written(former):
            raise ConfigError(
                f'{path} was edited since it was written and is not overwritten. Train with it: '
                f'python tools/train.py {path}; or remove it, or give another --work-dir.'
            )
    with atomic(path) as file:
        file.write(marked)
    return True


def with_digest(text: str) -> str:
    """``text`` below a line with its digest."""
    return f'{_MARK}{hashlib.sha256(text.encode()).hexdigest()[:12]}\n{text}'


def is_as_written(content: str) -> bool:
    """Whether a config is what :func:`with_digest` returned."""
    _, _, text = content.partition('\n')
    return content == with_digest(text)
