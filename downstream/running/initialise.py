"""Initial weights of a model: loaded completely, on all processes alike, without a flood in the log."""

from __future__ import annotations

from collections.abc import Mapping

from mmengine.dist import broadcast
from mmengine.model import BaseModule
from torch import nn

from backbones.upstream import required
from backbones.weights.load import load_pretrained

required('mmengine.model.BaseModule._dump_init_info')


class _WithoutDump(BaseModule):
    """Initialises a model as its child. mmengine dumps two lines per parameter for the outermost one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def _dump_init_info(self) -> None:
        pass


def initialise(model: nn.Module) -> None:
    """Call ``init_weights`` of a model, if it has it; the first process's weights become everybody's.

    Raises:
        WeightsError: The pretrained weights of its backbone cannot be read or do not match it.
    """
    load_backbone_strict(getattr(model, 'backbone', None))
    if not hasattr(model, 'init_weights'):
        return
    _WithoutDump(model).init_weights()
    for tensor in model.state_dict().values():
        broadcast(tensor)


def load_backbone_strict(backbone: nn.Module | None) -> None:
    """Load the pretrained weights of a user's own class completely.

    mmengine's ``Pretrained`` loads whatever matches and ignores the rest. The classes of this suite
    load strictly by themselves; those of OpenMMLab have the names of their own files.

    Raises:
        WeightsError: The weights cannot be read or do not match.
    """
    init_cfg = getattr(backbone, 'init_cfg', None)
    if (
        not isinstance(init_cfg, Mapping)
        or init_cfg.get('type') != 'Pretrained'
        or type(backbone).init_weights is not BaseModule.init_weights
        or type(backbone).__module__.split('.')[0] in ('mmcv', 'mmdet', 'mmseg', 'mmpretrain')
    ):
        return
    load_pretrained(backbone, **{k: v for k, v in init_cfg.items() if k != 'type'})
    backbone.init_cfg = None
