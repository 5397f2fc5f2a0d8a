"""A trained model in Python: what goes in, what comes out, what is refused."""

import pickle

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle

from backbones.errors import ConfigError, DataError, WeightsError
from downstream.predicting import Detections, LabelMap, Predictor, results
from downstream.running.gpu_memory import GPUMemoryError

from .models import CLASSES, model


@pytest.fixture(scope='module')
def made(shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp('models')
    return lambda task, backbone=None: model(task, shapes, folder, backbone)


@pytest.fixture(scope='module')
def detector(made) -> Predictor:
    return Predictor(*made('detection'), device='cpu')


@pytest.fixture(scope='module')
def segmenter(made) -> Predictor:
    return Predictor(*made('segmentation'), device='cpu')


@pytest.fixture(scope='module')
def paths(shapes) -> list[str]:
    return sorted(map(str, (shapes / 'images' / 'validation').glob('*.jpg')))


def same(a, b) -> bool:
    if isinstance(a, LabelMap):
        return np.array_equal(a.labels, b.labels)
    arrays = ('boxes', 'labels', 'scores')
    return a.masks == b.masks and all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in arrays
    )


def test_detections_are_typed(detector, paths):
    result = detector(paths[0])
    assert isinstance(result, Detections)
    assert detector.task == 'detection'
    assert result.classes == detector.classes == CLASSES['detection']
    assert (result.name, result.height, result.width) == (paths[0], 256, 320)
    assert result.boxes.shape == (len(result), 4)
    assert result.boxes.dtype == result.scores.dtype == np.float32
    assert len(result) > 5
    assert set(result.names()) <= set(CLASSES['detection'])
    masks = result.mask_arrays()
    assert masks.shape == (len(result), 256, 320)
    assert masks.sum((1, 2)).tolist() == result.areas()
    middle = float(np.median(result.scores))
    kept = result.above(middle)
    assert 0 < len(kept) < len(result)
    assert kept.scores.min() >= middle
    assert len(kept.masks) == len(kept)


def test_a_label_map_is_typed(segmenter, paths, monkeypatch):
    result = segmenter(paths[0])
    assert isinstance(result, LabelMap)
    assert result.classes == CLASSES['segmentation']
    assert result.labels.shape == (256, 320)
    pixels = result.pixels()
    assert pixels == {
        name: (result.labels == k).sum()
        for k, name in enumerate(result.classes)
        if (result.labels == k).any()
    }
    monkeypatch.setattr(results, '_COUNTED_PIXELS', 320 * 7)
    assert result.pixels() == pixels
    # 0 is unlabelled in the masks of this data set
    assert result.shift == 1
    assert np.array_equal(result.values(), result.labels + 1)
    assert result.values().dtype == np.uint8
    codes = result.to_coco(1)
    total = np.zeros((256, 320), int)
    for entry in codes:
        code = {**entry['segmentation'], 'counts': entry['segmentation']['counts'].encode()}
        total += rle.decode(code) * (entry['category_id'] - 1)
    assert np.array_equal(total, result.labels)


@pytest.mark.parametrize('task', ['detector', 'segmenter'])
def test_arrays_pil_images_and_paths_give_the_same(task, request, paths):
    predictor = request.getfixturevalue(task)
    by_path = predictor(paths[0])
    array = cv2.imread(paths[0])
    assert same(predictor(array), by_path)
    assert same(predictor(Image.fromarray(array[..., ::-1])), by_path)
    both = predictor([paths[1], array])
    assert len(both) == 2
    assert same(both[1], by_path)
    assert not same(both[0], by_path)


def test_an_exif_orientation_is_applied(detector, paths, tmp_path):
    """A picture whose pixels are stored on their side is predicted as it is shown."""
    array = cv2.imread(paths[0])
    exif = Image.Exif()
    exif[274] = 6  # to be turned clockwise
    turned = Image.fromarray(np.rot90(array)[..., ::-1].copy())
    turned.save(tmp_path / 'turned.png', exif=exif)
    result = detector(tmp_path / 'turned.png')
    assert (result.height, result.width) == (256, 320)
    assert same(result, detector(array))
    assert np.array_equal(result.picture(), array)


def test_a_score_leaves_out_what_is_below(made, detector, paths):
    everything = detector(paths[0])
    limit = float(np.median(everything.scores))
    result = Predictor(*made('detection'), device='cpu', score=limit)(paths[0])
    assert same(result, everything.above(limit))


@pytest.mark.parametrize('task', ['detector', 'segmenter'])
def test_results_are_drawn_saved_and_shown(task, request, paths, tmp_path):
    result = request.getfixturevalue(task)(paths[0])
    options = {'score': 0.0} if task == 'detector' else {}
    drawn = result.draw(**options)
    image = cv2.imread(paths[0])
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert (drawn != image).any()
    saved = result.save(tmp_path / 'new' / 'drawn.png', **options)
    assert np.array_equal(cv2.imread(str(saved)), drawn)
    assert cv2.imdecode(np.frombuffer(result._repr_jpeg_(), np.uint8), 1).shape == image.shape
    with pytest.raises(ConfigError, match='are written as'):
        result.save(tmp_path / 'drawn.xyz')
    assert [path.name for path in tmp_path.iterdir()] == ['new']


