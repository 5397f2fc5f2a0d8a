"""ConvNeXt as the image classifier that it was pretrained as, to verify the predictions of weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from backbones.errors import WeightsError
from backbones.weights.load import load_state
from backbones.weights.translation import Translation

from .block import NORM_EPS
from .model import ConvNeXt, ConvNeXtV2
from .weight_names import describe, translate


class Classifier(nn.Module):
    """A backbone with global average pooling, ``norm`` and ``head``, under their official names.

    Args:
        backbone: Its stages are used, its output norms are not.
        num_classes: Number of classes.
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

    def translate(self, state: Mapping[str, Tensor]) -> Translation:
        """A file's tensors under the official names, which are this model's."""
        return translate(state)

    def describe(self, tensors: Mapping[str, Tensor]) -> str | None:
        """The architecture of ``tensors``; see :meth:`backbones.base.Backbone.describe`."""
        return describe(tensors)


def classifier_of(state: Mapping[str, Tensor], source: str = 'state dict') -> Classifier:
    """The classifier that ``state`` is a checkpoint of, in evaluation mode and float32.

    Raises:
        WeightsError: It is no ConvNeXt, has a size that is not in the tables, or no head.
    """
    tensors = translate(state).tensors
    if 'head.weight' not in tensors or 'norm.weight' not in tensors:
        raise WeightsError(f'{source} has no final norm and head: it is not a classifier.')
    found = describe(tensors)
    family, _, size = (found or '').partition(' ')
    cls = {'ConvNeXt': ConvNeXt, 'ConvNeXtV2': ConvNeXtV2}.get(family)
    if cls is None or size not in cls.archs:
        raise WeightsError(
            f'{source} is {found or "not a ConvNeXt"}; only the published sizes of ConvNeXt and '
            'ConvNeXtV2 can be checked.'
        )
    scale = 1.0 if 'stages.0.0.gamma' in tensors else 0.0
    model = Classifier(
        cls(size, layer_scale_init_value=scale), num_classes=len(tensors['head.weight'])
    )
    load_state(model, state, source)
    return model.eval().to(torch.float32)
