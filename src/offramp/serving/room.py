"""The room of a server: bounded, with a word on when to come again."""

from __future__ import annotations

import threading
import time

from offramp.base.errors import Overloaded

_WINDOW_S = 5.0  # over which answers are counted, to say when to come again


class Room:
    """How many rows are inside, and when there will be room again.

    Args:
        most: rows.
    """

    def __init__(self, most: int) -> None:
        self.most: int = most
        self.used: int = 0
        self.closed: bool = False
        self._changed = threading.Condition()
        self._left, self._since, self._rate = 0, time.monotonic(), 0.0

    def enter(self, rows: int) -> None:
        """Lets rows in; one request always fits. Raises Overloaded where there is no room."""
        with self._changed:
            if not self.closed and (self.used + rows <= self.most or not self.used):
                self.used += rows
                return
        what = "the server is about to end" if self.closed else "the server is full"
        wait = self.wait_s(rows)
        raise Overloaded(f"{what}; send it again in {wait:.3g} s.", wait)

    def leave(self, rows: int) -> None:
        """Rows that were inside have left."""
        with self._changed:
            self.used -= rows
            self._left += rows
            now = time.monotonic()
            if now - self._since > _WINDOW_S:
                self._rate = self._left / (now - self._since)
                self._left, self._since = 0, now
            self._changed.notify_all()

    def wait_s(self, rows: int) -> float:
        """Seconds until so many rows will have left, at the rate of the last seconds."""
        passed = time.monotonic() - self._since
        rate = max(self._rate, self._left / passed if passed > 0 else 0.0)
        return min(60.0, max(1.0, rows / rate)) if rate else 1.0

    def close(self, wait_s: float | None) -> None:
        """Lets nobody in any more, and waits until all have left, or so many seconds."""
        with self._changed:
            self.closed = True
            self._changed.wait_for(lambda: self.used == 0, wait_s)