def test_masks_are_saved_as_the_data_set_has_them(segmenter, paths, tmp_path):
    result = segmenter(paths[0])
    path = result.save_mask(tmp_path / 'masks' / 'x.png')
    saved = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert saved.dtype == np.uint8
    assert np.array_equal(saved, result.labels + 1)


def test_a_stream_holds_few_pictures(detector, paths):
    read = []

    def sources():
        for number in range(50):
            read.append(number)
            yield paths[number % len(paths)]

    results = detector.stream(sources())
    next(results)
    assert len(read) <= 6
    results.close()


@pytest.mark.parametrize('batch_size', [2, 4])
def test_batches_end_where_sizes_change(made, segmenter, paths, batch_size):
    """mmseg takes no batch of different sizes."""
    images = [cv2.imread(path) for path in paths]
    images.insert(1, images[0][:128, :160].copy())
    predictor = Predictor(*made('segmentation'), device='cpu', batch_size=batch_size)
    for result, image in zip(predictor(images), images):
        assert result.labels.shape == image.shape[:2]
        assert np.array_equal(result.labels, segmenter(image).labels)


def test_the_checkpoint_says_the_classes(made, tmp_path, paths):
    config, path = made('detection')
    content = torch.load(path)
    content['meta']['dataset_meta']['classes'] = ('ring', 'box', 'wedge')
    torch.save(content, tmp_path / 'named.pth')
    assert Predictor(config, tmp_path / 'named.pth').classes == ('ring', 'box', 'wedge')


def test_the_config_beside_the_checkpoint_is_found(made, tmp_path, detector, paths):
    _, path = made('detection')
    assert same(Predictor(None, path)(paths[0]), detector(paths[0]))
    (tmp_path / 'alone.pth').write_bytes(path.read_bytes())
    with pytest.raises(ConfigError, match='has 0 configs'):
        Predictor(None, tmp_path / 'alone.pth')


def test_a_checkpoint_of_other_classes_is_refused(made, tmp_path):
    config, path = made('detection')
    content = torch.load(path)
    content['meta']['dataset_meta']['classes'] = ('one', 'two')
    torch.save(content, tmp_path / 'other.pth')
    with pytest.raises(WeightsError, match=r'2 classes \(one, two\), the config has 3'):
        Predictor(config, tmp_path / 'other.pth')
    # one that does not say its classes is refused by its shapes
    del content['meta']
    head = content['state_dict']['roi_head.bbox_head.0.fc_cls.weight']
    content['state_dict']['roi_head.bbox_head.0.fc_cls.weight'] = head[:3]
    torch.save(content, tmp_path / 'shapes.pth')
    with pytest.raises(WeightsError, match='does not fit the model'):
        Predictor(config, tmp_path / 'shapes.pth')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(score=2), '--score 2'),
        (dict(batch_size=0), '--batch 0'),
        (dict(device='nonsense'), '--device nonsense'),
        (dict(amp='fp16', device='cpu'), 'fp16 needs CUDA'),
        (dict(amp='int8'), '--amp int8'),
        (dict(overlap=0.2), '--overlap is that of tiles'),
        (dict(tile=3), '--tile 3'),
    ],
)
def test_impossible_options(made, options, message):
    with pytest.raises(ConfigError, match=message):
        Predictor(*made('detection'), **options)


@pytest.mark.parametrize(
    'array',
    [
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros(8, np.uint8),
    ],
)
def test_arrays_of_another_form_are_refused(detector, array):
    with pytest.raises(DataError, match='give \\(H, W, 3\\) of uint8'):
        detector(array)


