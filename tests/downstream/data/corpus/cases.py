"""What a case is: a way to spoil a data set, and what must be said of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Case(NamedTuple):
    """A way to spoil a data set.

    Attributes:
        spoil: Changes a set.
        kind: Of the finding that the whole examination must have.
        training: What the check before training does: ``'refuses'``, ``'says'`` it in a line of its own,
            or is ``'silent'``, where the targets are as they are meant.
        words: A regular expression that the finding's message, and training's, must match.
    """

    spoil: Callable
    kind: str
    training: str
    words: str


class Cases(dict[str, Case]):
    """Cases by name; a function becomes one by :meth:`add`."""

    def add(self, kind: str, training: str, words: str) -> Callable[[Callable], Callable]:
        """A decorator: the function, named after what is wrong, becomes a case."""

        def decorate(spoil: Callable) -> Callable:
            assert spoil.__name__ not in self
            self[spoil.__name__] = Case(spoil, kind, training, words)
            return spoil

        return decorate
