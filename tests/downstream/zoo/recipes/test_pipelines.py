"""Over many draws the pipelines make of real pictures what the recipes say."""

from collections import Counter

import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS as DET_DATASETS
from mmdet.registry import TRANSFORMS as DET_TRANSFORMS
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmseg.registry import DATASETS as SEG_DATASETS
from PIL import Image

from tests.conftest import ROOT

DRAWS = 80


def dataset_of(path: str, root, part: str = 'train'):
    """The data set of a recipe, its files replaced by the embedded ones."""
    cfg = Config.fromfile(ROOT / 'configs' / path)
    dataset = cfg[f'{part}_dataloader'].dataset
    split = {'train': 'training', 'test': 'validation'}[part]
    dataset.data_root = f'{root}/'
    if path.startswith('det'):
        dataset.metainfo = dict(classes=('circle', 'square', 'triangle'))
        dataset.ann_file = f'annotations/instances_{split}.json'
        dataset.data_prefix = dict(img=f'images/{split}/')
        registry, scope = DET_DATASETS, 'mmdet'
    else:
        dataset.data_prefix = dict(img_path=f'images/{split}', seg_map_path=f'annotations/{split}')
        registry, scope = SEG_DATASETS, 'mmseg'
    with DefaultScope.overwrite_default_scope(scope):
        return cfg, registry.build(dataset)


def draws(dataset, count: int = DRAWS) -> list[dict]:
    np.random.seed(0)
    torch.manual_seed(0)
    found = (dataset[i % len(dataset)] for i in range(count))
    return [item for item in found if item is not None]


def test_coco_multi_scale(shapes):
    _, dataset = dataset_of('det/cascade-mask-rcnn_convnext-tiny_in1k_3x_coco.py', shapes)
    shorter, flips, cropped = Counter(), Counter(), 0
    for item in draws(dataset):
        sample = item['data_samples']
        height, width = item['inputs'].shape[-2:]
        assert (height, width) == sample.img_shape
        assert max(height, width) <= 1333
        # 320 x 256 pictures: a crop changes the ratio of sides
        cropped += abs(width / height - 1.25) > 0.02
        shorter[min(height, width)] += 1
        flips[sample.flip] += 1
        boxes = sample.gt_instances.bboxes.tensor
        assert (boxes[:, 2:] <= torch.tensor([width, height]) + 1e-3).all()
        assert sample.gt_instances.masks.masks.shape[1:] == (height, width)
    sides = set(range(480, 801, 32))
    assert len(sides & set(shorter)) >= 9
    # only crops of extreme ratio are held by their long side
    assert sum(count for side, count in shorter.items() if side in sides) > 0.8 * DRAWS
    assert 0.25 < cropped / DRAWS < 0.7
    assert 0.3 < flips[True] / DRAWS < 0.7


def test_coco_is_tested_at_one_scale(shapes):
    _, dataset = dataset_of('det/mask-rcnn_convnext-tiny_in1k_3x_coco.py', shapes, 'test')
    assert {tuple(item['inputs'].shape[-2:]) for item in draws(dataset, 3)} == {(800, 1000)}


DINO = 'det/dino-4scale_convnext-tiny_in22k-in1k-384_12e_coco.py'


def test_detrs_are_trained_and_tested_on_images_that_pillow_resized(shapes):
    """By detectron2's rule: the short side of a list, the long one at most 1333, bilinear by Pillow."""
    _, dataset = dataset_of(DINO, shapes)
    short_sides = set()
    for item in draws(dataset, 40):
        sample = item['data_samples']
        assert 'masks' not in sample.gt_instances
        source = Image.open(sample.img_path).convert('RGB')
        height, width = item['inputs'].shape[-2:]
        short_sides.add(min(height, width))
        if abs(width / height - source.width / source.height) > 0.01:
            continue  # a crop
        expected = np.asarray(source.resize((width, height), Image.BILINEAR))
        if sample.flip:
            # flipped before it is resized, which for this filter is the same to a rounding
            expected = expected[:, ::-1]
        found = item['inputs'].numpy()[::-1].transpose(1, 2, 0)  # BGR
        assert np.abs(found.astype(int) - expected).max() <= 1
    assert short_sides <= set(range(480, 801, 32))
    assert len(short_sides) >= 9
    _, tested = dataset_of(DINO, shapes, 'test')
    item = tested[0]
    source = Image.open(item['data_samples'].img_path).convert('RGB')
    expected = np.asarray(source.resize((1000, 800), Image.BILINEAR))
    assert (item['inputs'].numpy()[::-1].transpose(1, 2, 0) == expected).all()


def test_a_long_image_keeps_its_short_side_before_a_crop():
    cfg = Config.fromfile(ROOT / 'configs' / DINO)
    before_crop = cfg.train_pipeline[3].transforms[1][0]
    with DefaultScope.overwrite_default_scope('mmdet'):
        resize = DET_TRANSFORMS.build(before_crop)
        for seed in range(3):
            np.random.seed(seed)
            found = resize(dict(img=np.zeros((100, 600, 3), np.uint8), img_shape=(100, 600)))
            assert found['img'].shape[0] in (400, 500, 600)
            assert found['img'].shape[1] == 6 * found['img'].shape[0]


