"""A config is formatted although yapf's cache is being written; a damaged cache is one clear error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

FORMAT = """
from pathlib import Path
from downstream.running import config_text
{before}
print(config_text.FormattedOnce(dict(a=1)).pretty_text)
"""
# The other process writes the rest while this one waits.
FINISH = """
def finish(seconds):
    print('waited')
    Path({path!r}).write_bytes(bytes.fromhex({whole!r}))
config_text.time.sleep = finish
"""


def format_in(cache: Path, before: str = '') -> subprocess.CompletedProcess:
    """What a process prints whose user has ``cache``; the statements of ``before`` come first."""
    return subprocess.run(
        [sys.executable, '-c', FORMAT.format(before=before)],
        cwd=ROOT,
        env=dict(os.environ, XDG_CACHE_HOME=str(cache)),
        capture_output=True,
        text=True,
    )


@pytest.fixture
def grammar(tmp_path):
    """A grammar in a user's cache that is not this one's."""
    assert format_in(tmp_path).stdout == 'a = 1\n\n'
    files = sorted(tmp_path.rglob('PatternGrammar*.pickle'))
    if not files:
        pytest.skip('yapf keeps no grammar under XDG_CACHE_HOME on this system')
    return files[0]


@pytest.mark.parametrize('written', [0, 100])
def test_a_grammar_that_another_process_is_writing_is_waited_for(grammar, tmp_path, written):
    whole = grammar.read_bytes()
    grammar.write_bytes(whole[:written])
    found = format_in(tmp_path, FINISH.format(path=str(grammar), whole=whole.hex()))
    assert found.stdout.replace('waited\n', '', 1) == 'a = 1\n\n', found.stderr
    assert found.stdout.startswith('waited\n')


def test_a_grammar_that_stays_damaged_is_an_error_with_advice(grammar, tmp_path):
    grammar.write_bytes(grammar.read_bytes()[:100])
    found = format_in(tmp_path)
    assert found.returncode == 1
    advice = found.stderr.strip().splitlines()[-1]
    assert 'cannot read its own cache' in advice
    assert advice.endswith(f'delete {tmp_path / "YAPF"}')
