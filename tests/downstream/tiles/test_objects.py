"""Objects across seams: each once, whole, and none lost to a neighbour."""

import numpy as np
import pytest
from pycocotools import mask as rle

from downstream.tiles.objects import FoundObjects, merge
from downstream.tiles.region import Region, united
from downstream.tiles.windows import Tiling, Window

LEFT, RIGHT = Window(0, 0, 100, 100), Window(80, 0, 180, 100)


def found(window: Window, *objects, masks: bool) -> FoundObjects:
    """What a tile found: tuples of box, score and label; a mask fills its box."""
    boxes = np.array([box for box, *_ in objects], np.float32).reshape(-1, 4)
    regions = None
    if masks:
        regions = []
        for left, top, right, bottom in boxes.round().astype(int).tolist():
            regions.append(Region(left, top, np.ones((bottom - top, right - left), bool)))
    return FoundObjects(
        window,
        boxes,
        np.array([score for _, score, _ in objects], np.float32),
        np.array([label for *_, label in objects], np.int64),
        regions,
    )


@pytest.fixture(params=[False, True], ids=['boxes', 'masks'])
def merged(request):
    """Merges what the two tiles found: ``merged([left objects], [right objects])``."""

    def run(*tiles, windows=(LEFT, RIGHT)) -> FoundObjects:
        parts = [found(w, *one, masks=request.param) for w, one in zip(windows, tiles)]
        return merge(parts, max(w.bottom for w in windows), max(w.right for w in windows))

    return run


def test_an_object_that_both_tiles_show_whole_is_there_once(merged):
    result = merged([((82, 10, 95, 30), 0.8, 0)], [((83, 10, 96, 30), 0.9, 0)])
    assert result.boxes.tolist() == [[83, 10, 96, 30]]
    assert result.scores.tolist() == [pytest.approx(0.9)]


def test_the_whole_object_wins_over_its_piece(merged):
    result = merged([((82, 10, 100, 30), 0.9, 0)], [((83, 10, 120, 30), 0.6, 0)])
    assert result.boxes.tolist() == [[83, 10, 120, 30]]
    assert result.scores.tolist() == [pytest.approx(0.6)]


def test_a_piece_raises_no_doubtful_detection(merged):
    """The right tile is sure of one object, and hardly of a second one that the piece is within too."""
    whole = [((82, 10, 120, 40), 0.8, 0), ((82, 8, 125, 44), 0.05, 0)]
    result = merged([((82, 10, 100, 40), 0.9, 0)], whole)
    assert result.scores.tolist() == [pytest.approx(0.8), pytest.approx(0.05)]


def test_pieces_of_an_object_that_no_tile_shows_whole_are_united(merged):
    result = merged([((20, 10, 100, 30), 0.7, 0)], [((80, 10, 150, 30), 0.8, 0)])
    assert result.boxes.tolist() == [[20, 10, 150, 30]]
    assert result.scores.tolist() == [pytest.approx(0.8)]
    if result.regions:
        assert result.regions[0].area() == 130 * 20


def test_an_object_of_three_tiles_is_united(merged):
    third = Window(160, 0, 260, 100)
    result = merged(
        [((50, 10, 100, 30), 0.7, 0)],
        [((80, 10, 180, 30), 0.6, 0)],
        [((160, 10, 220, 30), 0.8, 0)],
        windows=(LEFT, RIGHT, third),
    )
    assert result.boxes.tolist() == [[50, 10, 220, 30]]


def test_pieces_of_three_tiles_stay_together_where_the_middle_one_is_within_another_object(merged):
    """The tile below shows an object whole that the middle piece is within, too."""
    below = Window(80, 5, 180, 105)
    windows = LEFT, RIGHT, Window(160, 0, 260, 100), below
    for scores in ((0.9, 0.6, 0.7), (0.7, 0.6, 0.9), (0.6, 0.9, 0.7)):
        left, middle, right = scores
        result = merged(
            [((50, 10, 100, 30), left, 0)],
            [((80, 10, 180, 30), middle, 0)],
            [((160, 10, 220, 30), right, 0)],
            [((82, 8, 178, 60), 0.8, 0)],
            windows=windows,
        )
        found = sorted(map(tuple, result.boxes.tolist()))
        assert found == [(50, 10, 220, 30), (82, 8, 178, 60)], scores


