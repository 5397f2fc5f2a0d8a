"""What a pre-training is for: the encoder's weights, in a file of the official layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from torch import Tensor

from backbones.convnext.weight_names import describe
from backbones.weights.sources import find
from downstream.commands.weights import save
from downstream.distributed.wrapping import unwrapped
from downstream.running.checkpoint import sharding

from .fcmae import FCMAE

_OWN = (
    'your own: trained from random weights; what the licences of your images ask for is up to you'
)


@HOOKS.register_module()
class EncoderHook(Hook):
    """Writes the encoder's weights into the work dir when training ends.

    The file has the names and shapes of the released FCMAE encoders, so that ``init_cfg`` of a backbone,
    ``--weights`` and ``tools/weights.py`` take it, and states its licence.

    Args:
        filename: A ``.safetensors`` or ``.pth`` file. Only the first states its licence in itself.
    """

    priority = 'VERY_LOW'

    def __init__(self, filename: str = 'encoder.safetensors') -> None:
        self.filename = filename

    def after_train(self, runner) -> None:
        model = unwrapped(runner.model)
        assert isinstance(model, FCMAE)
        if sharding.is_sharded(model):
            state = {
                name.removeprefix('encoder.'): value
                for name, value in sharding.gather_model(model).items()
                if name.startswith('encoder.')
            }
        else:
            state = model.encoder.state_dict()
        if is_main_process():
            path = Path(runner.work_dir, self.filename)
            save_encoder(state, path, licence_of(model, runner.cfg.get('load_from')))


def licence_of(model: FCMAE, load_from: str | None = None) -> str:
    """The licence of an encoder that was trained from what it started from.

    Args:
        model: The ``init_cfg`` of its encoder names weights, or it started from random ones.
        load_from: A checkpoint that the run started from.
    """
    origin = (model.encoder.init_cfg or {}).get('checkpoint')
    if load_from:
        return f'that of {load_from}, from which training started'
    if origin:
        return f'{find(origin).licence}, inherited from {origin}'
    return _OWN


def save_encoder(state: Mapping[str, Tensor], path: Path, licence: str) -> None:
    """Write the weights of an encoder, and log how to use them.

    Args:
        state: Under their official names.
        path: As of :func:`downstream.commands.weights.save`.
        licence: Of the weights.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    network = describe(tensors) or 'ConvNeXt'
    save(tensors, path, {'format': 'pt', 'network': network, 'licence': licence})
    name = network.lower().replace(' ', '-') if ' with ' not in network else 'NAME'
    print_log(
        f'Encoder, {network}: {path} (licence: {licence}). Train a model with it: '
        f'--backbone {name} --weights {path}',
        'current',
    )
