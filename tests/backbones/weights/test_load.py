"""Loading weights: everything, with a report, or an error and nothing changed."""

import io
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from backbones import (
    ConfigError,
    ConvNeXt,
    ConvNeXtV2,
    WeightsError,
    load_pretrained,
    weights_table,
)
from backbones.convnext.archs import ISOTROPIC_ARCHS
from backbones.names import TIMM_FAMILIES
from backbones.weights.load import load_state
from backbones.weights.read import read
from backbones.weights.sources import find


def official_state(cls, arch: str, classes: int = 10) -> dict:
    """A state dict with the names and shapes of the official classifier files."""
    generator = torch.Generator().manual_seed(3)
    model = cls(arch, layer_scale_init_value=0 if cls is ConvNeXtV2 else 1e-6)
    state = {
        key: torch.randn(value.shape, generator=generator)
        for key, value in model.state_dict().items()
        if not key.startswith('norm')
    }
    width = model.out_channels[-1]
    state |= {'norm.weight': torch.ones(width), 'norm.bias': torch.ones(width)}
    state |= {'head.weight': torch.ones(classes, width), 'head.bias': torch.ones(classes)}
    return state


@pytest.mark.parametrize('cls', [ConvNeXt, ConvNeXtV2])
@pytest.mark.parametrize('wrapper', ['model', 'state_dict', 'safetensors', None])
def test_official_layout_loads_whole(tmp_path, cls, wrapper):
    state = official_state(cls, 'atto')
    path = tmp_path / ('a.safetensors' if wrapper == 'safetensors' else 'a.pth')
    if wrapper == 'safetensors':
        save_file(state, path)
    else:
        torch.save({wrapper: state} if wrapper else state, path)
    model = cls('atto', init_cfg={'type': 'Pretrained', 'checkpoint': str(path)})
    model.init_weights()
    for key, value in model.state_dict().items():
        if key.startswith('norm'):
            assert torch.equal(value, torch.full_like(value, float(key.endswith('weight'))))
        else:
            assert torch.equal(value, state[key]), key


def test_the_report_says_what_happened(tmp_path):
    state = official_state(ConvNeXtV2, 'atto')
    state = {k: v.flatten() if '.grn.' in k else v for k, v in state.items()}
    torch.save({'model': state}, tmp_path / 'convnextv2_atto_1k_224_ema.pt')
    report = load_pretrained(ConvNeXtV2('atto'), str(tmp_path / 'convnextv2_atto_1k_224_ema.pt'))
    assert report.complete
    assert len(report.loaded) == 136
    assert len(report.reshaped) == 24
    assert len(report.initialized) == 8
    text = str(report)
    assert 'official layout' in text
    # anyone can give a file this name
    assert 'CC-BY-NC-4.0 (as the official files of that name) - NON-COMMERCIAL use' in text
    assert '136 tensors loaded, 24 of them reshaped; 8 not in the file by design' in text
    assert 'newly initialized: norm0.weight' in text
    assert len(text.splitlines()) <= 6


def test_prefix_takes_one_of_several_networks(tmp_path):
    student, teacher = official_state(ConvNeXt, 'atto'), official_state(ConvNeXt, 'atto')
    teacher = {k: v + 1 for k, v in teacher.items()}
    both = {f'student.{k}': v for k, v in student.items()}
    both |= {f'ema.{k}': v for k, v in teacher.items()}
    torch.save(both, tmp_path / 'a.pth')
    model = ConvNeXt('atto')
    load_pretrained(model, str(tmp_path / 'a.pth'), prefix='ema.')
    key = 'stages.0.0.gamma'
    assert torch.equal(model.state_dict()[key], teacher[key])
    with pytest.raises(WeightsError, match="no tensor whose name starts with 'tutor.'"):
        load_pretrained(model, str(tmp_path / 'a.pth'), prefix='tutor.')


