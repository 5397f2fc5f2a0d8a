"""FCMAE: masked autoencoding with a fully convolutional network (ConvNeXt V2, section 3.1).

Of each image a random part of the cells is hidden. The encoder sees the visible cells alone; a small
decoder gets its features, and a learned token where cells are hidden, and predicts the hidden pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor, nn

from backbones.convnext import ConvNeXt, FusedBlock
from backbones.convnext.model import STRIDES
from backbones.convnext.visible import VisibleCells
from backbones.convnext.weight_names import describe, fcmae_decoder, translate_backbone
from backbones.errors import ConfigError
from backbones.weights.translation import Translation

from .start import load_start

_TARGET_EPS = 1e-6
_STRIDE = STRIDES[-1]


class Encoder(nn.Module):
    """The stem and the stages of a ConvNeXt on visible cells, under their official names.

    Args:
        backbone: Its stages are used, its output norms are not.
    """

    def __init__(self, backbone: ConvNeXt) -> None:
        super().__init__()
        self.downsample_layers, self.stages = backbone.downsample_layers, backbone.stages
        self.width = backbone.arch.dims[-1]
        self.init_cfg = backbone.init_cfg

    def forward(self, images: Tensor, visible: VisibleCells) -> Tensor:
        """A stack of features ``(N, width, K s, s)`` of images ``(N, C, H, W)``, at stride 32."""
        cell = images.shape[-1] // visible.width
        visible.prepare((cell, *(cell // stride for stride in STRIDES)))
        x = visible.gather(images)
        for downsample, stage in zip(self.downsample_layers, self.stages):
            x = stage(downsample(x), visible)
        return x


class Reconstruction(NamedTuple):
    """What an autoencoder makes of images ``(N, C, H, W)``, in their units."""

    masked: Tensor
    """The images, 0 where they are hidden."""
    completed: Tensor
    """The images, with what was predicted where they are hidden."""


@MODELS.register_module()
class FCMAE(BaseModel):
    """Encoder, decoder and loss.

    Names and shapes of the parameters are the official ones; all weights start from a normal distribution
    with standard deviation 0.02, as the papers say. (The released code draws most of them with standard
    deviation 1, which makes the first loss 16 in place of 1.)

    Args:
        backbone: Config of a :class:`~backbones.ConvNeXt` or :class:`~backbones.ConvNeXtV2`; the paper
            has no stochastic depth in pre-training.
        mask_ratio: Part of the cells that are hidden.
        cell: Side of a cell in pixels, a multiple of 32.
        decoder_dim: Channels of the decoder.
        decoder_depth: Its blocks, which have GRN if the encoder's have it.
        norm_pix: Predict each patch of 32 x 32 pixels with its mean subtracted, divided by its standard
            deviation.
        data_preprocessor: As in mmengine's models.
        init_cfg: As in mmengine's models.

    Raises:
        ConfigError: The backbone is no ConvNeXt, or a number is impossible.
    """

    #: What the file of an encoder does not have.
    added_modules = ('proj', 'mask_token', 'decoder', 'pred')

    def __init__(
        self,
        backbone: dict,
        mask_ratio: float = 0.6,
        cell: int = _STRIDE,
        decoder_dim: int = 512,
        decoder_depth: int = 1,
        norm_pix: bool = True,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        check_masking(cell, mask_ratio)
        for name, value in (('decoder_dim', decoder_dim), ('decoder_depth', decoder_depth)):
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f'{name}={value!r}: give a positive integer.')
        network = MODELS.build(backbone)
        if not isinstance(network, ConvNeXt):
            raise ConfigError(
                f'FCMAE pre-trains ConvNeXt and ConvNeXtV2, not {type(network).__name__}.'
            )
        self.mask_ratio, self.cell, self.norm_pix = mask_ratio, cell, norm_pix
        self.input_channels = network.input_channels
        self.encoder = Encoder(network)
        self.proj = nn.Conv2d(self.encoder.width, decoder_dim, kernel_size=1)
        self.mask_token = nn.Parameter(torch.zeros(1, decoder_dim, 1, 1))
        self.decoder = nn.Sequential(
            *(FusedBlock(decoder_dim, 0.0, 0.0, network.use_grn) for _ in range(decoder_depth))
        )
        self.pred = nn.Conv2d(decoder_dim, _STRIDE**2 * self.input_channels, kernel_size=1)
        for part in (self.proj, self.decoder, self.pred):
            part.apply(_init)
        nn.init.normal_(self.mask_token, std=0.02)

    def init_weights(self) -> None:
        """Load what the ``init_cfg`` of the backbone names; without it, weights stay random.

        See :func:`.start.load_start`.

        Raises:
            WeightsError: The weights cannot be found or do not fit.
        """
        super().init_weights()
        if self.encoder.init_cfg:
            load_start(self, self.encoder.init_cfg)

    def blocks(self) -> Iterable[nn.Module]:
        """The blocks of encoder and decoder, for sharding."""
        for stage in (*self.encoder.stages, self.decoder):
            yield from stage.children()

    def translate(self, state: Mapping[str, Tensor]) -> Translation:
        """The tensors of a checkpoint under the names of this model, the decoder's included."""
        found = translate_backbone(state, self.encoder.state_dict())
        tensors = {f'encoder.{name}': value for name, value in found.tensors.items()}
        return replace(found, tensors=tensors | fcmae_decoder(state, found))

    def describe(self, tensors: Mapping[str, Tensor]) -> str | None:
        """The encoder's architecture; see :meth:`backbones.base.Backbone.describe`."""
        start = 'encoder.'
        return describe(
            {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
        )

    def forward(
        self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor'
    ) -> dict[str, Tensor] | Reconstruction | Tensor:
        """As mmengine calls it.

        Args:
            inputs: Normalised images ``(N, C, H, W)``, whole numbers of cells.
            data_samples: Not used.
            mode: ``'loss'``: a dict with the loss and, to compare it with, ``predict_mean``: what
                predicting the mean of each hidden patch would give, nearly 1 with ``norm_pix``;
                ``'predict'``: a :class:`Reconstruction`;
                ``'tensor'``: the prediction of the hidden cells as :meth:`predict_hidden` gives it.

        Raises:
            ConfigError: Images that are no whole number of cells.
        """
        visible = VisibleCells.drawn(inputs, self.cell, self.mask_ratio)
        if mode == 'loss':
            return self._losses(inputs, visible)
        if mode == 'predict':
            return self.reconstruct(inputs, visible)
        return self.predict_hidden(inputs, visible)

    def predict_hidden(self, images: Tensor, visible: VisibleCells) -> Tensor:
        """The decoder's prediction of hidden patches.

        Args:
            images: ``(N, C, H, W)``.
            visible: Their visible cells, M of which are hidden in each image.

        Returns:
            ``(N, M s s, 32 x 32 x C)`` with ``s = cell / 32``: patches in the order of the stack of
            hidden cells, pixels in the order of rows, columns, channels.
        """
        hidden = visible.hidden  # counted before the encoder, so that it is compiled as a whole
        features = visible.scatter(self.proj(self.encoder(images, visible)))
        side = features.shape[-1] // visible.width
        # Only where cells are hidden: what is added there is added to 0.
        tokens = self.mask_token.to(features.dtype).expand(-1, -1, side, side)
        stack = tokens.repeat(visible.count, 1, hidden.per_image, 1)
        features = features + hidden.scatter(stack.contiguous(memory_format=torch.channels_last))
        predicted = self.pred(hidden.gather(self.decoder(features)))
        return predicted.permute(0, 2, 3, 1).flatten(1, 2)

    def loss(self, images: Tensor, visible: VisibleCells) -> Tensor:
        """Mean squared error over the pixels of hidden cells, in float32 or wider."""
        return self._losses(images, visible)['loss']

    def _losses(self, images: Tensor, visible: VisibleCells) -> dict[str, Tensor]:
        predicted = self.predict_hidden(images, visible)
        target = self._patches(images, visible.hidden)
        dtype = torch.promote_types(predicted.dtype, torch.float32)
        mean = target.mean(-1, keepdim=True)
        if self.norm_pix:
            target, mean = (target - mean) / _deviation(target), torch.zeros_like(mean)
        return {
            'loss': (predicted.to(dtype) - target.to(dtype)).square().mean(),
            'predict_mean': (target - mean).to(dtype).square().mean().detach(),
        }

    @torch.no_grad()
    def reconstruct(self, images: Tensor, visible: VisibleCells) -> Reconstruction:
        """The images as the encoder sees them, and completed by the decoder.

        With ``norm_pix``, a predicted patch gets the mean and standard deviation that the real one has.
        """
        hidden = visible.hidden
        predicted = self.predict_hidden(images, visible).to(images.dtype)
        if self.norm_pix:
            target = self._patches(images, hidden)
            predicted = predicted * _deviation(target) + target.mean(-1, keepdim=True)
        side = self.cell // _STRIDE
        sites = predicted.unflatten(1, (-1, side)).unflatten(
            -1, (_STRIDE, _STRIDE, self.input_channels)
        )
        stack = sites.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        masked = visible.scatter(visible.gather(images))
        stack = stack.contiguous(memory_format=torch.channels_last)
        return Reconstruction(masked, masked + hidden.scatter(stack))

    def _patches(self, images: Tensor, cells: VisibleCells) -> Tensor:
        """``(N, M s s, 32 x 32 x C)``: the patches of ``cells``, in the order of predictions."""
        stack = cells.gather(images)
        rows = stack.unflatten(3, (-1, _STRIDE)).unflatten(2, (-1, _STRIDE))
        return rows.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def check_masking(cell: object, mask_ratio: object) -> None:
    """ConfigError unless cells of ``cell`` pixels can be hidden by ``mask_ratio``."""
    if not isinstance(cell, int) or cell < _STRIDE or cell % _STRIDE:
        raise ConfigError(
            f'cell={cell!r}: give a multiple of {_STRIDE}, the stride of the last stage, in pixels.'
        )
    if not isinstance(mask_ratio, (int, float)) or not 0 < mask_ratio < 1:
        raise ConfigError(f'mask_ratio={mask_ratio!r}: give a number between 0 and 1.')


def _deviation(patches: Tensor) -> Tensor:
    return (patches.var(-1, keepdim=True) + _TARGET_EPS).sqrt()


def _init(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.trunc_normal_(module.weight, std=0.02)
        assert module.bias is not None
        nn.init.zeros_(module.bias)
