"""ConvNeXts as the classifiers that they were pretrained as, to verify the predictions of weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from backbones.errors import WeightsError
from backbones.uninitialised import on_meta
from backbones.weights.load import load_state
from backbones.weights.translation import Translation

from .block import NORM_EPS
from .isotropic import ConvNeXtIsotropic, describe_isotropic, translate_isotropic
from .model import ConvNeXt, ConvNeXtV2
from .weight_names import arch_of, describe, translate


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


class IsotropicClassifier(nn.Module):
    """An isotropic backbone without its pyramid, with global average pooling, ``norm`` and ``head``."""

    def __init__(self, backbone: ConvNeXtIsotropic, num_classes: int) -> None:
        super().__init__()
        self.stem, self.stage = backbone.stem, backbone.stage
        self.norm = nn.LayerNorm(backbone.arch.dim, eps=NORM_EPS)
        self.head = nn.Linear(backbone.arch.dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, num_classes)`` of normalised RGB images ``(N, 3, H, W)``, multiples of 16."""
        return self.head(self.norm(self.stage(self.stem(images)).mean(dim=(2, 3))))

    def translate(self, state: Mapping[str, Tensor]) -> Translation:
        """A file's tensors under this model's names."""
        return translate_isotropic(state, self.state_dict())

    def describe(self, tensors: Mapping[str, Tensor]) -> str | None:
        """The architecture of ``tensors``; see :meth:`backbones.base.Backbone.describe`."""
        return describe_isotropic(tensors)


def classifier_of(
    state: Mapping[str, Tensor], source: str = 'state dict'
) -> Classifier | IsotropicClassifier:
    """The classifier that ``state`` is a checkpoint of, in evaluation mode and float32.

    Raises:
        WeightsError: It is no ConvNeXt, has a size that is not in the tables, or no head.
    """
    found = describe_file(state) or 'not a ConvNeXt'
    family, _, size = found.partition(' ')
    isotropic = family == 'ConvNeXtIsotropic'
    tensors = isotropic_tensors(state) if isotropic else translate(state).tensors
    if 'head.weight' not in tensors or 'norm.weight' not in tensors:
        raise WeightsError(f'{source} has no final norm and head: it is not a classifier.')
    classes = {cls.__name__: cls for cls in (ConvNeXt, ConvNeXtV2, ConvNeXtIsotropic)}
    cls = classes.get(family)
    if cls is None or size not in cls.archs:
        raise WeightsError(
            f'{source} is {found}; only the published sizes of {", ".join(classes)} can be checked.'
        )
    first = 'stage.0.gamma' if isotropic else 'stages.0.0.gamma'
    backbone = cls(size, layer_scale_init_value=float(first in tensors))
    kind = IsotropicClassifier if isotropic else Classifier
    model = kind(backbone, num_classes=len(tensors['head.weight']))
    load_state(model, state, source)
    return model.eval().to(torch.float32)


def encoder_of(state: Mapping[str, Tensor], source: str = 'state dict') -> ConvNeXt:
    """The ConvNeXt that ``state`` is a file of, of whatever size, in evaluation mode and float32.

    Raises:
        WeightsError: It is no ConvNeXt, or a tensor is missing, unknown or of another size.
    """
    tensors = translate(state).tensors
    arch = arch_of(tensors)
    if arch is None:
        raise WeightsError(f'{source} is not a ConvNeXt checkpoint.')
    cls = ConvNeXtV2 if any('.grn.' in name for name in tensors) else ConvNeXt
    stem = tensors.get('downsample_layers.0.0.weight')
    backbone = cls(
        dict(depths=arch.depths, dims=arch.dims),
        layer_scale_init_value=float('stages.0.0.gamma' in tensors),
        in_channels=3 if stem is None else stem.shape[1],
    )
    load_state(backbone, state, source)
    return backbone.eval().to(torch.float32)


def describe_file(state: Mapping[str, Tensor]) -> str | None:
    """The architecture of a checkpoint in any layout; None if it is no ConvNeXt."""
    return describe(translate(state).tensors) or describe_isotropic(isotropic_tensors(state))


def isotropic_tensors(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """What a checkpoint holds of the largest isotropic classifier, under its names."""
    with on_meta():
        own = IsotropicClassifier(ConvNeXtIsotropic('large'), num_classes=1).state_dict()
    return translate_isotropic(state, own).tensors