def test_large_scale_jitter(shapes):
    cfg, dataset = dataset_of('det/mask-rcnn_convnextv2-base_fcmae_3x-lsj_coco.py', shapes)
    sizes, small = [], 0
    for item in draws(dataset):
        sample = item['data_samples']
        height, width = item['inputs'].shape[-2:]
        assert max(height, width) <= 1024
        sizes.append(max(height, width))
        small += max(height, width) < 1024
        boxes = sample.gt_instances.bboxes.tensor
        assert ((boxes[:, 2:] - boxes[:, :2]) >= 0.01).all()
        assert (boxes >= 0).all()
        assert (boxes[:, 2:] <= torch.tensor([width, height])).all()
    # the scale is uniform from 0.1 to 2: 9 of 19 pictures are smaller than the crop
    assert 0.3 < small / len(sizes) < 0.65
    assert min(sizes) < 300
    preprocessor = MODELS.build({**cfg.model.data_preprocessor, '_scope_': 'mmdet'})
    items = draws(dataset, 2)
    data = {
        'inputs': [item['inputs'] for item in items],
        'data_samples': [item['data_samples'] for item in items],
    }
    data = preprocessor(data, training=True)
    assert data['inputs'].shape == (2, 3, 1024, 1024)
    masks = data['data_samples'][0].gt_instances.masks
    assert masks.masks.shape[1:] == (1024, 1024)


@pytest.mark.parametrize(
    ('path', 'side'),
    [
        ('seg/upernet_convnext-tiny_in1k_160k_ade20k-512x512.py', 512),
        ('seg/upernet_convnext-base_in22k_160k_ade20k-640x640.py', 640),
    ],
)
def test_ade20k_crops(path, side, shapes):
    cfg, dataset = dataset_of(path, shapes)
    items = draws(dataset, 30)
    flips = Counter(item['data_samples'].flip for item in items)
    assert 0.2 < flips[True] / len(items) < 0.8
    for item in items:
        assert max(item['inputs'].shape[-2:]) <= side
    shapes_seen = {tuple(item['inputs'].shape[-2:]) for item in items}
    assert (side, side) in shapes_seen
    assert len(shapes_seen) > 3  # pictures scaled by less than 1 are smaller than the crop

    small = [item for item in items if min(item['inputs'].shape[-2:]) < side][:2]
    preprocessor = MODELS.build({**cfg.model.data_preprocessor, '_scope_': 'mmseg'})
    height, width = small[0]['inputs'].shape[-2:]
    data = {k: [item[k] for item in small] for k in ('inputs', 'data_samples')}
    data = preprocessor(data, training=True)
    assert data['inputs'].shape == (2, 3, side, side)
    labels = data['data_samples'][0].gt_sem_seg.data[0]
    assert labels.shape == (side, side)
    assert (labels[height:] == 255).all()
    assert (labels[:, width:] == 255).all()
    if height < side:
        assert (data['inputs'][0, :, height:] == 0).all()


def test_ade20k_labels_begin_at_one(shapes):
    """0 is unlabelled and ignored, 1 is the first class."""
    _, dataset = dataset_of('seg/upernet_convnext-tiny_in1k_160k_ade20k-512x512.py', shapes, 'test')
    assert dataset.reduce_zero_label
    import cv2

    for index in range(2):
        raw = cv2.imread(dataset.get_data_info(index)['seg_map_path'], cv2.IMREAD_UNCHANGED)
        found = dataset[index]['data_samples'].gt_sem_seg.data[0].numpy()
        assert found.shape == raw.shape
        assert (found[raw == 0] == 255).all()
        assert (found[raw > 0] == raw[raw > 0] - 1).all()


def test_mask2formers_crops_are_padded_with_grey(shapes):
    _, dataset = dataset_of('seg/mask2former_swin-tiny_in1k_160k_ade20k-512x512.py', shapes)
    padded = 0
    for item in draws(dataset, 30):
        assert item['inputs'].shape[-2:] == (512, 512)
        labels = item['data_samples'].gt_sem_seg.data[0]
        corner = item['inputs'][:, -1, -1].tolist()
        if corner == [128, 128, 128]:
            assert labels[-1, -1] == 255
            padded += 1
    assert 3 < padded < 27  # short sides from 256 to 1024


def test_mask2formers_instances_are_jittered_and_padded_with_grey(shapes):
    _, dataset = dataset_of('det/mask2former_swin-tiny_in1k_50e-lsj_coco.py', shapes)
    padded = 0
    for item in draws(dataset, 20):
        assert item['inputs'].shape == (3, 1024, 1024)
        objects = item['data_samples'].gt_instances
        assert objects.masks.masks.shape[1:] == (1024, 1024)
        padded += item['inputs'][:, -1, -1].tolist() == [128, 128, 128]
    assert padded > 3
