"""tools/predict.py: the same results as tools/test.py, and every kind of source and output."""

import csv
import http.server
import json
import pickle
import shutil
import threading
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from downstream.predicting import predictor
from tests.downstream.predicting.models import CLASSES, model

TIMM = 'timm:test_convnext'


@pytest.fixture(scope='module')
def annotated(shapes, tmp_path_factory) -> Path:
    """The embedded data with a validation picture whose pixels are stored on their side."""
    root = tmp_path_factory.mktemp('annotated') / 'shapes'
    shutil.copytree(shapes, root)
    images = root / 'images' / 'validation'
    first = sorted(images.glob('*.jpg'))[0]
    exif = Image.Exif()
    exif[274] = 6
    turned = Image.fromarray(np.rot90(cv2.imread(str(first)))[..., ::-1].copy())
    turned.save(images / 'turned.jpg', exif=exif, quality=95)
    masks = root / 'annotations' / 'validation'
    shutil.copy(masks / f'{first.stem}.png', masks / 'turned.png')
    truth = root / 'annotations' / 'instances_validation.json'
    content = json.loads(truth.read_text())
    content['images'].append({**content['images'][0], 'id': 900, 'file_name': 'turned.jpg'})
    truth.write_text(json.dumps(content))
    return root


@pytest.fixture(scope='module')
def made(annotated, tmp_path_factory):
    folder = tmp_path_factory.mktemp('models')
    return lambda task, backbone=None: model(task, annotated, folder, backbone)


@pytest.fixture(scope='module')
def images(annotated) -> Path:
    return annotated / 'images' / 'validation'


def by_name(images: list[dict], entries: list[dict]) -> dict[str, list]:
    """File name -> what was found in it, in a form that does not depend on ids of images."""
    names = {image['id']: image['file_name'] for image in images}
    found: dict[str, list] = {name: [] for name in names.values()}
    for entry in entries:
        values = {k: v for k, v in entry.items() if k not in ('image_id', 'id')}
        found[names[entry['image_id']]].append(json.dumps(values, sort_keys=True))
    return found


@pytest.mark.parametrize(
    ('task', 'batch', 'backbone', 'options'),
    [
        ('detection', 1, None, ()),
        ('detection', 4, None, ()),
        ('detection', 4, TIMM, ()),
        ('detection', 1, None, ('--tile', 200)),
        ('segmentation', 1, TIMM, ()),
        ('segmentation', 4, None, ()),
        ('segmentation', 1, None, ('--tta',)),
        ('segmentation', 2, None, ('--tile', 200, '--overlap', 0.3)),
    ],
)
def test_predict_and_test_agree_to_the_last_bit(
    task, batch, backbone, options, made, annotated, images, tool, tmp_path
):
    words = [*made(task, backbone), *options]
    words += ['--backbone', backbone] if backbone else []
    change = ('--cfg-options', f'test_dataloader.batch_size={batch}')
    out = tmp_path / 'test'
    result = tool('test', *words, '--work-dir', tmp_path / 'run', '--out', out, *change)
    assert result.code == 0, result.err
    config, checkpoint, *rest = words
    # The order of the data set, and so the same batches.
    listed = tmp_path / 'list.txt'
    truth = json.loads((annotated / 'annotations' / 'instances_validation.json').read_text())
    names = [image['file_name'] for image in truth['images']]
    names = names if task == 'detection' else sorted(names)
    listed.write_text(''.join(f'{images / name}\n' for name in names))
    own = ('--out', tmp_path / 'predict', '--batch', batch)
    result = tool('predict', config, checkpoint, listed, *own, *rest)
    assert result.code == 0, result.err
    if task == 'detection':
        ours = json.loads((tmp_path / 'predict' / 'predictions.json').read_text())
        theirs = json.loads((out / 'detections.segm.json').read_text())
        assert len(theirs) > 20
        assert by_name(ours['images'], ours['annotations']) == by_name(truth['images'], theirs)
        return
    written = sorted(path.name for path in (tmp_path / 'predict' / 'masks').iterdir())
    assert written == sorted(f'{Path(name).stem}.png' for name in names)
    for name in written:
        pair = [
            cv2.imread(str(folder / name), cv2.IMREAD_UNCHANGED)
            for folder in (tmp_path / 'predict' / 'masks', out)
        ]
        assert np.array_equal(*pair)
        assert len(np.unique(pair[0])) > 1


def test_tiles_are_pickled_and_drawn_too(made, tool, tmp_path):
    path = tmp_path / 'out.pkl'
    words = (*made('detection'), '--work-dir', tmp_path, '--tile', 200, '--out', path)
    result = tool('test', *words, '--show-dir', tmp_path / 'pictures')
    assert result.code == 0, result.err
    predictions = pickle.loads(path.read_bytes())
    for sample in predictions:
        masks = sample['pred_instances']['masks']
        assert len(masks) == len(sample['pred_instances']['scores']) > 0
        assert {tuple(code['size']) for code in masks} == {(256, 320)}
    assert len(list((tmp_path / 'pictures').iterdir())) == len(predictions)


