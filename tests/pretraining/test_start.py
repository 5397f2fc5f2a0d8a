"""A pre-training starts from a file with its decoder as from its encoder alone, whole or not at all."""

import re

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from backbones.convnext.visible import VisibleCells
from backbones.errors import ConfigError, WeightsError
from pretraining import FCMAE
from pretraining.train import PretrainOptions, pretraining_config
from tests.backbones.convnext.minkowski import sparse_encoder_of

from .runs import final_state, run, write_config

ARCH = dict(depths=(1, 1, 1, 1), dims=(4, 6, 8, 10))
MASK = torch.tensor([[[1, 0, 0], [0, 1, 0]], [[0, 0, 1], [1, 0, 0]]]).bool()


def autoencoder(
    source=None, version: str = 'ConvNeXtV2', arch=ARCH, seed: int = 0, **options
) -> FCMAE:
    """With weights none of which is 0; with those of ``source`` where it is a file."""
    torch.manual_seed(seed)
    init_cfg = source and dict(type='Pretrained', checkpoint=str(source))
    model = FCMAE(
        dict(type=version, arch=arch, init_cfg=init_cfg), **{'decoder_dim': 12, **options}
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    if source:
        model.init_weights()
    return model


def loss_of(model: FCMAE) -> float:
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    return float(model.loss(images, VisibleCells(MASK)).detach())


def parts(model: FCMAE) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Encoder and decoder, under the names of the released files."""
    state = {k: v.clone().contiguous() for k, v in model.state_dict().items()}
    encoder = {k.removeprefix('encoder.'): v for k, v in state.items() if k.startswith('encoder.')}
    return encoder, {k: v for k, v in state.items() if not k.startswith('encoder.')}


def write(folder, layout: str, model: FCMAE):
    encoder, decoder = parts(model)
    path = folder / f'{layout}.pth'
    if layout == 'sparse':
        torch.save({'model': sparse_encoder_of(encoder) | decoder, 'epoch': 799}, path)
    elif layout == 'pt_only':
        flat = {k: v.reshape(1, -1) if '.grn.' in k else v for k, v in encoder.items()}
        torch.save({'model': flat | decoder}, path)
    elif layout == 'module':
        torch.save({'state_dict': {f'module.{k}': v for k, v in model.state_dict().items()}}, path)
    else:
        path = path.with_suffix('.safetensors')
        save_file(encoder | decoder, path)
    return path


@pytest.mark.parametrize('layout', ['sparse', 'pt_only', 'module', 'safetensors'])
def test_encoder_and_decoder_are_loaded_whole(layout, tmp_path, capfd):
    source = autoencoder()
    path = write(tmp_path, layout, source)
    found = autoencoder(path, seed=5)
    for name, value in source.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name
    assert loss_of(found) == loss_of(source)


def test_v1_and_a_deeper_decoder(tmp_path):
    words = dict(version='ConvNeXt', decoder_depth=2, decoder_dim=6)
    source = autoencoder(**words)
    found = autoencoder(write(tmp_path, 'pt_only', source), seed=5, **words)
    assert loss_of(found) == loss_of(source)


def test_of_an_encoder_alone_the_log_says_that_the_decoder_is_random(tmp_path, shapes):
    encoder, _ = parts(source := autoencoder(decoder_dim=8))
    save_file(encoder, tmp_path / 'encoder.safetensors')
    config = write_config(tmp_path, 'optim_wrapper = dict(optimizer=dict(lr=0.0))\n')
    log = started_from(tmp_path / 'encoder.safetensors', config, shapes, tmp_path / 'alone')
    assert 'encoder.safetensors holds an encoder alone: the decoder starts from random' in log
    assert re.search(r'not in the file by design, newly initialized: mask_token, proj', log)

    path = write(tmp_path, 'pt_only', source)
    log = started_from(path, config, shapes, tmp_path / 'whole', source)
    assert 'random' not in log.split('pt_only.pth')[-1]


def started_from(path, config, shapes, work_dir, expected: FCMAE | None = None) -> str:
    """The log of a run that does not learn, and thus ends with what it started from."""
    images = shapes / 'images' / 'training'
    runner = run(config, images, work_dir, weights=str(path))
    if expected is not None:
        found = final_state(runner)
        for name, value in expected.state_dict().items():
            assert torch.equal(found[f'model.{name}'], value), name
    return next(work_dir.glob('*/*.log')).read_text()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            dict(decoder_dim=16),
            r'has a decoder of 12 channels, 1 block with GRN, patches of 3072 values; the config asks '
            r'for 16 channels.*model.decoder_dim=12 model.decoder_depth=1, or its encoder alone.*convert',
        ),
        (dict(decoder_depth=2), r'asks for 12 channels, 2 blocks.*model.decoder_depth=1'),
        (dict(version='ConvNeXt'), r'block with GRN.*1 block, patches.*\. Take its encoder alone'),
        (
            dict(arch=dict(depths=(1, 1, 2, 1), dims=(4, 6, 8, 10))),
            'these are the weights of .*1, 1, 1',
        ),
        (
            dict(arch=dict(depths=(1, 1, 1, 1), dims=(4, 6, 8, 20))),
            'these are the weights of .*8, 10',
        ),
    ],
)
def test_what_does_not_match_is_one_error(options, message, tmp_path):
    path = write(tmp_path, 'pt_only', autoencoder())
    other = autoencoder(seed=5, **options)
    before = {k: v.clone() for k, v in other.state_dict().items()}
    other.encoder.init_cfg = dict(type='Pretrained', checkpoint=str(path))
    with pytest.raises(WeightsError, match=message) as caught:
        other.init_weights()
    assert '\n' not in str(caught.value)
    assert all(torch.equal(other.state_dict()[k], v) for k, v in before.items())


def test_a_decoder_with_a_part_missing_is_named(tmp_path):
    encoder, decoder = parts(autoencoder())
    del decoder['decoder.0.norm.weight']
    torch.save(encoder | decoder, tmp_path / 'part.pth')
    with pytest.raises(WeightsError, match=r'they differ in decoder\.0\.norm\.weight'):
        autoencoder(tmp_path / 'part.pth')


def test_another_form_of_init_cfg_is_refused():
    model = autoencoder()
    model.encoder.init_cfg = dict(type='Kaiming')
    with pytest.raises(ConfigError, match='give dict'):
        model.init_weights()


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        ('cell=64', 'shows 0 of the 1 cells'),
        ('cell=48', 'cell=48: give a multiple of 32'),
        ('mask_ratio=0.9', r'mask_ratio=0.9 shows 0 of the 4 cells'),
    ],
)
def test_crops_without_cells_to_see_are_refused_first(model, message, tmp_path):
    config = write_config(tmp_path, f'model.update({model})\n')
    with pytest.raises(ConfigError, match=message):
        pretraining_config(PretrainOptions(str(config)))
