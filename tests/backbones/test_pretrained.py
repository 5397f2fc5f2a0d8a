"""Loading weights: everything or nothing."""

import pytest
import torch

from backbones import ConvNeXt, ConvNeXtV2, WeightsError, load_pretrained, weights_table


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
@pytest.mark.parametrize('wrapper', ['model', 'state_dict', None])
def test_official_layout_loads_whole(tmp_path, cls, wrapper):
    state = official_state(cls, 'atto')
    torch.save({wrapper: state} if wrapper else state, tmp_path / 'a.pth')
    model = cls('atto', init_cfg={'type': 'Pretrained', 'checkpoint': str(tmp_path / 'a.pth')})
    model.init_weights()
    for key, value in model.state_dict().items():
        if key.startswith('norm'):
            assert torch.equal(value, torch.full_like(value, float(key.endswith('weight'))))
        else:
            assert torch.equal(value, state[key]), key


@pytest.mark.parametrize('shape', [(-1,), (1, -1), (1, 1, 1, -1)])
def test_grn_of_any_stored_shape_loads(tmp_path, shape):
    state = official_state(ConvNeXtV2, 'atto')
    stored = {k: v.reshape(shape) if '.grn.' in k else v for k, v in state.items()}
    torch.save({'model': stored}, tmp_path / 'a.pth')
    model = ConvNeXtV2('atto')
    load_pretrained(model, str(tmp_path / 'a.pth'))
    assert torch.equal(model.stages[0][0].grn.gamma, state['stages.0.0.grn.gamma'])


def test_prefix_takes_the_backbone_of_a_whole_model(tmp_path):
    state = {f'backbone.{k}': v for k, v in official_state(ConvNeXt, 'atto').items()}
    torch.save({'state_dict': state | {'neck.weight': torch.ones(1)}}, tmp_path / 'a.pth')
    load_pretrained(ConvNeXt('atto'), str(tmp_path / 'a.pth'), prefix='backbone.')


def broken_missing(state):
    del state['stages.1.0.pwconv1.weight']
    return 'stages.1.0.pwconv1.weight: missing'


def broken_extra(state):
    state['stages.9.weight'] = torch.ones(1)
    return 'stages.9.weight: not a parameter'


def broken_shape(state):
    state['stages.0.0.gamma'] = torch.ones(7)
    return r'stages.0.0.gamma: shape \(7,\), wanted \(40,\)'


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


def test_another_size_is_an_error(tmp_path):
    torch.save({'model': official_state(ConvNeXt, 'pico')}, tmp_path / 'a.pth')
    with pytest.raises(WeightsError, match='does not fit ConvNeXt'):
        load_pretrained(ConvNeXt('atto'), str(tmp_path / 'a.pth'))


class Payload:
    def __reduce__(self):
        return (open, ('executed', 'w'))


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'<html>404</html>', 'is not a checkpoint that can be read'),
        (b'', 'is not a checkpoint that can be read'),
        ({'model': Payload()}, 'is not a checkpoint that can be read'),
        ([1, 2], 'holds no state dict'),
        ({'epoch': 3}, 'holds no state dict'),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'a.pth'
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(WeightsError, match=message):
        load_pretrained(ConvNeXt('atto'), str(path))
    assert not (tmp_path / 'executed').exists()


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(WeightsError, match='convnext-tiny_in1k'):
        load_pretrained(ConvNeXt('atto'), 'convnext-tiny_in2k')


def test_without_network_the_error_says_where_to_put_the_file(tmp_path, monkeypatch):
    from urllib.error import URLError

    def offline(*args, **kwargs):
        raise URLError('no network')

    monkeypatch.setattr(torch.hub, 'load_state_dict_from_url', offline)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    with pytest.raises(WeightsError, match=f'put the file into {tmp_path}'):
        load_pretrained(ConvNeXt('tiny'), 'convnext-tiny_in1k')


def test_table_rows_are_complete():
    table = weights_table()
    assert len(table) == 50
    for name, row in table.items():
        assert set(row) == {'url', 'licence', 'resolution', 'top1'}, name
        assert row['licence'] == ('CC-BY-NC-4.0' if name.startswith('convnextv2') else 'MIT')
        family, size = name.split('_')[0].split('-')
        assert size in {'convnext': ConvNeXt, 'convnextv2': ConvNeXtV2}[family].archs
    # Detection and segmentation start from the files without averaged weights.
    assert table['convnext-tiny_in1k']['url'].endswith('convnext_tiny_1k_224.pth')
