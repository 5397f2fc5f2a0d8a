"""How many images the data sets have that recipes of mmdet, mmseg and this suite train on."""

from __future__ import annotations

from collections.abc import Mapping

_COCO, _ADE20K = 118_287, 20_210
# By the start of data_root, where one class reads several sets.
_BY_ROOT = {
    'data/coco_stuff10k': 9_000,
    'data/coco': _COCO,
    'data/ade': _ADE20K,
    'data/shapes': 64,
}
# By class. Of aerial pictures the crops count that mmseg's converters make; of VOC all images of the sets
# that recipes join, which are 2007 and 2012 for detection, 2012 and its augmented set for segmentation.
_BY_CLASS = {
    'CityscapesDataset': 2_975,
    'CrowdHumanDataset': 15_000,
    'LVISV05Dataset': 57_263,
    'LVISV1Dataset': 100_170,
    'Objects365V1Dataset': 608_606,
    'Objects365V2Dataset': 1_742_289,
    'OpenImagesChallengeDataset': 1_674_979,
    'OpenImagesDataset': 1_743_042,
    'V3DetDataset': 183_354,
    'VOCDataset': 16_551,
    'WIDERFaceDataset': 12_880,
    'ChaseDB1Dataset': 20,
    'DRIVEDataset': 20,
    'HRFDataset': 15,
    'STAREDataset': 10,
    'ISPRSDataset': 344,
    'iSAIDDataset': 33_978,
    'LoveDADataset': 2_522,
    'MapillaryDataset_v1': 18_000,
    'PascalContextDataset': 4_998,
    'PascalContextDataset59': 4_998,
    'PascalVOCDataset': 10_582,
    'PotsdamDataset': 3_456,
}
_BY_SCOPE = {'mmdet': _COCO, 'mmseg': _ADE20K}


def training_images(dataset: Mapping, scope: str) -> int:
    """How many images a recipe trains on.

    Args:
        dataset: Its innermost data set.
        scope: ``'mmdet'`` or ``'mmseg'``, whose usual set counts where this one is not known.
    """
    kind = str(dataset.get('type')).rpartition('.')[2]
    if kind in _BY_CLASS:
        return _BY_CLASS[kind]
    root = str(dataset.get('data_root') or '')
    by_root = (count for start, count in _BY_ROOT.items() if root.startswith(start))
    return next(by_root, _BY_SCOPE[scope])
