"""What a user gets wrong ends in one clear message, exit code 2, and leaves nothing half-written."""

import json
import shutil
import subprocess
from urllib.error import URLError

import cv2
import numpy as np
import pytest
import torch

from tests.conftest import ROOT, write_tiny_config
from tests.support import processes


@pytest.fixture
def data(shapes, tmp_path):
    """A copy of the small data set, to be damaged."""
    return shutil.copytree(shapes, tmp_path / 'data' / 'shapes')


def edit_annotations(data, change, split='training') -> None:
    path = data / 'annotations' / f'instances_{split}.json'
    content = json.loads(path.read_text())
    content = change(content) or content
    path.write_text(json.dumps(content))


def no_folder(data):
    shutil.rmtree(data)
    return 'does not exist. Make it with `python tools/make_shapes.py`'


def no_images(data):
    shutil.rmtree(data / 'images')
    return 'images/training (data_prefix.'


def one_image_lost(data):
    (data / 'images' / 'training' / 'shapes_training_0002.jpg').unlink()
    return 'the first: '


def no_annotation_file(data):
    (data / 'annotations' / 'instances_training.json').unlink()
    return 'instances_training.json (ann_file) does not exist'


def annotations_cut_off(data):
    path = data / 'annotations' / 'instances_training.json'
    path.write_text(path.read_text()[:500])
    return 'is no JSON or is cut off'


def annotations_are_no_coco(data):
    edit_annotations(data, lambda content: {'shapes': [], 'imagePath': 'a.jpg'})
    return 'has no list images, annotations, categories'


def annotation_without_box(data):
    edit_annotations(data, lambda content: content['annotations'][0].pop('bbox') and None)
    return 'an entry of annotations lacks bbox'


def other_classes(data):
    def rename(content):
        content['categories'][1]['name'] = 'sqare'

    edit_annotations(data, rename)
    return "has no category square (but 'sqare'); it has circle, sqare, triangle"


def unknown_image(data):
    def change(content):
        content['annotations'][3]['image_id'] = 99

    edit_annotations(data, change)
    return 'belongs to image 99, which the file does not list'


def unreadable_image(data):
    (data / 'images' / 'training' / 'shapes_training_0001.jpg').write_bytes(b'no image')
    return 'shapes_training_0001.jpg cannot be read as an image'


def wrong_size(data):
    path = data / 'images' / 'training' / 'shapes_training_0001.jpg'
    cv2.imwrite(str(path), np.zeros((30, 40, 3), np.uint8))
    return 'shapes_training_0001.jpg is 40 x 30, but'


def mask_value_out_of_range(data):
    path = data / 'annotations' / 'training' / 'shapes_training_0001.png'
    mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    mask[5, 5:8] = 9
    cv2.imwrite(str(path), mask)
    return 'has the value 9 in 3 pixels; allowed for 4 classes: 1 to 4, unlabelled 0 or 255'


def coloured_mask(data):
    path = data / 'annotations' / 'training' / 'shapes_training_0001.png'
    cv2.imwrite(str(path), np.zeros((256, 320, 3), np.uint8))
    return 'a mask has one channel'


def mask_lost(data):
    (data / 'annotations' / 'training' / 'shapes_training_0001.png').unlink()
    return '1 of 4 files of'


def unreadable_mask(data):
    (data / 'annotations' / 'training' / 'shapes_training_0001.png').write_bytes(b'no image')
    return 'shapes_training_0001.png cannot be read as an image'


DETECTION = [
    no_folder,
    no_images,
    one_image_lost,
    no_annotation_file,
    annotations_cut_off,
    annotations_are_no_coco,
    annotation_without_box,
    other_classes,
    unknown_image,
    unreadable_image,
    wrong_size,
]
SEGMENTATION = [
    no_folder,
    no_images,
    mask_value_out_of_range,
    coloured_mask,
    mask_lost,
    unreadable_mask,
]


