"""A step of the roadmap as an image classifier, to verify the predictions of its weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from backbones.convnext.block import NORM_EPS
from backbones.errors import WeightsError
from backbones.weights.load import load_state
from backbones.weights.translation import Translation

from .model import Roadmap, translate_step
from .names import config_of_name


class RoadmapClassifier(nn.Module):
    """A backbone with global average pooling and ``head``, and ``norm`` between them in the last step.

    Args:
        backbone: Its stages are used, its output norms are not.
        num_classes: Number of classes.
    """

    def __init__(self, backbone: Roadmap, num_classes: int) -> None:
        super().__init__()
        self.step = backbone.step
        self.downsample_layers, self.stages = backbone.downsample_layers, backbone.stages
        width = backbone.out_channels[-1]
        has_norm = backbone.design.separate_downsampling
        self.norm = nn.LayerNorm(width, eps=NORM_EPS) if has_norm else nn.Identity()
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, num_classes)`` of normalised RGB images ``(N, 3, H, W)``."""
        x = images
        for downsample, stage in zip(self.downsample_layers, self.stages):
            x = stage(downsample(x))
        return self.head(self.norm(x.mean(dim=(2, 3))))

    def translate(self, state: Mapping[str, Tensor]) -> Translation:
        """A file's tensors under this model's names."""
        return translate_step(self.step, state, self.state_dict())


def roadmap_classifier_of(
    name: str, state: Mapping[str, Tensor], source: str = 'state dict'
) -> RoadmapClassifier:
    """The classifier of a step with the tensors of a checkpoint, in evaluation mode and float32.

    Several steps have the same tensors, so that a file does not say which one it belongs to.

    Args:
        name: ``roadmap-<step>`` or ``roadmap-<step>-<regime>``.
        state: The checkpoint, in the layouts that the step's backbone loads.
        source: Its name, for messages.

    Raises:
        ConfigError: There is no such step.
        WeightsError: The checkpoint has no head, or does not match.
    """
    config = config_of_name(name)
    config.pop('type')
    heads = [value for key, value in state.items() if _is_head(key)]
    if not heads:
        raise WeightsError(f'{source} has no head: it is not a classifier.')
    scale = float(any(key.endswith('.gamma') for key in state))
    backbone = Roadmap(**config, layer_scale_init_value=scale)
    model = RoadmapClassifier(backbone, num_classes=len(heads[0]))
    load_state(model, state, source)
    return model.eval().to(torch.float32)


def _is_head(key: str) -> bool:
    """Whether ``key`` is the last layer's weight: ``head`` in ConvNeXt's and timm's names, ``fc`` in
    ResNet's, ``classifier`` in torchvision's and transformers'."""
    return key.endswith(('head.weight', 'fc.weight', 'classifier.weight', 'classifier.2.weight'))