def test_the_backbone_of_a_whole_detector_is_found(tmp_path):
    state = {
        k: v for k, v in official_state(ConvNeXt, 'atto').items() if k[:4] not in ('norm', 'head')
    }
    state |= ConvNeXt('atto').state_dict(prefix='')  # a detector has its norms trained
    whole_model = {f'backbone.{k}': v for k, v in state.items()}
    whole_model |= {'neck.lateral_convs.0.conv.weight': torch.ones(2, 2, 1, 1)}
    whole_model |= {'roi_head.mask_head.0.conv_logits.bias': torch.ones(3)}
    torch.save({'state_dict': whole_model, 'meta': {'epoch': 36}}, tmp_path / 'a.pth')
    model = ConvNeXt('atto')
    report = load_pretrained(model, str(tmp_path / 'a.pth'))
    assert report.complete
    assert not report.initialized
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def broken_missing(state):
    del state['stages.1.0.pwconv1.weight']
    return '1 missing: stages.1.0.pwconv1.weight'


def broken_extra(state):
    state['stages.9.weight'] = torch.ones(1)
    return '1 unexpected: stages.9.weight'


def broken_shape(state):
    state['stages.0.0.gamma'] = torch.ones(7)
    return r'1 mismatched: stages.0.0.gamma \(7,\) for \(40,\)'


@pytest.mark.parametrize('damage', [broken_missing, broken_extra, broken_shape])
def test_a_misfit_is_an_error_and_changes_nothing(tmp_path, damage):
    state = official_state(ConvNeXt, 'atto')
    message = damage(state)
    torch.save({'model': state}, tmp_path / 'a.pth')
    model = ConvNeXt('atto')
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(WeightsError, match=message):
        load_pretrained(model, str(tmp_path / 'a.pth'))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    report = load_pretrained(model, str(tmp_path / 'a.pth'), strict=False)
    assert not report.complete
    assert torch.equal(model.state_dict()['stages.3.0.gamma'], state['stages.3.0.gamma'])


class Payload:
    def __reduce__(self):
        return (open, ('executed', 'w'))


