"""Run-length codes of which the object alone is decoded, against pycocotools."""

import numpy as np
import pytest
from pycocotools import mask as rle

from downstream.drawing import draw_detections, masks


@pytest.mark.parametrize('seed', range(8))
def test_the_box_of_a_code_equals_pycocotools(seed):
    random = np.random.default_rng(seed)
    mask = np.zeros((90, 130), np.uint8, order='F')
    top, left = random.integers(0, 60, 2)
    part = random.random((30, 40)) < [0.01, 0.5, 0.99, 1, 0.2, 0.8, 0.05, 0][seed]
    mask[top : top + 30, left : left + 40] = part
    mask[:, left] |= np.uint8(seed == 5)  # from edge to edge
    code = rle.encode(mask)
    counts = []
    for value in mask.ravel(order='F'):
        if not counts:
            counts, last = ([0, 1] if value else [1]), value
        elif value == last:
            counts[-1] += 1
        else:
            counts, last = [*counts, 1], value
    text = {**code, 'counts': code['counts'].decode()}
    for form in (code, text, {**code, 'counts': counts}):
        pixels, (x, y) = masks.cropped(form)
        whole = np.zeros_like(mask)
        whole[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels
        assert np.array_equal(whole, mask)
        assert pixels.size == 0 or (pixels.any(0)[[0, -1]].all() and pixels.any(1)[[0, -1]].all())


def test_a_large_picture_is_drawn_the_same_from_parts(monkeypatch):
    random = np.random.default_rng(0)
    image = random.integers(0, 255, (120, 150, 3), np.uint8)
    mask = np.zeros((3, 120, 150), np.uint8)
    mask[0, 20:60, 30:80], mask[1, :, 100:110] = 1, 1
    codes = [rle.encode(np.asfortranarray(one)) for one in mask]
    boxes, labels, scores = np.array([[30, 20, 80, 60]] * 3), [0, 1, 2], [0.9, 0.8, 0.7]
    expected = draw_detections(image, boxes, labels, scores, codes, ('a', 'b', 'c'))
    monkeypatch.setattr(masks, '_LARGE', 0)
    assert np.array_equal(
        draw_detections(image, boxes, labels, scores, codes, ('a', 'b', 'c')), expected
    )
