"""Pictures of tests and validations: what is in them, where they are written."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from downstream.drawing import class_color, draw_detections
from downstream.running import DetectionPicturesHook, SegmentationPicturesHook
from downstream.running.hooks import pictures as module

HEIGHT, WIDTH = 60, 80


@pytest.fixture
def runner(tmp_path):
    """A runner whose test set has the same file name in two folders."""
    dataset = SimpleNamespace(
        metainfo={'classes': ('cat', 'dog', 'owl')}, data_prefix={'img': str(tmp_path / 'images')}
    )
    for folder in 'ab':
        (tmp_path / 'images' / folder).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / 'images' / folder / '1.png'), np.full((HEIGHT, WIDTH, 3), 120))
    loader = SimpleNamespace(dataset=dataset)
    return SimpleNamespace(
        work_dir=str(tmp_path),
        timestamp='now',
        iter=0,
        test_dataloader=loader,
        val_dataloader=loader,
    )


def detection_sample(path: str, masks: object = None) -> DetDataSample:
    sample = DetDataSample(metainfo={'img_path': path})
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[10.0, 20, 30, 40]]), labels=torch.tensor([1])
    )
    sample.ignored_instances = InstanceData(
        bboxes=torch.tensor([[50.0, 20, 70, 40]]), labels=torch.tensor([2])
    )
    if masks is not None:
        sample.gt_instances.masks, sample.ignored_instances.masks = masks, masks
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor([[12.0, 20, 32, 40], [0, 0, 9, 9]]),
        labels=torch.tensor([0, 2]),
        scores=torch.tensor([0.9, 0.1]),
        masks=torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool),
    )
    return sample


def segmentation_sample(path: str, with_truth: bool = True) -> SegDataSample:
    sample = SegDataSample(metainfo={'img_path': path})
    truth = torch.full((1, HEIGHT, WIDTH), 255)
    truth[:, :, 40:] = 1
    if with_truth:
        sample.gt_sem_seg = PixelData(data=truth)
    sample.pred_sem_seg = PixelData(data=torch.full((1, HEIGHT, WIDTH), 2))
    return sample


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_pictures_keep_the_folders_of_their_images(task, runner, tmp_path):
    hook_type, sample = {
        'detection': (DetectionPicturesHook, detection_sample),
        'segmentation': (SegmentationPicturesHook, segmentation_sample),
    }[task]
    hook = hook_type(draw=True, test_out_dir='out')
    paths = [str(tmp_path / 'images' / folder / '1.png') for folder in 'ab']
    hook.after_test_iter(runner, 0, {}, [sample(path) for path in paths])
    for folder in 'ab':
        picture = cv2.imread(str(tmp_path / 'now' / 'out' / folder / '1.png'))
        assert picture.shape[1] == 2 * WIDTH
        assert picture.shape[0] > HEIGHT
    elsewhere = tmp_path / 'scan.tif'
    cv2.imwrite(str(elsewhere), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    hook.after_test_iter(runner, 1, {}, [sample(str(elsewhere))])
    assert (tmp_path / 'now' / 'out' / 'scan.png').is_file()
    quiet = hook_type(draw=False, test_out_dir='none')
    quiet.after_test_iter(runner, 0, {}, [sample(paths[0])])
    assert not (tmp_path / 'now' / 'none').exists()


def test_a_full_disk_is_an_error(runner, tmp_path, monkeypatch):
    hook = DetectionPicturesHook(draw=True, test_out_dir='out')

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(module.Path, 'write_bytes', full)
    with pytest.raises(OSError, match='No space'):
        hook.after_test_iter(
            runner, 0, {}, [detection_sample(str(tmp_path / 'images' / 'a' / '1.png'))]
        )


@pytest.mark.parametrize('form', ['none', 'pixels', 'polygons'])
def test_objects_crowds_and_good_predictions_are_drawn(form):
    square = np.zeros((1, HEIGHT, WIDTH), np.uint8)
    square[0, 20:40, 10:30] = 1
    masks = {
        'none': None,
        'pixels': BitmapMasks(square, HEIGHT, WIDTH),
        'polygons': PolygonMasks([[np.array([10.0, 20, 30, 20, 30, 40, 10, 40])]], HEIGHT, WIDTH),
    }[form]
    image = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
    sample = detection_sample('x.png', masks)
    panels = DetectionPicturesHook().panels(image, sample, ('cat', 'dog', 'owl'))
    truth, found = panels['ground truth'], panels['prediction']
    assert list(panels) == ['ground truth', 'prediction']
    assert (truth[30, 10] == class_color(1)[::-1]).all()
    assert (truth[30, 70] == class_color(2)[::-1]).all()
    tinted = (truth[36, 14] != 120).any()  # below the labels
    assert tinted == (form != 'none')
    assert (found[30, 12] == class_color(0)[::-1]).all()
    expected = draw_detections(image, [[12, 20, 32, 40]], [0], [0.9], classes=('cat', 'dog', 'owl'))
    assert (found == expected).all()  # the bad one is left out


def test_pixels_of_the_truth_and_of_the_prediction_are_drawn():
    image = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
    hook = SegmentationPicturesHook()
    panels = hook.panels(image, segmentation_sample('x.png'), ('cat', 'dog', 'owl'))
    assert (panels['ground truth'][:, :40] == 120).all()  # unlabelled
    np.testing.assert_allclose(
        panels['ground truth'][2, 79], (120 + np.array(class_color(1)[::-1])) / 2, atol=1.5
    )
    np.testing.assert_allclose(
        panels['prediction'][2, 2], (120 + np.array(class_color(2)[::-1])) / 2, atol=1.5
    )
    assert list(hook.panels(image, segmentation_sample('x.png', False), 'abc')) == ['prediction']


def test_a_validation_gives_some_pictures_to_the_back_ends(runner, tmp_path, monkeypatch):
    given = []
    visualizer = SimpleNamespace(add_image=lambda name, picture, step: given.append((name, step)))
    monkeypatch.setattr(module.Visualizer, 'get_current_instance', lambda: visualizer)
    hook = DetectionPicturesHook(draw=True, interval=2)
    sample = detection_sample(str(tmp_path / 'images' / 'a' / '1.png'))
    for step in range(4):
        hook.after_val_iter(runner, step, {}, [sample, sample])
    assert given == [('val_img', 0), ('val_img', 2)]
    hook.after_test_iter(runner, 0, {}, [sample])
    assert given[2:] == [('test_img', 1)]
