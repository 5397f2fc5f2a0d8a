"""Checkpoints of whole models: read as data alone, translated, refused unless they match the model."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import mmengine.runner.checkpoint
import torch
from mmengine.logging import print_log
from safetensors import safe_open
from torch import Tensor, nn

from backbones.convnext.weight_names import translate
from backbones.errors import WeightsError
from backbones.upstream import optional
from backbones.weights.read import read_content
from backbones.weights.stem import adapted_stem, describe_adaptation, is_rgb_stem
from downstream.distributed.safe_pickle import safe_globals

from .classes import with_rows_of_same_classes
from .locate import local_checkpoint


def read(location: str | Path, mmap: bool = False) -> dict:
    """A checkpoint as ``{'state_dict': ..., 'meta': ..., ...}``.

    Args:
        location: A path, URL or repository (see :func:`.locate.local_checkpoint`) of a run's checkpoint,
            of a published ``.safetensors``, or of the official ConvNeXt code, mmdet or mmseg.
        mmap: Map the file into memory, such that a tensor is read from the disk when it is used. The
            file must not be overwritten meanwhile; that would end the process.

    Raises:
        WeightsError: There is no such file, it is no checkpoint, or it holds more than data.
    """
    path = local_checkpoint(location)
    with safe_globals():
        content = read_content(path, mmap=mmap)
    if isinstance(content, dict) and 'state_dict' not in content:
        tensors = content.get('model', content)
        if isinstance(tensors, dict) and tensors and _are_tensors(tensors):
            content = {'state_dict': tensors, **_stated_by(path)}
    found = content if isinstance(content, dict) else {}
    state = found.get('state_dict')
    if not isinstance(state, dict) or not state or not _are_tensors(state):
        raise WeightsError(f"{path} holds no 'state_dict': it is not the checkpoint of a model.")
    return found


def _stated_by(path: Path) -> dict:
    """``meta``, in which a file of tools/publish.py says of its model what a run's checkpoint says."""
    if path.suffix != '.safetensors':
        return {}
    with safe_open(path, 'pt') as file:
        stated = file.metadata() or {}
    try:
        classes, config, licence = (
            json.loads(stated.get(key, 'null')) for key in ('classes', 'config', 'licence')
        )
    except ValueError:  # the file is somebody else's, with keys of the same names
        return {}
    meta: dict = {}
    if isinstance(classes, list) and all(isinstance(name, str) for name in classes):
        meta['dataset_meta'] = {'classes': classes}
    if isinstance(config, str):
        meta['cfg'] = config
    if isinstance(licence, str):
        meta['licence'] = licence
    return {'meta': meta} if meta else {}


def load_as_data(file: str | Path | BinaryIO, *args: object, **kwargs: object) -> object:
    """What a file or a stream holds, if it is data alone; replaces mmengine's reader.

    mmengine's warns of a file that holds more than data, and then runs it.

    Raises:
        WeightsError: A file holds more than data.
        pickle.UnpicklingError: A stream does.
    """
    with safe_globals():
        if isinstance(file, (str, Path)):
            return read_content(Path(file))
        return torch.load(file, map_location='cpu', weights_only=True)


# Weights of OpenMMLab's own backbones are read by mmengine. Releases without this function, the original
# 0.10.7 among them, call torch.load, which reads data alone since torch 2.6.
if optional('mmengine.runner.checkpoint._safe_torch_load') is not None:
    mmengine.runner.checkpoint._safe_torch_load = load_as_data


def _are_tensors(state: dict) -> bool:
    return all(isinstance(value, Tensor) for value in state.values())


def matching_tensors(
    state: dict[str, Tensor],
    model: nn.Module,
    source: str,
    fine_tuning: bool = False,
    former_classes: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """The tensors of ``state`` that match ``model`` by name and shape, under the model's names.

    The backbone's may have the names of another library (:mod:`backbones.convnext.weight_names`); the
    names of necks and heads have been the same since mmdet 2 and mmseg 0.11.

    Args:
        state: Tensors of a whole model.
        model: The model to load them into.
        source: Their file, for messages.
        fine_tuning: Whether heads may differ; most tensors must still match. The stem of RGB images is
            adapted to a model of other channels.
        former_classes: Of the file, as far as it states them; for fine-tuning.
        classes: Of the run; see :mod:`.classes`.

    Raises:
        WeightsError: Tensors are missing, superfluous or of another shape.
    """
    expected = model.state_dict()
    if set(state) != set(expected):
        # A model may know names that other libraries give its parameters.
        state = getattr(model, 'translated_checkpoint', dict)(state)
        state = _renamed(state, expected)
    if fine_tuning:
        state = _with_adapted_stem(state, expected, model, source)
        state = with_rows_of_same_classes(state, expected, former_classes, classes, source)
    matched = {k: v for k, v in state.items() if k in expected and v.shape == expected[k].shape}
    mismatches = [f'{key}: missing from the file' for key in expected if key not in state]
    mismatches += [f'{key}: not in the model' for key in state if key not in expected]
    mismatches += [
        f'{key}: {tuple(state[key].shape)} in the file, {tuple(value.shape)} in the model'
        for key, value in expected.items()
        if key in state and key not in matched
    ]
    if mismatches:
        shown = '\n  '.join(mismatches[:5]) + ('\n  ...' if len(mismatches) > 5 else '')
        summary = (
            f'{len(matched)} of {len(expected)} tensors match, {len(mismatches)} do not:\n  {shown}'
        )
        if not fine_tuning or len(matched) < len(expected) / 2:
            raise WeightsError(
                f'{source} does not fit the model of this config: {summary}{_config_beside(source)}'
            )
        print_log(f'Fine-tuning from {source}: {summary}', 'current')
    return matched


def _config_beside(source: str) -> str:
    """Where the complete config of a checkpoint's run is; '' if it is not beside the checkpoint."""
    configs = sorted(Path(source).parent.glob('*.complete.py'))
    return f'\nThe complete config of its run, with its backbone: {configs[-1]}' if configs else ''


def _with_adapted_stem(
    state: dict[str, Tensor], expected: dict[str, Tensor], model: nn.Module, source: str
) -> dict[str, Tensor]:
    """``state`` with the stem of RGB images adapted, where the model takes other channels."""
    backbone = getattr(model, 'backbone', model)
    state = dict(state)
    for name, value in state.items():
        wanted = expected.get(name)
        if wanted is not None and is_rgb_stem(value, wanted, backbone):
            state[name] = adapted_stem(value, wanted)
            how = describe_adaptation(value, wanted)
            print_log(f'Fine-tuning from {source}: stem adapted: {name}, {how}', 'current')
    return state


def _renamed(state: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` without wrappers' prefixes, its backbone under the official names."""
    state = {re.sub(r'^(module\.|model\.)+', '', key): value for key, value in state.items()}
    prefix = 'backbone.'
    backbone = {k: v for k, v in state.items() if k.startswith(prefix)}
    if not backbone or f'{prefix}downsample_layers.0.0.weight' not in expected:
        return state
    renamed = {k: v for k, v in state.items() if not k.startswith(prefix)}
    for name, value in translate(backbone).tensors.items():
        wanted = expected.get(prefix + name)
        if wanted is not None and wanted.numel() == value.numel():
            value = value.reshape(wanted.shape)
        renamed[prefix + name] = value
    return renamed
