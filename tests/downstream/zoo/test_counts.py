"""Parameters and GMACs of rows that no paper prints, derived from rows that one prints.

Two rows of one method differ in their backbone and in the layers that read its feature maps. What is left
without these must be the same number for all rows of a method; the printed rows show that it is correct.
"""

import json
from pathlib import Path

import pytest

from downstream.zoo import Row, rows

RECORD = json.loads(Path(__file__).with_name('official_files.json').read_text())
SIZES = {  # blocks of the third stage (the others have 2 or 3) and width of the first
    'atto': (6, 40), 'femto': (6, 48), 'pico': (6, 64), 'nano': (8, 80), 'tiny': (9, 96),
    'small': (27, 96), 'base': (27, 128), 'large': (27, 192), 'xlarge': (27, 256), 'huge': (27, 352),
}  # fmt: skip
ROWS = [row for row in rows() if row.family in ('convnext', 'convnextv2')]
STRIDES = (4, 8, 16, 32)
# Pixels of the map of stride 64 of an image of 1280 x 800.
FOURTH_MAP = 20 * 13


def dims_of(row: Row) -> list[int]:
    width = SIZES[row.size][1]
    return [width, 2 * width, 4 * width, 8 * width]


def of_the_backbone(row: Row) -> int:
    """Parameters by the official code, and a norm (weight and bias) on each output."""
    first = {'linear': -1, 'dino-4scale': 1, 'rtmdet-l': 1}.get(row.method, 0)
    outputs = dims_of(row)[first:]
    return RECORD[f'{row.family}-{row.size}']['values'] + 2 * sum(outputs)


def reading_the_widths(row: Row) -> int:
    """Parameters of the layers that read the feature maps."""
    *finer, last = dims_of(row)
    if row.method == 'dino-4scale':
        # a 1x1 convolution for each map but the finest, and a 3x3 one for a fourth
        return 256 * (sum(finer[1:]) + last + 9 * last)
    if row.method == 'rtmdet-l':
        return 0  # there is one row, whose neck and head test_stock_recipes.py compares
    if row.task == 'detection' or row.method == 'mask2former':
        return 256 * (sum(finer) + last)  # a 1x1 convolution each
    if row.method == 'linear':
        return 150 * last  # a 1x1 convolution to 150 classes
    laterals, pooled = 512 * sum(finer), 4 * 512 * last
    # the bottleneck reads the last map beside the pooled ones; the auxiliary head reads the third
    return laterals + pooled + 9 * 512 * last + 9 * 256 * finer[2]


def constants(rule) -> dict[str, dict[str, float]]:
    """What is left of each row, by the kind of head and image."""
    left: dict[str, dict[str, float]] = {}
    for row in ROWS:
        queries = 200 if row.schedule == '100e-lsj' else 100
        kind = f'{row.method} {row.data} {"lsj" in row.schedule} {queries}'
        left.setdefault(kind, {})[row.name] = rule(row)
    return left


@pytest.mark.parametrize('kind', constants(lambda row: 0))
def test_rows_differ_by_their_backbones_parameters(kind):
    left = constants(lambda row: row.params - of_the_backbone(row) - reading_the_widths(row))[kind]
    if kind.startswith('linear'):
        # what remains has to be the biases of 150 classes
        left['every layer counted'] = 150
    assert len(set(left.values())) == 1, left
    printed = [row for row in ROWS if row.name in left and 'params' in row.printed]
    assert all(round(row.params / 1e6) == row.printed['params'] for row in printed)


def macs(row: Row, pixels: int) -> float:
    """Multiply-adds of the backbone and of the layers that read its widths (complexity.py's rule)."""
    dims, total = dims_of(row), 0
    blocks = SIZES[row.size][0]
    short = 2 if row.size in ('atto', 'femto', 'pico', 'nano') else 3
    for stage, (dim, stride) in enumerate(zip(dims, STRIDES)):
        here = pixels / stride**2
        reads = 48 if stage == 0 else 4 * dims[stage - 1]
        total += here * (reads + 1) * dim  # 4x4 or 2x2 convolution, with its bias
        depth = blocks if stage == 2 else short
        total += (
            depth * here * (50 * dim + 8 * dim**2)
        )  # 7x7 depthwise with bias, two linear layers
        if row.method == 'dino-4scale':
            total += here * 256 * dim if stage else 0
            total += FOURTH_MAP * 9 * 256 * dim if stage == 3 else 0
        elif row.task == 'detection' or row.method == 'mask2former':
            total += here * 256 * dim
        elif row.method == 'linear':
            total += here * 150 * dim if stage == 3 else 0
        elif stage < 3:
            total += here * 512 * dim
        else:
            total += here * 9 * 512 * dim
            total += (1 + 4 + 9 + 36) * 512 * dim  # pooled to 1, 2, 3 and 6 positions a side
    return total / 1e9


