"""Near-duplicates: found when compressed, scaled or turned by EXIF, not between different photographs."""

import io
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from downstream.data.duplicates import TOLERANCE, fingerprint, groups
from tests.conftest import ROOT

PHOTOS = ROOT.parent / 'shared' / 'data' / 'tiny_coco'


def distance(one: bytes, other: bytes) -> int:
    return (int.from_bytes(one, 'big') ^ int.from_bytes(other, 'big')).bit_count()


def compressed(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.convert('RGB').save(file, 'JPEG', quality=quality)
    return Image.open(file)


@pytest.mark.skipif(not PHOTOS.is_dir(), reason=f'no real samples: {PHOTOS} is not there')
def test_photographs_and_their_copies():
    paths = sorted(PHOTOS.rglob('*.jpg'))[:20]
    images = [Image.open(path) for path in paths]
    prints = [fingerprint(path) for path in paths]
    copies = [fingerprint(compressed(image, 30)) for image in images]
    smaller = [fingerprint(image.resize((200, 150))) for image in images]
    assert groups([*prints, *copies, *smaller]) == [[i, i + 20, i + 40] for i in range(20)]


def test_groups_are_those_of_all_pairs():
    """Compared in bands, near fingerprints are found as they are by comparing all."""
    rng = np.random.default_rng(0)
    prints = [rng.bytes(16) for _ in range(60)]
    for i in range(40):  # chains: a copy of a copy differs from the first by more
        bits = np.unpackbits(np.frombuffer(prints[i if i < 20 else 40 + i], np.uint8))
        flipped = rng.choice(128, int(rng.integers(0, 16)), replace=False)
        bits[flipped] ^= 1
        prints.append(np.packbits(bits).tobytes())
    near = {
        pair
        for pair in combinations(range(100), 2)
        if distance(prints[pair[0]], prints[pair[1]]) <= TOLERANCE
    }
    expected: list[set] = [{i} for i in range(100)]
    for i, j in near:
        joined = next(g for g in expected if i in g) | next(g for g in expected if j in g)
        expected = [g for g in expected if not g & joined] + [joined]
    assert sorted(groups(prints)) == sorted(sorted(g) for g in expected if len(g) > 1)
    assert len(groups(prints)) > 5


def test_an_exif_orientation_is_applied_and_blank_images_are_left_out():
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 255, (6, 5)), np.ones((16, 16))).astype(np.uint8)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[274] = 6
    file = io.BytesIO()
    image.transpose(Image.Transpose.ROTATE_90).save(file, 'PNG', exif=exif)
    assert fingerprint(Image.open(file)) == fingerprint(image)
    assert fingerprint(Image.new('L', (50, 40), 90)) is None
    assert groups([None, None, fingerprint(image), None]) == []
