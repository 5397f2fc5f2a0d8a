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
    reason = _why_not_the_model(cfg.get('model') or {}) or _why_not_the_data(cfg)
    if reason:
        raise ConfigError(f'{start}{reason}.')


def _why_not_the_model(model: Mapping) -> str | None:
    if 'semi_train_cfg' in model:
        return (
            'it learns from images without labels beside labelled ones, which are two data sets; take '
            'the recipe of its detector'
        )
    if model.get('detector'):
        return (
            'its model holds a detector for videos or of another library (model.detector); take a recipe '
            'of a detector alone'
        )
    if model.get('teacher_ckpt'):
        return (
            "its teacher (model.teacher_ckpt) knows the recipe's own classes; take the method's recipe "
            'without a teacher'
        )
    is_detector = any(model.get(head) for head in _HEADS) and any(class_counts(model))
    if not is_detector and not proposes(model):
        heads = ', '.join(_HEADS)
        return f'its model has none of {heads} whose classes could be set; take another recipe'
    return None


def _why_not_the_data(cfg: Config) -> str | None:
    dataset = (cfg.get('train_dataloader') or {}).get('dataset')
    if not dataset:
        return 'it trains nothing: it has no train_dataloader'
    steps = list(steps_of_dataset(dataset))
    if 'ODVGDataset' in str(dataset):
        return (
            'it learns from texts beside the images (ODVGDataset), which such data do not have; take a '
            'recipe that fine-tunes on COCO'
        )
    kinds = [str(step.get('type')).rpartition('.')[2] for step in steps]
    if 'LoadProposals' in kinds:
        return (
            'it learns from boxes that another model proposed (proposal_file), which such data do not '
            "have; take a recipe with an RPN, as Faster R-CNN's"
        )
    if 'LoadMultipleRSImageFromFile' in kinds:
        return 'it learns from pairs of images of one place, which such data are not'
    if cfg.get('default_scope') == 'mmseg':
        return None
    if any(step.get('with_seg') or 'Panoptic' in kind for step, kind in zip(steps, kinds)):
        return (
            'it learns maps of stuff beside the objects, which such data do not have; take the '
            "method's recipe without them"
        )
    return None


def proposes(model: Mapping) -> bool:
    """Whether a detector is an RPN alone: boxes without classes."""
    return str(model.get('type')).rpartition('.')[2] == 'RPN'


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
