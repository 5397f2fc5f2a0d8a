"""What licence trained weights inherit, and which one they may be published under."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from safetensors.torch import save_file

from backbones import ConfigError
from downstream.publishing.licence import Licence, inherited_licence, published_licence
from pretraining.encoder import licence_of
from tests.conftest import ROOT

NOTHING = Config(dict(model=dict(backbone=dict(type='ConvNeXt'))))


def started_from(checkpoint):
    init = dict(type='Pretrained', checkpoint=str(checkpoint))
    return Config(dict(model=dict(backbone=dict(type='ConvNeXt', init_cfg=init))))


def stating(folder, licence):
    path = folder / 'weights.safetensors'
    save_file({'a': torch.ones(1)}, path, metadata={'licence': licence})
    return path


def test_licences_of_the_table():
    cfg = Config.fromfile(ROOT / 'configs/det/cascade-mask-rcnn_convnext-tiny_in1k_3x_coco.py')
    assert inherited_licence(cfg).text == 'MIT (inherited from convnext-tiny_in1k)'
    found = inherited_licence(started_from('convnextv2-tiny_fcmae'))
    assert found.name == 'CC-BY-NC-4.0'
    assert found.of_hub == {'license': 'cc-by-nc-4.0'}
    found = inherited_licence(started_from('convnext-tiny_dinov3-lvd1689m'))
    assert found.of_hub['license'] == 'other'
    assert found.of_hub['license_name'] == 'dinov3-license'
    assert found.of_hub['license_link'].startswith('https://ai.meta.com/')


def test_weights_of_a_repository_are_named_as_the_base():
    found = inherited_licence(started_from('hf:timm/convnext_atto.d2_in1k'))
    assert found.base == 'timm/convnext_atto.d2_in1k'


def test_random_weights_inherit_nothing(tmp_path):
    found = inherited_licence(NOTHING)
    assert (found.name, found.known, found.of_hub) == (None, True, {})
    # an encoder of this suite's pre-training from random weights passes nothing on either
    model = SimpleNamespace(encoder=SimpleNamespace(init_cfg=None))
    found = inherited_licence(started_from(stating(tmp_path, licence_of(model))))
    assert (found.name, found.known) == (None, True)


@pytest.mark.parametrize(
    ('stated', 'name'),
    [
        ('CC-BY-NC-4.0, inherited from convnextv2-atto_fcmae', 'CC-BY-NC-4.0'),
        ('"MIT (inherited from convnext-tiny_in1k)"', 'MIT'),
        ('"Apache-2.0 (given by the publisher; none inherited: trained from ...)"', 'Apache-2.0'),
    ],
)
def test_what_a_file_states_is_passed_on(tmp_path, stated, name):
    found = inherited_licence(started_from(stating(tmp_path, stated)))
    assert (found.name, found.known) == (name, True)


@pytest.mark.parametrize(
    'stated',
    [
        'that of epoch_3.pth, from which training started',
        'MIT (as the official files of that name), inherited from convnext_tiny_1k_224.pth',
    ],
)
def test_what_is_not_certain_is_not_passed_on(tmp_path, stated):
    found = inherited_licence(started_from(stating(tmp_path, stated)))
    assert (found.name, found.known) == (None, False)


def test_unknown_licences_must_be_given(tmp_path):
    official = tmp_path / 'convnext_tiny_1k_224_ema.pth'  # anyone can call a file so
    official.write_bytes(b'')
    for checkpoint in (official, 'gone.pth', 'hf:me/model', 'torchvision-like/unknown'):
        inherited = inherited_licence(started_from(checkpoint))
        with pytest.raises(ConfigError, match='not known: that of .*--licence MIT'):
            published_licence(inherited, None)
        given = published_licence(inherited, 'BSD-3-Clause')
        assert given.of_hub == {'license': 'bsd-3-clause'}
        assert given.text.startswith('BSD-3-Clause (given by the publisher; that of ')


def test_a_known_licence_cannot_be_changed():
    inherited = inherited_licence(started_from('convnextv2-tiny_fcmae'))
    with pytest.raises(ConfigError, match='--licence MIT: the weights are CC-BY-NC-4.0'):
        published_licence(inherited, 'MIT')
    assert published_licence(inherited, 'cc-by-nc-4.0') is inherited
    own = published_licence(Licence(None, 'none inherited'), 'My own licence')
    assert own.of_hub == {'license': 'other', 'license_name': 'my-own-licence'}
    with pytest.raises(ConfigError, match='is empty'):
        published_licence(inherited, ' ')


def test_the_first_run_of_a_work_dir_says_what_training_started_from():
    """A run that is resumed by name has its own checkpoint in load_from."""
    first = Config(dict(NOTHING, load_from='hf:me/convnext', resume='auto'))
    resumed = started_from('convnext-tiny_in1k')
    resumed.merge_from_dict(dict(load_from='work_dirs/a/epoch_3.pth', resume=True))
    assert inherited_licence(resumed).name == 'MIT'
    found = inherited_licence(resumed, [first, resumed])
    assert (found.name, found.base) == (None, 'me/convnext')
    assert inherited_licence(first).known is False
