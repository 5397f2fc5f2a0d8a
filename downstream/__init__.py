"""How a backbone is evaluated. Import it before mmdet, mmseg and mmcv.ops: it brings the operators."""

from downstream.operators.finder import install as _install_operators

_install_operators()
