"""The commands of tools/weights.py: list, show, fetch, inspect, convert and check."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from backbones.convnext.classifier import classifier_of, describe_file, encoder_of
from backbones.convnext.model import STRIDES
from backbones.convnext.weight_names import describe, describe_decoder, fcmae_decoder, translate
from backbones.errors import ConfigError, WeightsError
from backbones.roadmap.classifier import roadmap_classifier_of
from backbones.weights.download import local_file
from backbones.weights.read import read
from backbones.weights.sources import find, weights_table

# The image is resized such that the crop that the network sees is this part of its shorter side.
_CROP_RATIO = 0.875


def list_weights(pattern: str = '*') -> None:
    """Print the rows of the table whose names match ``pattern``."""
    rows = {name: row for name, row in weights_table().items() if fnmatch(name, pattern)}
    if not rows:
        raise ConfigError(f'no weights match {pattern!r}; leave the pattern out to list all.')
    table = Table('name', 'top-1', 'px', 'licence')
    for name, row in rows.items():
        top1 = '-' if row['top1'] is None else f'{row["top1"]:.1f}'
        table.add_row(name, top1, str(row['resolution']), row['licence'])
    Console(width=100).print(table)


def show(name: str) -> None:
    """Print one row of the table."""
    row = weights_table().get(name)
    if row is None:
        find(name)  # raises an error that lists the names, unless this is a file
        raise ConfigError(
            f'{name} is not in the table of weights; `inspect` shows the contents of a file.'
        )
    for key, value in row.items():
        print(f'{key:>10}: {"not known here" if value is None else value}')


def fetch(name: str) -> Path:
    """Download and verify weights; print and return the path of the file."""
    path = local_file(find(name))
    print(path)
    return path


def inspect(name: str, trust: bool = False) -> None:
    """Print the source, layout, architecture, licence and size of weights.

    Args:
        name: As :func:`backbones.weights.sources.find` takes it.
        trust: Unpickle a file that holds more than data.
    """
    source = find(name)
    state = read(local_file(source), trust)
    found = translate(state)
    print(f'    source: {source.name}')
    print(f'    layout: {found.layout}' + (f', prefix {found.prefix!r}' if found.prefix else ''))
    print(f'   network: {describe_file(state) or "not a ConvNeXt"}')
    decoder = fcmae_decoder(state, found)
    if decoder and describe(found.tensors):
        print(f'   decoder: of FCMAE, {describe_decoder(decoder)}')
    print(f'   licence: {source.licence}')
    head = found.tensors.get('head.weight')
    print(f'   classes: {"no head" if head is None else len(head)}')
    print(f'   tensors: {len(state)}, {sum(v.numel() for v in state.values()):,} values')
    if found.foreign:
        print(f'   ignored: {len(found.foreign)}, e.g. {", ".join(found.foreign[:4])}')


def convert(name: str, out: Path, trust: bool = False) -> None:
    """Write weights under their official names.

    Args:
        name: As :func:`backbones.weights.sources.find` takes it.
        out: A ``.safetensors`` file, or a ``.pth`` or ``.pt`` file, which gets ``{'model': tensors}``.
        trust: Unpickle a file that holds more than data.

    Raises:
        ConfigError: ``out`` has another suffix.
        WeightsError: The weights are not a ConvNeXt's.
    """
    out = Path(out)
    if out.suffix not in ('.pth', '.pt', '.safetensors'):
        raise ConfigError(f'{out}: the name must end in .safetensors, .pth or .pt.')
    state = read(local_file(find(name)), trust)
    found = translate(state).tensors
    if describe(found) is None:
        raise WeightsError(f'{name} is not a ConvNeXt checkpoint; only those can be converted.')
    tensors = {key: _official_shape(key, v) for key, v in found.items()}
    save(tensors, out)
    print(f'{out}: {describe(tensors)}, {len(tensors)} tensors')


def _official_shape(key: str, value: Tensor) -> Tensor:
    if '.grn.' in key:
        value = value.reshape(1, 1, 1, -1)
    elif key.endswith('.gamma'):
        value = value.reshape(-1)
    elif '.pwconv' in key and key.endswith('.weight'):
        value = value.flatten(1)
    return value.contiguous()


def save(tensors: dict[str, Tensor], out: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors to a ``.safetensors`` or ``.pth`` file atomically.

    Tensors that share memory, such as those of a layer that several levels share, are written separately
    into a ``.safetensors`` file: the format has no shared tensors.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f'.{out.name}.{os.getpid()}')
    try:
        if out.suffix == '.safetensors':
            from safetensors.torch import save_file

            save_file(_unshared(tensors), partial, metadata=metadata)
        else:
            torch.save({'model': tensors}, partial)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """``tensors``, copied where an earlier one has the same memory."""
    seen: set[int] = set()
    own = {}
    for key, value in tensors.items():
        place = value.untyped_storage().data_ptr()
        own[key] = value.clone() if place in seen else value
        seen.add(place)
    return own


def check(
    names: Sequence[str],
    image: Path | None = None,
    resolution: int = 224,
    backbone: str | None = None,
    trust: bool = False,
) -> list[Tensor]:
    """Print the top five classes of each classifier, and the largest difference of their logits.

    Of a file without a classifier, such as pre-training leaves, that it is whole, and its features.

    Args:
        names: Weights of classifiers or of backbones alone.
        image: The image to classify. None: random values, the same for all.
        resolution: Height and width of the network's input, in pixels.
        backbone: ``roadmap-<step>`` where the files are that step's: several steps have the same tensors.
            None: ConvNeXts, recognised by their tensors.
        trust: Unpickle files that hold more than data.

    Returns:
        The logits of each classifier, ``(classes,)``; of a backbone alone its last features, averaged
        over the image, ``(channels,)``.

    Raises:
        WeightsError: A file is damaged, no ConvNeXt's or not whole.
    """
    pixels = _read_image(image, resolution) if image else _random_image(resolution)
    kinds, results = [], []
    for name in names:
        state = read(local_file(find(name)), trust)
        found = translate(state).tensors
        if backbone is None and describe(found) and 'head.weight' not in found:
            kinds.append('features')
            results.append(_check_encoder(state, name, pixels))
        else:
            kinds.append('logits')
            results.append(_check_classifier(state, name, pixels, backbone))
    for name, kind, result in list(zip(names, kinds, results))[1:]:
        if kind == kinds[0] and result.shape == results[0].shape:
            difference = (result - results[0]).abs().max().item()
            print(f'largest difference of {kind}, {names[0]} and {name}: {difference:.2e}')
    return results


def _check_classifier(
    state: dict[str, Tensor], name: str, pixels: Tensor, backbone: str | None
) -> Tensor:
    """Print the top five classes of a classifier; its logits."""
    model: nn.Module
    if backbone is None:
        model = classifier_of(state, name)
    else:
        model = roadmap_classifier_of(backbone, state, name)
    with torch.inference_mode():
        logits = model(pixels)[0]
    print(f'{name}: {len(logits)} classes')
    classes = _class_names(len(logits))
    for score, index in zip(*logits.softmax(0).topk(min(5, len(logits)))):
        print(f'  {100 * score:6.2f} %  {classes[int(index)]}')
    return logits


def _check_encoder(state: dict[str, Tensor], name: str, pixels: Tensor) -> Tensor:
    """Load a file without a classifier whole, print what is in it and what it makes of an image."""
    encoder = encoder_of(state, name)
    found = translate(state)
    print(
        f'{name}: {describe(found.tensors)} without a classifier, whole: {len(found.tensors)} tensors'
    )
    decoder = fcmae_decoder(state, found)
    if decoder:
        print(f'  beside it the decoder of FCMAE: {describe_decoder(decoder)}')
    if encoder.input_channels != pixels.shape[1]:
        raise WeightsError(
            f'{name} is for images of {encoder.input_channels} channels; only those for RGB are checked.'
        )
    x = pixels
    with torch.inference_mode():
        for stride, downsample, stage in zip(STRIDES, encoder.downsample_layers, encoder.stages):
            x = stage(downsample(x))
            print(
                f'  stride {stride:>2}: {x.shape[1]:>4} channels, mean {x.mean():9.2e}, std {x.std():.2e}'
            )
    return x.mean((2, 3))[0]


def _random_image(side: int) -> Tensor:
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))


def _read_image(path: Path, side: int) -> Tensor:
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    from torchvision.transforms import v2

    from downstream.data.files import open_image

    shorter = round(side / _CROP_RATIO)
    steps = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize(shorter, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.CenterCrop(side),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
        ]
    )
    return steps(open_image(path).convert('RGB'))[None]


def _class_names(count: int) -> Sequence[str]:
    if count == 1000:
        from torchvision.models import ConvNeXt_Tiny_Weights

        return ConvNeXt_Tiny_Weights.DEFAULT.meta['categories']
    return [f'class {i}' for i in range(count)]
