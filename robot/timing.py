"""Time and hand-over between threads: the newest value, and real and simulated clocks."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable


class Latest[T]:
    """A slot where only the newest value matters. Any number of threads may put and get.

    Values are numbered from 1, so that a reader can ask for one it has not seen.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._version = 0
        self._newest: tuple[int, T] | None = None

    def put(self, value: T) -> int:
        """Replace the value; returns its number."""
        with self._changed:
            self._version += 1
            self._newest = (self._version, value)
            self._changed.notify_all()
            return self._version

    def get(self, newer_than: int = 0, timeout_s: float = 0.0) -> tuple[int, T] | None:
        """The newest (number, value) with a number above `newer_than`.

        Waits up to `timeout_s` for one to arrive; None when none did.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._version > newer_than, timeout_s):
                return None
            return self._newest


class RealClock:
    """Wall time: monotonic seconds since an arbitrary start."""

    def now_s(self) -> float:
        return time.monotonic()

    def sleep_until(self, t_s: float) -> None:
        """Sleep until `t_s`, without spinning; returns at once when it has passed."""
        if not math.isfinite(t_s):
            raise ValueError(f"cannot sleep until {t_s} s")
        while (left_s := t_s - time.monotonic()) > 0.0:
            time.sleep(left_s)


class SimClock:
    """Time of a simulated world: sleeping is what makes it pass.

    advance(dt_s) moves the world on by dt_s > 0 seconds and returns when that is done.
    """

    def __init__(self, advance: Callable[[float], None], start_s: float = 0.0) -> None:
        self._advance = advance
        self._now_s = start_s

    def now_s(self) -> float:
        return self._now_s

    def sleep_until(self, t_s: float) -> None:
        """Advance the world to `t_s`. Raises ValueError for a time that has passed: it never goes back."""
        dt_s = t_s - self._now_s
        if not dt_s >= -1e-9:  # also refuses NaN; a nanosecond is rounding
            raise ValueError(f"simulated time is {self._now_s:.6f} s and cannot go back to {t_s} s")
        if dt_s > 0.0:
            self._advance(dt_s)
            self._now_s = t_s