@pytest.mark.parametrize(
    'scores', [(0.9, 0.8, 0.7), (0.7, 0.8, 0.9), (0.8, 0.9, 0.7), (0.8, 0.7, 0.9)]
)
def test_an_object_whole_in_three_tiles_is_there_once(merged, scores):
    """Two of its boxes overlap by less than half; both do by more with the third."""
    windows = Window(0, 0, 110, 100), RIGHT, Window(80, 20, 180, 120)
    boxes = (82, 40, 94, 60), (85, 40, 97, 60), (88, 40, 100, 60)
    tiles = [[(box, score, 0)] for box, score in zip(boxes, scores)]
    result = merged(*tiles, windows=windows)
    assert result.scores.tolist() == [pytest.approx(max(scores))]
    assert result.boxes.tolist() == [list(boxes[scores.index(max(scores))])]


def test_a_twin_takes_no_object_that_its_tile_finds_too(merged):
    """The first tile tells two objects apart; the second tile has one box for both."""
    windows = Window(0, 0, 110, 100), RIGHT, Window(80, 20, 180, 120)
    both = [((82, 40, 94, 60), 0.9, 0), ((88, 40, 100, 60), 0.6, 0)]
    result = merged(
        both, [((85, 40, 97, 60), 0.5, 0)], [((88, 40, 101, 60), 0.8, 0)], windows=windows
    )
    assert sorted(map(tuple, result.boxes.tolist())) == [(82, 40, 94, 60), (88, 40, 101, 60)]


def test_a_twin_takes_no_object_that_its_tile_does_not_show(merged):
    windows = Window(0, 0, 98, 100), Window(80, 0, 180, 100), Window(80, 20, 180, 120)
    tiles = [
        [((82, 40, 94, 60), 0.9, 0)],
        [((85, 40, 97, 60), 0.5, 0)],
        [((88, 40, 100, 60), 0.8, 0)],
    ]
    result = merged(*tiles, windows=windows)
    assert len(result.boxes) == 2


@pytest.mark.parametrize(
    'second',
    [
        ((83, 10, 120, 30), 0.8, 1),  # of another class
        ((80, 40, 120, 60), 0.8, 0),  # elsewhere
        ((97, 10, 120, 30), 0.8, 0),  # beside it
    ],
)
def test_different_objects_stay(merged, second):
    result = merged([((70, 10, 98, 30), 0.9, 0)], [second])
    assert len(result.boxes) == 2


def test_objects_of_one_tile_are_never_merged(merged):
    twins = [((10, 10, 40, 40), 0.9, 0), ((11, 10, 41, 40), 0.8, 0)]
    assert len(merged(twins, []).boxes) == 2


def test_a_piece_that_matches_two_objects_drops_neither(merged):
    piece = ((82, 14, 100, 46), 0.95, 0)
    whole = [((82, 10, 110, 40), 0.9, 0), ((82, 20, 110, 50), 0.8, 0)]
    result = merged([piece], whole)
    assert sorted(map(tuple, result.boxes.tolist())) == [(82, 10, 110, 40), (82, 20, 110, 50)]


def test_a_piece_where_two_objects_overlap_stays_with_its_other_pieces(merged):
    """The left tile cuts a long object, whose end in the right tile is within another, whole one."""
    long = [((20, 10, 100, 30), 0.9, 0)], [((80, 10, 118, 30), 0.8, 0), ((84, 8, 150, 60), 0.7, 0)]
    windows = LEFT, Window(80, 0, 180, 100)
    result = merged(*long, windows=windows)
    assert sorted(map(tuple, result.boxes.tolist())) == [(20, 10, 118, 30), (84, 8, 150, 60)]


def test_no_object_at_all(merged):
    result = merged([], [])
    assert result.boxes.shape == (0, 4)
    assert len(result.scores) == 0


