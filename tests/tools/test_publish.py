"""tools/publish.py from the command line: into a folder, and to a server in the place of the Hub."""

import errno
import json
import os
import re
import shutil
import zipfile
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants
from safetensors import safe_open
from safetensors.torch import load_file

from backbones import ConfigError, ConvNeXtV2
from backbones.weights.download import FOLDER, sha256
from downstream.commands.export import ExportOptions
from downstream.running.checkpoint.locate import local_checkpoint
from tests.conftest import read_metrics, write_tiny_config
from tests.downstream.exporting.models import segmenter
from tests.support.hub import served
from tests.support.hub_push import pushed_to, use_to_push


@pytest.fixture(scope='module')
def untested(shapes, tmp_path_factory) -> Path:
    """A work dir with a config and a checkpoint."""
    folder = tmp_path_factory.mktemp('untested')
    _, checkpoint = segmenter(shapes, folder)
    (folder / 'last_checkpoint').write_text(f'/moved/{checkpoint.name}')
    return folder


@pytest.fixture
def run(untested, tmp_path) -> Path:
    """A work dir of one's own."""
    return Path(shutil.copytree(untested, tmp_path / 'run'))


@pytest.fixture
def tested(run, tool) -> Path:
    """A work dir with a test of its checkpoint."""
    config = run / 'segmentation.py'
    result = tool('test', config, run / 'model.pth', '--work-dir', run)
    assert result.code == 0, result.err
    return run


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with pushed_to() as server:
        monkeypatch.setenv(FOLDER, str(tmp_path / 'cache'))
        use_to_push(server, monkeypatch)
        yield server


def header(card: str) -> dict:
    return yaml.safe_load(card.split('---')[1])


def refused(tool, *words) -> str:
    result = tool('publish', *words)
    assert result.code == 2
    assert result.err.count('error: ') == 1
    assert 'Traceback' not in result.err
    return result.err


def test_a_trained_model_in_a_folder(tool, shapes, tmp_path):
    config = write_tiny_config('segmentation', shapes, tmp_path)
    work_dir = tmp_path / 'run'
    assert tool('train', config, '--work-dir', work_dir).code == 0
    checkpoint = work_dir / 'iter_2.pth'
    assert tool('test', config, checkpoint, '--work-dir', work_dir).code == 0
    figures = read_metrics(work_dir)

    result = tool('publish', work_dir, tmp_path / 'out')
    assert result.code == 0, result.err
    files = {path.suffix: path for path in (tmp_path / 'out').iterdir()}
    assert sorted(files) == ['.md', '.pth', '.py', '.safetensors']
    safe, pickled = files['.safetensors'], files['.pth']
    original = torch.load(checkpoint, weights_only=False)
    assert 'optimizer' in original
    published = torch.load(pickled, weights_only=True)
    assert set(published) == {'state_dict', 'meta'}
    assert published['meta']['dataset_meta']['classes'][3] == 'triangle'
    for key, value in load_file(safe).items():
        assert torch.equal(value, original['state_dict'][key])
        assert torch.equal(value, published['state_dict'][key])
    assert {path.stem for path in files.values()} == {f'segmentation_{sha256(safe)[:8]}'}
    card = files['.md'].read_text()
    assert f'| {figures["mIoU"]:.2f} | {figures["aAcc"]:.2f} | {figures["mAcc"]:.2f} |' in card
    assert 'none inherited: trained from random weights' in card
    assert "type='UPerHead'" in card
    assert f'python tools/test.py {files[".py"].name} {safe.name}\n' in card
    assert str(tmp_path / 'run') not in card  # the folder of the machine that trained

    # what was published gives the same figures
    for path in (safe, pickled):
        assert tool('test', files['.py'], path, '--work-dir', tmp_path / path.suffix).code == 0
        assert read_metrics(tmp_path / path.suffix) == figures


