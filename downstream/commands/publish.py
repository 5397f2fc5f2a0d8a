"""Publish a trained model: weights without the state of the training, exported files, a card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from mmengine.config import Config
from torch import Tensor

from backbones.errors import ConfigError, WeightsError
from backbones.weights.download import sha256
from downstream.analysis.kept import TestRun
from downstream.atomic import atomic_files, require_folder
from downstream.exporting.write import FORMATS, require_packages
from downstream.publishing import hub
from downstream.publishing.card import Published, model_card
from downstream.publishing.figures import test_of
from downstream.publishing.licence import Licence, inherited_licence, published_licence
from downstream.publishing.places import use_relative_places
from downstream.running.checkpoint.files import raise_on_full_disk
from downstream.running.checkpoint.read import matching_tensors, read
from downstream.running.config import RunOptions, TestOptions, read_config
from downstream.zoo.complexity import build_on_meta, parameters

from .export import ExportOptions, export
from .weights import save

# Of the machine that trained, not of the model.
_LOCAL = ('work_dir', 'load_from', 'resume', 'launcher')


@dataclass(frozen=True)
class PublishOptions:
    """What the command line of publishing says.

    Attributes:
        work_dir: That of tools/train.py, with a checkpoint and the config.
        out: The folder for the files.
        checkpoint: The checkpoint to publish; None: the newest one.
        formats: Formats of tools/export.py to write as well.
        licence: Of the weights; None: the inherited one.
        to: ``hf:USER/REPO``; None: the folder alone.
        dry_run: Write what would be pushed, and push nothing.
        private: Make a new repository private.
    """

    work_dir: Path
    out: Path
    checkpoint: Path | None = None
    formats: tuple[str, ...] = ()
    licence: str | None = None
    to: str | None = None
    dry_run: bool = False
    private: bool = False


def publish(options: PublishOptions) -> list[Path]:
    """Write the trained model of a work dir into a folder; push it where that is asked for.

    For the Hub the files have its names (:data:`downstream.publishing.hub.NAMES`), else
    ``<config>_<digest>``, where ``digest`` is the first eight digits of the SHA-256 of the
    ``.safetensors`` file.

    Returns:
        The paths of the files, which appear when all of them have been written.

    Raises:
        UserError: Something of the command, the work dir or the machine cannot be.
    """
    repo = _repo(options)
    for name in options.formats:
        require_packages(name, '--export')
    if not options.work_dir.is_dir():
        raise WeightsError(f'{options.work_dir} is not a folder.')
    require_folder(options.out)
    if repo:
        _require_own_folder(options.out)
    checkpoint = options.checkpoint or _newest(options.work_dir)
    config = _config_of(options.work_dir)
    cfg = Config.fromfile(config)
    licence = published_licence(
        inherited_licence(cfg, _earlier_configs(options.work_dir)), options.licence
    )
    content = read(checkpoint)
    count = _parameters(config, content, checkpoint)
    if repo and not options.dry_run:
        hub.require_access(repo)
    test = test_of(options.work_dir, config, checkpoint)
    former = hub.NAMES if repo else ()
    with (
        raise_on_full_disk(options.out, 'make room and publish again.'),
        atomic_files(options.out, former) as folder,
    ):
        model = config.stem.removesuffix('.complete')
        files = Files(model, cfg, content, count, licence, test, repo)
        files.write_weights(folder)
        for name in options.formats:
            named = files.named(FORMATS[name][0])
            how = ExportOptions(name, out=str(folder / named), title=str(options.out / named))
            export(TestOptions(str(config), checkpoint=str(checkpoint)), how, licence.text)
        files.write_card(folder)
        written = [options.out / name for name in sorted(path.name for path in folder.iterdir())]
    if repo:
        for here, there in files.moved.items():
            print(f'{files.named(".py")} names no folder of this machine: {here} is {there} in it.')
        _pushed(written, repo, options)
    return written


def _repo(options: PublishOptions) -> str | None:
    if options.to is not None:
        return hub.repo_of(options.to)
    for name, given in (('--dry-run', options.dry_run), ('--private', options.private)):
        if given:
            raise ConfigError(f'{name} is for pushing: give --to hf:USER/REPO as well.')
    return None


def _require_own_folder(out: Path) -> None:
    """ConfigError if ``out`` has files that publishing would overwrite and did not write."""
    if out.is_dir() and any(out.iterdir()) and not (out / 'model.safetensors').is_file():
        raise ConfigError(
            f'{out} has other files in it; give a new folder, or that of an earlier --to.'
        )


def _pushed(written: Sequence[Path], repo: str, options: PublishOptions) -> None:
    sizes = ', '.join(f'{path.name} ({_size(path.stat().st_size)})' for path in written)
    if options.dry_run:
        print(f'Dry run: nothing was pushed to hf:{repo}. A push sends {sizes}.')
        return
    url = hub.push(options.out, repo, options.private)
    print(f'Pushed {sizes}: {url}\nAnyone can take it as CHECKPOINT: hf:{repo}.')


def _size(count: int) -> str:
    return f'{count / 1e6:.1f} MB' if count >= 1e5 else f'{count / 1e3:.1f} kB'


@dataclass
class Files:
    """The files of a publication.

    Attributes:
        model: Name of the model.
        cfg: Config of its training; made free of what is its machine's.
        content: Of the checkpoint.
        parameters: How many numbers the model learns.
        licence: Of the weights.
        test: Of the checkpoint.
        repo: On the Hub; None: files are named after the model.
        stem: Of all files, when the weights are written.
        digest: SHA-256 of the weights then.
        moved: What folders of data are called in the config, by their names here.
    """

    model: str
    cfg: Config
    content: dict
    parameters: int
    licence: Licence
    test: TestRun | None
    repo: str | None
    stem: str = 'model'
    digest: str = ''
    moved: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in _LOCAL:
            self.cfg.pop(key, None)
        if self.repo:
            self.moved = use_relative_places(self.cfg)

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {key: value.contiguous() for key, value in self.content['state_dict'].items()}

    @property
    def classes(self) -> list[str]:
        meta = self.content.get('meta', {})
        return list(meta.get('dataset_meta', {}).get('classes', ()))

    def named(self, suffix: str) -> str:
        """The name of a file, by its suffix."""
        if self.repo:
            return {'.md': 'README.md', '.py': 'config.py'}.get(suffix, f'model{suffix}')
        return f'{self.stem}{suffix}'

    def write_weights(self, folder: Path) -> None:
        """Write the weights and the config."""
        meta = self.content.get('meta', {})
        facts = {
            'name': self.model,
            'classes': self.classes,
            'epoch': meta.get('epoch'),
            'iterations': meta.get('iter'),
            'licence': self.licence.text,
            'metrics': self.test.report['metrics'] if self.test else None,
            'config': self.cfg.pretty_text,
        }
        unnamed = folder / 'weights.safetensors'  # its name needs its digest
        save(self.tensors, unnamed, {key: json.dumps(value) for key, value in facts.items()})
        self.digest = sha256(unnamed)
        # After a hyphen, downloads take the digest for that of whichever file has the name.
        self.stem = f'{self.model}_{self.digest[:8]}'
        unnamed.replace(folder / self.named('.safetensors'))
        config = folder / self.named('.py')
        config.write_text(self.cfg.pretty_text, encoding='utf-8')
        # What safetensors writes is for its user alone.
        shutil.copymode(config, folder / self.named('.safetensors'))
        if not self.repo:
            stated = {
                'dataset_meta': {'classes': self.classes},
                'cfg': self.cfg.pretty_text,
                'licence': self.licence.text,
            }
            content = {'state_dict': self.tensors, 'meta': stated}
            torch.save(content, folder / self.named('.pth'))

    def write_card(self, folder: Path) -> None:
        """Write the card, when all other files are there."""
        suffixes = [suffix for suffix, _ in FORMATS.values()]
        exported = sorted(path.name for path in folder.iterdir() if path.suffix in suffixes)
        card = model_card(
            Published(
                name=self.model,
                cfg=self.cfg,
                classes=self.classes,
                parameters=self.parameters,
                iterations=self.content.get('meta', {}).get('iter'),
                licence=self.licence,
                test=self.test,
                digest=self.digest,
                weights=f'hf:{self.repo}' if self.repo else self.named('.safetensors'),
                config=self.named('.py'),
                exported=exported,
                repo=self.repo,
            )
        )
        (folder / self.named('.md')).write_text(card, encoding='utf-8')


def _newest(work_dir: Path) -> Path:
    pointer = work_dir / 'last_checkpoint'
    if pointer.is_file():
        # Only its name: the folder may have been moved since the path was written.
        return work_dir / Path(pointer.read_text().strip()).name
    raise WeightsError(
        f'{work_dir} has no file last_checkpoint: no run has saved a checkpoint there.'
    )


def _config_of(work_dir: Path) -> Path:
    configs = sorted(work_dir.glob('*.py'), key=lambda path: path.stat().st_mtime)
    if not configs:
        raise WeightsError(
            f'{work_dir} has no config; tools/train.py writes one into its work dir.'
        )
    return configs[-1]


def _parameters(config: Path, content: Mapping, checkpoint: Path) -> int:
    """How many numbers the model of a config learns; those that layers share count once.

    Raises:
        UserError: The model cannot be built, or the checkpoint is of another one.
    """
    model = build_on_meta(read_config(RunOptions(str(config))))
    matching_tensors(content['state_dict'], model, str(checkpoint))
    return parameters(model)


def _earlier_configs(work_dir: Path) -> list[Config]:
    """The configs of the trainings that were logged in a work dir, the first one first."""
    logged = (Config.fromfile(path) for path in sorted(work_dir.glob('*/vis_data/config.py')))
    return [cfg for cfg in logged if cfg.get('train_cfg')]
