"""``--channels`` and ``--bands``: what follows from them in a config, and runs on 16-bit TIFFs."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.registry import MODELS, DefaultScope

from backbones.errors import ConfigError
from downstream.running.config import TrainOptions, read_config
from downstream.running.options import channels
from downstream.running.options.channels import chosen_bands, set_tested_statistics, use_bands
from downstream.running.weights.initialise import initialise
from tests.conftest import EXAMPLES, read_metrics, write_tiny_config

ADE = 'configs/seg/upernet_convnext-tiny_in1k_160k_ade20k-512x512.py'


def types(pipeline) -> list:
    return [step['type'] if isinstance(step, dict) else types(step) for step in pipeline]


@pytest.mark.parametrize(
    ('settings', 'bands'),
    [
        ({}, None),
        ({'channels': 3}, None),
        ({'channels': 1}, (1,)),
        ({'channels': 5}, (1, 2, 3, 4, 5)),
        ({'bands': [3, 2, 1]}, (3, 2, 1)),
        ({'bands': (3, 2, 1, 7), 'channels': 4}, (3, 2, 1, 7)),
    ],
)
def test_settings(settings, bands):
    assert chosen_bands(Config(settings)) == bands


@pytest.mark.parametrize(
    'settings',
    [{'channels': 0}, {'channels': 'RGB'}, {'bands': (0, 1)}, {'channels': 3, 'bands': (1,)}],
)
def test_impossible_settings(settings):
    with pytest.raises(ConfigError, match='channels=|bands='):
        chosen_bands(Config(settings))


def test_a_config_follows_from_its_bands():
    plain = read_config(TrainOptions(ADE))
    cfg = read_config(TrainOptions(ADE, bands=(3, 2, 1, 7)))
    assert cfg.model.backbone == dict(plain.model.backbone, in_channels=4)
    assert (cfg.model.data_preprocessor.mean, cfg.model.data_preprocessor.std) == (None, None)
    assert not cfg.model.data_preprocessor.bgr_to_rgb
    for found, before in (
        (cfg.train_dataloader.dataset.pipeline, plain.train_dataloader.dataset.pipeline),
        (cfg.val_dataloader.dataset.pipeline, plain.val_dataloader.dataset.pipeline),
        (cfg.test_dataloader.dataset.pipeline, plain.test_dataloader.dataset.pipeline),
        (cfg.tta_pipeline, plain.tta_pipeline),
    ):
        assert found[0] == dict(type='LoadBands', bands=(3, 2, 1, 7))
        assert found[1:] == [s for s in before[1:] if s['type'] != 'PhotoMetricDistortion']
    assert 'PhotoMetricDistortion' in types(plain.train_dataloader.dataset.pipeline)
    # the config of the work dir, with what was measured, is read again as it is
    cfg.model.data_preprocessor.update(mean=[1.0] * 4, std=[2.0] * 4)
    again = Config(cfg.to_dict())
    use_bands(again)
    assert again.to_dict() == cfg.to_dict()
    # other bands have other statistics
    again.bands = (4, 3, 2, 1)
    use_bands(again)
    assert again.model.data_preprocessor.mean is None
    assert again.test_dataloader.dataset.pipeline[0].bands == (4, 3, 2, 1)


def test_three_channels_change_nothing():
    plain, three = (read_config(TrainOptions(ADE, channels=n)).to_dict() for n in (None, 3))
    three.pop('channels')
    assert three == plain


def test_the_command_line_wins_over_the_config(tmp_path):
    path = tmp_path / 'own.py'
    path.write_text(f"_base_ = '{Path(ADE).resolve()}'\nchannels = 5\n")
    assert chosen_bands(read_config(TrainOptions(str(path)))) == (1, 2, 3, 4, 5)
    assert chosen_bands(read_config(TrainOptions(str(path), bands=(2, 1)))) == (2, 1)
    options = TrainOptions(str(path), cfg_options={'channels': 4})
    assert read_config(options).model.backbone.in_channels == 4
    given = {'model.data_preprocessor.mean': [1.0, 2.0], 'model.data_preprocessor.std': [1.0, 2.0]}
    cfg = read_config(TrainOptions(str(path), bands=(2, 1), cfg_options=given))
    assert cfg.model.data_preprocessor.mean == [1.0, 2.0]
    with pytest.raises(ConfigError, match='mean has 2 values for 3 bands'):
        read_config(TrainOptions(str(path), bands=(2, 1, 3), cfg_options=given))


@pytest.mark.parametrize('name', ['resnet-18', 'convnextv2-atto', 'mmdet.ResNet'])
def test_another_backbone_gets_the_channels(name, capsys):
    arguments = {'model.backbone.depth': 18} if 'mmdet' in name else {}
    options = TrainOptions(EXAMPLES['detection'], backbone=name, channels=4, cfg_options=arguments)
    cfg = read_config(options)
    assert cfg.model.backbone.in_channels == 4
    assert '4 channels; mean and std are measured from the data' in capsys.readouterr().out
    with DefaultScope.overwrite_default_scope('mmdet'), torch.device('meta'):
        built = MODELS.build(cfg.model.backbone)
    assert next(value for value in built.state_dict().values() if value.ndim == 4).shape[1] == 4


def test_a_backbone_that_takes_no_channels_is_named():
    cfg = Config(dict(channels=4, model=dict(backbone=dict(type='mmdet.CSPDarknet'))))
    with pytest.raises(ConfigError, match='CSPDarknet takes no argument in_channels'):
        use_bands(cfg)


def test_weights_of_mmdets_own_backbones_are_adapted_too(tmp_path):
    def build(**args) -> torch.nn.Module:
        whole = BaseModule()
        whole.backbone = MODELS.build(dict(type='mmdet.ResNet', depth=18, **args))
        return whole

    rgb = build().backbone.state_dict()
    torch.save(rgb, tmp_path / 'rgb.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'rgb.pth'))
    model = build(in_channels=6, init_cfg=init_cfg)
    initialise(model)
    found = model.backbone.state_dict()
    torch.testing.assert_close(found['conv1.weight'], rgb['conv1.weight'].repeat(1, 2, 1, 1) / 2)
    assert all(torch.equal(found[key], rgb[key]) for key in rgb if key != 'conv1.weight')


@pytest.mark.parametrize(
    ('task', 'kind'),
    [('detection', 'AsyncDetDataPreprocessor'), ('segmentation', 'AsyncSegDataPreProcessor')],
)
def test_any_number_of_channels_is_normalised(task, kind):
    mean, std = [10.0, 20.0, 30.0, 40.0], [1.0, 2.0, 4.0, 8.0]
    preprocessor = MODELS.build(dict(type=kind, mean=mean, std=std))
    image = torch.rand(4, 32, 32) * 100
    found = preprocessor({'inputs': [image]})['inputs'][0]
    wanted = (image - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert torch.equal(found, wanted)
    assert not preprocessor.state_dict()


def test_statistics_of_a_test_are_those_of_its_checkpoint():
    def cfg() -> Config:
        return Config(dict(channels=2, model=dict(data_preprocessor=dict(mean=None, std=None))))

    trained = cfg()
    trained.model.data_preprocessor.update(mean=[1.5, 250.25], std=[1.0, 3e-05])
    tested = cfg()
    set_tested_statistics(tested, {'meta': {'cfg': trained.pretty_text}}, 'a.pth')
    assert tested.model.data_preprocessor == trained.model.data_preprocessor
    hostile = "model = dict(data_preprocessor=dict(mean=__import__('os').getcwd(), std=[1]))"
    for content in (
        {},
        {'meta': {'cfg': 'a = ('}},
        {'meta': {'cfg': hostile}},
        {'meta': {'cfg': 3}},
    ):
        with pytest.raises(ConfigError, match='a.pth does not say with which mean and std'):
            set_tested_statistics(cfg(), content, 'a.pth')


def test_a_resumed_run_has_the_statistics_of_its_checkpoint(monkeypatch):
    cfg = Config(dict(channels=1, resume='auto', work_dir='w', model=dict(data_preprocessor={})))
    text = 'model = dict(data_preprocessor=dict(mean=[7.0], std=[2.0]))'
    found = {'meta': {'cfg': text}}
    monkeypatch.setattr(channels, 'newest_whole', lambda folder, mmap: (f'{folder}/a.pth', found))
    channels.set_trained_statistics(cfg)
    assert cfg.model.data_preprocessor == dict(mean=[7.0], std=[2.0])


@pytest.fixture(scope='module')
def deep_shapes(shapes, tmp_path_factory) -> Path:
    """The embedded data set as TIFFs of four 16-bit bands."""
    tifffile = pytest.importorskip('tifffile')
    root = tmp_path_factory.mktemp('deep') / 'shapes'
    shutil.copytree(shapes, root)
    for path in (root / 'images').rglob('*.jpg'):
        pixels = cv2.imread(str(path))[..., ::-1].astype(np.uint16) * 257
        bands = np.dstack([pixels, pixels.max(axis=2) // 2])
        tifffile.imwrite(path.with_suffix('.tif'), bands, photometric='rgb', extrasamples=[0])
        path.unlink()
    for path in (root / 'annotations').glob('*.json'):
        content = json.loads(path.read_text())
        for image in content['images']:
            image['file_name'] = image['file_name'].replace('.jpg', '.tif')
        path.write_text(json.dumps(content))
    return root


@pytest.mark.slow
@pytest.mark.parametrize('task', ['segmentation', 'detection'])
def test_two_steps_and_a_test_on_16_bit_tiffs_of_four_bands(task, deep_shapes, tmp_path, tool):
    config = write_tiny_config(task, deep_shapes, tmp_path)
    if task == 'segmentation':
        config.write_text(
            config.read_text().replace(
                'dataset=dict(', "dataset=dict(img_suffix='.tif', seg_map_suffix='.png', "
            )
        )
    work_dir = tmp_path / 'work'
    result = tool('train', config, '--bands', 4, 1, 2, 3, '--work-dir', work_dir)
    assert result.code == 0, result.err
    assert 'Measured from 4 of 4 training images: mean ' in result.out + result.err
    written = Config.fromfile(work_dir / config.name)
    assert written.model.backbone.in_channels == 4
    mean = written.model.data_preprocessor.mean
    assert len(mean) == 4
    assert all(5000 < value < 60000 for value in mean)
    checkpoint = next(work_dir.glob('*_[12].pth'))
    shown = tmp_path / 'pictures'
    figures = []
    for path, options in ((work_dir / config.name, ()), (config, ('--bands', 4, 1, 2, 3))):
        words = (path, checkpoint, *options, '--work-dir', work_dir, '--show-dir', shown)
        result = tool('test', *words)
        assert result.code == 0, result.err
        figures.append(read_metrics(work_dir))
    assert figures[0] == figures[1]
    assert len(list(shown.iterdir())) == 3
