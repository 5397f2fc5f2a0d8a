"""tools/data.py check and show: what they find is printed, listed, pictured, and is the exit code."""

import base64
import csv
import io
import json
import re
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from backbones.errors import ConfigError, DataError
from downstream.commands import data as commands
from downstream.data.checks.bands import Loading
from downstream.data.checks.datasets import check_datasets
from downstream.data.doctor import files
from downstream.data.doctor.parts import parts_of_config, parts_of_found, raw_coco_parts
from downstream.data.doctor.pictures import load, picture_of
from downstream.data.doctor.show import write_pictures
from downstream.data.findings.finding import Finding, lines
from downstream.data.findings.kinds import KINDS
from downstream.data.formats.found import Found, Masks
from downstream.drawing import class_color
from downstream.markup import inline

from .corpus.sets import HEIGHT, WIDTH, DetectionSet, SegmentationSet


@pytest.fixture
def detection(tmp_path) -> DetectionSet:
    return DetectionSet(tmp_path / 'parts')


def config_file(data, tmp_path) -> str:
    """A config of the set that can be read from a file."""
    path = tmp_path / 'own.py'
    cfg = data.config()
    cfg.model.backbone = dict(type='ConvNeXt', arch='atto')
    cfg.dump(path)
    return str(path)


def rows_of(folder) -> list[dict]:
    with (folder / 'findings.csv').open(encoding='utf-8') as file:
        return list(csv.DictReader(file))


def test_a_sound_config_ends_with_code_0(detection, tmp_path, tool):
    result = tool('data', 'check', config_file(detection, tmp_path), '--out', tmp_path / 'out')
    assert result.code == 0, result.err
    assert 'Nothing was found.' in result.out
    assert '4 images, 24 objects' in result.out
    assert rows_of(tmp_path / 'out') == []
    assert 'Nothing was found' in (tmp_path / 'out' / 'report.html').read_text()


def test_errors_end_with_code_1_and_everything_is_listed(detection, tmp_path, tool):
    annotations = detection.train['annotations']
    annotations[3]['image_id'] = 99
    annotations[4]['category_id'] = 5
    annotations += [{**one, 'id': one['id'] + 100} for one in annotations[12:14]]
    detection.image(1).write_bytes(b'no image')
    result = tool('data', 'check', config_file(detection, tmp_path), '--out', tmp_path / 'out')
    assert result.code == 1
    assert re.search(r'error  train: .*train\.json: annotation 4 belongs to image 99', result.out)
    assert 'warning  train: ' in result.out
    assert '2 boxes are there twice, the first: annotation' in result.out
    assert 'Findings: 3 error, 2 warning, 0 repaired.' in result.out
    rows = rows_of(tmp_path / 'out')
    assert [(row['severity'], row['kind'], row['record']) for row in rows] == [
        ('error', 'file-unreadable', ''),
        ('error', 'image-unknown', 'annotation 4'),
        ('error', 'category-unknown', 'annotation 5'),
        ('warning', 'box-twice', 'annotation 121'),
        ('warning', 'box-twice', 'annotation 122'),
    ]
    assert all(row['part'] == 'train' for row in rows)
    page = (tmp_path / 'out' / 'report.html').read_text()
    # The two double boxes; the broken image cannot be shown.
    assert page.count('src="data:image/jpeg;base64,') == 2
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_what_training_alone_would_refuse_is_an_error(detection, tmp_path):
    for annotation in detection.train['annotations']:
        del annotation['segmentation']
    with pytest.raises(SystemExit) as stop:
        commands.check(config_file(detection, tmp_path), tmp_path / 'out')
    assert stop.value.code == 1
    (row,) = rows_of(tmp_path / 'out')
    assert row['kind'] == 'run'
    assert 'have no segmentation' in row['what']


def test_a_folder_needs_no_config(detection, tmp_path, capsys):
    detection.config()
    commands.check(str(detection.root), tmp_path / 'out')
    out = capsys.readouterr().out
    assert '4 images, 24 objects' in out
    assert 'Findings: 0 error' in out or 'Nothing was found' in out