def write_video(path: Path, frames: list[np.ndarray]) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'mp4v'), 5, frames[0].shape[1::-1])
    for frame in frames:
        writer.write(frame)
    writer.release()


@pytest.fixture
def mixed(images, tmp_path) -> Path:
    """A folder with pictures of one name in two folders, a broken one, a video and a broken one."""
    folder = tmp_path / 'in'
    (folder / 'a').mkdir(parents=True)
    (folder / 'b').mkdir()
    paths = sorted(images.glob('shapes*.jpg'))
    shutil.copy(paths[0], folder / 'a' / 'x.jpg')
    shutil.copy(paths[1], folder / 'b' / 'x.jpg')
    Image.open(paths[2]).save(folder / 'b' / 'y.png')
    (folder / 'b' / 'broken.jpg').write_bytes(b'junk')
    write_video(folder / 'film.mp4', [cv2.imread(str(path)) for path in paths])
    (folder / 'broken.mp4').write_bytes(b'junk')
    return folder


def rows_of(path: Path) -> list[dict]:
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


def frames_of(path: Path) -> int:
    capture, count = cv2.VideoCapture(str(path)), 0
    while capture.read()[0]:
        count += 1
    return count


@pytest.mark.parametrize('task', CLASSES)
def test_a_folder_of_everything(task, made, mixed, tool, tmp_path):
    out = tmp_path / 'out'
    result = tool('predict', *made(task), mixed, '--out', out, '--score', 0.0, '--batch', 2)
    assert result.code == 1
    assert 'Skipped, see above: 2.' in result.err
    assert 'broken.jpg' in result.err
    assert 'broken.mp4' in result.err
    assert '3 pictures, 1 videos of 3 frames' in result.out
    names = {'a/x.jpg', 'b/x.jpg', 'b/y.jpg'}
    pictures = out / 'pictures'
    assert {p.relative_to(pictures).as_posix() for p in pictures.rglob('*.jpg')} == names
    assert frames_of(out / 'videos' / 'film.mp4') == 3
    lines = [json.loads(line) for line in (out / 'videos' / 'film.jsonl').read_text().splitlines()]
    assert [line['frame'] for line in lines] == [0, 1, 2]
    assert [line['time'] for line in lines] == [0, 0.2, 0.4]
    assert all(entry['class'] in CLASSES[task] for line in lines for entry in line['annotations'])
    table = rows_of(out / ('objects.csv' if task == 'detection' else 'pixels.csv'))
    assert {row['picture'] for row in table} == {'a/x.jpg', 'b/x.jpg', 'b/y.png', 'film.mp4'}
    assert {row['frame'] for row in table} == {'', '0', '1', '2'}
    # x.jpg and y.png are different pictures, and so are their results
    assert (pictures / 'a' / 'x.jpg').read_bytes() != (pictures / 'b' / 'x.jpg').read_bytes()
    if task == 'detection':
        content = json.loads((out / 'predictions.json').read_text())
        assert [image['file_name'] for image in content['images']] == [
            'a/x.jpg',
            'b/x.jpg',
            'b/y.png',
        ]
        objects = [row for row in table if not row['frame']]
        assert len(objects) == len(content['annotations'])
        assert float(objects[0]['score']) == pytest.approx(
            content['annotations'][0]['score'], abs=1e-4
        )
    else:
        for name in ('a/x', 'b/x'):
            mask = cv2.imread(str(out / 'masks' / f'{name}.png'), cv2.IMREAD_UNCHANGED)
            counts = {
                row['class']: int(row['pixels']) for row in table if row['picture'] == f'{name}.jpg'
            }
            values = {CLASSES[task].index(k) + 1: v for k, v in counts.items()}
            assert dict(zip(*np.unique(mask, return_counts=True))) == values
    assert not list(out.rglob('.*'))


@pytest.mark.parametrize('batch', [1, 2])
def test_a_picture_that_the_network_cannot_take_is_skipped(
    batch, made, images, tool, tmp_path, monkeypatch
):
    """A backbone that raises for a black picture; a batch shares its fate with none of its pictures."""
    build = predictor.loaded_model

    def refuse(module, inputs) -> None:
        if (inputs[0].flatten(1).amax(1) < 0).any():
            raise ValueError('no light')

    def built(*arguments):
        network = build(*arguments)
        network.backbone.register_forward_pre_hook(refuse)
        return network

    monkeypatch.setattr(predictor, 'loaded_model', built)
    folder, out = tmp_path / 'in', tmp_path / 'out'
    folder.mkdir()
    for path in images.glob('shapes*.jpg'):
        shutil.copy(path, folder)
    Image.new('RGB', (320, 256)).save(folder / 'black.png')
    words = (*made('detection'), folder, '--out', out, '--batch', batch, '--as-dataset')
    result = tool('predict', *words)
    assert result.code == 1
    assert (
        f'Skipped: {folder / "black.png"} makes the model fail: ValueError: no light' in result.err
    )
    assert 'Skipped, see above: 1.' in result.err
    assert 'Predicted: 3 pictures.' in result.out
    content = json.loads((out / 'predictions.json').read_text())
    names = sorted(image['file_name'] for image in content['images'])
    assert names == sorted(path.name for path in folder.glob('*.jpg'))
    assert len(list((out / 'dataset' / 'images').iterdir())) == 3
    # Where it can take none, one line says so, and nothing is left.
    for number in range(5):
        shutil.copy(folder / 'black.png', tmp_path / f'black{number}.png')
    words = (*made('detection'), tmp_path / 'black*.png', '--out', tmp_path / 'none')
    result = tool('predict', *words, '--batch', batch)
    assert result.code == 2
    assert 'error: the model fails on each of the first 3 pictures; the last: ' in result.err
    assert 'Traceback' not in result.err
    assert not [path for path in (tmp_path / 'none').rglob('*') if path.is_file()]


