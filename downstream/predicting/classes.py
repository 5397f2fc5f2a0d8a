"""The classes of a trained model: their names, and their values in mask files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmengine.config import Config
from mmengine.registry import DATASETS

from backbones.errors import WeightsError
from downstream.data.checks.masks import mask_options
from downstream.data.files import shortened
from downstream.data.pipelines import innermost


@dataclass(frozen=True)
class Classes:
    """The classes of a model.

    Attributes:
        names: In the order of their labels.
        shift: What is added to a label in a mask file.
    """

    names: tuple[str, ...]
    shift: int = 0


def classes_of_model(cfg: Config, checkpoint: Mapping, name: str) -> Classes:
    """The classes that a checkpoint was trained on; those of the config where it does not say.

    Args:
        cfg: A complete config to test with, whose modules are imported.
        checkpoint: The content of the checkpoint.
        name: Of the checkpoint, for messages.

    Raises:
        WeightsError: The checkpoint is of another number of classes than the config.
    """
    dataset = innermost(cfg.test_dataloader.dataset)
    with DATASETS.switch_scope_and_registry(cfg.default_scope) as registry:
        known = getattr(registry.get(dataset.type), 'METAINFO', {})
    given = dataset.get('metainfo') or {}
    own = _tuple(given.get('classes') or known.get('classes') or ())
    stated = (checkpoint.get('meta') or {}).get('dataset_meta') or {}
    trained = _tuple(stated.get('classes') or stated.get('CLASSES') or own)
    if own and len(trained) != len(own):
        raise WeightsError(
            f'{name} was trained on {len(trained)} classes ({shortened(trained, 4)}), the config has '
            f'{len(own)} ({shortened(own, 4)}); give the config that training wrote into its work dir.'
        )
    shift = 0
    if cfg.default_scope == 'mmseg':
        options, _ = mask_options('test_dataloader.dataset', dataset)
        shift = int(bool(options['reduce_zero_label']))
    return Classes(trained, shift)


def _tuple(names: Sequence[str] | str) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
