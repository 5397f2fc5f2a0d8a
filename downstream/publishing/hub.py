"""A folder as a repository of the Hugging Face Hub, in one commit: all of it, or none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backbones.errors import ConfigError, UserError

#: Names of the files of a publication; of these, what a new one lacks is deleted from the repository.
NAMES = (
    'README.md',
    'config.py',
    'model.safetensors',
    'model.onnx',
    'model.xml',
    'model.bin',
    'model.pt2',
)


class PushError(UserError, OSError):
    """A publication did not reach the Hub; the message says what is there now."""


def repo_of(target: str) -> str:
    """``USER/REPO`` of what ``--to`` says.

    Raises:
        ConfigError: It is not ``hf:USER/REPO``.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    kind, _, repo = target.partition(':')
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(f'--to {target}: {error}') from error
    if kind != 'hf' or repo.count('/') != 1:
        raise ConfigError(
            f'--to {target}: give hf:USER/REPO, a repository of the Hugging Face Hub.'
        )
    return repo


def require_access(repo: str) -> None:
    """PushError unless there is a token that the Hub accepts; called before the work is done."""
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise PushError(
            f'there is no token for hf:{repo}: log in with `hf auth login` or set HF_TOKEN; --dry-run '
            'writes the files and pushes nothing.'
        )
    with _explained(f'hf:{repo}: the Hub does not accept the token, or cannot be reached'):
        HfApi().whoami()


def push(folder: Path, repo: str, private: bool = False) -> str:
    """Commit the files of ``folder`` to ``repo``, which is made if it is not there.

    Files of an earlier publication that this one does not have are deleted in the same commit. It fails
    if somebody else has committed since.

    Args:
        folder: With some of :data:`NAMES`.
        repo: ``USER/REPO``.
        private: Of a repository that is made.

    Returns:
        The address of the commit.

    Raises:
        PushError: It failed; what was in the repository before is unchanged.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    api = HfApi()
    with _explained(f'hf:{repo} cannot be looked at, nothing was pushed'):
        try:
            before = api.model_info(repo)
        except RepositoryNotFoundError:
            before = None
    if before is None:
        with _explained(f'hf:{repo} cannot be made, nothing was pushed'):
            api.create_repo(repo, private=private)
    there = {file.rfilename for file in before.siblings or ()} if before else set()
    new = sorted(path.name for path in folder.iterdir() if path.name in NAMES)
    state = 'is as it was before' if before else 'was made and is empty'
    with _explained(f'the push to hf:{repo} failed; the repository {state}. Start again'):
        commit = api.create_commit(
            repo,
            [
                *(CommitOperationAdd(name, folder / name) for name in new),
                *(CommitOperationDelete(name) for name in NAMES if name in there - set(new)),
            ],
            commit_message='Publish the model' if before is None else 'Publish the model anew',
            parent_commit=before.sha if before else None,
        )
    return commit.commit_url


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Any error of the client as a PushError that begins with ``what``."""
    try:
        yield
    except Exception as error:  # the client and what it is made of raise whatever they meet
        raise PushError(f'{what} ({_reason(error)}).') from error


def _reason(error: BaseException) -> str:
    """What the Hub answered, or else the innermost cause, in one line."""
    from huggingface_hub.errors import HfHubHTTPError

    while not isinstance(error, HfHubHTTPError) and error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ' '.join(lines[:3]).rstrip('.') or type(error).__name__
