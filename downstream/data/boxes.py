"""How many boxes of COCO annotations a data set leaves out, and why: said once, when it is read."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from unittest import mock

from mmengine.dist import is_main_process
from mmengine.logging import print_log

_REASONS = {
    'flat': 'thinner than 1 px, of negative size or without area',
    'outside': 'outside of their image',
    'unknown': 'of categories that the config does not list',
}


def reason_to_leave_out(annotation: Mapping, image: Mapping, categories: list[int]) -> str | None:
    """Why mmdet's CocoDataset leaves a box out, a key of the report; None if it does not.

    Args:
        annotation: An entry of a COCO file.
        image: Its image, with ``width`` and ``height``.
        categories: Ids of the classes to learn.
    """
    if annotation.get('ignore', False):
        return None
    x, y, width, height = annotation['bbox']
    if width < 1 or height < 1 or annotation['area'] <= 0:
        return 'flat'
    seen_width = min(x + width, image['width']) - max(x, 0)
    seen_height = min(y + height, image['height']) - max(y, 0)
    if seen_width <= 0 or seen_height <= 0:
        return 'outside'
    return None if annotation['category_id'] in categories else 'unknown'


@contextmanager
def reported_boxes() -> Iterator[None]:
    """Within it data sets are built; at its end the log has what they left out."""
    module = sys.modules.get('mmdet.datasets.coco')
    if module is None:
        yield
        return
    counts: defaultdict[str, Counter] = defaultdict(Counter)
    parse = module.CocoDataset.parse_data_info

    def counting(dataset: object, info: dict) -> dict:
        count = counts[dataset.ann_file]
        for annotation in info['raw_ann_info']:
            count['all'] += 1
            reason = reason_to_leave_out(annotation, info['raw_img_info'], dataset.cat_ids)
            if reason:
                count[reason] += 1
        return parse(dataset, info)

    with mock.patch.object(module.CocoDataset, 'parse_data_info', counting):
        yield
    if is_main_process():
        for ann_file, count in counts.items():
            parts = [f'{count[key]} {text}' for key, text in _REASONS.items() if count[key]]
            if parts:
                print_log(
                    f'{ann_file}: of {count["all"]} boxes {", ".join(parts)} are left out.',
                    'current',
                )
