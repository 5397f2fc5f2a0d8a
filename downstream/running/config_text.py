"""The text of a config, formatted once in a run."""

from __future__ import annotations

from mmengine.config import Config

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
            _last = content, super().pretty_text
        return _last[1]