def test_a_folder_that_cannot_be_read_is_examined_as_far_as_it_can(detection, tmp_path):
    detection.train['annotations'][3]['image_id'] = 99
    detection.train['annotations'][5]['bbox'] = ['1', '2', '3', '4']
    detection.config()
    with pytest.raises(SystemExit):
        commands.check(str(detection.root), tmp_path / 'out')
    found = {(row['kind'], row['record']) for row in rows_of(tmp_path / 'out')}
    assert {('image-unknown', 'annotation 4'), ('box-numbers', 'annotation 6')} <= found
    assert any(kind == 'set' for kind, _ in found)  # why it cannot be read


def as_bands(data: DetectionSet, write, suffix: str) -> None:
    """All images of a set, written anew by ``write(path, pixels)``."""
    for part, content in (('train', data.train), ('val', data.val)):
        for number, image in enumerate(content['images']):
            path = data.image(number, part)
            pixels = load(path)
            path.unlink()
            write(path.with_suffix(suffix), pixels)
            image['file_name'] = str(Path(image['file_name']).with_suffix(suffix))


def floats(path, pixels) -> None:
    np.save(path, (pixels / 255).astype(np.float32))


def seven(path, pixels) -> None:
    tifffile = pytest.importorskip('tifffile')
    values = np.concatenate([pixels, pixels[..., :1], pixels], axis=2).astype(np.uint16) * 200
    tifffile.imwrite(path, values, photometric='minisblack', planarconfig='contig')


@pytest.mark.parametrize('by_config', [True, False])
@pytest.mark.parametrize(
    ('write', 'suffix', 'words', 'bands'),
    [
        (floats, '.npy', 'values of float32, .*: load them as they are with --bands', (1, 2, 3)),
        (seven, '.tif', 'has 7 bands, .*: choose bands with --bands', (7, 6, 5, 4)),
    ],
)
def test_images_that_training_refuses_are_errors(
    detection, tmp_path, capsys, by_config, write, suffix, words, bands
):
    as_bands(detection, write, suffix)
    config = config_file(detection, tmp_path)
    source = config if by_config else str(detection.root)
    with pytest.raises(DataError, match=words):
        check_datasets(Config.fromfile(config), ('train', 'val'))
    with pytest.raises(SystemExit) as stop:
        commands.check(source, tmp_path / 'out')
    assert stop.value.code == 1
    found = [row for row in rows_of(tmp_path / 'out') if row['severity'] == 'error']
    assert {row['kind'] for row in found} == {'bands'}
    assert len(found) == 8
    assert all(re.search(words, row['what']) for row in found)
    capsys.readouterr()
    commands.check(source, tmp_path / 'bands', bands=bands)  # the option mends it
    assert not [row for row in rows_of(tmp_path / 'bands') if row['kind'] in ('bits', 'channels')]
    commands.show(source, tmp_path / 'shown', count=1, bands=bands)
    picture = load(next((tmp_path / 'shown').glob('train_001_*')))
    assert picture.std() > 10
    with pytest.raises(SystemExit):
        commands.check(source, tmp_path / 'out', bands=(1, 9))
    assert 'bands 1, 9 are to be read' in capsys.readouterr().out


@pytest.mark.parametrize('cut', [False, True])
def test_values_and_files_of_bands_are_read(detection, tmp_path, capsys, cut):
    def write(path, pixels):
        values = (pixels / 255).astype(np.float32)
        if path.stem == 'train_1':
            values[3, 4, 1] = np.nan
        np.save(path, values)
        if cut and path.stem == 'val_2':
            path.write_bytes(path.read_bytes()[:-100])

    as_bands(detection, write, '.npy')
    with pytest.raises(SystemExit):
        commands.check(config_file(detection, tmp_path), tmp_path / 'out', bands=(1, 2, 3))
    found = {row['kind']: row for row in rows_of(tmp_path / 'out') if row['severity'] == 'error'}
    assert set(found) == ({'not-finite', 'file-unreadable'} if cut else {'not-finite'})
    assert found['not-finite']['what'] == 'has 1 values that are NaN or infinite'
    if cut:
        assert found['file-unreadable']['file'].endswith('val_2.npy')