@pytest.mark.parametrize('seed', range(5))
def test_run_lengths_equal_those_of_the_whole_mask(seed):
    random = np.random.default_rng(seed)
    height, width = 60, 70
    window = Window(10 * (seed % 2), 20 * (seed % 3), 10 * (seed % 2) + 50, 20 * (seed % 3) + 20)
    part = random.random((window.height, window.width)) < [0.02, 0.5, 0.98, 1, 0][seed]
    whole = np.zeros((height, width), bool)
    whole[window.top : window.bottom, window.left : window.right] = part
    region = Region.of_mask(part, window)
    expected = rle.encode(np.asfortranarray(whole, np.uint8))
    assert region.run_lengths(height, width) == expected
    assert region.area() == part.sum()


def test_a_column_from_edge_to_edge_is_one_run():
    region = Region(2, 0, np.ones((5, 3), bool))
    whole = np.zeros((5, 6), np.uint8, order='F')
    whole[:, 2:5] = 1
    assert region.run_lengths(5, 6) == rle.encode(whole)
    last = Region(5, 3, np.ones((2, 1), bool))
    whole = np.zeros((5, 6), np.uint8, order='F')
    whole[3:, 5] = 1
    assert last.run_lengths(5, 6) == rle.encode(whole)


def test_regions_are_united_and_share_pixels():
    random = np.random.default_rng(0)
    masks = random.random((2, 30, 40)) < 0.3
    windows = [Window(0, 0, 40, 30), Window(20, 10, 60, 40)]
    canvas = np.zeros((2, 40, 60), bool)
    for k, (mask, w) in enumerate(zip(masks, windows)):
        canvas[k, w.top : w.bottom, w.left : w.right] = mask
    regions = [Region.of_mask(mask, w) for mask, w in zip(masks, windows)]
    assert regions[0].shared(regions[1]) == (canvas[0] & canvas[1]).sum()
    both = united(regions)
    expected = rle.encode(np.asfortranarray(canvas.any(0), np.uint8))
    assert both.run_lengths(40, 60) == expected


def ellipses(random, count: int, height: int, width: int) -> list[np.ndarray]:
    """Masks of objects of many sizes, some of them larger than what tiles share."""
    y, x = np.mgrid[:height, :width]
    masks = []
    for _ in range(count):
        a, b = random.uniform(12, 90, 2)
        cy, cx = random.uniform(0, height), random.uniform(0, width)
        masks.append(((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 <= 1)
    return [mask for mask in masks if mask.sum() > 50]


def box_of(mask: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@pytest.mark.parametrize('with_masks', [False, True])
def test_a_detector_that_sees_parts_finds_the_objects_of_the_whole(with_masks):
    """An ideal detector on tiles: it finds every visible part, with boxes that are off by a pixel."""
    random = np.random.default_rng(3)
    height, width, tiling = 600, 800, Tiling(256, 0.25)
    kept = total = made = 0
    for _ in range(3):
        truth = ellipses(random, 40, height, width)
        labels = np.arange(len(truth)) % 8
        parts = []
        for window in (w for row in tiling.rows(height, width) for w in row):
            boxes, regions, chosen = [], [], []
            for k, mask in enumerate(truth):
                part = mask[window.top : window.bottom, window.left : window.right]
                if part.sum() < 30:
                    continue
                region = Region.of_mask(part, window)
                box = [region.left, region.top, region.right, region.bottom]
                noisy = np.array(box) + random.uniform(-1, 1, 4)
                low, high = [window.left, window.top] * 2, [window.right, window.bottom] * 2
                boxes.append(np.clip(noisy, low, high))
                regions.append(region)
                chosen.append(k)
            scores = random.uniform(0.5, 1, len(chosen)).astype(np.float32)
            boxes = np.array(boxes, np.float32).reshape(-1, 4)
            parts.append(
                FoundObjects(window, boxes, scores, labels[chosen], regions if with_masks else None)
            )
        result = merge(parts, height, width)
        made += len(result.boxes)
        boxes = np.array([box_of(mask) for mask in truth], float)
        found_boxes = result.boxes.astype(float)
        found_boxes[:, 2:] -= found_boxes[:, :2]
        boxes[:, 2:] -= boxes[:, :2]
        ious = rle.iou(found_boxes, boxes, [0] * len(boxes))
        ious[result.labels[:, None] != labels] = 0
        kept += (ious.max(0) >= 0.9).sum()
        total += len(truth)
    assert kept >= 0.98 * total
    assert made <= 1.05 * total
