"""A data set of one's own becomes a config that builds, trains, and can be edited."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from PIL import Image

from backbones import ConfigError, DataError
from downstream.data.checks.datasets import check_datasets
from downstream.data.doctor.parts import parts_of_config
from downstream.data.formats.found import Found, Instances
from downstream.data.formats.images import files_below
from downstream.data.pipelines import pipeline_switches
from downstream.own import text as config_texts
from downstream.own.leaf import code, is_as_written
from downstream.own.objects import choose_objects
from downstream.own.prepare import DataOptions, prepare
from downstream.running.config import TrainOptions, training_config
from downstream.running.options import batch_probe
from downstream.running.options.channels import set_trained_statistics
from tests.conftest import EXAMPLES, ROOT

DETECTOR = str(ROOT / EXAMPLES['detection'])
SEGMENTER = str(ROOT / EXAMPLES['segmentation'])


def build(cfg: Config):
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        return MODELS.build(cfg.model)


@pytest.fixture(scope='session')
def instances(shapes, tmp_path_factory) -> Path:
    """The embedded data set as one COCO file, with category ids that are no indices."""
    parts = [
        json.loads((shapes / f'annotations/instances_{name}.json').read_text())
        for name in ('training', 'validation')
    ]
    images, annotations = [], []
    ids = {}
    for name, part in zip(('training', 'validation'), parts):
        for image in part['images']:
            ids[name, image['id']] = len(images) + 1
            images.append(
                {
                    **image,
                    'id': len(images) + 1,
                    'file_name': str(shapes / 'images' / name / image['file_name']),
                }
            )
        for one in part['annotations']:
            annotations.append(
                {
                    **one,
                    'id': len(annotations) + 1,
                    'image_id': ids[name, one['image_id']],
                    'category_id': one['category_id'] * 7,
                }
            )
    root = tmp_path_factory.mktemp('own') / 'parts'
    root.mkdir()
    for image in images:
        source = Path(image['file_name'])
        image['file_name'] = f'{source.parent.name}-{source.name}'
        (root / image['file_name']).symlink_to(source)
    categories = [{**c, 'id': c['id'] * 7} for c in parts[0]['categories']]
    content = {'images': images, 'annotations': annotations, 'categories': categories}
    (root / 'labels.json').write_text(json.dumps(content))
    return root


def prepared(tmp_path, recipe, data, objects=None, **options):
    words = TrainOptions(recipe, work_dir=str(tmp_path / 'run'), **options)
    return prepare(words, DataOptions(str(data), objects))


def test_a_detector_with_masks(instances, tmp_path, capsys):
    options = prepared(tmp_path, DETECTOR, instances)
    shown = capsys.readouterr().out
    assert '7' in shown
    assert 'split with seed 0' in shown
    text = Path(options.config).read_text()
    assert is_as_written(text)
    assert 25 <= len(text.splitlines()) <= 70
    cfg = training_config(options)
    assert cfg.work_dir == str(tmp_path / 'run')
    model = build(cfg)
    classes = cfg.classes
    assert set(classes) == {'circle', 'square', 'triangle'}
    assert model.roi_head.with_mask
    check_datasets(cfg, ('train', 'val'), full=True)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert dataset.metainfo['classes'] == classes
    assert {'img', 'inputs'} & set(dataset[0])
    assert cfg.val_evaluator.ann_file == cfg.val_dataloader.dataset.ann_file
    assert cfg.train_dataloader.dataset.ann_file != cfg.val_dataloader.dataset.ann_file
    warm_up = cfg.param_scheduler[0].end - 1
    steps = cfg.train_cfg.max_epochs * -(-len(dataset) // cfg.train_dataloader.batch_size)
    assert 1 <= warm_up <= steps / 10
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(
        4e-4 * cfg.train_dataloader.batch_size / 16
    )


def test_settings_are_in_the_config(instances, tmp_path):
    options = prepared(tmp_path, DETECTOR, instances, epochs=4, lr=1e-3, batch_size=3, patience=2)
    assert options.epochs is options.lr is options.batch_size is options.patience is None
    cfg = training_config(options)
    assert cfg.train_cfg.max_epochs == 4
    assert cfg.optim_wrapper.optimizer.lr == 1e-3
    assert cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 3
    assert cfg.default_hooks.patience.patience == 2


def test_the_batch_is_probed_with_the_model_that_is_trained(instances, tmp_path, monkeypatch):
    """Not with the recipe's: its backbone, its 80 classes, its float16, which no CPU trains in."""
    recipe = str(ROOT / 'configs/det/cascade-mask-rcnn_convnext-tiny_in1k_3x_coco.py')
    seen = []

    def run(cfg: Config, batch: int, size: tuple[int, int]) -> None:
        if not seen:
            seen.append(cfg)

    # The probe itself has tests of its own.
    monkeypatch.setattr(batch_probe, 'run_steps', run)
    monkeypatch.setattr(batch_probe, '_largest_on_cpu', lambda run, least: run(least) or 5)
    monkeypatch.setattr(batch_probe, 'get_device', lambda: 'cpu')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    words = dict(batch_size='auto', image_size=96, backbone='convnext-atto')
    options = prepared(tmp_path, recipe, instances, **words)
    (probed,) = seen
    assert probed.model.backbone.arch == 'atto'
    assert probed.optim_wrapper.type == 'OptimWrapper'
    assert probed.model.roi_head.bbox_head[0].num_classes == 3
    cfg = training_config(options)
    assert cfg.train_dataloader.batch_size == 5
    # The short config keeps the recipe's backbone, and says so.
    assert f'{options.config} --backbone convnext-atto' in Path(options.config).read_text()


