"""How a backbone is evaluated.

Import it before mmdet, mmseg and mmcv.ops: it provides mmcv's operators, on torchvision.

Raises:
    MissingPackageError: A library of OpenMMLab is not installed; the message says how to install it.
"""

from backbones.openmmlab import find_configs_of_forks as _find_configs_of_forks
from backbones.openmmlab import require as _require

_require('mmengine', 'mmcv', 'mmdet', 'mmseg')
_find_configs_of_forks()

from downstream.operators.finder import install as _install_operators

_install_operators()
