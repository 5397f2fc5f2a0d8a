"""Finding and downloading weights, against a server on this machine."""

import errno
import fcntl
import hashlib
import multiprocessing
import os

import huggingface_hub
import pytest
import torch

from backbones import ConvNeXt, WeightsError, load_pretrained
from backbones.weights import download
from backbones.weights.download import FOLDER, MIRROR, local_file
from backbones.weights.sources import find
from tests.support.hub import served, use_as_hub

BODY = bytes(range(256)) * 4096


@pytest.fixture
def server():
    with served() as server:
        yield server


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / 'cache'
    monkeypatch.setenv(FOLDER, str(folder))
    return folder


def url(server, path='/a/weights.pth') -> str:
    return f'http://127.0.0.1:{server.server_port}{path}'


def files_of(folder) -> set[str]:
    return {p.name for p in folder.iterdir() if not p.name.endswith('.lock')}


def test_a_file_is_downloaded_once_and_its_digest_recorded(server, cache):
    server.files['/a/weights.pth'] = BODY
    path = local_file(find(url(server)))
    assert path.read_bytes() == BODY
    assert local_file(find(url(server))) == path
    assert len(server.asked) == 1
    record = (cache / 'weights.pth.sha256').read_text().split()
    assert record[:2] == [hashlib.sha256(BODY).hexdigest(), 'weights.pth']
    assert files_of(cache) == {'weights.pth', 'weights.pth.sha256'}


def test_a_broken_download_goes_on(server, cache):
    server.files['/a/weights.pth'] = BODY
    server.break_after = 300_000
    with pytest.raises(WeightsError, match='interrupted at 300000 of 1048576 bytes'):
        local_file(find(url(server)))
    assert not (cache / 'weights.pth').exists()
    assert local_file(find(url(server))).read_bytes() == BODY
    assert server.asked[1][1] == 'bytes=300000-'
    assert files_of(cache) == {'weights.pth', 'weights.pth.sha256'}


@pytest.mark.parametrize('obeys_range_always', [False, True])
def test_a_file_that_changed_on_the_server_is_not_spliced(server, cache, obeys_range_always):
    server.obeys_range_always = obeys_range_always
    server.files['/a/weights.pth'] = BODY
    server.break_after = 300_000
    with pytest.raises(WeightsError, match='interrupted'):
        local_file(find(url(server)))
    server.files['/a/weights.pth'] = BODY[::-1]
    assert local_file(find(url(server))).read_bytes() == BODY[::-1]


def test_a_server_without_etags_sends_the_whole_file_again(server, cache):
    server.validates, server.obeys_range_always = False, True
    server.files['/a/weights.pth'] = BODY
    server.break_after = 300_000
    with pytest.raises(WeightsError, match='interrupted'):
        local_file(find(url(server)))
    server.files['/a/weights.pth'] = BODY[::-1]
    assert local_file(find(url(server))).read_bytes() == BODY[::-1]
    assert server.asked[1][1] is None


def test_a_file_is_hashed_once_and_again_when_it_changes(server, cache, monkeypatch):
    server.files['/a/weights.pth'] = BODY
    hashed = []
    real = download.sha256
    monkeypatch.setattr(download, 'sha256', lambda path: hashed.append(path) or real(path))
    path = local_file(find(url(server)))
    for _ in range(3):
        local_file(find(url(server)))
    assert len(hashed) == 1
    os.utime(path)  # the same content at another time
    local_file(find(url(server)))
    local_file(find(url(server)))
    assert len(hashed) == 2
    # a record of an older version has the digest alone
    record = cache / 'weights.pth.sha256'
    record.write_text(f'{real(path)}  weights.pth\n')
    local_file(find(url(server)))
    assert len(hashed) == 3
    path.write_bytes(BODY[:-1] + b'x')
    with pytest.raises(WeightsError, match='has changed since its first use'):
        local_file(find(url(server)))


def test_a_file_of_the_same_name_at_another_address_is_no_other_s(server, cache):
    server.files['/a/epoch_12.pth'] = server.files['/a/epoch_12.pth?token=1'] = BODY
    server.files['/b/epoch_12.pth'] = BODY[::-1]
    path = local_file(find(url(server, '/a/epoch_12.pth?token=1')))
    assert local_file(find(url(server, '/a/epoch_12.pth'))) == path
    assert 'token' not in (cache / 'epoch_12.pth.sha256').read_text()
    advice = f'Delete epoch_12.pth and epoch_12.pth.sha256, or name another folder in {FOLDER}.'
    with pytest.raises(WeightsError, match=rf'is from [\d.:]+/a/epoch_12\.pth; .* {advice}'):
        local_file(find(url(server, '/b/epoch_12.pth')))
    for name in ('epoch_12.pth', 'epoch_12.pth.sha256'):
        (cache / name).unlink()
    assert local_file(find(url(server, '/b/epoch_12.pth'))).read_bytes() == BODY[::-1]


