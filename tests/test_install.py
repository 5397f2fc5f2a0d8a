"""What an install has and leaves alone: the wheel, the original OpenMMLab packages, missing ones."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from email import message_from_string
from importlib.metadata import distributions
from pathlib import Path
from zipfile import ZipFile

import pytest

from backbones.errors import ConfigError
from backbones.openmmlab import DISTRIBUTIONS, MissingPackageError, require
from downstream.paths import find_config
from downstream.running.config import RunOptions, read_config

from .conftest import EXAMPLES, ROOT, TINY_CONFIG

ORIGINALS = {
    'mmengine': '0.10.7',
    'mmcv-lite': '2.1.0',
    'mmdet': '3.3.0',
    'mmsegmentation': '1.2.2',
}
OPENMMLAB = {name for names in DISTRIBUTIONS.values() for name in names}


def execute(*words, cwd, **environment) -> str:
    """Standard output of a command that must succeed, run without this checkout on the path."""
    variables = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'} | environment
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> Path:
    """The wheel of this checkout, built in a copy: a build writes into its source folder."""
    source, folder = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('wheel')
    for name in ('backbones', 'downstream', 'configs', 'tools'):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, source)
    command = 'wheel -q --no-deps --no-index --no-build-isolation --wheel-dir'
    execute(sys.executable, '-m', 'pip', *command.split(), folder, source, cwd=folder)
    return next(folder.glob('*.whl'))


def test_nothing_of_openmmlab_is_a_dependency_but_all_of_it_an_extra(wheel):
    with ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith('.dist-info/METADATA'))
        metadata = message_from_string(archive.read(name).decode())
    required = metadata.get_all('Requires-Dist')
    of_openmmlab = {r for r in required if r.startswith(('onedl', 'mm'))}

    assert all('extra ==' in requirement for requirement in of_openmmlab)
    forks = {r.partition('>')[0].split('<')[0] for r in of_openmmlab if 'extra == "openmmlab"' in r}
    assert forks == {names[0] for names in DISTRIBUTIONS.values()}


def test_the_wheel_has_every_file_of_the_packages_recipes_and_tools(wheel):
    with ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    tracked = [
        path.relative_to(ROOT)
        for folder in ('backbones', 'downstream', 'configs', 'tools')
        for path in (ROOT / folder).rglob('*')
        if path.is_file() and '__pycache__' not in path.parts and path.suffix != '.sh'
    ]
    inside = {p if p.parts[0] in ('backbones', 'downstream') else 'downstream' / p for p in tracked}

    assert not {str(path) for path in inside} - packed


@pytest.mark.parametrize('task', EXAMPLES)
def test_a_recipe_is_found_from_any_folder_and_by_its_name(task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = ROOT / EXAMPLES[task]

    assert (
        find_config(EXAMPLES[task])
        == find_config(recipe.stem)
        == find_config(recipe.name)
        == recipe
    )
    assert find_config('configs/det/nothing.py') is find_config('other/' + recipe.name) is None


@pytest.mark.parametrize(
    'name',
    [
        'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
        'mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py',
    ],
)
def test_a_config_of_mmdet_or_mmseg_is_found(name):
    path = find_config(name)
    assert path.name == name.rpartition('/')[2]
    assert read_config(RunOptions(name)).default_scope == name[:5]
    assert find_config(f'{name[:5]}::nothing.py') is find_config('os::path') is None


def test_a_file_of_the_users_comes_before_a_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / EXAMPLES['detection']
    own.parent.mkdir(parents=True)
    own.touch()

    assert find_config(EXAMPLES['detection']).resolve() == own


def test_a_mistyped_recipe_is_suggested_from_any_folder(tmp_path, monkeypatch):
    from downstream.running.config import TrainOptions, read_config

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f'Did you mean {EXAMPLES["detection"]}'):
        read_config(TrainOptions(EXAMPLES['detection'].replace('atto', 'ato')))


def test_missing_libraries_are_named_with_both_ways_to_install_them(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmdet', None)
    monkeypatch.setitem(sys.modules, 'mmseg', None)

    with pytest.raises(MissingPackageError, match=r'mmdet, mmseg.*openmmlab.*mmcv-lite==2\.1\.0'):
        require('mmengine', 'mmcv', 'mmdet', 'mmseg')


@pytest.mark.filterwarnings('error')
def test_two_distributions_of_one_library_give_a_warning(tmp_path, monkeypatch):
    require(*DISTRIBUTIONS)
    installed = {d.metadata['Name'].lower() for d in distributions()}
    other = next(name for name in DISTRIBUTIONS['mmdet'] if name not in installed)
    folder = tmp_path / f'{other.replace("-", "_")}-3.3.0.dist-info'
    folder.mkdir()
    (folder / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {other}\nVersion: 3.3.0\n')
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.warns(UserWarning, match="onedl-mmdetection and mmdet .*overwrite each other's"):
        require(*DISTRIBUTIONS)


def test_backbones_need_neither_mmcv_nor_mmdet_nor_mmseg():
    code = """
