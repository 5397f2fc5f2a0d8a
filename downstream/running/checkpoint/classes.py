"""Fine-tuning on other classes: those of the same name keep their rows of the classifiers.

| tensor of | rows |
|---|---|
| ``fc_cls`` of a box head | the classes, then the background |
| ``fc_reg`` of a box head | four of each class, or four alone |
| ``conv_logits`` of a mask head | the classes |
| ``conv_seg`` of a decode or auxiliary head | the classes |

A single-stage or DETR-like head has other names; its tensors load only where shapes agree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from mmengine.logging import print_log
from torch import Tensor

_CLASSIFIER = re.compile(r'(?:^|\.)(fc_cls|fc_reg|conv_logits|conv_seg)\.(?:weight|bias)$')
# Rows of the classifier that come after those of the classes.
_BACKGROUND = {'fc_cls': 1}
_ROWS_PER_CLASS = {'fc_reg': 4}


def with_rows_of_same_classes(
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    former: Sequence[str] | None,
    classes: Sequence[str] | None,
    source: str,
) -> dict[str, Tensor]:
    """``state`` with classifiers of the model's classes in place of the checkpoint's.

    Rows of classes that the checkpoint does not know stay as the model was initialised.

    Args:
        state: Tensors of a checkpoint, under the model's names.
        expected: Those of the model.
        former: Classes of the checkpoint in their order, None if it does not state them.
        classes: Those of the run, None if its data set does not state them.
        source: The checkpoint's file, for the log.

    Returns:
        All tensors of ``state``; ``state`` itself if no classifier differs.
    """
    kinds = {key: kind for key in state if key in expected and (kind := _classifier(key))}
    if not kinds or not classes:
        return dict(state)
    former = former or _known_classes(state, kinds)
    if former is None:
        print_log(
            f'{source} does not state its classes: classifiers start anew where their size differs.',
            'current',
        )
        return dict(state)
    former, classes = list(former), list(classes)
    if former == classes:
        return dict(state)
    same = {new: former.index(name) for new, name in enumerate(classes) if name in former}
    changed = dict(state)
    for key, kind in kinds.items():
        rows = _rows(kind, state[key], expected[key], same, len(former), len(classes))
        if rows is not None:
            changed[key] = rows
    new = [name for place, name in enumerate(classes) if place not in same]
    kept = f': {_some(classes[k] for k in same)}' if same else ''
    anew = f'; new: {_some(new)}' if new else ''
    print_log(
        f'{source} was trained on {len(former)} classes. {len(same)} of {len(classes)} classes keep '
        f'their rows of the classifiers{kept}{anew}.',
        'current',
    )
    return changed


def _classifier(key: str) -> str | None:
    """The name of the layer if ``key`` is a tensor of a classifier."""
    found = _CLASSIFIER.search(key)
    return found and found[1]


def _rows(
    kind: str, old: Tensor, new: Tensor, same: Mapping[int, int], before: int, after: int
) -> Tensor | None:
    """A classifier's tensor for the new classes; None if it is not one row, or four, per class."""
    extra, per_class = _BACKGROUND.get(kind, 0), _ROWS_PER_CLASS.get(kind, 1)
    fits = (
        len(old) == (before + extra) * per_class
        and len(new) == (after + extra) * per_class
        and old.shape[1:] == new.shape[1:]
    )
    if not fits:
        return None
    # A sharded model has parts of its tensors; all processes come here.
    rows = getattr(new.detach(), 'full_tensor', new.detach)().cpu().clone()
    spread = torch.arange(per_class)
    for target, origin in [*same.items(), *((after + k, before + k) for k in range(extra))]:
        rows[target * per_class + spread] = old[origin * per_class + spread].to(rows.dtype)
    return rows


def _known_classes(state: Mapping[str, Tensor], kinds: Mapping[str, str]) -> Sequence[str] | None:
    """COCO's or ADE20K's classes, if classifiers have as many rows: official files state none."""
    for key, kind in kinds.items():
        if kind == 'fc_cls' and len(state[key]) == 81:
            from mmdet.datasets import CocoDataset

            return CocoDataset.METAINFO['classes']
        if kind == 'conv_seg' and len(state[key]) == 150:
            from mmseg.datasets import ADE20KDataset

            return ADE20KDataset.METAINFO['classes']
    return None


def _some(names) -> str:
    names = list(names)
    return ', '.join(names[:10]) + (f' and {len(names) - 10} more' if len(names) > 10 else '')
