"""OpenMMLab's packages: which of them are installed, the originals or the maintained forks.

Both distributions of a library install the same import package, so a dependency on the forks would
overwrite the originals. The suite therefore depends on neither and checks at import what there is.
"""

from __future__ import annotations

import warnings
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

# Import package -> the distributions that provide it, the fork first.
DISTRIBUTIONS: dict[str, tuple[str, ...]] = {
    'mmengine': ('onedl-mmengine', 'mmengine'),
    'mmcv': ('onedl-mmcv', 'mmcv-lite', 'mmcv'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
}
FORKS = "pip install -e '.[openmmlab]' in the clone"
ORIGINALS = 'pip install mmengine==0.10.7 mmcv-lite==2.1.0 mmdet==3.3.0 mmsegmentation==1.2.2'


class MissingPackageError(ImportError):
    """A library of OpenMMLab is not installed."""


def require(*libraries: str) -> None:
    """Check that each of ``libraries``, keys of :data:`DISTRIBUTIONS`, is installed, and once.

    Nothing is imported. Two distributions of one library overwrite each other's files, which gives a
    warning.

    Raises:
        MissingPackageError: A library is missing; the message has the two commands that install it.
    """
    missing = [library for library in libraries if find_spec(library) is None]
    if missing:
        raise MissingPackageError(
            f'not installed: {", ".join(missing)}. Install the maintained forks, {FORKS}, '
            f'or the original packages, {ORIGINALS}. docs/install.md describes both.'
        )
    for library in libraries:
        found = [name for name in DISTRIBUTIONS[library] if _is_installed(name)]
        if len(found) > 1:
            warnings.warn(
                f"{' and '.join(found)} are both installed and overwrite each other's files in "
                f'{library}/; uninstall both, then install one of them.',
                stacklevel=3,
            )


def find_configs_of_forks() -> None:
    """Let mmengine find ``_base_ = 'mmseg::...'`` whatever distribution provides the library.

    It looks for the original's name, which the fork's distribution does not have; by the name of the
    import package it finds either.
    """
    from mmengine.config.utils import MODULE2PACKAGE

    for library in ('mmdet', 'mmseg'):
        if not _is_installed(MODULE2PACKAGE[library]):
            MODULE2PACKAGE[library] = library


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True