@pytest.mark.parametrize('kind', constants(lambda row: 0))
def test_rows_differ_by_their_backbones_multiply_adds(kind):
    side = 640 if '640' in kind else 512
    pixels = 1280 * 800 if 'coco' in kind else 4 * side**2
    left = constants(lambda row: row.gmacs - macs(row, pixels))[kind]
    assert max(left.values()) - min(left.values()) < 0.03, left


def linear(out: int, of: int) -> int:
    return out * of + out


def test_what_dino_adds_to_its_backbone_is_its_papers_transformer():
    """256 channels, 8 heads, 4 scales, 4 points, 6 + 6 layers, 900 queries, 80 classes."""
    norm, points = 2 * 256, 8 * 4 * 4
    deformable = 2 * linear(256, 256) + linear(2 * points, 256) + linear(points, 256)
    feed_forward = linear(2048, 256) + linear(256, 2048)
    boxes = 2 * linear(256, 256) + linear(4, 256)
    expected = (
        6 * (deformable + feed_forward + 2 * norm)
        + 6 * (deformable + 4 * linear(256, 256) + feed_forward + 3 * norm)
        + linear(256, 512) + linear(256, 256) + norm  # reference boxes as queries; the last norm
        + linear(256, 256) + norm  # proposals
        + 7 * (linear(80, 256) + boxes)  # of each layer, and of the proposals
        + 900 * 256 + 4 * 256 + 80 * 256  # queries, scales, labels to denoise
        + 4 * (256 + norm)  # biases and norms of the neck
    )  # fmt: skip
    left = constants(lambda row: row.params - of_the_backbone(row) - reading_the_widths(row))
    assert set(left['dino-4scale coco False 100'].values()) == {expected}


def test_dinos_multiply_adds_are_those_of_its_layers():
    tokens, queries = 160 * 100 + 80 * 50 + 40 * 25 + FOURTH_MAP, 900
    norm = 2 * 256

    def deformable(count: int) -> int:
        samples = 8 * 4 * 4
        projections = (3 * samples + 256) * 256
        return tokens * 256 * 256 + count * (projections + 5 * samples * 32)

    feed_forward = 2 * 256 * 2048 + 2048  # with one operation for each ReLU
    heads = 80 * 256 + 2 * (256 * 256 + 256) + 4 * 256
    attention = 4 * queries * 256 * 256 + 2 * queries**2 * 256
    expected = (
        6 * (deformable(tokens) + tokens * (feed_forward + 2 * norm))
        + tokens * (256 * 256 + norm + heads)
        + 6 * (attention + deformable(queries) + queries * (feed_forward + 4 * norm + heads))
        + 6 * queries * (512 * 256 + 256 * 256 + 256)
        + tokens * 256  # biases of the neck
    ) / 1e9  # fmt: skip
    left = constants(lambda row: row.gmacs - macs(row, 1280 * 800))['dino-4scale coco False 100']
    assert all(abs(value - expected) < 0.03 for value in left.values()), (left, expected)


def test_mask2formers_multiply_adds_are_those_of_its_layers():
    side = 512
    finest = 4 * side**2 // 16
    levels = [finest // 64, finest // 16, finest // 4]  # strides 32, 16 and 8
    tokens, queries, classes, norm = sum(levels), 100, 150, 2 * 256
    samples = 8 * 3 * 4
    deformable = (3 * samples + 2 * 256) * 256 + 5 * samples * 32
    encoder = 6 * tokens * (deformable + 2 * 256 * 1024 + 1024 + 2 * norm)
    pyramid = tokens * 256 + finest * (9 * 256**2 + 256 + 256**2 + 256)  # with biases and a ReLU
    decoder = 0
    for number in range(9):
        keys = levels[number % 3]
        cross = 2 * (queries + keys) * 256**2 + 2 * queries * keys * 256
        alone = 4 * queries * 256**2 + 2 * queries**2 * 256
        decoder += cross + alone + queries * (2 * 256 * 2048 + 2048 + 3 * norm)
    prediction = queries * (norm + 256 * (classes + 1) + 3 * 256**2 + 2 * 256 + 256 * finest)
    expected = (encoder + pyramid + decoder + 10 * prediction) / 1e9
    kind = f'mask2former ade20k-{side}x{side} False 100'
    left = constants(lambda row: row.gmacs - macs(row, 4 * side**2))[kind]
    assert all(abs(value - expected) < 0.03 for value in left.values()), (left, expected)