import sys
sys.modules |= dict.fromkeys(('mmcv', 'mmdet', 'mmseg'))
import torch, backbones
for model in (backbones.ConvNeXt('atto'), backbones.TimmBackbone('resnet10t')):
    print([tuple(m.shape[-2:]) for m in model.eval()(torch.zeros(1, 3, 64, 64))])
try:
    import downstream
except backbones.MissingPackageError as error:
    print(error)
"""
    one, other, error = execute(sys.executable, '-c', code, cwd=ROOT).splitlines()[-3:]

    assert one == other == str([(16, 16), (8, 8), (4, 4), (2, 2)])
    assert error.startswith('not installed: mmcv, mmdet, mmseg.')


def environment_without_openmmlab(folder: Path) -> Path:
    """The Python of a new environment that sees what this one has but OpenMMLab and this suite.

    Its other packages are links to this environment's, so that no 5 GB are installed again.
    """
    venv.create(folder, with_pip=True)
    python = folder / 'bin/python'
    hidden = {'__pycache__'}
    for distribution in distributions():
        name = distribution.metadata['Name'].lower()
        if name in OPENMMLAB or name in ('convnext-dense', 'pip'):
            hidden |= {path.parts[0] for path in distribution.files or ()}
    links = folder / 'links'
    links.mkdir()
    for path in Path(sysconfig.get_path('purelib')).iterdir():
        if path.name not in hidden and path.suffix != '.pth':
            (links / path.name).symlink_to(path)
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    purelib = Path(execute(python, '-c', code, cwd=folder).strip())
    (purelib / 'links.pth').write_text(f'{links}\n')
    return python


def distributions_of(python: Path, folder: Path) -> dict[str, str]:
    """Name -> version of what ``pip`` sees."""
    text = execute(python, '-m', 'pip', 'list', '--format=json', cwd=folder)
    return {row['name'].lower(): row['version'] for row in json.loads(text)}


@pytest.mark.slow
def test_the_wheel_trains_both_tasks_on_the_original_packages(wheel, shapes, tmp_path):
    python = environment_without_openmmlab(tmp_path / 'environment')
    install = [python, '-m', 'pip', 'install', '--disable-pip-version-check']
    packages = [f'{name}=={version}' for name, version in ORIGINALS.items()]
    execute(*install, '--no-deps', *packages, cwd=tmp_path)
    before = distributions_of(python, tmp_path)
    assert ORIGINALS.items() <= before.items()

    # With its dependencies, all of which are there: nothing may be fetched.
    execute(*install, '--no-index', wheel, cwd=tmp_path)
    after = distributions_of(python, tmp_path)
    assert after == before | {'convnext-dense': after['convnext-dense']}

    code = 'from downstream.paths import CONFIGS; print(CONFIGS)'
    configs = Path(execute(python, '-c', code, cwd=tmp_path).splitlines()[-1])
    assert configs.is_relative_to(tmp_path / 'environment')
    for task, example in EXAMPLES.items():
        config = tmp_path / f'{task}.py'
        base = configs / Path(example).relative_to('configs')
        config.write_text(TINY_CONFIG[task].format(base=base, root=f'{shapes}/'))
        tool = [python, '-m', 'downstream.tools.train', config, '--work-dir', tmp_path / task]
        execute(*tool, cwd=tmp_path, OMP_NUM_THREADS='1')
        scalars = next((tmp_path / task).rglob('scalars.json')).read_text()
        assert {'detection': 'bbox_mAP', 'segmentation': 'mIoU'}[task] in scalars