def test_an_edited_config_is_not_overwritten(instances, tmp_path):
    config = Path(prepared(tmp_path, DETECTOR, instances).config)
    prepared(tmp_path, DETECTOR, instances, epochs=3)  # unedited: written anew
    assert Config.fromfile(config).train_cfg.max_epochs == 3
    config.write_text(config.read_text().replace('max_epochs=3', 'max_epochs=5'))
    with pytest.raises(ConfigError, match=f'{config} was edited .* python tools/train.py {config}'):
        prepared(tmp_path, DETECTOR, instances, epochs=4)
    assert Config.fromfile(config).train_cfg.max_epochs == 5


def test_boxes_without_masks_make_a_detector_of_boxes(instances, tmp_path, capsys):
    content = json.loads((instances / 'labels.json').read_text())
    for one in content['annotations']:
        one['segmentation'] = []
        one['iscrowd'] = 0
    root = tmp_path / 'boxes'
    root.mkdir()
    for image in content['images']:
        (root / image['file_name']).symlink_to(instances / image['file_name'])
    (root / 'labels.json').write_text(json.dumps(content))
    cfg = training_config(prepared(tmp_path, DETECTOR, root))
    assert 'no object has a mask: boxes alone are trained' in capsys.readouterr().out
    assert not build(cfg).roi_head.with_mask
    assert cfg.val_evaluator.metric == cfg.test_evaluator.metric == 'bbox'
    check_datasets(cfg, ('train', 'val'), full=True)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert 'masks' not in dataset[0]['data_samples'].gt_instances
    assert "'with_mask': True" not in cfg.pretty_text


def test_dino_is_trained_on_ones_own_data(instances, tmp_path):
    """A DETR: one head, no masks, another limit of detections; here by iterations."""
    recipe = str(ROOT / 'configs/det/dino-4scale_convnext-tiny_in22k-in1k-384_12e_coco.py')
    options = prepared(tmp_path, recipe, instances, backbone='convnext-atto', image_size=160)
    written = Path(options.config).read_text()
    assert 'without_masks' not in written
    assert 'boxes_only' not in written
    cfg = training_config(options)
    assert (cfg.model.bbox_head.num_classes, cfg.model.test_cfg.max_per_img) == (3, 300)
    assert build(cfg).bbox_head.cls_branches[0].out_features == 3
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[-1].end
    assert cfg.train_pipeline[3].transforms[0][0].backend == 'pillow'
    check_datasets(cfg, ('train', 'val'), full=True)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert 'masks' not in dataset[0]['data_samples'].gt_instances


def test_rtmdet_ends_with_its_last_pipeline_on_ones_own_data(instances, tmp_path):
    recipe = str(ROOT / 'configs/det/rtmdet-l_convnext-base_in22k-in1k-384_100e_coco.py')
    options = prepared(tmp_path, recipe, instances, epochs=10, image_size=320)
    cfg = training_config(options)
    (switch,) = pipeline_switches(cfg)
    assert (cfg.train_cfg.max_epochs, switch.switch_epoch) == (10, 9)
    assert {step.type: step for step in switch.switch_pipeline}['Pad']['size'] == (320, 320)
    assert [hook.type for hook in cfg.custom_hooks] == ['EMAHook', 'PipelineSwitchHook']
    assert cfg.train_cfg.dynamic_intervals is None  # evaluations are those of the plan


