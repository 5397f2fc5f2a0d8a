"""The text of a config, formatted once in a run."""

from __future__ import annotations

import importlib
import pickle
import time

from mmengine.config import Config

from backbones.errors import UserError

# Content and text of the config that was formatted last.
_last = ('', '')


class FormattedOnce(Config):
    """A config that is formatted again only after a change.

    The log, the visualizer, the dumped config and every checkpoint have the same text. yapf takes about
    half a second for the config of a detector, on the thread that trains.
    """

    @classmethod
    def of(cls, cfg: Config | dict | None) -> FormattedOnce:
        """A config with the content of ``cfg``; changes of one are changes of the other."""
        if not isinstance(cfg, Config):
            return cls(cfg)
        made = cls.__new__(cls)
        made.__setstate__(cfg.__getstate__())
        return made

    @property
    def pretty_text(self) -> str:
        """The content as Python, formatted."""
        global _last
        content = repr(self.to_dict())
        if content != _last[0]:
            import_formatter()
            _last = content, super().pretty_text
        return _last[1]


def import_formatter(wait: float = 2.0) -> None:
    """Imports yapf, also while another process of the same run does so for the first time on a machine.

    yapf 0.43 keeps its grammar in the user's cache and renames the file into place before the last bytes
    are written: a process that starts beside the first one may read a short file.

    Args:
        wait: Seconds that the other process has to finish the file.

    Raises:
        UserError: The file stays damaged, as after a full disk.
    """
    until = time.monotonic() + wait
    while True:
        try:
            importlib.import_module('yapf.yapflib.yapf_api')
            return
        except (EOFError, pickle.UnpicklingError) as error:
            if time.monotonic() > until:
                from platformdirs import user_cache_dir

                folder = user_cache_dir('YAPF', 'Google')
                raise UserError(
                    f'yapf, which formats configs, cannot read its own cache ({error}): delete {folder}'
                ) from error
            time.sleep(0.05)
