"""Stop a training in several processes by SIGTERM, look at what it saved, and let it go on.

python -m benchmarks.stop_and_resume CONFIG PROCESSES FOLDER [KEY=VALUE ...]
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from downstream.running.checkpoint import files

ROOT = Path(__file__).resolve().parents[1]
# Seconds for the start of a run, and for saving after the signal.
_START, _SAVE = 120, 300


def stop_and_resume(config: str, processes: int, folder: Path, options: list[str]) -> str:
    """Train until the log has a step, send SIGTERM to the launcher, resume to the end.

    Returns:
        What happened, in one sentence.

    Raises:
        RuntimeError: There was no step, or the resumed run made none.
        WeightsError: The checkpoint of the signal is missing or damaged.
        CalledProcessError: The resumed run failed.
    """
    words = [
        '--work-dir',
        str(folder),
        '--cfg-options',
        'default_hooks.logger.interval=1',
        *options,
    ]
    command = ['tools/dist_train.sh', config, str(processes)]
    log = folder / 'output.log'
    folder.mkdir(parents=True)
    with log.open('w') as stream:
        run = subprocess.Popen(
            [*command, *words], cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT
        )
        try:
            _wait_for_a_step(run, folder)
            run.send_signal(signal.SIGTERM)
            run.wait(_SAVE)
        finally:
            run.kill()
    stopped = files.verified(folder / files.INTERRUPTED)['meta']['iter']
    subprocess.run([*command, '--resume', *words], cwd=ROOT, check=True)
    newest = files.newest_whole(folder)
    last = newest[1]['meta']['iter'] if newest else 0
    if last <= stopped:
        raise RuntimeError(f'the resumed run did not go beyond iteration {stopped}')
    return f'stopped after iteration {stopped}, resumed to iteration {last}'


def _wait_for_a_step(run: subprocess.Popen, folder: Path) -> None:
    end = time.monotonic() + _START
    while time.monotonic() < end and run.poll() is None:
        if any('(train)' in path.read_text() for path in folder.glob('*/*.log')):
            return
        time.sleep(0.2)
    raise RuntimeError(f'no step was logged within {_START} s; output: {folder / "output.log"}')


if __name__ == '__main__':
    config, processes, folder, *options = sys.argv[1:]
    print(f'passed: {stop_and_resume(config, int(processes), Path(folder), options)}')