@pytest.mark.parametrize(('objects', 'kept'), [(300, None), (301, 400), (1200, 900)])
def test_dino_keeps_as_many_detections_as_an_image_has_objects(
    objects, kept, instances, tmp_path, monkeypatch
):
    recipe = str(ROOT / 'configs/det/dino-4scale_convnext-tiny_in22k-in1k-384_12e_coco.py')
    monkeypatch.setattr(config_texts, '_most_objects', lambda plan: objects)
    options = prepared(tmp_path, recipe, instances)
    lines = Path(options.config).read_text()
    found = re.search(r"model\['test_cfg'\] = dict\(max_per_img=(\d+)\)", lines)
    assert (found and int(found[1])) == kept


def partly_masked() -> Found:
    def one(number, image, mask):
        mask = [[0, 0, 9, 0, 9, 9]] if mask else []
        box = dict(bbox=[0, 0, 9, 9], area=81, iscrowd=0, category_id=1)
        return dict(id=number, image_id=image, segmentation=mask, **box)

    def part(*masks):
        images = [dict(id=i, file_name=f'{i}.jpg', width=9, height=9) for i in range(len(masks))]
        annotations = [
            one(10 * i + k, i, mask) for i, some in enumerate(masks) for k, mask in enumerate(some)
        ]
        categories = [dict(id=1, name='bolt')]
        return Instances(
            Path('x'), dict(images=images, annotations=annotations, categories=categories)
        )

    parts = {'train': part([1, 1], [1, 0], []), 'val': part([1], [0])}
    return Found('COCO', 'detection', ('bolt',), parts)


def test_partly_masked_sets_train_boxes_and_say_so():
    boxes, found = choose_objects(partly_masked(), None)
    assert boxes
    assert found.notes == (
        '2 of 6 objects have no mask: boxes alone are trained; --masks trains masks on the 3 of 5 '
        'images whose objects all have one',
    )


def test_masks_of_partly_masked_sets_are_trained_on_whole_images():
    """An object without a mask must not become background."""
    boxes, found = choose_objects(partly_masked(), 'masks')
    assert not boxes
    train, val = (found.parts[name].coco for name in ('train', 'val'))
    assert [image['id'] for image in train['images']] == [0, 2]
    assert [one['id'] for one in train['annotations']] == [0, 1]
    assert [image['id'] for image in val['images']] == [0]
    assert len(found.notes) == 2
    nothing = partly_masked()
    for one in nothing.parts['val'].coco['annotations']:
        one['segmentation'] = []
    with pytest.raises(DataError, match="no image of the part 'val' has a mask for all"):
        choose_objects(nothing, 'masks')


def test_a_segmenter(shapes, tmp_path, capsys):
    data = tmp_path / 'streets'
    for part, name in (('train', 'training'), ('val', 'validation')):
        for kind in ('images', 'masks'):
            folder = data / kind / part
            folder.mkdir(parents=True)
            source = shapes / ('images' if kind == 'images' else 'annotations') / name
            for path in sorted(source.iterdir()):
                (folder / path.name).symlink_to(path)
    (data / 'classes.csv').write_text('name,value\nground,1\ncircle,2\nsquare,3\ntriangle,4\n')
    options = prepared(tmp_path, SEGMENTER, data, image_size=128, epochs=6)
    cfg = training_config(options)
    assert cfg.train_cfg.max_iters == 6 * 1  # four images, a batch of four
    assert cfg.model.data_preprocessor['size'] == (128, 128)
    crop = next(s for s in cfg.train_dataloader.dataset.pipeline if s.type == 'RandomCrop')
    assert crop.crop_size == (128, 128)
    build(cfg)
    check_datasets(cfg, ('train', 'val'), full=True)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    sample = dataset[0]['data_samples'].gt_sem_seg.data
    assert sample.shape == (1, 128, 128)
    assert len(dataset.metainfo['classes']) == cfg.model.decode_head.num_classes == len(cfg.classes)


def test_a_segmenter_of_polygons(instances, tmp_path):
    """Masks are drawn; their names and those of the images differ in a suffix that is added."""
    cfg = training_config(prepared(tmp_path, SEGMENTER, instances))
    check_datasets(cfg, ('train', 'val'), full=True)
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert dataset.metainfo['classes'] == ('background', 'circle', 'square', 'triangle')
    drawn = dataset[0]['data_samples'].gt_sem_seg.data
    assert set(drawn.unique().tolist()) <= {0, 1, 2, 3}
    (part, *_) = parts_of_config(cfg)
    assert all(mask.is_file() and image.is_file() for mask, image in part.image_of.items())
    assert len(part.images) == len(dataset)


