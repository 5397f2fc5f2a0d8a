"""What a logger's service is, and what it is told of a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

# Figures of several runs are compared within a project, where the user names no other.
PROJECT = 'convnext-dense'


@dataclass(frozen=True)
class RunFacts:
    """What a service is told of a run.

    Attributes:
        name: Readable, and unlike that of other runs in the same work dir.
        folder: In the work dir, for what loggers write.
        iteration: Steps that were done before.
        former: What :meth:`Service.open` returned for the run that is resumed; None: the run is new.
        config: Its text.
        settings: Its values by dotted keys.
    """

    name: str
    folder: Path
    iteration: int = 0
    former: str | None = None
    config: str = ''
    settings: Mapping[str, str | int | float | bool] = field(default_factory=dict)


class Service(ABC):
    """Where figures go. All methods are called in one thread, in the order of a run.

    Every method may raise any exception, or never return.
    """

    title: ClassVar[str]

    @abstractmethod
    def open(self, run: RunFacts) -> str:
        """Begin a run, or go on in the former one; what it is called there. May be called again."""

    @abstractmethod
    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        """Record figures."""

    @abstractmethod
    def picture(self, name: str, image: np.ndarray, iteration: int) -> None:
        """Record a picture, RGB ``(H, W, 3)`` of uint8."""

    @abstractmethod
    def close(self, failed: bool) -> None:
        """End the run."""

    def is_permanent(self, error: Exception) -> bool:
        """Whether a call that raised ``error`` would raise it again."""
        return isinstance(error, (TypeError, ValueError))


def flat_settings(config: Mapping) -> dict[str, str | int | float | bool]:
    """The values of a config by dotted keys; lists become text.

    Args:
        config: Nested dicts.
    """

    def leaves(value: object, key: str) -> Iterator[tuple[str, object]]:
        if isinstance(value, Mapping) and value:
            for name, inner in value.items():
                yield from leaves(inner, f'{key}.{name}' if key else str(name))
        else:
            yield key, value

    return {
        key: value if isinstance(value, (bool, int, float)) else str(value)
        for key, value in leaves(config, '')
    }
