"""One thread that makes calls which may fail, hang or take long; whoever submits them never waits."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

# Seconds between attempts at a call that fails; after the last one it is lost. Opening is tried for ever.
PAUSES = (1.0, 10.0, 60.0)


class Worker:
    """Makes calls one after the other, in a thread of its own.

    Args:
        name: Of the thread.
        open_: Called first, again and again until it succeeds.
        say: Called with the first error of all, from the thread.
        is_permanent: Whether there is no use in trying again after an error.
        most: Calls that wait at most; further ones are lost.
        most_large: Of them those that hold much memory.
        pauses: See :data:`PAUSES`.
    """

    def __init__(
        self,
        name: str,
        open_: Callable[[], None],
        say: Callable[[Exception], None],
        is_permanent: Callable[[Exception], bool] = lambda error: False,
        most: int = 2000,
        most_large: int = 32,
        pauses: tuple[float, ...] = PAUSES,
    ) -> None:
        self._open, self._say, self._is_permanent = open_, say, is_permanent
        self._most = {False: most, True: most_large}
        self._pauses = pauses
        self._waiting: deque[tuple[Callable[[], None], bool]] = deque()
        self._large = 0
        self._changed = threading.Condition()
        self._closing, self._abandoned, self._has_said = False, False, False
        self.submitted, self.done = 0, 0
        # A daemon: the end of the process does not wait for a call that hangs.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Calls that were submitted and not made; final after :meth:`join`."""
        return self.submitted - self.done

    def submit(self, call: Callable[[], None], large: bool = False) -> None:
        """Have ``call`` made after those before it. It is lost where too many wait, or after the end.

        Args:
            call: Without arguments.
            large: Whether it holds much memory.
        """
        with self._changed:
            self.submitted += 1
            count = self._large if large else len(self._waiting)
            if self._closing or count >= self._most[large]:
                return
            self._waiting.append((call, large))
            self._large += large
            self._changed.notify()

    def stop(self, last: Callable[[], None]) -> None:
        """Make the calls that wait, then ``last``, and no other; returns at once."""
        with self._changed:
            if self._closing:
                return
            self.submitted += 1
            self._waiting.append((last, False))
            self._closing = True
            self._changed.notify()

    def join(self, seconds: float) -> bool:
        """Wait for the end, after :meth:`stop`.

        Returns:
            Whether it came within so many seconds. If not, the calls that wait are given up, and the one
            that hangs is left alone.
        """
        self._thread.join(max(seconds, 0))
        with self._changed:
            self._abandoned = True
        return not self._thread.is_alive()

    def _run(self) -> None:
        if not self._attempt(self._open, for_ever=True):
            return
        while (entry := self._next()) is not None:
            if self._attempt(entry):
                with self._changed:
                    self.done += not self._abandoned

    def _next(self) -> Callable[[], None] | None:
        """The next call, or None at the end."""
        with self._changed:
            while not self._waiting and not self._closing:
                self._changed.wait()
            if self._abandoned or not self._waiting:
                return None
            call, large = self._waiting.popleft()
            self._large -= large
            return call

    def _attempt(self, call: Callable[[], None], for_ever: bool = False) -> bool:
        """Make ``call``, several times if it fails; whether it succeeded. At the end it is tried once."""
        attempt = 0
        while not self._abandoned:
            try:
                call()
                return True
            except Exception as error:
                if not self._has_said:
                    self._has_said = True
                    self._say(error)
                gives_up = attempt >= len(self._pauses) and not for_ever
                if gives_up or self._closing or (self._is_permanent(error) and not for_ever):
                    return False
            self._pause(self._pauses[min(attempt, len(self._pauses) - 1)])
            attempt += 1
        return False

    def _pause(self, seconds: float) -> None:
        """Wait, at most until the end has come."""
        until = time.monotonic() + seconds
        with self._changed:
            while not self._closing and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
