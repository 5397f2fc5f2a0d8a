"""What is drawn is where it should be, in its class's colour, legible, and nothing else is touched."""

import json
from itertools import combinations

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle

from downstream.data.run_lengths import encoded
from downstream.drawing import (
    beside,
    class_color,
    class_palette,
    draw_detections,
    draw_segmentation,
    legend,
    pictures,
)
from downstream.drawing.labels import free_place, text_mask, text_px
from tests.support.real_data import DATA, needs_data

GREY = 120


def plain(height: int = 200, width: int = 300) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def bgr(index: int) -> np.ndarray:
    return np.array(class_color(index)[::-1])


def test_colours_differ_and_do_not_depend_on_other_classes():
    colors = class_palette(150).astype(int)
    assert min(np.abs(a - b).sum() for a, b in combinations(colors[:20], 2)) > 60
    assert len({tuple(color) for color in colors}) == 150
    assert (class_palette(80) == colors[:80]).all()


def test_a_background_takes_no_colour_from_the_objects():
    things = ('circle', 'square')
    both = class_palette(('Background', *things))
    assert (both[1:] == class_palette(things)).all()
    assert both[0].max() < 64


def test_objects_have_boxes_masks_and_labels_where_they_are():
    masks = np.zeros((2, 200, 300), bool)
    masks[0, 60:90, 40:80] = True
    masks[1, 130:170, 200:260] = True
    boxes = [[30, 50, 90, 100], [190.2, 120.4, 270, 180]]
    image = plain()
    picture = draw_detections(image, boxes, [0, 1], [0.9, 0.7], masks, ('cat', 'dog'))
    assert (image == GREY).all()
    for mask, index in zip(masks, (0, 1)):
        y, x = (int(values.mean()) for values in np.nonzero(mask))
        np.testing.assert_allclose(picture[y, x], 0.55 * GREY + 0.45 * bgr(index), atol=1.5)
    for (left, top, right, bottom), index in zip(np.round(boxes).astype(int), (0, 1)):
        middle = (top + bottom) // 2
        assert (picture[middle, [left, right]] == bgr(index)).all()
    changed = (picture != GREY).any(-1)
    assert not changed[:30].any()  # above the first label
    assert changed[50 - text_mask('cat 0.90', text_px(image)).shape[0] : 49, 31:60].all()
    assert not changed[:, 110:180].any()
    assert not changed[184:].any()


@pytest.mark.parametrize('form', ['pixels', 'compressed', 'counts'])
def test_masks_come_in_every_form(form):
    mask = np.zeros((200, 300), np.uint8)
    mask[100:150, 100:200] = 1
    code = rle.encode(np.asfortranarray(mask))
    counts = {'size': [200, 300], 'counts': [100 * 200 + 100, 50]}
    counts['counts'] += [150, 50] * 99 + [100 * 200 + 50]
    masks = {'pixels': mask, 'compressed': code, 'counts': counts}[form]
    picture = draw_detections(plain(), [[100, 100, 200, 150]], [2], masks=[masks])
    expected = draw_detections(plain(), [[100, 100, 200, 150]], [2], masks=mask[None])
    assert (picture == expected).all()


def test_only_good_scores_are_drawn_and_the_best_lie_on_top():
    boxes = [[50, 50, 150, 150]] * 3
    picture = draw_detections(plain(), boxes, [0, 1, 2], [0.8, 0.9, 0.2], min_score=0.5)
    assert (picture[100, 50] == bgr(1)).all()
    alone = draw_detections(plain(), boxes[:1], [2], [0.2], min_score=0.5)
    assert (alone == GREY).all()


@pytest.mark.parametrize(
    'box',
    [
        [-500, -500, -480, -480],
        [-1e9, 10, 1e9, 20],
        [290, 190, 500, 400],
        [50, 50, 50, 50],
        [90, 90, 50, 50],
        [np.nan, 0, 10, 10],
        [0, 0, np.inf, 10],
    ],
)
def test_a_box_may_be_anywhere(box):
    picture = draw_detections(plain(), [box], [0], [0.5], classes=['long name of a class'])
    assert picture.shape == (200, 300, 3)
    good = draw_detections(plain(), [box, [20, 120, 60, 160]], [0, 1], [0.5, 0.9])
    assert (good[140, 20] == bgr(1)).all()


@pytest.mark.parametrize('shape', [(1, 1), (3, 500), (24, 30), (4000, 3000)])
def test_images_of_every_size(shape):
    image = plain(*shape)
    box = [0.2 * shape[1], 0.2 * shape[0], 0.8 * shape[1], 0.8 * shape[0]]
    assert draw_detections(image, [box], [1], [0.9], classes='ab').shape == image.shape
    assert draw_segmentation(image, np.ones(shape, int), 'ab').shape == image.shape


def test_nothing_to_draw_leaves_the_image():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    assert (draw_detections(image, np.empty((0, 4)), [], [], np.empty((0, 40, 50))) == image).all()
    assert (draw_segmentation(image, np.full((40, 50), 255, np.uint8), 'ab') == image).all()


