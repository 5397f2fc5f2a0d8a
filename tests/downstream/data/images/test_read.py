"""Images as they come, compared with Pillow's and tifffile's own reading and writing."""

import io

import cv2
import mmcv
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from PIL import Image, ImageOps

from backbones.errors import ConfigError, DataError
from downstream.data.images import read
from downstream.data.images.loading import LoadBands
from downstream.data.images.read import UnreadableError, oriented, read_bands, read_header
from downstream.data.reading import CheckedLoader

HEIGHT, WIDTH = 24, 40
LOSSLESS = {'png': {}, 'webp': {'lossless': True}, 'tiff': {}}
tifffile = pytest.importorskip('tifffile')


def picture(mode: str = 'RGB') -> Image.Image:
    """Four quarters of different colours, and a ramp: no two orientations look alike."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:12, :20], pixels[12:, :20] = (250, 10, 20), (10, 240, 30)
    pixels[:12, 20:] = (5, 15, 230)
    pixels[..., 1] += np.arange(0, HEIGHT, dtype=np.uint8)[:, None] // 3
    image = Image.fromarray(pixels)
    return image.convert('I').convert(mode) if mode.startswith('I;') else image.convert(mode)


def many_bands(count: int, dtype: str) -> np.ndarray:
    """``(H, W, count)`` of values that use the whole range of 16 bits."""
    values = np.random.default_rng(count).random((HEIGHT, WIDTH, count))
    return (values * (250 if dtype == 'uint8' else 60000)).astype(dtype)


def plain(path) -> np.ndarray:
    """What ordinary recipes load, as RGB."""
    loader = CheckedLoader(LoadImageFromFile(), [str(path.parent)])
    return loader({'img_path': str(path)})['img'][..., ::-1]


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('suffix', ['jpg', 'png', 'webp', 'tiff'])
def test_every_loader_and_the_check_turn_an_image_as_pillow_does(suffix, orientation, tmp_path):
    path = tmp_path / f'a.{suffix}'
    if suffix == 'tiff':
        tag = [(274, 'H', 1, orientation, True)]
        tifffile.imwrite(path, np.asarray(picture()), photometric='rgb', extratags=tag)
    else:
        exif = Image.Exif()
        exif[274] = orientation
        options = {'quality': 100, 'subsampling': 0} if suffix == 'jpg' else LOSSLESS[suffix]
        picture().save(path, exif=exif, **options)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert('RGB'))
    assert np.array_equal(oriented(np.asarray(picture()), orientation).shape, wanted.shape)
    for found in (plain(path), LoadBands((1, 2, 3))({'img_path': str(path)})['img']):
        assert found.shape == wanted.shape
        assert np.abs(found.astype(int) - wanted).max() <= (2 if suffix == 'jpg' else 0)
    assert read_header(path).shown_size == wanted.shape[1::-1]


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGBA', 'CMYK'])
@pytest.mark.parametrize('suffix', ['png', 'jpg', 'webp', 'tiff', 'bmp', 'gif'])
def test_ordinary_recipes_load_what_pillow_converts_to_rgb(mode, suffix, tmp_path):
    path = tmp_path / f'a.{suffix}'
    try:
        options = {'quality': 100} if suffix == 'jpg' else LOSSLESS.get(suffix, {})
        picture(mode).save(path, **options)
    except (OSError, ValueError):
        pytest.skip(f'{suffix} cannot hold {mode}')
    wanted = np.asarray(Image.open(path).convert('RGB')).astype(int)
    # CMYK of a JPEG is rounded differently
    assert np.abs(plain(path) - wanted).max() <= (2 if mode == 'CMYK' else 0)


def test_alpha_is_left_out_but_in_a_tiff_colours_are_multiplied_by_it(tmp_path):
    pixels = np.dstack([np.asarray(picture()), np.full((HEIGHT, WIDTH), 51, np.uint8)])
    for suffix in ('png', 'tiff'):
        Image.fromarray(pixels).save(tmp_path / f'a.{suffix}')
    assert np.array_equal(plain(tmp_path / 'a.png'), pixels[..., :3])
    assert np.abs(plain(tmp_path / 'a.tiff') - pixels[..., :3] * 0.2).max() <= 1


@pytest.mark.parametrize('count', [1, 3])
@pytest.mark.parametrize('suffix', ['png', 'tiff'])
def test_ordinary_recipes_load_the_upper_8_of_16_bits(suffix, count, tmp_path):
    values = many_bands(count, 'uint16')
    cv2.imwrite(str(tmp_path / f'a.{suffix}'), values[..., ::-1] if count == 3 else values)
    found = plain(tmp_path / f'a.{suffix}')
    assert np.abs(found.astype(float) - values / 257).max() <= 1


@pytest.mark.parametrize('dtype', ['uint8', 'uint16', 'int16', 'float32'])
@pytest.mark.parametrize('count', [1, 2, 3, 4, 7])
@pytest.mark.parametrize('layout', ['contig', 'separate', 'pages', 'series', 'npy', 'npy first'])
def test_every_band_is_read_without_loss(layout, count, dtype, tmp_path):
    values = many_bands(count, dtype)
    path = tmp_path / ('a.npy' if 'npy' in layout else 'a.tif')
    first = np.moveaxis(values, 2, 0)
    planar = {'planarconfig': layout} if layout in ('contig', 'separate') and count > 1 else {}
    if 'npy' in layout:
        np.save(path, values if layout == 'npy' else first)
    elif layout == 'series':
        with tifffile.TiffWriter(path) as writer:
            for band in first:
                writer.write(band, photometric='minisblack')
    elif layout == 'contig' and count > 1:
        tifffile.imwrite(path, values, photometric='minisblack', compression='zlib', **planar)
    else:
        tifffile.imwrite(path, first, photometric='minisblack', **planar)
    found = read_bands(path.read_bytes(), path)
    assert (found.dtype, found.shape) == (values.dtype, values.shape)
    assert np.array_equal(found, values)
    header = read_header(path)
    assert (header.bands, header.dtype) == (count, values.dtype)
    assert header.shown_size == (WIDTH, HEIGHT)
    chosen = tuple(range(count, 0, -1))
    loaded = LoadBands(chosen)({'img_path': str(path)})
    assert loaded['img'].dtype == ('uint8' if dtype == 'uint8' else 'float32')
    assert np.array_equal(loaded['img'], values[..., ::-1])
    assert loaded['img_shape'] == loaded['ori_shape'] == (HEIGHT, WIDTH)


@pytest.mark.parametrize('dtype', ['uint8', 'uint16'])
def test_bands_of_a_png_are_r_g_b_and_alpha(dtype, tmp_path):
    values = many_bands(4, dtype)
    cv2.imwrite(str(tmp_path / 'a.png'), cv2.cvtColor(values, cv2.COLOR_RGBA2BGRA))
    assert np.array_equal(LoadBands((1, 2, 3, 4))({'img_path': tmp_path / 'a.png'})['img'], values)
    assert np.array_equal(
        LoadBands((4, 1))({'img_path': tmp_path / 'a.png'})['img'], values[..., [3, 0]]
    )


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'I;16', 'F'])
@pytest.mark.parametrize('suffix', ['png', 'jpg', 'webp', 'tiff', 'bmp', 'gif', 'jp2'])
def test_a_header_says_what_is_read(mode, suffix, tmp_path):
    path = tmp_path / f'a.{suffix}'
    try:
        picture(mode).save(path)
        found = read_bands(path.read_bytes(), path)
    except (OSError, ValueError, DataError):
        pytest.skip(f'{suffix} cannot hold {mode}, or is refused')
    header = read_header(path)
    assert (*header.shown_size[::-1], header.bands) == found.shape
    assert header.dtype == found.dtype


def test_a_header_without_tifffile(tmp_path, monkeypatch):
    tag = [(274, 'H', 1, 6, True)]
    pixels = many_bands(3, 'uint16')
    tifffile.imwrite(tmp_path / 'a.tif', pixels, photometric='rgb', extratags=tag)
    wanted = read_header(tmp_path / 'a.tif')
    # Pillow reads 16-bit colours of no TIFF
    tifffile.imwrite(tmp_path / 'b.tif', pixels[..., 0], photometric='minisblack', extratags=tag)
    assert wanted.shown_size == (HEIGHT, WIDTH)
    monkeypatch.setattr(read, 'find_spec', lambda name: None)
    found = read_header(tmp_path / 'b.tif')
    assert (found.shown_size, found.bands, found.dtype) == ((HEIGHT, WIDTH), 1, np.uint16)
    monkeypatch.setitem(__import__('sys').modules, 'tifffile', None)
    with pytest.raises(DataError, match=r"needs tifffile: pip install 'convnext-dense\[tiff\]'"):
        read_bands((tmp_path / 'a.tif').read_bytes(), 'a.tif')


def test_errors_name_the_file_and_the_fix(tmp_path):
    np.save(tmp_path / 'cube.npy', np.zeros((8, 8, 8)))
    np.save(tmp_path / 'object.npy', np.array([{}]), allow_pickle=True)
    (tmp_path / 'text.tif').write_bytes(b'II*\0 not really')
    (tmp_path / 'text.png').write_text('no image')
    for name, words in {
        'cube.npy': r'shape \(8, 8, 8\) is not clearly \(H, W\)',
        'object.npy': 'cannot be read',
        'text.tif': 'cannot be read',
        'text.png': 'no image, or cut off',
    }.items():
        path = tmp_path / name
        with pytest.raises(UnreadableError, match=f'{name} .*{words}'):
            read_bands(path.read_bytes(), path)
        with pytest.raises(UnreadableError, match=name):
            read_header(path)


def test_bands_that_a_file_does_not_have(tmp_path):
    tifffile.imwrite(
        tmp_path / 'a.tif',
        many_bands(4, 'uint16'),
        photometric='minisblack',
        planarconfig='contig',
    )
    loader = CheckedLoader(LoadBands((3, 2, 1, 7)), [str(tmp_path)])
    with pytest.raises(DataError, match=r'a.tif has 4 bands; bands 3, 2, 1, 7 are to be read'):
        loader({'img_path': str(tmp_path / 'a.tif')})
    for wrong in ((), (0, 1), (1.5,)):
        with pytest.raises(ConfigError, match='bands='):
            LoadBands(wrong)
    with pytest.raises(ConfigError, match='picture_bands='):
        LoadBands((1, 2, 3, 4), picture_bands=(1, 2, 5))


def test_values_that_are_not_finite_are_an_error_or_filled(tmp_path):
    values = many_bands(4, 'float32')
    values[3, 5, 1] = np.nan
    values[4, 5, 2] = np.inf
    np.save(tmp_path / 'a.npy', values)
    with pytest.raises(DataError, match=r'a.npy has 2 values that are NaN or infinite.*fill=0.0'):
        LoadBands((1, 2, 3, 4))({'img_path': str(tmp_path / 'a.npy')})
    found = LoadBands((1, 2, 3, 4), fill=-1.0)({'img_path': str(tmp_path / 'a.npy')})['img']
    assert (found[3, 5, 1], found[4, 5, 2]) == (-1, -1)
    assert np.isfinite(found).all()


def test_pictures_show_three_bands():
    eight, deep = many_bands(4, 'uint8'), many_bands(4, 'uint16').astype(np.float32)
    loader = LoadBands((1, 2, 3, 4), picture_bands=(4, 1, 2))
    assert np.array_equal(loader.picture(eight), eight[..., [3, 0, 1]])
    shown = loader.picture(deep)
    assert (shown.dtype, shown.shape) == (np.uint8, (HEIGHT, WIDTH, 3))
    assert (shown.min(), shown.max()) == (0, 255)
    order = np.argsort(deep[..., 3], axis=None)
    assert (np.diff(shown[..., 0].ravel()[order].astype(int)) >= 0).all()
    grey = LoadBands((2,)).picture(eight[..., 1:2])
    assert np.array_equal(grey, np.repeat(eight[..., 1:2], 3, axis=2))


def test_three_8_bit_channels_load_as_before(tmp_path):
    path = tmp_path / 'a.jpg'
    picture().save(path)
    assert np.array_equal(plain(path), mmcv.imread(str(path), channel_order='rgb'))
    assert np.array_equal(plain(path), read_bands(path.read_bytes(), path))
    buffer = io.BytesIO(path.read_bytes())
    assert np.abs(plain(path).astype(int) - np.asarray(Image.open(buffer))).max() <= 4