def saved(content, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def whole(cls=ConvNeXt, arch='atto', **changes) -> dict:
    return official_state(cls, arch) | changes


def zipped(**files) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def numpy_file() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


NAN = torch.full((40,), float('nan'))
TERABYTES = torch.zeros(1).as_strided((10**6, 10**6), (0, 0))
QUANTIZED = torch.quantize_per_tensor(torch.zeros(9), 0.1, 0, torch.qint8)
INFINITE = torch.full((40,), float('inf'))
RESNET = {'conv1.weight': torch.zeros(2, 3, 7, 7), 'layer1.0.conv1.weight': torch.zeros(2, 2, 1, 1)}
SWIN = {'patch_embed.proj.weight': torch.zeros(2), 'layers.0.blocks.0.norm1.weight': torch.zeros(2)}
VIT = {'cls_token': torch.zeros(1, 1, 8), 'blocks.0.attn.qkv.weight': torch.zeros(24, 8)}
NOT_CHECKPOINT = 'is not a checkpoint|is no checkpoint or is cut off'
# Name of the file, its bytes (made when the test runs), and what the refusal says.
CORPUS = {
    'empty': ('a.pth', lambda: b'', 'is empty'),
    'empty safetensors': ('a.safetensors', lambda: b'', 'is empty'),
    'html': ('a.pth', lambda: b'<!DOCTYPE html><html>404</html>', 'is a web page'),
    'html after blanks': ('a.pth', lambda: b'\n\n  <html></html>', 'is a web page'),
    'xml of a bucket': ('a.pth', lambda: b'<?xml version="1.0"?><Error/>', 'is a web page'),
    'html as safetensors': ('a.safetensors', lambda: b'<html></html>', 'is a web page'),
    'git lfs pointer': (
        'a.pth',
        lambda: b'version https://git-lfs.github.com/spec/v1\noid',
        'Git LFS pointer',
    ),
    'json': ('a.pth', lambda: b'{"model": 1}', NOT_CHECKPOINT),
    'text': ('a.pth', lambda: b'hello world', NOT_CHECKPOINT),
    'noise': ('a.pth', lambda: bytes(range(256)) * 9, NOT_CHECKPOINT),
    'zeros': ('a.pth', lambda: bytes(5000), NOT_CHECKPOINT),
    'picture': ('a.pth', lambda: b'\x89PNG\r\n\x1a\n' + bytes(99), NOT_CHECKPOINT),
    'gzip': ('a.pth', lambda: b'\x1f\x8b\x08' + bytes(99), NOT_CHECKPOINT),
    'numpy': ('a.pth', numpy_file, NOT_CHECKPOINT),
    'foreign zip': ('a.pth', lambda: zipped(**{'a.txt': 'text'}), NOT_CHECKPOINT),
    'cut off early': ('a.pth', lambda: saved({'model': whole()})[:100], NOT_CHECKPOINT),
    'cut off in the middle': ('a.pth', lambda: saved({'model': whole()})[:200_000], NOT_CHECKPOINT),
    'cut off old format': (
        'a.pth',
        lambda: saved(whole(), _use_new_zipfile_serialization=False)[:200_000],
        NOT_CHECKPOINT,
    ),
    'cut off safetensors': (
        'a.safetensors',
        lambda: b'\x10\0\0\0\0\0\0\0{"a":',
        'is no .safetensors',
    ),
    'noise as safetensors': ('a.safetensors', lambda: bytes(range(1, 99)), 'is no .safetensors'),
    'pickle as safetensors': ('a.safetensors', lambda: saved(whole()), 'is no .safetensors'),
    'payload': ('a.pth', lambda: saved({'model': Payload()}), 'holds more than data'),
    'payload beside weights': (
        'a.pth',
        lambda: saved({'model': whole(), 'args': Payload()}),
        'holds more than data',
    ),
    'payload, old format': (
        'a.pth',
        lambda: saved(Payload(), _use_new_zipfile_serialization=False),
        'holds more than data',
    ),
    'whole module': ('a.pth', lambda: saved(ConvNeXt('atto')), 'holds more than data'),
    'list': ('a.pth', lambda: saved([torch.zeros(1)]), 'holds no state dict'),
    'number': ('a.pth', lambda: saved(3), 'holds no state dict'),
    'tensor': ('a.pth', lambda: saved(torch.zeros(3)), 'holds no state dict'),
    'no tensors': ('a.pth', lambda: saved({'epoch': 3}), 'holds no state dict'),
    'empty dict': ('a.pth', lambda: saved({'model': {}}), 'holds no state dict'),
    'numbers for keys': ('a.pth', lambda: saved({1: torch.zeros(1)}), 'holds no state dict'),
    'not a number': (
        'a.pth',
        lambda: saved(whole(**{'stages.0.0.gamma': NAN})),
        'stages.0.0.gamma has values',
    ),
    'infinite': (
        'a.pth',
        lambda: saved(whole(**{'stages.0.0.gamma': INFINITE})),
        'NaN or infinite',
    ),
    'a terabyte of one value': (
        'a.pth',
        lambda: saved({'model': {'stages.0.0.gamma': TERABYTES}}),
        'model.stages.0.0.gamma claims 1,000,000,000,000 values of which the file stores 1;',
    ),
    'overlapping windows': (
        'a.pth',
        lambda: saved({'w': torch.zeros(2**10).as_strided((2**9, 2**9), (1, 1))}),
        'claims 262,144 values',
    ),
    'meta': ('a.pth', lambda: saved({'w': torch.zeros(9, device='meta')}), 'w has no values'),
    'sparse': ('a.pth', lambda: saved({'w': torch.eye(9).to_sparse()}), 'w is a sparse'),
    'quantized': ('a.pth', lambda: saved({'w': QUANTIZED}), 'w is a sparse or quantized'),
    'resnet': (
        'a.pth',
        lambda: saved(RESNET),
        'is not a checkpoint of ConvNeXt atto.*conv1.weight',
    ),
    'swin': (
        'a.pth',
        lambda: saved({'model': SWIN}),
        'is not a checkpoint of ConvNeXt atto.*patch_embed',
    ),
    'vit': ('a.pth', lambda: saved(VIT), 'is not a checkpoint of ConvNeXt atto.*cls_token'),
    'head alone': (
        'a.pth',
        lambda: saved({'head.weight': torch.zeros(3, 320)}),
        'is not a checkpoint of ConvNeXt atto',
    ),
    'other size': (
        'a.pth',
        lambda: saved({'model': whole(arch='pico')}),
        'these are the weights of ConvNeXt pico; the config asks for ConvNeXt atto',
    ),
    'other family': (
        'a.pth',
        lambda: saved({'model': whole(ConvNeXtV2)}),
        'these are the weights of ConvNeXtV2 atto; the config asks for ConvNeXt atto',
    ),
    'unknown size': (
        'a.pth',
        lambda: saved({k: v for k, v in whole().items() if 'stages.2.5' not in k}),
        r'ConvNeXt with depths \(2, 2, 5, 2\) and dims \(40, 80, 160, 320\)',
    ),
}


@pytest.mark.parametrize('case', CORPUS)
def test_broken_and_foreign_files_are_refused(case, tmp_path, monkeypatch):
    name, content, message = CORPUS[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content())
    model = ConvNeXt('atto')
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(WeightsError, match=message):
        load_pretrained(model, name)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == [name]  # nothing ran, nothing was left


def test_the_corpus_is_large_enough():
    assert len(CORPUS) >= 30


def test_a_trusted_file_may_hold_more_than_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = official_state(ConvNeXt, 'atto')
    torch.save({'model': state, 'args': Payload()}, 'a.pth')
    with pytest.raises(WeightsError, match='--trust-checkpoint'):
        load_pretrained(ConvNeXt('atto'), 'a.pth')
    assert load_pretrained(ConvNeXt('atto'), 'a.pth', trust=True).complete
    assert (tmp_path / 'executed').exists()


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(WeightsError, match='convnext-tiny_in1k'):
        load_pretrained(ConvNeXt('atto'), 'convnext-tiny_in2k')


def test_table_rows_are_complete():
    table = weights_table()
    assert len(table) == 88
    families = {
        'convnext': ConvNeXt.archs,
        'convnext-iso': ISOTROPIC_ARCHS,
        'convnextv2': ConvNeXtV2.archs,
    } | TIMM_FAMILIES
    for name, row in table.items():
        assert set(row) == {'url', 'layout', 'licence', 'resolution', 'top1'}, name
        backbone = name.split('_')[0]
        family = max((f for f in families if backbone.startswith(f'{f}-')), key=len)
        assert backbone.removeprefix(f'{family}-') in families[family]
        if family == 'convnextv2':
            assert row['licence'] == 'CC-BY-NC-4.0'
        elif row['layout'] == 'official':
            assert row['licence'] == 'MIT'
        assert find(name).licence == row['licence']
    # Detection and segmentation start from the files without averaged weights.
    assert table['convnext-tiny_in1k']['url'].endswith('convnext_tiny_1k_224.pth')


@pytest.mark.parametrize(
    ('name', 'licence'),
    [
        ('timm:convnextv2_tiny.fcmae', 'CC-BY-NC-4.0'),
        ('timm:convnext_tiny.dinov3_lvd1689m', 'DINOv3 License'),
        ('timm:resnet50.tv_in1k', 'bsd-3-clause (according to timm)'),
        ('hf:facebook/convnextv2-base-22k-224', 'CC-BY-NC-4.0'),
        ('hf:me/convnextv2-tiny-birds', 'CC-BY-NC-4.0 (as the official files of that name)'),
        (
            'https://somewhere.org/convnext_tiny_1k_224.pth',
            'MIT (as the official files of that name)',
        ),
        ('https://dl.fbaipublicfiles.com/convnext/convnext_tiny_1k_224.pth', 'MIT'),
        ('https://somewhere.org/mine.pth', 'not known here; see where the weights come from'),
    ],
)
def test_licences_are_told_from_names(name, licence):
    assert find(name).licence == licence


@pytest.mark.parametrize(
    ('name', 'error', 'message'),
    [
        ('timm:resnet50.nothing', WeightsError, 'known: a1_in1k'),
        ('timm:resnet5.a1_in1k', ConfigError, 'Did you mean resnet50'),
        ('timm:resnet50', WeightsError, 'known: a1_in1k'),
        ('convnext-tiny_in2k', WeightsError, 'Did you mean convnext-tiny_in22k'),
    ],
)
def test_unknown_weights_suggest_known_ones(name, error, message):
    with pytest.raises(error, match=message):
        find(name)


def test_hub_names_become_addresses():
    first, second = find('timm:convnext_tiny.fb_in1k').urls
    assert first.endswith('/timm/convnext_tiny.fb_in1k/resolve/main/model.safetensors')
    assert second.endswith('pytorch_model.bin')
    assert '/facebook/convnext-tiny-224/' in find('hf:facebook/convnext-tiny-224').urls[0]


class PlainNetwork(nn.Module):
    """A user's own class, with ``norm1`` in its stem, as some have, and no output norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.norm1 = nn.BatchNorm2d(4)


def test_a_norm_of_a_users_own_network_may_not_be_missing():
    """Only output norms are added to a classifier; any other ``norm1`` must come from the file."""
    state = {f'module.{k}': v for k, v in PlainNetwork().state_dict().items()}
    assert load_state(PlainNetwork(), state).complete
    del state['module.norm1.weight']
    model = PlainNetwork()
    before = model.conv1.weight.clone()
    with pytest.raises(
        WeightsError, match=r'does not match this PlainNetwork:(.|\n)*1 missing: norm1'
    ):
        load_state(model, state)
    assert torch.equal(model.conv1.weight, before)
    model.out_indices = (0, 1)  # OpenMMLab's convention: output 1 has the norm `norm1`
    assert load_state(model, state).initialized == ('norm1.weight',)


def test_a_backbone_describes_its_own_architectures():
    """The loader asks the model; it has no architecture of its own."""

    class Described(PlainNetwork):
        def describe(self, tensors):
            return f'a stem of {len(tensors["conv1.bias"])}' if 'conv1.bias' in tensors else None

    with pytest.raises(
        WeightsError, match='weights of a stem of 8; the config asks for a stem of 4'
    ):
        load_state(Described(), {'conv1.bias': torch.zeros(8)})
    with pytest.raises(
        WeightsError, match=r'is not a checkpoint of a stem of 4 .*It holds other\.'
    ):
        load_state(Described(), {'other': torch.zeros(8)})


def test_tied_parameters_and_views_of_a_larger_storage_load(tmp_path):
    """What is refused is a tensor larger than its storage; sharing a storage is ordinary."""
    shared = torch.arange(12.0)
    torch.save({'a': shared, 'b': shared, 'c': shared[2:6].view(2, 2).t()}, tmp_path / 'a.pth')
    state = read(tmp_path / 'a.pth')
    assert torch.equal(state['c'], torch.tensor([[2.0, 4.0], [3.0, 5.0]]))


def test_a_checkpoint_that_contains_itself_is_read(tmp_path):
    content = {'epoch': 3}
    content['itself'] = content
    torch.save(content, tmp_path / 'a.pth')
    with pytest.raises(WeightsError, match='holds no state dict'):
        read(tmp_path / 'a.pth')
