"""DINO (Zhang et al. 2023, arXiv 2203.03605) as its authors, open-mmlab's mmdet and detrex have it.

onedl-mmdetection's decoder encodes each coordinate of a reference box with as many features as a query
has, and not with half of them: a first weight of ``(256, 1024)`` instead of ``(256, 512)``, into which no
published checkpoint loads. Grounding DINO inherits it with a layer of the published size, and fails.
:class:`DINODetector` and :class:`GroundingDINODetector` are right whichever of the two is installed.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from mmdet.models.dense_heads import DINOHead
from mmdet.models.detectors import DINO, GroundingDINO
from mmdet.models.layers import MLP, inverse_sigmoid
from mmengine.registry import MODELS
from torch import Tensor

from .detrex import from_detrex

_COORDINATES = 4


class ReferenceHead(MLP):
    """Turns encoded reference boxes into positional queries.

    Sines and cosines of half as many features have every other frequency of the whole: these are taken
    where an encoding is twice as long as this head reads.
    """

    def __init__(self, embed_dims: int):
        super().__init__(2 * embed_dims, embed_dims, embed_dims, 2)

    def forward(self, x: Tensor) -> Tensor:
        """``x``: ``(N, queries, 2 * embed_dims)``, or twice as long."""
        if x.shape[-1] == 2 * self.layers[0].in_features:
            # of each coordinate a sine and a cosine for each frequency
            x = x.unflatten(-1, (_COORDINATES, -1, 2, 2))[..., 0, :].flatten(-3)
        return super().forward(x)


class _PublishedDecoder(DINO):
    def __init__(self, *args, **kwargs):
        # mmdet writes into the configs that it gets, and refuses those that have been written into.
        super().__init__(*deepcopy(args), **deepcopy(kwargs))

    def _init_layers(self) -> None:
        super()._init_layers()
        self.decoder.ref_point_head = ReferenceHead(self.embed_dims)


@MODELS.register_module()
class DINODetector(_PublishedDecoder):
    """mmdet's ``DINO`` with the published decoder; takes the same arguments.

    The suite's commands also load detrex's checkpoints into it.
    """

    def translated_checkpoint(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a checkpoint, which may be detrex's, under this model's names."""
        return from_detrex(state, self.backbone)


@MODELS.register_module()
class GroundingDINODetector(_PublishedDecoder, GroundingDINO):
    """mmdet's ``GroundingDINO`` with the published decoder; takes the same arguments."""


@MODELS.register_module()
class DINODetectorHead(DINOHead):
    """mmdet's ``DINOHead``, whose distance to 0 and 1 in the inverse sigmoid of references can be set.

    Args:
        reference_eps: mmdet has 1e-5 here and 1e-3 in the decoder; the authors and detrex 1e-3 in both.
        kwargs: Arguments of ``DINOHead``.
    """

    def __init__(self, *args, reference_eps: float = 1e-3, **kwargs):
        super().__init__(*args, **kwargs)
        self.reference_eps = reference_eps

    def forward(self, hidden_states: Tensor, references: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Classes and boxes after each layer of the decoder.

        Args:
            hidden_states: ``(layers, N, queries, embed_dims)``.
            references: Boxes before each layer, ``(N, queries, 4)``: relative centre, width, height.

        Returns:
            Logits ``(layers, N, queries, classes)`` and boxes ``(layers, N, queries, 4)``.
        """
        layers = list(zip(hidden_states, references, self.cls_branches, self.reg_branches))
        classes = torch.stack([classify(hidden) for hidden, _, classify, _ in layers])
        boxes = [
            (regress(hidden) + inverse_sigmoid(reference, eps=self.reference_eps)).sigmoid()
            for hidden, reference, _, regress in layers
        ]
        return classes, torch.stack(boxes)