def test_a_query_that_names_the_file_tells_files_apart(server, cache):
    server.files['/uc?id=1'], server.files['/uc?id=2'] = BODY, BODY[::-1]
    path = local_file(find(url(server, '/uc?id=1')))
    assert local_file(find(url(server, '/uc?id=1'))) == path
    with pytest.raises(WeightsError, match='may be another file of this name'):
        local_file(find(url(server, '/uc?id=2')))
    assert path.read_bytes() == BODY
    assert not any('id=1' in record.read_text() for record in cache.glob('*.sha256'))


def test_a_file_whose_name_has_its_digest_may_come_from_anywhere(server, cache):
    name = f'net-{hashlib.sha256(BODY).hexdigest()[:8]}.pth'
    server.files[f'/a/{name}'] = BODY
    path = local_file(find(url(server, f'/a/{name}')))
    assert local_file(find(url(server, f'/b/{name}'))) == path


@pytest.mark.parametrize('code', [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_no_hindrance(server, cache, monkeypatch, code):
    def no_locks(*args) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, 'flock', no_locks)
    server.files['/a/weights.pth'] = BODY
    assert local_file(find(url(server))).read_bytes() == BODY
    assert files_of(cache) == {'weights.pth', 'weights.pth.sha256'}
    monkeypatch.setattr(download, 'fcntl', None)  # not a POSIX system
    assert local_file(find(url(server))).read_bytes() == BODY


def test_a_changed_file_is_noticed(server, cache):
    server.files['/a/weights.pth'] = BODY
    path = local_file(find(url(server)))
    path.write_bytes(BODY[:-1] + b'x')
    with pytest.raises(WeightsError, match=r'has changed since its first use.*weights.pth.sha256'):
        local_file(find(url(server)))


def test_the_digest_in_a_name_is_verified(server, cache):
    good = hashlib.sha256(BODY).hexdigest()[:8]
    server.files[f'/net-{good}.pth'] = BODY
    server.files['/net-00000000.pth'] = BODY
    assert local_file(find(url(server, f'/net-{good}.pth'))).is_file()
    with pytest.raises(WeightsError, match='is damaged: its SHA-256 is'):
        local_file(find(url(server, '/net-00000000.pth')))
    assert not (cache / 'net-00000000.pth').exists()


def test_a_mirror_takes_the_place_of_every_host(server, cache, monkeypatch):
    server.files['/convnext/convnext_tiny_1k_224.pth'] = BODY
    monkeypatch.setenv(MIRROR, f'http://127.0.0.1:{server.server_port}')
    assert local_file(find('convnext-tiny_in1k')).read_bytes() == BODY


def test_an_offline_folder_needs_no_network(cache, monkeypatch):
    cache.mkdir()
    (cache / 'convnext_tiny_1k_224.pth').write_bytes(BODY)
    monkeypatch.setattr(download, '_download', None)
    assert local_file(find('convnext-tiny_in1k')).parent == cache


def test_hub_files_of_different_models_do_not_collide(server, cache, monkeypatch):
    monkeypatch.setenv(MIRROR, f'http://127.0.0.1:{server.server_port}')
    for size in ('tiny', 'small'):
        file = f'/timm/convnext_{size}.fb_in1k/resolve/main/model.safetensors'
        server.files[file] = size.encode()
    server.files['/lab/mine/resolve/main/pytorch_model.bin'] = b'old'
    paths = [local_file(find(f'timm:convnext_{size}.fb_in1k')) for size in ('tiny', 'small')]
    assert [path.read_bytes() for path in paths] == [b'tiny', b'small']
    # an older repository has no .safetensors
    assert local_file(find('hf:lab/mine')).read_bytes() == b'old'
    with pytest.raises(WeightsError, match='there is nothing at'):
        local_file(find('hf:lab/nothing'))


HUB_FILE = '/lab/mine/resolve/main/model.safetensors'


@pytest.fixture
def hub(server, cache, monkeypatch):
    use_as_hub(server, monkeypatch)
    return server


def test_files_of_the_hub_come_through_its_library(hub, cache):
    hub.files[HUB_FILE] = BODY
    path = local_file(find('hf:lab/mine'))
    assert path.read_bytes() == BODY
    assert path.is_relative_to(cache / 'models--lab--mine' / 'snapshots')
    hub.files['/lab/mine/resolve/v2/model.safetensors'] = BODY[::-1]
    assert local_file(find('hf:lab/mine@v2')).read_bytes() == BODY[::-1]
    file = '/lab/mine/resolve/v2/onnx/a.onnx'
    hub.files[file] = b'exported'
    assert local_file(find('hf:lab/mine/onnx/a.onnx@v2')).read_bytes() == b'exported'
    with pytest.raises(WeightsError, match=r'no onnx/a\.onnx'):
        local_file(find('hf:lab/mine/onnx/a.onnx'))
    old = '/lab/old/resolve/main/pytorch_model.bin'
    hub.files[old] = b'old'
    assert local_file(find('hf:lab/old')).read_bytes() == b'old'
    with pytest.raises(WeightsError, match='no model.safetensors or pytorch_model.bin'):
        local_file(find('hf:lab/nothing'))


def test_an_address_of_the_hub_is_a_file_of_the_hub(hub):
    file = '/timm/convnext_tiny.dinov3_lvd1689m/resolve/main/model.safetensors'
    hub.files[file] = BODY
    assert find('convnext-tiny_dinov3-lvd1689m').repo == 'timm/convnext_tiny.dinov3_lvd1689m'
    assert local_file(find('convnext-tiny_dinov3-lvd1689m')).read_bytes() == BODY
    assert find(f'https://huggingface.co{HUB_FILE}').files == ('model.safetensors',)


def test_a_damaged_file_of_the_hub_is_downloaded_anew(hub, cache):
    hub.files[HUB_FILE] = BODY
    blob = local_file(find('hf:lab/mine')).resolve()
    blob.write_bytes(BODY[::-1])
    (cache / 'lab--mine--model.safetensors.sha256').unlink()
    with pytest.raises(WeightsError, match='is damaged: its SHA-256 is'):
        local_file(find('hf:lab/mine'))
    assert local_file(find('hf:lab/mine')).read_bytes() == BODY


def test_the_hub_offline(hub, cache, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    message = r'hf:lab/mine: cannot download .*put the file at .*lab--mine--model.safetensors'
    with pytest.raises(WeightsError, match=message) as caught:
        local_file(find('hf:lab/mine'))
    assert len(str(caught.value).splitlines()) == 1
    cache.mkdir(exist_ok=True)
    (cache / 'lab--mine--model.safetensors').write_bytes(BODY)
    assert local_file(find('hf:lab/mine')).read_bytes() == BODY
    assert hub.asked == []


def test_without_network_the_error_says_where_to_put_the_file(cache, monkeypatch):
    monkeypatch.setenv(MIRROR, 'http://127.0.0.1:9')
    with pytest.raises(WeightsError, match=r'cannot download http://127.0.0.1:9/.*put the file at'):
        load_pretrained(ConvNeXt('tiny'), 'convnext-tiny_in1k')
    assert files_of(cache) == set()


def fetch(address: str, queue) -> None:
    queue.put(str(local_file(find(address))))


def test_two_processes_download_once(server, cache):
    server.files['/a/weights.pth'] = BODY * 20
    context = multiprocessing.get_context('fork')
    queue = context.Queue()
    processes = [context.Process(target=fetch, args=(url(server), queue)) for _ in range(2)]
    for process in processes:
        process.start()
    found = {queue.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert found == {str(cache / 'weights.pth')}
    assert len(server.asked) == 1
    assert files_of(cache) == {'weights.pth', 'weights.pth.sha256'}


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(WeightsError, match='is a folder'):
        find(str(tmp_path))


def test_weights_of_the_table_load_through_the_whole_way(server, cache, monkeypatch, tmp_path):
    """Name, mirror, download, official layout, report."""
    model = ConvNeXt('tiny')
    state = {k: v for k, v in model.state_dict().items() if not k.startswith('norm')}
    torch.save({'model': state}, tmp_path / 'file.pth')
    content = (tmp_path / 'file.pth').read_bytes()
    server.files['/convnext/convnext_tiny_1k_224.pth'] = content
    monkeypatch.setenv(MIRROR, f'http://127.0.0.1:{server.server_port}')
    cfg = {'type': 'Pretrained', 'checkpoint': 'convnext-tiny_in1k'}
    loaded = ConvNeXt('tiny', init_cfg=cfg)
    loaded.init_weights()
    assert torch.equal(loaded.stages[2][4].pwconv1.weight, model.stages[2][4].pwconv1.weight)