def test_a_model_on_the_hub_is_one_like_any_other(tool, tested, hub, shapes, tmp_path, monkeypatch):
    out = tmp_path / 'out'
    words = (tested, out, '--to', 'hf:lab/shapes', '--licence', 'Apache-2.0', '--private')
    # The format and the size that are written fastest; tests of exports have the others.
    of_test = partial(ExportOptions, size=(77, 96), batch=1)
    monkeypatch.setattr('downstream.commands.publish.ExportOptions', of_test)
    result = tool('publish', *words, '--export', 'torch')
    assert result.code == 0, result.err
    assert hub.created[0]['visibility'] == 'private'
    files = hub.repos['lab/shapes']
    assert sorted(files) == ['README.md', 'config.py', 'model.pt2', 'model.safetensors']
    assert all(files[path.name] == path.read_bytes() for path in out.iterdir())
    assert f'\n{out / "model.pt2"}: ' in f'\n{result.out}'  # not the folder that it was written in
    with zipfile.ZipFile(out / 'model.pt2') as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    assert any(b'Apache-2.0' in part for part in parts.values())
    assert not any(str(tested).encode() in part for part in parts.values())
    assert hub.head_of('lab/shapes') in result.out  # the address of the commit

    card = header(files['README.md'].decode())
    figures = read_metrics(tested)
    assert card['license'] == 'apache-2.0'
    assert card['library_name'] == 'convnext-dense'
    assert card['pipeline_tag'] == 'image-segmentation'
    [entry] = card['model-index'][0]['results']
    assert entry['dataset']['name'] == 'shapes'
    values = {one['name']: one['value'] for one in entry['metrics']}
    assert values == {name: round(figures[name], 2) for name in ('mIoU', 'aAcc', 'mAcc')}

    # no folder of the machine that trained is in what everybody may read
    for name in ('README.md', 'config.py', 'model.safetensors'):
        assert str(shapes.parent).encode() not in files[name]
        assert b'data/shapes/' in files[name]
    assert (
        f'config.py names no folder of this machine: {shapes}/ is data/shapes/ in it.' in result.out
    )

    # somebody else has nothing but the repository, and the data
    monkeypatch.delenv('HF_TOKEN')
    config = tmp_path / 'config.py'
    config.write_bytes(files['config.py'])
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'shapes').symlink_to(shapes)
    monkeypatch.chdir(tmp_path)
    checkpoint = 'hf:lab/shapes'
    assert tool('test', config, checkpoint, '--work-dir', tmp_path / 'again').code == 0
    assert read_metrics(tmp_path / 'again') == figures
    picture = next((shapes / 'images' / 'validation').iterdir())
    words = (config, f'{checkpoint}/model.pt2@main', picture, '--out', tmp_path / 'predicted')
    result = tool('predict', *words)
    assert result.code == 0, result.err
    assert list((tmp_path / 'predicted').rglob('*.png'))


def test_published_files_may_be_served_by_any_server(tool, run, tmp_path, monkeypatch):
    """None has another file's digest where downloads look for its own."""
    assert tool('publish', run, tmp_path / 'out').code == 0
    monkeypatch.setenv(FOLDER, str(tmp_path / 'cache'))
    with served() as server:
        for path in (tmp_path / 'out').iterdir():
            server.files[f'/{path.name}'] = path.read_bytes()
            url = f'http://127.0.0.1:{server.server_port}/{path.name}'
            assert local_checkpoint(url).read_bytes() == path.read_bytes()


def test_an_export_of_a_remote_model_goes_into_the_current_folder():
    from downstream.commands.export import _target

    for name in ('hf:lab/shapes', 'hf:lab/shapes@v1', 'https://host/a/shapes.pth'):
        assert _target(name, ExportOptions()) == ('onnx', Path('shapes.onnx'))
    for name, out in {
        'hf:lab/shapes-v1.5': 'shapes-v1.5.onnx',
        'hf:lab/shapes@refs/pr/1': 'shapes.onnx',
        'hf:lab/shapes/': 'shapes.onnx',
        'hf:lab/shapes/best.safetensors@v1.0': 'best.onnx',
        'https://host/a/shapes.pth?download=true': 'shapes.onnx',
        'https://host/a/shapes.pth?name=b/c.pth': 'shapes.onnx',
    }.items():
        assert _target(name, ExportOptions())[1] == Path(out)


def test_where_an_export_goes(tmp_path):
    from downstream.commands.export import _target

    assert _target(f'{tmp_path}/shapes.pth', ExportOptions())[1] == tmp_path / 'shapes.onnx'
    with pytest.raises(ConfigError, match='names no checkpoint'):
        _target('', ExportOptions())
    (tmp_path / 'folder.onnx').mkdir()
    with pytest.raises(ConfigError, match=r'folder\.onnx is a folder'):
        _target('a.pth', ExportOptions(out=str(tmp_path / 'folder.onnx')))
    (tmp_path / 'file').touch()
    with pytest.raises(ConfigError, match='file is a file; give a folder'):
        _target('a.pth', ExportOptions(out=str(tmp_path / 'file' / 'model.onnx')))


