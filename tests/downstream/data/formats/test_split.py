"""Splits: seeded, by class, with what belongs together on one side."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from backbones.errors import ConfigError, DataError
from downstream.data.formats.find import find
from downstream.data.formats.found import Found, Instances
from downstream.data.formats.split import sequences_of, split
from downstream.data.formats.write import write

COUNTS = (60, 20, 6, 2, 1)  # images of each class


def noise(seed: int) -> Image.Image:
    cells = np.random.default_rng(seed).integers(0, 256, (9, 9), np.uint8)
    return Image.fromarray(cells).resize((72, 72), Image.Resampling.NEAREST)


def make(folder, names, classes_of) -> Found:
    """A set of small grey pictures, each with an object of each class of ``classes_of``."""
    folder.mkdir(parents=True, exist_ok=True)
    count = max((max(c, default=-1) for c in classes_of), default=0) + 1
    images, annotations = [], []
    for number, (name, classes) in enumerate(zip(names, classes_of)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            noise(number).save(path)
        images.append({'id': number, 'file_name': name, 'width': 72, 'height': 72})
        for kind in classes:
            annotations.append({
                'id': len(annotations) + 1, 'image_id': number, 'category_id': kind, 'iscrowd': 0,
                'bbox': [1, 1, 9, 9], 'area': 81,
            })  # fmt: skip
    names = tuple(f'class{k}' for k in range(count))
    categories = [{'id': k, 'name': name} for k, name in enumerate(names)]
    coco = {'images': images, 'annotations': annotations, 'categories': categories}
    return Found('COCO', 'detection', names, {'all': Instances(folder, coco)})


def names_in(found, part):
    return {image['file_name'] for image in found.parts[part].coco['images']}


@pytest.fixture
def mixed(tmp_path):
    classes_of = [[k] for k, count in enumerate(COUNTS) for _ in range(count)] + [[]] * 11
    return make(tmp_path, [f'{i:05d}.png' for i in range(len(classes_of))], classes_of)


def test_classes_are_stratified_and_the_seed_decides(mixed):
    whole = mixed.parts['all'].coco
    found = split(mixed, 0.2, seed=3)
    train, val = (found.parts[name].coco for name in ('train', 'val'))
    assert names_in(found, 'train').isdisjoint(names_in(found, 'val'))
    assert len(train['images']) + len(val['images']) == len(whole['images']) == 100
    assert len(train['annotations']) + len(val['annotations']) == len(whole['annotations'])
    per_class = Counter(one['category_id'] for one in val['annotations'])
    assert [per_class[k] for k in range(5)] == [12, 4, 1, 1, 0]
    # Of the images without objects as well.
    assert len(val['images']) == pytest.approx(20, abs=1)
    assert 'validation has no image with class4' in found.notes[-1]
    assert names_in(split(mixed, 0.2, seed=3), 'val') == names_in(found, 'val')
    assert names_in(split(mixed, 0.2, seed=4), 'val') != names_in(found, 'val')
    assert len(split(mixed, 0.5).parts['val'].coco['images']) == pytest.approx(50, abs=3)


def test_nearly_equal_images_are_on_one_side(tmp_path):
    names = [f'{i:02d}.{"jpg" if i % 2 else "png"}' for i in range(40)]
    for i, name in enumerate(names):  # each second is a compressed copy of the one before
        image = noise(i // 2)
        image.save(tmp_path / name, **({'quality': 40} if i % 2 else {}))
    found = split(make(tmp_path, names, [[0]] * 40), 0.3)
    assert '40 images are nearly equal' in found.notes[1]
    val = {int(name[:2]) for name in names_in(found, 'val')}
    assert len(val) == 12
    assert all({i, i ^ 1} <= val for i in val)


def test_frames_of_a_video_are_on_one_side(tmp_path):
    names = [f'video{v}_frame_{i:04d}.png' for v in 'abcde' for i in range(6)]
    found = split(make(tmp_path, names, [[0]] * 30), 0.2)
    assert {name[:6] for name in names_in(found, 'val')}.isdisjoint(
        name[:6] for name in names_in(found, 'train')
    )
    assert len(names_in(found, 'val')) == 6
    assert '5 sequences' in found.notes[1]


def test_augmented_copies_of_an_export_are_on_one_side(tmp_path):
    names = [f'photo-{i}_jpg.rf.{i * 16 + k:08x}.png' for i in range(10) for k in range(3)]
    found = split(make(tmp_path, names, [[0]] * 30), 0.2)
    sources = [{n.split('.rf.')[0] for n in names_in(found, p)} for p in ('train', 'val')]
    assert sources[0].isdisjoint(sources[1])
    assert len(sources[1]) == 2


@pytest.mark.parametrize(
    ('names', 'classes', 'sequences'),
    [
        (['IMG_0001.jpg', 'IMG_0002.jpg', 'IMG_0003.jpg', 'DSC_1.jpg'], [0, 0, 0, 0], False),
        ([f'{i:012d}.jpg' for i in range(9)], [0] * 9, False),
        ([f'{k}_{i}.jpg' for k in ('cat', 'dog', 'cow') for i in range(3)], [0, 1, 2], False),
        ([f'{k}_{i}.jpg' for k in ('pen', 'yard', 'barn') for i in range(3)], [0] * 9, True),
        ([f'{k}/{i}.jpg' for k in ('pen', 'yard', 'barn') for i in range(3)], [0] * 9, True),
    ],
)
def test_what_is_a_sequence(names, classes, sequences):
    per_image = classes if len(classes) == len(names) else np.repeat(classes, 3)
    has_class = np.eye(max(classes) + 1, dtype=bool)[per_image]
    assert (sequences_of(names, has_class) is not None) == sequences


def test_masks_are_split_by_their_classes(shapes, tmp_path):
    found = find(shapes, 'segmentation')
    whole = found.parts['train']
    found = split(replace(found, parts={'all': whole}), 0.3)
    assert {name: len(part.pairs) for name, part in found.parts.items()} == {'train': 3, 'val': 1}
    assert set(found.parts['train'].pairs) | set(found.parts['val'].pairs) == set(whole.pairs)
    written = write(found, tmp_path / 'out')
    assert len(written.lists['val'].read_text().splitlines()) == 1


def test_what_cannot_be_split(mixed, tmp_path):
    with pytest.raises(ConfigError, match='split already: it has train, val'):
        split(split(mixed))
    with pytest.raises(ConfigError, match='share=1: it must be between 0 and 1'):
        split(mixed, 1)
    one = make(tmp_path / 'one', ['a.png'], [[0]])
    with pytest.raises(DataError, match='1 image cannot be split'):
        split(one)
    folder = tmp_path / 'same'
    folder.mkdir()
    for name in ('a.png', 'b.png'):
        noise(0).save(folder / name)
    with pytest.raises(DataError, match='all 2 images are alike'):
        split(make(folder, ['a.png', 'b.png'], [[0], [0]]))


def test_a_test_part_is_kept(mixed):
    found = split(replace(mixed, parts={'train': mixed.parts['all'], 'test': mixed.parts['all']}))
    assert list(found.parts) == ['train', 'val', 'test']
    assert len(found.parts['test'].coco['images']) == 100
