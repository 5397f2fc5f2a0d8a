"""ConvNeXt as the classifier that it was pretrained as: to see that weights predict what they should."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from backbones.errors import WeightsError
from backbones.weights.load import describe, load_state

from .block import NORM_EPS
from .model import ConvNeXt, ConvNeXtV2
from .weight_names import translate


class Classifier(nn.Module):
    """A backbone with global average pooling, ``norm`` and ``head``, under their official names.

    Args:
        backbone: Its output norms are taken away.
        num_classes: Width of the head.
    """

    def __init__(self, backbone: ConvNeXt, num_classes: int) -> None:
        super().__init__()
        self.downsample_layers, self.stages = backbone.downsample_layers, backbone.stages
        width = backbone.arch.dims[-1]
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, num_classes)`` of normalised RGB images ``(N, 3, H, W)``."""
        x = images
        for downsample, stage in zip(self.downsample_layers, self.stages):
            x = stage(downsample(x))
        return self.head(self.norm(x.mean(dim=(2, 3))))


def classifier_of(state: Mapping[str, Tensor], source: str = 'state dict') -> Classifier:
    """The classifier whose weights ``state`` holds, in evaluation mode.

    Raises:
        WeightsError: It holds no ConvNeXt, one of a size that is not in the tables, or no head.
    """
    tensors = translate(state).tensors
    if 'head.weight' not in tensors or 'norm.weight' not in tensors:
        raise WeightsError(f'{source} has no final norm and head: it is no classifier.')
    family, _, size = describe(state).partition(' ')
    cls = {'ConvNeXt': ConvNeXt, 'ConvNeXtV2': ConvNeXtV2}.get(family)
    if cls is None or size not in cls.archs:
        raise WeightsError(f'{source}: {family} {size} is not one that can be checked.')
    scale = 1.0 if 'stages.0.0.gamma' in tensors else 0.0
    model = Classifier(
        cls(size, layer_scale_init_value=scale), num_classes=len(tensors['head.weight'])
    )
    load_state(model, state, source)
    return model.eval().to(torch.float32)