def test_bands_that_are_filled_are_no_error(detection, tmp_path):
    def write(path, pixels):
        np.save(path, np.where(pixels > 250, np.nan, pixels / 255).astype(np.float32))

    as_bands(detection, write, '.npy')
    cfg = detection.config()
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.pipeline[0] = dict(type='LoadBands', bands=(1, 2, 3), fill=0.0)
    found = commands.examine(parts_of_config(cfg), 1)
    assert 'not-finite' not in {finding.kind for finding in found}


def test_duplicates_among_images_of_bands_are_found(detection, tmp_path):
    as_bands(detection, floats, '.npy')
    shutil.copy(
        detection.image(0).with_suffix('.npy'), detection.image(1, 'val').with_suffix('.npy')
    )
    with pytest.raises(SystemExit):
        commands.check(config_file(detection, tmp_path), tmp_path / 'out')
    assert 'leak' in {row['kind'] for row in rows_of(tmp_path / 'out')}


def test_something_else_than_a_data_set_is_one_line(tmp_path, tool):
    result = tool('data', 'check', tmp_path / 'nothing')
    assert result.code == 2
    assert 'does not exist' in result.err
    assert result.err.count('\n') == 1


def test_processes_give_the_same_facts(detection, monkeypatch):
    detection.config()
    paths = [detection.image(i, part) for part in ('train', 'val') for i in range(4)]
    images = dict.fromkeys(paths, Loading())
    alone = files.examine_files(images, [], False, workers=1)
    monkeypatch.setattr(files, '_IN_PROCESS', 1)
    assert files.examine_files(images, [], False, workers=2) == alone
    assert list(alone) == paths


def test_colours_are_classes(tmp_path):
    data = SegmentationSet(tmp_path / 'set')
    colors = np.array([[10, 20, 30], [200, 0, 0], [0, 0, 250]], np.uint8)
    data.change_masks(lambda mask: colors[np.minimum(mask, 2)])
    values = {tuple(map(int, color)): index for index, color in enumerate(colors)}
    pairs = tuple((f'images/train/train_{i}.jpg', f'masks/train/train_{i}.png') for i in range(4))
    part = Masks(data.root, pairs, values)
    found = Found('colour masks', 'segmentation', data.classes, {'train': part})
    parts = parts_of_found(found, data.root)
    facts = files.mask_facts(data.mask(0), coloured=True)
    assert facts.pixels[200 << 16] == 30 * 20
    assert sum(facts.pixels.values()) == HEIGHT * WIDTH
    assert [finding.kind for finding in commands.examine(parts, 1)] == []
    values.pop((0, 0, 250))
    assert 'class-empty' in {
        finding.kind for finding in commands.examine(parts_of_found(found, data.root), 1)
    }


def test_pictures_show_annotations(detection, tmp_path):
    parts = parts_of_config(detection.config())
    written = write_pictures(parts, tmp_path / 'out', count=2)
    assert [path.name for path in written] == [
        'train_001_train_0.jpg',
        'train_002_train_2.jpg',
        'val_001_val_0.jpg',
        'val_002_val_2.jpg',
    ]
    assert load(written[0]).shape[1] >= 1000  # small images are enlarged, to be looked at
    only = write_pictures(parts, tmp_path / 'nuts', only='nut')
    assert len(only) == 8
    with pytest.raises(ConfigError, match=r"no class 'screw'; there are bolt, nut"):
        write_pictures(parts, tmp_path / 'out', only='screw')


def test_pictures_of_masks(tmp_path, capsys):
    data = SegmentationSet(tmp_path / 'set')
    path = config_file(data, tmp_path)
    commands.show(path, tmp_path / 'out', count=1)
    picture = load(tmp_path / 'out' / 'train_001_train_0.jpg')
    # The car is tinted by the colour of its class, the unlabelled strip is as it was.
    factor = picture.shape[1] / WIDTH
    original = load(data.image(0))
    at = picture[int(50 * factor), int(42 * factor)].astype(float)
    expected = original[50, 42] * 0.5 + np.array(class_color(1)) * 0.5
    np.testing.assert_allclose(at, expected, atol=40)
    np.testing.assert_allclose(
        picture[int(66 * factor), int(1 * factor)].astype(float), original[66, 1], atol=40
    )
    data.image(0).unlink()
    shutil.rmtree(data.root / 'masks' / 'val')
    with pytest.raises(DataError, match='masks/val'):
        commands.show(path, tmp_path / 'out')


