"""COCO annotations that lack ids, areas or iscrowd: completed whenever a file is read.

Labels are numbered in the order of the config's classes, whatever the order of a file's categories.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmengine.fileio import get_local_path

from downstream.data.findings.records import repair
from downstream.quiet import without_coco_output


class CompletedCOCO(COCO):
    """mmdet's ``COCO`` whose annotations have what needs no guess.

    See :func:`downstream.data.findings.records.repair`; the check of the data says what was missing. A
    complete file is read as it stands.
    """

    def createIndex(self) -> None:  # noqa: N802  pycocotools' name
        if {'images', 'annotations'} <= self.dataset.keys():
            repair('', self.dataset)
        super().createIndex()

    def get_cat_ids(
        self,
        cat_names: Sequence[str] = (),
        sup_names: Sequence[str] = (),
        cat_ids: Sequence[int] = (),
    ) -> list[int]:
        """Ids of categories, in the order of ``cat_names`` if these are given.

        pycocotools returns them in the order of the file: the labels of two files that list their
        categories differently would not agree.
        """
        ids = super().get_cat_ids(list(cat_names), list(sup_names), list(cat_ids))
        if not cat_names:
            return ids
        return sorted(ids, key=lambda number: list(cat_names).index(self.cats[number]['name']))


# The class attribute that mmdet has for other readers of annotations.
CocoDataset.COCOAPI = CompletedCOCO


def read_truth(
    ann_file: str, backend_args: dict | None = None, sort_categories: bool = False
) -> CompletedCOCO:
    """The annotations that detections are compared with.

    Args:
        ann_file: A COCO file.
        backend_args: Of mmengine's storage backend.
        sort_categories: Sort the categories by id.
    """
    with without_coco_output(), get_local_path(ann_file, backend_args=backend_args) as path:
        truth = CompletedCOCO(path)
        if sort_categories:
            truth.dataset['categories'].sort(key=lambda category: category['id'])
            truth.createIndex()
    return truth
