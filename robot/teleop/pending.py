"""Button presses waiting to be read: each is reported once, in order, and none is lost."""

from __future__ import annotations

import threading
from collections import deque

from robot.types import Event


class PendingEvents:
    """First in, first out; one per control step. Any thread may push."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: deque[Event] = deque()

    def push(self, event: Event) -> None:
        with self._lock:
            self._queue.append(event)

    def pop(self) -> Event | None:
        """The oldest press not yet reported, or None."""
        with self._lock:
            return self._queue.popleft() if self._queue else None

    def holds(self, event: Event) -> bool:
        """Whether such a press waits to be reported."""
        with self._lock:
            return event in self._queue

    def forget(self) -> None:
        """A new episode begins: verdicts on the old one are dropped; a STOP must not get lost."""
        with self._lock:
            stop = Event.STOP in self._queue
            self._queue = deque([Event.STOP] if stop else [])
