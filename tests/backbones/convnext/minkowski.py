"""Weights as the released pre-training code saves them: MinkowskiEngine's names and shapes."""

from collections.abc import Mapping

from torch import Tensor


def sparse_encoder_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An encoder in official names, without norm and head, as ``encoder.*`` of the sparse model."""
    sparse = {}
    for key, value in state.items():
        name, stem = f'encoder.{key}', key.startswith('downsample_layers.0.')
        if '.grn.' in key:
            value = value.reshape(1, -1)
        elif '.dwconv.weight' in key:
            name = name.replace('weight', 'kernel')
            value = value[:, 0].transpose(1, 2).flatten(1).t()
        elif '.1.weight' in key and 'downsample' in key and not stem:
            name = name.replace('weight', 'kernel')
            value = value.transpose(2, 3).flatten(2).permute(2, 1, 0)
        elif '.pwconv' in key:
            head, part = name.rsplit('.', 1)
            name = f'{head}.linear.{part}'
        elif '.norm.' in key or ('downsample' in key and '.0.' in key[19:] and not stem):
            head, part = name.rsplit('.', 1)
            name = f'{head}.ln.{part}'
        elif key.endswith('.bias') and not stem:
            value = value[None]
        sparse[name] = value
    return sparse
