"""What has been done of a comparison, recorded in the folder of each run."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from backbones.errors import ConfigError
from downstream.running.checkpoint.files import write_text

from .identity import differences, digest

RECIPE = 'recipe.json'
_STATE = 'run.json'
_LAST = 'last_checkpoint'


@dataclass
class Run:
    """One training and its test.

    Attributes:
        backbone: Its name, as :class:`.plan.Candidate` has it.
        seed: Of the run.
        folder: Work dir of the run.
        identity: What it is made of: config, backbone, seed, processes, code of the class.
        checkpoint: What the training ended with.
        metrics: The ``metrics.json`` of its test.
        seconds: How long training and test took, over all calls that had a part in it.
        jobs: How many runs went on at the same time, at most.
        failure: Why it did not get to its end.
    """

    backbone: str
    seed: int
    folder: Path
    identity: dict
    checkpoint: Path | None = None
    metrics: Path | None = None
    seconds: float = 0.0
    jobs: int = 1
    failure: str | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return f'{self.backbone}, seed {self.seed}'

    @property
    def done(self) -> bool:
        """Whether it has been trained and tested."""
        return self.metrics is not None

    @property
    def report(self) -> Path:
        """``metrics`` of a run that is done."""
        if self.metrics is None:
            raise ValueError(f'{self.name} has not been tested.')
        return self.metrics

    @property
    def log(self) -> Path:
        """What its processes write to their standard output and error."""
        return self.folder / 'output.log'

    def read(self) -> None:
        """Take what an earlier call has recorded.

        Raises:
            ConfigError: The folder holds a run of another recipe.
        """
        path = self.folder / _STATE
        content = read_record(path)
        if content is None:
            if (self.folder / _LAST).exists():
                raise ConfigError(
                    f'{self.folder} holds a training that no comparison has started; name another '
                    'folder with --work-dir.'
                )
            return
        if content.get('digest') != digest(self.identity):
            raise ConfigError(
                f'{self.folder} holds a run of something else '
                f'({differences(content.get("identity") or {}, self.identity)}); name another folder '
                'with --work-dir, or delete this one to train it anew.'
            )
        self.seconds = content.get('seconds', 0.0)
        self.jobs = content.get('jobs', 1)
        self.checkpoint = self._existing(content.get('checkpoint'))
        self.metrics = self._existing(content.get('metrics')) if self.checkpoint else None

    def _existing(self, name: str | None) -> Path | None:
        path = self.folder / name if name else None
        return path if path is not None and path.is_file() else None

    def write(self) -> None:
        """Record the state, atomically."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {
            'backbone': self.backbone,
            'seed': self.seed,
            'checkpoint': self._relative(self.checkpoint),
            'metrics': self._relative(self.metrics),
            'seconds': round(self.seconds, 1),
            'jobs': self.jobs,
            'failure': self.failure,
            'digest': digest(self.identity),
            'identity': self.identity,
        }
        write_text(self.folder / _STATE, json.dumps(content, indent=1) + '\n')

    def _relative(self, path: Path | None) -> str | None:
        return None if path is None else path.relative_to(self.folder).as_posix()

    @property
    def started(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return (self.folder / _LAST).is_file()

    def last_checkpoint(self) -> Path | None:
        """The checkpoint that a training has written last."""
        try:
            named = Path((self.folder / _LAST).read_text().strip())
        except OSError:
            return None
        # A folder may have been moved since.
        return self._existing(named.name)

    def newest_metrics(self) -> Path | None:
        """The ``metrics.json`` that a test has written last."""
        files = self.folder.glob('*/metrics.json')
        return max(files, key=lambda path: path.stat().st_mtime_ns, default=None)

    def dumped_config(self) -> Path | None:
        """The complete config that training has left, which needs no other file."""
        files = sorted(self.folder.glob('*.py'), key=lambda path: path.stat().st_mtime_ns)
        return files[-1] if files else None


def read_record(path: Path) -> dict | None:
    """The content of a JSON record; None if there is no file.

    Raises:
        ConfigError: It is no record.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f'{path} cannot be read ({error}); delete its folder.') from error
    if not isinstance(content, dict):
        raise ConfigError(f'{path} is no record of a run; delete its folder.')
    return content