class Sharing(ConvNeXtV2):
    """One norm under two names, as RTMDet's levels share their convolutions."""

    def __init__(self, **arguments) -> None:
        super().__init__(**arguments)
        self.again = self.norm0


def test_tensors_that_share_memory_are_published(tool, run, tmp_path):
    config = run / 'segmentation.py'
    config.write_text(f"{config.read_text()}\nmodel['backbone']['type'] = '{__name__}.Sharing'\n")
    path = run / 'model.pth'
    content = torch.load(path)
    state = content['state_dict']
    buffers = ('running_mean', 'running_var', 'num_batches_tracked')
    count = sum(value.numel() for name, value in state.items() if not name.endswith(buffers))
    for kind in ('weight', 'bias'):
        state[f'backbone.again.{kind}'] = state[f'backbone.norm0.{kind}']
    torch.save(content, path)
    result = tool('publish', run, tmp_path / 'out')
    assert result.code == 0, result.err
    found = load_file(next((tmp_path / 'out').glob('*.safetensors')))
    assert set(found) == set(state)
    name = 'backbone.again.weight'
    assert torch.equal(found[name], state[name])
    assert f'- parameters: {count:,}\n' in next((tmp_path / 'out').glob('*.md')).read_text()


def test_what_a_file_in_the_repository_states(tool, run, hub, tmp_path):
    assert tool('publish', run, tmp_path / 'out', '--to', 'hf:lab/a', '--licence', 'MIT').code == 0
    with safe_open(tmp_path / 'out' / 'model.safetensors', 'pt') as file:
        stated = {key: json.loads(value) for key, value in file.metadata().items()}
    assert stated['licence'].startswith('MIT (given by the publisher; none inherited')
    assert stated['classes'] == ['background', 'circle', 'square', 'triangle']
    assert stated['metrics'] is None
    assert 'Not tested.' in (tmp_path / 'out' / 'README.md').read_text()


def test_a_dry_run_needs_no_token_and_no_network(tool, run, hub, tmp_path, monkeypatch):
    monkeypatch.delenv('HF_TOKEN')
    monkeypatch.setattr(constants, 'ENDPOINT', 'http://127.0.0.1:1')
    out = tmp_path / 'out'
    result = tool('publish', run, out, '--to', 'hf:lab/shapes', '--dry-run')
    assert result.code == 0, result.err
    assert 'nothing was pushed to hf:lab/shapes. A push sends README.md (' in result.out
    assert re.search(r'README\.md \([1-9]\d*\.\d kB\)', result.out)
    assert sorted(p.name for p in out.iterdir()) == ['README.md', 'config.py', 'model.safetensors']
    assert hub.repos == {}
    shutil.rmtree(out)
    message = refused(tool, run, out, '--to', 'hf:lab/shapes')
    assert 'no token for hf:lab/shapes: log in with `hf auth login`' in message
    assert not out.exists()


def test_a_push_that_fails_leaves_what_was_there(tool, run, hub, tmp_path, monkeypatch):
    words = (run, tmp_path / 'out', '--to', 'hf:lab/shapes')
    hub.refused = '/upload/'  # half way: the repository is there, files are on their way
    message = refused(tool, *words)
    assert 'the repository was made and is empty. Start again (' in message
    assert 'quota exceeded' in message
    assert hub.repos == {'lab/shapes': {}}

    hub.refused = None
    assert tool('publish', *words).code == 0
    before = dict(hub.repos['lab/shapes'])
    state = torch.load(run / 'model.pth')
    state['state_dict'] = {key: value + 1 for key, value in state['state_dict'].items()}
    torch.save(state, run / 'model.pth')
    hub.refused = '/api/models/lab/shapes/commit'
    message = refused(tool, *words)
    assert 'the repository is as it was before. Start again (' in message
    assert 'not allowed here' in message
    assert hub.repos['lab/shapes'] == before

    monkeypatch.setenv('HF_TOKEN', 'hf_wrong')
    assert 'does not accept the token' in refused(tool, *words)


def test_a_new_version_replaces_the_old_one(tool, run, hub, tmp_path):
    """Also exported files, which must not be beside the weights of another model."""
    words = (run, tmp_path / 'out', '--to', 'hf:lab/shapes')
    assert tool('publish', *words).code == 0
    hub.repos['lab/shapes'] |= {'model.onnx': b'of the old weights', 'photo.jpg': b'theirs'}
    (tmp_path / 'out' / 'model.onnx').write_bytes(b'of the old weights')
    head = hub.head_of('lab/shapes')
    assert tool('publish', *words).code == 0
    files = ['README.md', 'config.py', 'model.safetensors']
    assert sorted(hub.repos['lab/shapes']) == [*files, 'photo.jpg']
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == files
    assert [one.get('parentCommit') for one in hub.commits] == [None, head]
    assert len(hub.created) == 1