def test_pictures_that_cannot_be_read_are_named(detector, tmp_path, paths):
    (tmp_path / 'junk.jpg').write_bytes(b'junk')
    whole = open(paths[0], 'rb').read()  # noqa: SIM115
    (tmp_path / 'cut.jpg').write_bytes(whole[: len(whole) // 2])
    for name in ('junk.jpg', 'cut.jpg', 'lost.jpg'):
        with pytest.raises(DataError, match=name):
            detector(tmp_path / name)


@pytest.fixture
def cannot_take(made, paths, monkeypatch):
    """A predictor whose network raises ``error`` for a batch with a black picture, and such a picture."""

    def make(error: Exception, batch_size: int) -> tuple[Predictor, np.ndarray]:
        predictor = Predictor(*made('detection'), device='cpu', batch_size=batch_size)

        def refuse(module, inputs) -> None:
            if (inputs[0].flatten(1).amax(1) < 0).any():  # black, normalised
                raise error

        predictor._model.backbone.register_forward_pre_hook(refuse)
        return predictor, np.zeros_like(cv2.imread(paths[0]))

    return make


@pytest.mark.parametrize('batch_size', [1, 2, 4])
def test_a_picture_that_the_network_cannot_take_loses_no_other(
    batch_size, cannot_take, detector, paths
):
    predictor, black = cannot_take(ValueError('no light\nmore'), batch_size)
    sources = [paths[0], black, paths[1], paths[2], black]
    failures = []
    prepared = (predictor.load(one, f'picture {k}') for k, one in enumerate(sources))
    found = [
        predictor.result(*one)
        for one in predictor.predicted(prepared, lambda one, error: failures.append((one, error)))
    ]
    assert [one.name for one in found] == ['picture 0', 'picture 2', 'picture 3']
    for one, path in zip(found, paths):
        alone = detector(path)
        np.testing.assert_allclose(one.boxes, alone.boxes, atol=0.05)
        assert one.labels.tolist() == alone.labels.tolist()
    assert [one.name for one, _ in failures] == ['picture 1', 'picture 4']
    assert all(not one.inputs for one, _ in failures)
    assert str(failures[0][1]).startswith('picture 1 makes the model fail: ValueError: no light (')


def test_from_python_a_picture_that_the_network_cannot_take_is_an_error(cannot_take, paths):
    predictor, black = cannot_take(RuntimeError('no light'), 1)
    with pytest.raises(
        DataError, match='array makes the model fail: RuntimeError: no light'
    ) as info:
        predictor([paths[0], black])
    assert isinstance(info.value.__cause__, RuntimeError)
    assert len(predictor(paths[1])) > 0


def test_a_model_that_fails_on_everything_is_one_error(cannot_take, paths):
    predictor, black = cannot_take(RuntimeError('no light'), 2)
    failures, taken = [], []

    def prepared(*sources):
        for number, one in enumerate(sources, 1):
            taken.append(number)
            yield predictor.load(one, f'picture {number}')

    with pytest.raises(
        DataError, match='fails on each of the first 3 pictures; .* picture 3 makes'
    ):
        list(predictor.predicted(prepared(*[black] * 50), lambda *one: failures.append(one)))
    assert len(failures) == 2
    assert len(taken) <= 6
    # Once a picture was predicted, the fault is that of the others.
    found = predictor.predicted(prepared(paths[0], *[black] * 9), lambda *one: failures.append(one))
    assert len(list(found)) == 1
    assert len(failures) == 2 + 9


def test_a_full_gpu_says_what_helps(cannot_take, paths):
    full = torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB.')
    predictor, black = cannot_take(full, 2)
    # A batch that does not fit from the beginning is a choice to be changed.
    with pytest.raises(GPUMemoryError, match='2 GiB. Take --batch 1, tiles'):
        list(predictor.stream([paths[0], black]))
    failures = []
    prepared = (predictor.load(one) for one in [*paths[:2], paths[2], black])
    found = list(predictor.predicted(prepared, lambda *one: failures.append(one)))
    assert len(found) == 3
    ((_, error),) = failures
    assert 'array makes the model fail: CUDA out of memory. Tried to allocate 2 GiB.' in str(error)
    assert 'Take --batch 1, tiles (--tile 1024)' in str(error)


def test_bfloat16_is_near(made, segmenter, paths):
    result = Predictor(*made('segmentation'), device='cpu', amp='bf16')(paths[0])
    assert (result.labels == segmenter(paths[0]).labels).mean() > 0.9


@pytest.mark.parametrize('task', CLASSES)
def test_a_picture_of_one_tile_is_predicted_as_without_tiles(task, made, request, paths):
    whole = request.getfixturevalue('detector' if task == 'detection' else 'segmenter')
    tiled = Predictor(*made(task), device='cpu', tile=320, batch_size=3)
    untiled = Predictor(*made(task), device='cpu', batch_size=3)
    for ours, theirs in zip(tiled(paths), untiled(paths)):
        assert same(ours, theirs)
    if task == 'segmentation':
        assert same(tiled(paths[0]), whole(paths[0]))


@pytest.mark.parametrize('options', [{}, {'tta': True}])
@pytest.mark.parametrize('task', CLASSES)
def test_tiles_give_results_of_the_whole_picture(task, made, paths, options):
    predictor = Predictor(*made(task), device='cpu', tile=200, batch_size=2, **options)
    result = predictor(paths[0])
    assert (result.height, result.width) == (256, 320)
    if task == 'segmentation':
        assert result.labels.shape == (256, 320)
        assert len(result.pixels()) > 1
        return
    assert len(result)
    assert (result.boxes[:, 2:] <= (320, 256)).all()
    assert result.boxes[:, 2].max() > 200
    assert list(result.scores) == sorted(result.scores, reverse=True)
    assert {tuple(code['size']) for code in result.masks} == {(256, 320)}


def test_nothing_is_written(made, tmp_path, monkeypatch, paths):
    monkeypatch.chdir(tmp_path)
    result = Predictor(*made('segmentation'), device='cpu')(paths[0])
    result.draw()
    assert list(tmp_path.iterdir()) == []
    assert pickle.dumps(result.labels)