@pytest.mark.parametrize('task', CLASSES)
def test_predictions_are_a_data_set_to_train_on(task, made, shapes, mixed, tool, tmp_path):
    out = tmp_path / 'out'
    words = (*made(task), shapes / 'images', mixed / 'film.mp4')
    result = tool('predict', *words, '--out', out, '--score', 0.2, '--as-dataset')
    assert result.code == 0, result.err
    assert len(list((out / 'dataset' / 'images').rglob('*.jpg'))) == 7 + 3
    links = [path for path in (out / 'dataset' / 'images').rglob('*.jpg') if path.is_symlink()]
    assert len(links) == 7
    words = (made(task)[0], '--data', out / 'dataset', '--work-dir', tmp_path / 'run')
    result = tool('train', *words, '--epochs', 1, '--batch-size', 2)
    assert result.code == 0, result.err
    assert list((tmp_path / 'run').glob('*.pth'))
    # an earlier data set is not mixed with another one
    result = tool('predict', *made(task), mixed / 'a', '--out', out, '--as-dataset', 'copy')
    assert result.code == 2
    assert 'dataset exists' in result.err
    result = tool('predict', *made(task), mixed, '--out', tmp_path / 'new', '--as-dataset', 'copy')
    assert result.code == 1
    placed = tmp_path / 'new' / 'dataset' / 'images'
    assert (placed / 'a' / 'x.jpg').read_bytes() == (mixed / 'a' / 'x.jpg').read_bytes()
    assert not [path for path in placed.rglob('*.*') if path.is_symlink()]
    names = {path.relative_to(placed).as_posix() for path in placed.rglob('*.*')}
    frames = {f'film/00000{number}.jpg' for number in range(3)}
    assert names == {'a/x.jpg', 'b/x.jpg', 'b/y.png', *frames}


def test_a_url_is_predicted_on_and_a_lost_one_named(made, images, tool, tmp_path):
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(images))
    handler.func.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f'http://127.0.0.1:{server.server_port}'
        name = sorted(path.name for path in images.glob('shapes*.jpg'))[0]
        words = (f'{address}/{name}', f'{address}/lost.jpg', images / name)
        out = tmp_path / 'out'
        result = tool(
            'predict', *made('detection'), *words, '--out', out, '--as-dataset', '--score', 0
        )
        server.shutdown()
    assert result.code == 1
    assert 'lost.jpg cannot be downloaded: the server answers 404' in result.err
    content = json.loads((out / 'predictions.json').read_text())
    found = by_name(content['images'], content['annotations'])
    assert set(found) == {name, f'2_{name}'}
    assert found[name] == found[f'2_{name}']
    copied = out / 'dataset' / 'images' / f'2_{name}'
    assert not copied.is_symlink()
    assert copied.read_bytes() == (images / name).read_bytes()


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['lost.jpg'], 'lost.jpg does not exist'),
        (['empty'], 'no picture or video'),
        (['junk.jpg'], 'junk.jpg cannot be read'),
        (['junk.mp4'], 'junk.mp4 cannot be read: it is no video'),
        (['junk.jpg', 'junk.mp4'], 'none of 2 sources can be predicted'),
    ],
)
def test_sources_that_give_nothing_are_one_line(words, message, made, tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').mkdir()
    for name in ('junk.jpg', 'junk.mp4'):
        (tmp_path / name).write_bytes(b'junk')
    result = tool('predict', *made('detection'), *words, '--as-dataset')
    assert result.code == 2
    error = [line for line in result.err.splitlines() if line.startswith('error: ')]
    assert len(error) == 1
    assert message in error[0]
    assert 'Traceback' not in result.err
    written = [p for p in (tmp_path / 'predictions').rglob('*') if p.is_file()]
    assert written == []


def test_a_checkpoint_that_does_not_match_is_one_line(made, images, tool, tmp_path):
    (config, _), (_, other) = made('detection'), made('segmentation')
    result = tool('predict', config, other, images, '--out', tmp_path / 'out')
    assert result.code == 2
    assert '4 classes (background, circle, square, triangle), the config has 3' in result.err
    assert not (tmp_path / 'out').exists()