@pytest.mark.parametrize('longest', [64, 640, 4000])
def test_letters_grow_with_the_image(longest):
    px = text_px(np.empty((longest // 2, longest, 3), np.uint8))
    assert px >= 11  # legible as it is
    assert longest / px < 80  # legible when the picture fills a screen
    ink = text_mask('person', px)
    assert (ink > 200).sum() > 10


def test_names_beyond_ascii_are_written():
    known = [text_mask(name, 20) for name in ('Straße', 'Strase', 'кот', 'кит', '???')]
    assert not any(a.shape == b.shape and (a == b).all() for a, b in combinations(known, 2))


def test_labels_do_not_cover_each_other():
    taken = np.empty((0, 4))
    for _ in range(5):
        x, y = free_place([100, 100, 200, 160], (60, 14), (300, 400), taken)
        taken = np.vstack([taken, (x, y, x + 60, y + 14)])
    for a, b in combinations(taken, 2):
        overlap = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
        assert (overlap <= 0).any()
    assert taken.min() >= 0


def test_pixels_are_tinted_by_their_class_and_unlabelled_ones_are_not():
    image = plain()
    label_map = np.full((200, 300), 255, np.uint8)
    label_map[:100, :150] = 0
    label_map[100:, 150:] = 7
    picture = draw_segmentation(image, label_map, [str(i) for i in range(8)], with_names=False)
    np.testing.assert_allclose(picture[50, 75], (GREY + bgr(0)) / 2, atol=1.5)
    np.testing.assert_allclose(picture[150, 225], (GREY + bgr(7)) / 2, atol=1.5)
    assert (picture[label_map == 255] == GREY).all()
    assert (image == GREY).all()
    signed = np.where(label_map == 255, -1, label_map.astype(np.int64))
    again = draw_segmentation(image, signed, [str(i) for i in range(8)], with_names=False)
    assert (again == picture).all()


def test_names_are_written_within_their_regions():
    label_map = np.zeros((200, 300), np.uint8)
    label_map[40:120, 180:290] = 1
    label_map[:2] = 2  # too thin for its name
    image, names = plain(), ('wall', 'door', 'line')
    written = (
        draw_segmentation(image, label_map, names)
        != draw_segmentation(image, label_map, names, with_names=False)
    ).any(-1)
    assert written[label_map == 1].any()
    assert written[label_map == 0].any()
    assert not written[label_map == 2].any()
    assert not written[:, 170:180].any()
    ys, xs = np.nonzero(written & (label_map == 1))
    assert abs(ys.mean() - 80) < 5
    assert abs(xs.mean() - 235) < 5


def test_crowds_are_named_and_keep_the_colour_of_their_class():
    boxes, classes = [[20, 60, 120, 160], [160, 60, 280, 160]], ('cat', 'dog')
    common = {'boxes': boxes, 'labels': [1, 1], 'classes': classes}
    drawn = draw_detections(plain(), **common, crowds=[False, True])
    named = draw_detections(plain(), **common, captions=['dog', 'dog crowd'])
    assert (drawn == named).all()
    assert (drawn[110, 160] == class_color(1)[::-1]).all()
    sized = draw_detections(plain(), **common, captions=['a', 'b'], crowds=[False, True])
    assert (sized == draw_detections(plain(), **common, captions=['a', 'b crowd'])).all()


def test_pictures_are_side_by_side_under_titles():
    left, right = plain(), plain() + 50
    both = beside([left, right], ['ground truth', 'prediction'])
    assert both.shape[1] == 600
    strip = both.shape[0] - 200
    assert (both[strip:, :300] == left).all()
    assert (both[strip:, 300:] == right).all()
    for half in (both[:strip, :300], both[:strip, 300:]):
        assert half.min() < 50  # ink
        assert half.max() == 255


def test_a_legend_names_each_class_in_its_colour():
    names = {index: f'class {index}' for index in (0, 3, 11)}
    strip = legend(names, class_palette(12), 200, 12)
    assert strip.shape[1] == 200
    for index in names:
        assert (strip == class_color(index)).all(-1).sum() > 30
    assert legend(names, class_palette(12), 2000, 12).shape[0] < strip.shape[0]


@needs_data
def test_real_images_with_crowds_and_many_objects():
    file = next((DATA / 'tiny_coco' / 'annotations').glob('*val*.json'))
    content = json.loads(file.read_text())
    names = [one['name'] for one in content['categories']]
    places = {one['id']: place for place, one in enumerate(content['categories'])}
    for info in content['images'][:4]:
        image = cv2.imread(str(DATA / 'tiny_coco' / 'val2017' / info['file_name']))
        own = [one for one in content['annotations'] if one['image_id'] == info['id']]
        boxes = np.array([one['bbox'] for one in own], float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        codes = [encoded(one['segmentation'], *image.shape[:2]) for one in own]
        labels = [places[one['category_id']] for one in own]
        picture = draw_detections(image, boxes, labels, masks=codes, classes=names)
        objects = np.any([rle.decode(code) for code in codes], axis=0)
        assert (picture != image).any(-1)[objects].mean() > 0.99
        away = np.ones_like(objects)
        for left, top, right, bottom in boxes.astype(int):
            away[max(0, top - 25) : bottom + 25, max(0, left - 110) : right + 110] = False
        assert (picture == image).all(-1)[away].all()


def test_a_large_label_map_is_drawn_in_parts(monkeypatch):
    """Rows at a time give the picture of the whole at once."""
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (200, 300, 3), dtype=np.uint8)
    label_map = random.integers(-1, 4, (200, 300))
    label_map[50:120, 100:220] = 2
    label_map[130:] = 255
    whole = draw_segmentation(image, label_map, ('a', 'b', 'c'))
    monkeypatch.setattr(pictures, '_PIXELS_AT_ONCE', 300 * 7)
    assert (draw_segmentation(image, label_map, ('a', 'b', 'c')) == whole).all()
    tinted = cv2.addWeighted(
        image, 0.5, class_palette('abc')[label_map.clip(0, 2)][..., ::-1].copy(), 0.5, 0
    )
    plain_map = draw_segmentation(image, label_map, ('a', 'b', 'c'), with_names=False)
    labelled = (label_map >= 0) & (label_map < 3)
    assert (plain_map[labelled] == tinted[labelled]).all()
    assert (plain_map[~labelled] == image[~labelled]).all()