def test_unknown_recipes_and_tasks_are_one_line(instances, tmp_path):
    with pytest.raises(ConfigError, match="'dett' is no recipe: give det, seg, a row"):
        prepared(tmp_path, 'dett', instances)
    with pytest.raises(DataError, match='does not exist'):
        prepared(tmp_path, DETECTOR, tmp_path / 'nothing')


def test_code_is_python_again():
    value = dict(a=[1, 2.5, 'x'], b=(1,), c=dict(d=['long' * 9] * 4), e=(), f=None)
    assert eval(code(value)) == value
    assert max(map(len, code(value).splitlines())) <= 100


def test_defaults_are_recipes_of_the_suite():
    from downstream.own.recipe import BOXES_DEFAULT, DEFAULTS

    for path in (*DEFAULTS.values(), BOXES_DEFAULT):
        assert (ROOT / path).is_file()
    assert re.search('cascade-mask-rcnn_convnext-tiny_in1k', DEFAULTS['det'])


def write_array(path: Path, pixels: np.ndarray) -> None:
    np.save(path.with_suffix('.npy'), pixels.astype(np.float32) / 1000)


def write_tiff(path: Path, pixels: np.ndarray) -> None:
    tifffile = pytest.importorskip('tifffile')
    values = pixels.astype(np.uint16) * 200
    tifffile.imwrite(
        path.with_suffix('.tif'), values, photometric='minisblack', planarconfig='contig'
    )


def five_bands(path: Path) -> np.ndarray:
    pixels = np.asarray(Image.open(path).convert('RGB'))
    return np.dstack([pixels, 255 - pixels[..., :1], pixels[..., 1:2] // 2])


@pytest.mark.parametrize(('write', 'suffix'), [(write_array, '.npy'), (write_tiff, '.tif')])
@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_images_of_any_bands(task, write, suffix, instances, shapes, tmp_path):
    root = tmp_path / 'set'
    (root / 'images').mkdir(parents=True)
    if task == 'detection':
        content = json.loads((instances / 'labels.json').read_text())
        for image in content['images']:
            write(root / 'images' / image['file_name'], five_bands(instances / image['file_name']))
            image['file_name'] = str(Path(image['file_name']).with_suffix(suffix))
        (root / 'labels.json').write_text(json.dumps(content))
    else:
        (root / 'masks').mkdir()
        for path in sorted((shapes / 'images').rglob('*.jpg')):
            write(root / 'images' / path.name, five_bands(path))
            mask = Path(str(path).replace('/images/', '/annotations/')).with_suffix('.png')
            (root / 'masks' / mask.name).symlink_to(mask)
    recipe = DETECTOR if task == 'detection' else SEGMENTER

    cfg = training_config(prepared(tmp_path / 'rgb', recipe, root))
    with pytest.raises(DataError, match=rf'{suffix} has 5 bands, .* --bands 1 2 3'):
        check_datasets(cfg, ('train', 'val'))

    options = prepared(tmp_path, recipe, root, bands=(5, 1, 2, 3))
    assert options.bands is options.channels is None
    assert 'bands = (5, 1, 2, 3)' in Path(options.config).read_text()  # to train with it again
    cfg = training_config(options)
    check_datasets(cfg, ('train', 'val'), full=True)
    assert cfg.model.backbone.in_channels == 4
    set_trained_statistics(cfg)
    assert len(cfg.model.data_preprocessor.mean) == 4
    build(cfg)
    sample = DATASETS.build(cfg.train_dataloader.dataset)[0]
    assert sample['inputs'].shape[0] == 4
    assert sample['inputs'].dtype == torch.float32


def test_arrays_beside_images_are_no_images(instances, tmp_path):
    """Depth or features of the same name."""
    root = tmp_path / 'set'
    shutil.copytree(instances, root)
    for path in root.glob('*.jpg'):
        np.save(path.with_suffix('.npy'), np.zeros((4, 4, 2)))
    assert {path.suffix for path in files_below(root)} == {'.jpg'}
    (root / 'alone.npy').write_bytes((path.with_suffix('.npy')).read_bytes())
    assert root / 'alone.npy' in files_below(root)
