"""Interrupts: the first asks a loop to end, the second ends the process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

FORCED = 130


class Stop:
    """Called, it says whether the end was asked for. `ask` asks."""

    def __init__(self) -> None:
        self._asked = False

    def __call__(self) -> bool:
        return self._asked

    def ask(self) -> None:
        """Ask every loop that watches this to end."""
        self._asked = True


@contextmanager
def stop_on_interrupt() -> Iterator[Stop]:
    """While inside, SIGINT and SIGTERM ask to stop; a second SIGINT ends the process at once."""
    stop = Stop()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if stop() and number == signal.SIGINT:
            os.write(2, b"\nforced: stopped without parking\n")
            os._exit(FORCED)
        os.write(2, b"\nstopping; interrupt again to force\n")
        stop.ask()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