@pytest.mark.parametrize(
    'box', [(-500, -500, 20, 20), (90, 60, 400, 30), (40.5, 30.5, 1, 1), (10, 10, -5, -5)]
)
def test_a_finding_is_pictured_wherever_its_box_is(detection, box):
    finding = Finding('box-outside', 'a.json', '', image=detection.image(), boxes=(box,))
    picture = picture_of(finding, 320)
    assert picture.shape[2] == 3
    assert min(picture.shape[:2]) > 50
    reddish = (picture.astype(int) @ [1, -1, 0]) > 150
    assert reddish.any() or box[0] < 0


@pytest.mark.parametrize('size', [(96, 72), (4000, 3000)])
def test_a_box_is_seen_whatever_the_size_of_its_image(tmp_path, size):
    Image.new('RGB', size, (90, 120, 90)).save(tmp_path / 'a.png')
    box = (size[0] // 4, size[1] // 4, size[0] // 2, size[1] // 2)
    finding = Finding('box-twice', 'a.json', '', image=tmp_path / 'a.png', boxes=(box,))
    encoded = inline(picture_of(finding, 320)).partition(',')[2]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded)))).astype(int)
    red = (picture @ [1, -1, 0]) > 150
    assert red.sum() > 160 + 120  # two of its four sides and more


def test_classes_have_colours_of_their_own():
    colors = [class_color(i) for i in range(20)]
    nearest = min(np.abs(np.subtract(a, b)).sum() for a, b in combinations(colors, 2))
    assert nearest > 60
    assert len({class_color(i) for i in range(150)}) == 150


def test_lines_count_and_name_the_first():
    found = [Finding('box-twice', 'a.json', f'has the box {i}', f'annotation {i}') for i in (1, 2)]
    assert lines(found) == [
        'a.json: 2 boxes are there twice, the first: annotation 1 has the box 1. '
        'Each counts as an object: remove one.'
    ]
    assert lines(found[:1])[0].startswith('a.json: annotation 1 has the box 1. Each')
    elsewhere = Finding('box-twice', 'b.json', 'has another', 'annotation 3')
    assert lines([*found, elsewhere])[0].startswith(
        '2 files: 3 boxes are there twice, the first: a.json'
    )


def test_lists_that_are_cut_short_end_with_three_dots(tmp_path):
    found = Finding('class-rare', 'a.json', 'has few objects of bolt, nut, ...', part='train')
    assert found.message == 'a.json has few objects of bolt, nut, ...'
    assert lines([found, found])[0].endswith('nut, ...')
    note = Found(
        'COCO', 'detection', (), {'train': Masks(tmp_path, (), {})}, ('no a, ...', 'No b.')
    )
    details = [finding.detail for finding in parts_of_found(note, tmp_path)[0].findings]
    assert details == ['no a, ...', 'No b']


def test_every_kind_can_be_said():
    for name, kind in KINDS.items():
        message = Finding(name, 'file', 'is odd').message
        assert message.startswith('file is odd.'), name
        assert kind.severity in ('error', 'repaired', 'warning')
        assert not kind.fix or kind.fix.endswith(('.', '?')), name


def test_files_that_are_no_annotations_are_passed_over(detection):
    detection.config()
    (detection.root / 'notes.json').write_text(json.dumps([1, 2]))
    (detection.root / 'broken.json').write_text('{')
    assert [part.name for part in raw_coco_parts(detection.root)] == ['train', 'val']
    assert raw_coco_parts(detection.root)[0].content['images']


def test_an_image_is_loaded_as_it_is_shown(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.new('RGB', (30, 20)).save(tmp_path / 'a.jpg', exif=exif)
    assert load(tmp_path / 'a.jpg').shape == (30, 20, 3)
    assert files.image_facts(tmp_path / 'a.jpg').shown_size == (20, 30)
