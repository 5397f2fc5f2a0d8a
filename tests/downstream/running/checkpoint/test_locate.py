"""Trained models by path, URL and repository of the Hub."""

import json

import pytest
import torch
from safetensors.torch import save, save_file

from backbones import WeightsError
from backbones.weights.download import FOLDER
from downstream.running.checkpoint.locate import local_checkpoint
from downstream.running.checkpoint.read import read
from tests.support.hub import served, use_as_hub

TENSORS = {'backbone.weight': torch.arange(4.0)}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with served() as server:
        monkeypatch.setenv(FOLDER, str(tmp_path / 'cache'))
        use_as_hub(server, monkeypatch)
        yield server


def test_a_model_of_the_hub_is_read_with_its_classes(hub):
    stated = {
        'classes': json.dumps(['cat', 'dog']),
        'config': json.dumps('model = dict()'),
        'licence': json.dumps('MIT (given by the publisher)'),
    }
    hub.files['/lab/pets/resolve/main/model.safetensors'] = save(TENSORS, metadata=stated)
    content = read('hf:lab/pets')
    assert torch.equal(content['state_dict']['backbone.weight'], torch.arange(4.0))
    assert content['meta'] == {
        'dataset_meta': {'classes': ['cat', 'dog']},
        'cfg': 'model = dict()',
        'licence': 'MIT (given by the publisher)',
    }


def test_both_files_of_openvino_are_fetched_into_one_folder(hub):
    hub.files['/lab/pets/resolve/v1/net.xml'] = b'<net/>'
    hub.files['/lab/pets/resolve/v1/net.bin'] = b'weights'
    with pytest.raises(WeightsError, match=r'net.bin of it is not beside it'):
        local_checkpoint('hf:lab/pets/net.xml@v1')
    hub.commit = 40 * '1'
    found = local_checkpoint('hf:lab/pets/net.xml@v1')
    assert found.read_bytes() == b'<net/>'
    assert found.with_suffix('.bin').read_bytes() == b'weights'
    del hub.files['/lab/pets/resolve/v1/net.bin']
    with pytest.raises(WeightsError, match=r'no other\.xml'):
        local_checkpoint('hf:lab/pets/other.xml@v1')
    hub.files['/lab/pets/resolve/main/alone.xml'] = b'<net/>'
    with pytest.raises(WeightsError, match=r'no alone\.bin'):
        local_checkpoint('hf:lab/pets/alone.xml')


def test_the_query_of_an_address_is_no_part_of_the_name(hub):
    address = f'http://127.0.0.1:{hub.server_port}'
    for name in ('net.xml', 'net.bin'):
        hub.files[f'/files/{name}?download=1&as=a.xml'] = name.encode()
    found = local_checkpoint(f'{address}/files/net.xml?download=1&as=a.xml')
    assert found.name == 'net.xml'
    assert found.with_suffix('.bin').read_bytes() == b'net.bin'
    # the Hub's own address for downloads
    hub.files['/lab/pets/resolve/main/model.onnx'] = b'graph'
    url = 'https://huggingface.co/lab/pets/resolve/main/model.onnx?download=true'
    assert local_checkpoint(url).read_bytes() == b'graph'


def test_what_is_nowhere_is_one_line(hub, tmp_path):
    with pytest.raises(WeightsError, match='checkpoint nowhere.pth does not exist'):
        local_checkpoint('nowhere.pth')
    with pytest.raises(WeightsError, match='no model.safetensors or pytorch_model.bin'):
        local_checkpoint('hf:lab/nothing')


@pytest.mark.parametrize('classes', ['no JSON', '{"0": "cat"}', '[1, 2]', 'null'])
def test_metadata_of_others_is_not_taken_for_classes(tmp_path, classes):
    save_file(TENSORS, tmp_path / 'a.safetensors', metadata={'classes': classes})
    assert 'meta' not in read(tmp_path / 'a.safetensors')
