"""Whether a recipe can learn from a data set of one's own, and what of it must be left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mmengine.config import Config

from backbones.errors import ConfigError
from downstream.data.checks.agreement import weighted_losses
from downstream.data.class_counts import class_counts, recipe_classes
from downstream.data.pipelines import steps_of_dataset
from downstream.drop_in.classes import class_weights

_HEADS = ('roi_head', 'bbox_head', 'mask_head', 'panoptic_head', 'decode_head')


def require_trainable(cfg: Config, name: str) -> None:
    """Check that a recipe is one whose classes and data can be replaced.

    Args:
        cfg: The recipe.
        name: Of it, for messages.

    Raises:
        ConfigError: It is not; the message says why.
    """
    start = f'--data: {name} cannot be trained on data of your own: '
    model = cfg.model
    if not any(model.get(head) for head in _HEADS) or not any(class_counts(model)):
        raise ConfigError(
            f'{start}its model has none of {", ".join(_HEADS)} whose classes could be set; take another '
            'recipe.'
        )
    joined = [level for level in levels(cfg.train_dataloader.dataset) if 'datasets' in level]
    if joined:
        raise ConfigError(
            f'{start}it joins several data sets ({joined[0].get("type")}); take a recipe with one.'
        )
    if cfg.get('default_scope') == 'mmseg':
        return
    for step in steps_of_dataset(cfg.train_dataloader.dataset):
        if step.get('with_seg') or 'Panoptic' in str(step.get('type')):
            raise ConfigError(
                f'{start}it learns maps of stuff beside the objects, which such data do not have; take '
                "the method's recipe without them."
            )


def levels(dataset: Mapping) -> Iterator[Mapping]:
    """A data set and what is in it: what repeats or mixes another first, the innermost last."""
    yield dataset
    if isinstance(dataset.get('dataset'), Mapping):
        yield from levels(dataset['dataset'])


def learns_masks(cfg: Config) -> bool:
    """Whether training loads a mask of each object."""
    return any(step.get('with_mask') for step in steps_of_dataset(cfg.train_dataloader.dataset))


def has_mask_branch(model: Mapping) -> bool:
    """Whether a detector has masks that :func:`downstream.drop_in.without_masks` can leave out."""
    return bool((model.get('roi_head') or {}).get('mask_head'))


def dropped_class_weights(model: Mapping, count: int) -> list[str]:
    """The losses whose weights are for the recipe's own classes, and not for ``count`` others."""
    former = recipe_classes(model)
    found = [
        (key, loss['class_weight'])
        for key, loss in weighted_losses(model, 'model')
        if isinstance(loss['class_weight'], Sequence) and not isinstance(loss['class_weight'], str)
    ]
    return [key for key, own in found if former and class_weights(own, former, count) is None]
