"""A camera source that plays a script, and pictures for it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Literal

import numpy as np

from robot.errors import CameraError
from robot.types import U8

SIZE = (32, 24)
"""(width, height) of `noise`."""


def noise(seed: int, size: tuple[int, int] = SIZE) -> U8:
    """A picture no other seed gives."""
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


class FakeSource:
    """Gives picture(n) for n = 0, 1, ... every period_s; an error it returns is raised. None: hangs.

    Counts opened and closed.
    """

    def __init__(
        self,
        picture: Callable[[int], U8 | CameraError | None] = noise,
        order: Literal["rgb", "bgr"] = "rgb",
        period_s: float = 0.002,
    ) -> None:
        self.order = order
        self.opened = 0
        self.closed = 0
        self._picture = picture
        self._period_s = period_s
        self._count = itertools.count()
        self.release = threading.Event()

    def open(self) -> None:
        self.opened += 1

    def read(self) -> U8:
        time.sleep(self._period_s)
        got = self._picture(next(self._count))
        if got is None:
            self.release.wait(10.0)
            raise CameraError("released")
        if isinstance(got, CameraError):
            raise got
        return got

    def close(self) -> None:
        self.closed += 1
