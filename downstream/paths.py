"""Where recipes and tools are: at the top of a clone, or in ``downstream`` of an installed wheel."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config

from backbones.errors import ConfigError

_INSTALLED = Path(__file__).with_name('configs')
CONFIGS = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).resolve().parents[1] / 'configs'
TOOLS = CONFIGS.with_name('tools')


def find_config(name: str | Path) -> Path | None:
    """The config file that ``name`` means, or None.

    Args:
        name: A file; else a path that begins with ``configs/``, looked up among the suite's recipes
            whatever the current folder; else a recipe's bare name, with or without ``.py``; else
            ``mmdet::`` or ``mmseg::`` and the path of one of their configs.
    """
    scope, marks, inner = str(name).partition('::')
    path = Path(name)
    if path.is_file():
        return path
    if marks:
        candidates = [folder / inner for folder in configs_of(scope)]
    elif path.parts[:1] == ('configs',):
        candidates = [CONFIGS.joinpath(*path.parts[1:])]
    elif len(path.parts) == 1:
        candidates = [
            CONFIGS / task / f'{path.name.removesuffix(".py")}.py'
            for task in ('det', 'seg', 'pretrain')
        ]
    else:
        candidates = []
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def configs_of(package: str) -> list[Path]:
    """Where the configs of mmdet or mmseg may be: in their wheel, or beside the package in a clone."""
    spec = find_spec(package) if package in ('mmdet', 'mmseg') else None
    if spec is None or spec.origin is None:
        return []
    folder = Path(spec.origin).parent
    return [folder / '.mim' / 'configs', folder.parent / 'configs']


def read_file(path: Path, imports: bool = True) -> Config:
    """The config of a file.

    Args:
        path: The file.
        imports: Whether its ``custom_imports`` are imported. What a backbone that is replaced needs may
            be missing.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        return Config.fromfile(path, import_custom_modules=imports)
    except (SyntaxError, OSError, KeyError, NameError, ImportError) as error:
        raise ConfigError(
            f'config {path} cannot be read: {type(error).__name__}: {error}'
        ) from error