def test_figures_are_those_of_the_same_weights_and_settings(tool, tested, tmp_path):
    out, config, checkpoint = tmp_path / 'out', tested / 'segmentation.py', tested / 'model.pth'
    result = tool('publish', tested, out)
    assert result.code == 0, result.err
    assert 'Not tested' not in next(out.glob('*.md')).read_text()

    whole = config.read_text()
    windows = "model['test_cfg'] = dict(mode='slide', crop_size=(48, 48), stride=(32, 32))"
    config.write_text(f'{whole}\n{windows}\n')
    message = refused(tool, tested, tmp_path / 'other')
    assert 'measured with other settings than those of' in message
    assert '(model of the test)' in message
    config.write_text(whole)

    state = torch.load(checkpoint)
    state['state_dict'] = {key: value + 1 for key, value in state['state_dict'].items()}
    torch.save(state, checkpoint)
    result = tool('publish', tested, tmp_path / 'retrained')
    assert result.code == 0, result.err
    assert 'has no test of model.pth' in result.err + result.out
    assert 'Not tested' in next((tmp_path / 'retrained').glob('*.md')).read_text()


def test_refusals(tool, run, hub, tmp_path, monkeypatch):
    out = tmp_path / 'out'
    for target in ('lab/shapes', 'hf:shapes', 'hf:lab/shapes/model.onnx', 'hf:lab/sha pes'):
        assert f'--to {target}: ' in refused(tool, run, out, '--to', target)
    assert 'give --to hf:USER/REPO as well' in refused(tool, run, out, '--dry-run')
    assert 'is not a folder' in refused(tool, tmp_path / 'none', out)
    assert 'is a file; give a folder' in refused(tool, run, run / 'model.pth')
    (tmp_path / 'empty').mkdir()
    assert 'no run has saved a checkpoint' in refused(tool, tmp_path / 'empty', out)
    assert not out.exists()
    out.mkdir()
    (out / 'README.md').write_text('mine')
    assert 'has other files in it' in refused(tool, run, out, '--to', 'hf:lab/a', '--dry-run')
    assert (out / 'README.md').read_text() == 'mine'
    content = torch.load(run / 'model.pth')
    del content['state_dict']['decode_head.conv_seg.weight']
    torch.save(content, tmp_path / 'other.pth')
    message = refused(tool, run, tmp_path / 'new', '--checkpoint', tmp_path / 'other.pth')
    assert 'other.pth does not fit the model of this config' in message
    config = run / 'segmentation.py'
    init = "model['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint='hf:me/net')\n"
    config.write_text(config.read_text() + init)
    message = refused(tool, run, tmp_path / 'new')
    assert 'not known: that of hf:me/net, from which training started' in message
    assert not (tmp_path / 'new').exists()


def test_an_export_that_fails_leaves_no_files(tool, run, tmp_path, monkeypatch):
    from downstream.commands import export

    def fail(*args):
        raise ConfigError('the network cannot be exported: no.')

    monkeypatch.setattr(export, 'trace', fail)
    monkeypatch.setattr('downstream.commands.publish.require_packages', lambda *words: None)
    assert 'cannot be exported' in refused(tool, run, tmp_path / 'out', '--export', 'torch')
    assert not (tmp_path / 'out').exists()


def test_files_that_cannot_be_moved_leave_the_folder_as_it_was(
    tool, run, hub, tmp_path, monkeypatch
):
    out = tmp_path / 'out'
    words = (run, out, '--to', 'hf:lab/shapes', '--dry-run')
    assert tool('publish', *words).code == 0
    (out / 'model.onnx').write_bytes(b'of these weights')
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    state = torch.load(run / 'model.pth')
    state['state_dict'] = {key: value + 1 for key, value in state['state_dict'].items()}
    torch.save(state, run / 'model.pth')
    replace = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if target == out / 'model.safetensors' and 'new' in self.parts:  # the last of three
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, 'replace', fail)
        assert 'make room and publish again' in refused(tool, *words)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert tool('publish', *words).code == 0
    assert not (out / 'model.onnx').exists()