@pytest.mark.parametrize(
    ('task', 'damage'),
    [('detection', d) for d in DETECTION] + [('segmentation', d) for d in SEGMENTATION],
)
def test_bad_data(task, damage, data, tool, tmp_path):
    config = write_tiny_config(task, data, tmp_path)
    message = damage(data)
    result = tool('train', config, '--work-dir', tmp_path / 'run')
    assert result.code == 2
    assert message in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['nowhere.py'], 'config nowhere.py does not exist.'),
        (
            ['configs/det/cascade-mask-rcnn_convnext-ato_shapes.py'],
            'Did you mean configs/det/cascade-mask-rcnn_convnext-atto_shapes.py',
        ),
        (['{config}', '--cfg-options', 'model.backbone.arch'], 'write key=value'),
        (['{config}', '--cfg-options', 'model.backbone.arch=giant'], 'ConvNeXt has no arch'),
        (['{config}', '--cfg-options', 'default_scope=mmpose'], 'must be mmdet'),
        (['{config}', '--cfg-options', 'optim_wrapper.paramwise_cfg.num_layers=12'], 'contradicts'),
        (
            ['{config}', '--cfg-options', 'model.roi_head.mask_head.num_classes=80'],
            'model.roi_head.mask_head has num_classes=80, but',
        ),
        (['{config}', '--resume', 'nowhere.pth'], 'checkpoint nowhere.pth does not exist'),
        (
            ['{config}', '--auto-scale-lr', '--cfg-options', 'auto_scale_lr=None'],
            'auto_scale_lr.base_batch_size',
        ),
        (['{broken}'], 'cannot be read: SyntaxError'),
        pytest.param(
            ['{config}', '--amp', 'fp16'],
            '--amp fp16 needs CUDA',
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason='CUDA has float16'),
        ),
        pytest.param(
            ['{config}', '--launcher', 'slurm'],
            '--launcher slurm needs CUDA',
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason='with CUDA Slurm is asked'),
        ),
    ],
)
def test_bad_command_line(words, message, shapes, tool, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = write_tiny_config('detection', shapes, tmp_path)
    (tmp_path / 'broken.py').write_text('model = dict(')
    words = [w.format(config=config, broken=tmp_path / 'broken.py') for w in words]
    result = tool('train', *words, '--work-dir', tmp_path / 'run')
    assert result.code == 2
    assert message in result.err


def test_unknown_option_of_a_tool_is_explained(tool):
    result = tool('train', 'a.py', '--lerning-rate', '1')
    assert result.code == 2
    assert '--lerning-rate' in result.err


class Payload:
    def __reduce__(self):
        return (open, ('executed', 'w'))


def checkpoint_is_html(path, task):
    path.write_text('<html>not found</html>')
    return 'is a web page'


def checkpoint_is_empty(path, task):
    path.write_bytes(b'')
    return 'is empty'


def checkpoint_is_cut_off(path, task):
    torch.save({'state_dict': {'a': torch.zeros(9999)}}, path)
    path.write_bytes(path.read_bytes()[:5000])
    return 'is no checkpoint or is cut off'


def checkpoint_has_a_payload(path, task):
    torch.save({'state_dict': {'a': torch.zeros(1)}, 'meta': Payload()}, path)
    return 'holds more than data'


def checkpoint_without_weights(path, task):
    torch.save({'epoch': 3}, path)
    return "holds no 'state_dict'"


def checkpoint_of_another_model(path, task):
    torch.save({'state_dict': {'fc.weight': torch.zeros(3, 3)}, 'meta': {}}, path)
    return 'does not fit the model of this config'


def checkpoint_missing(path, task):
    return 'does not exist'


@pytest.mark.parametrize(
    'make',
    [
        checkpoint_is_html,
        checkpoint_is_empty,
        checkpoint_is_cut_off,
        checkpoint_has_a_payload,
        checkpoint_without_weights,
        checkpoint_of_another_model,
        checkpoint_missing,
    ],
)
def test_bad_checkpoint(make, shapes, tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = write_tiny_config('segmentation', shapes, tmp_path)
    message = make(tmp_path / 'a.pth', 'segmentation')
    result = tool('test', config, tmp_path / 'a.pth', '--work-dir', tmp_path / 'run')
    assert result.code == 2
    assert message in result.err
    assert not list(tmp_path.rglob('metrics.json'))
    assert not (tmp_path / 'executed').exists()


def test_weights_of_a_stock_config_that_cannot_be_downloaded(shapes, tool, tmp_path, monkeypatch):
    def offline(*_: object, **__: object) -> None:
        raise URLError('Name or service not known')

    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr(torch.hub, 'urlopen', offline)
    path = tmp_path / 'retina.py'
    path.write_text(
        f"""_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
data = dict(
    data_root='{shapes}/',
    ann_file='annotations/instances_training.json',
    data_prefix=dict(img='images/training/'),
    metainfo=dict(classes=('circle', 'square', 'triangle')),
)
train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=data)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=data)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='{shapes}/annotations/instances_training.json')
test_evaluator = val_evaluator
model = dict(bbox_head=dict(num_classes=3))
"""
    )
    result = tool('train', path, '--work-dir', tmp_path / 'work')
    assert result.code == 2, result.err
    (line,) = [line for line in result.err.splitlines() if line.startswith('error: ')]
    assert (
        'the pretrained weights torchvision://resnet50 (model.backbone.init_cfg.checkpoint)' in line
    )
    assert '--cfg-options model.backbone.init_cfg=None trains without them' in line


def test_an_image_that_breaks_while_training(shapes, tmp_path):
    """Past the check, in a worker of the data loader: still one line that names the file."""
    data = shutil.copytree(shapes, tmp_path / 'shapes')
    config = write_tiny_config('segmentation', data, tmp_path)
    for path in (data / 'images' / 'training').iterdir():
        path.write_bytes(b'no image')
    words = ['--work-dir', tmp_path / 'run', '--check-data', 'no']
    workers = ['--cfg-options', 'train_dataloader.num_workers=1']
    code, shown = processes.run_tool('train', config, *words, *workers, folder=tmp_path / 'out')
    assert code == 2, shown
    message = shown.strip().splitlines()[-1]
    assert message.startswith('error: ')
    assert str(data / 'images' / 'training' / 'shapes_training_000') in message
    assert '.jpg cannot be read: ' in message
    assert not list((tmp_path / 'run').glob('*.pth'))


@pytest.mark.parametrize(
    'script',
    [
        f'{launcher}_{what}.sh'
        for launcher in ('dist', 'slurm')
        for what in ('train', 'test', 'pretrain')
    ],
)
def test_shell_scripts_explain_themselves(script):
    result = subprocess.run(
        ['bash', ROOT / 'tools' / script, 'only-one-word'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert f'tools/{script}' in result.stderr
