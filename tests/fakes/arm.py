"""An arm that follows at once, or not at all where told so; and a clock a test moves by hand."""

from __future__ import annotations

import numpy as np

from robot.errors import BusError
from robot.types import F32, NUM_JOINTS, ArmState, Limits


def pose(*first: float) -> F32:
    """(6,) float32 rad: the given joints first, the others 0."""
    q = np.zeros(NUM_JOINTS, dtype=np.float32)
    q[: len(first)] = first
    return q


class HandClock:
    """A clock that stands still unless told. Sleeping moves it on."""

    def __init__(self) -> None:
        self.t_s = 100.0

    def now_s(self) -> float:
        return self.t_s

    def sleep_until(self, t_s: float) -> None:
        self.t_s = max(self.t_s, t_s)


class FakeArm:
    """Moves to each target at once. `stuck`: joints that do not move. `broken`: the bus does not answer."""

    def __init__(self, reach_rad: float = 2.0) -> None:
        self.limits = Limits(
            np.full(NUM_JOINTS, -reach_rad, np.float32), np.full(NUM_JOINTS, reach_rad, np.float32)
        )
        self.q_rad = pose()
        self.stuck: set[int] = set()
        self.broken = False
        self.commands: list[F32] = []
        self.calls: list[str] = []

    def read(self) -> ArmState:
        if self.broken:
            raise BusError("servo 3 does not answer")
        return ArmState(self.q_rad.copy(), np.zeros(NUM_JOINTS, np.float32), 0.0)

    def command(self, q_rad: F32) -> None:
        if self.broken:
            raise BusError("servo 3 does not answer")
        self.commands.append(q_rad.copy())
        for joint in set(range(NUM_JOINTS)) - self.stuck:
            self.q_rad[joint] = q_rad[joint]

    def park(self) -> None:
        self.calls.append("park")

    def close(self) -> None:
        self.calls.append("close")
