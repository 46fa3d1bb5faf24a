"""A person who calibrates an arm: moves its released joints by hand and types lines.

They do one thing after the other, whenever the program waits: nothing depends on the machine's speed.
"""

from __future__ import annotations

import os

import numpy as np

from robot.calibrate_guide import Answers, Screen
from robot.calibrate_session import Terminal
from robot.calibration import model_limits
from robot.types import GRIPPER
from tests.fakes.arm import HandClock

STEP_RAD = np.radians(15)
PATIENCE = 500
"""Looks after which a program that still waits has misunderstood its person."""


class Person(HandClock):
    """person.does(...) what; then `person.terminal` is theirs. body: whose `q_rad` they move.

    holds: for how many of the program's looks they keep the arm where they brought it. Each time the program
    asks a servo again counts as a look as well.
    """

    def __init__(self, body):
        super().__init__()
        self.holds, self._idle = 1, 0
        self._body, self._plan = body, iter(())
        self._reading, self._typing = os.pipe()
        self.seen = ""
        self.terminal = Terminal(Answers(self._reading), Screen(self._see, False, self), self)

    def sleep_until(self, t_s):
        super().sleep_until(t_s)
        self._idle = self._idle + 1 if next(self._plan, self) is self else 0
        assert self._idle < PATIENCE, f"the program waits for more: {self.seen[-2000:]}"

    def does(self, *deeds):
        """deeds: generators; each `yield` waits for the program's next look."""
        self._plan = (look for deed in deeds for look in deed)

    def types(self, line=""):
        os.write(self._typing, f"{line}\n".encode())
        yield

    def leaves(self):
        """The terminal is closed."""
        os.close(self._typing)
        self._typing = None
        yield

    def interrupts(self):
        raise KeyboardInterrupt
        yield

    def moves(self, *poses):
        """Brings the arm to each of these poses (6,) [rad], slowly."""
        for pose in poses:
            start, goal = self._body.q_rad.copy(), np.asarray(pose, np.float64)
            steps = max(1, int(np.ceil(np.abs(goal - start).max() / STEP_RAD)))
            for step in range(1, steps + 1):
                self._body.q_rad = start + (goal - start) * step / steps
                yield
            for _ in range(1, self.holds):
                yield

    def calibrates(self, middle=None, still=(), short=1.0):
        """The whole guided calibration. middle: the pose held as the middle one. still: joints (indices) that
        are not moved; short: share of their way to both stops the others are moved."""
        middle = middle_pose() if middle is None else np.asarray(middle, np.float64)
        yield from self.moves(middle)
        yield from self.types()
        yield from self.sweeps(middle, still, short)
        yield from self.types()
        yield from self.moves(middle)
        yield from self.types()

    def sweeps(self, middle, still=(), short=1.0):
        """Every joint to both its stops, and back to `middle`."""
        limits = model_limits()
        for joint in range(6):
            if joint in still:
                continue
            for end in (limits.lower_rad[joint], limits.upper_rad[joint], middle[joint]):
                pose = middle.copy()
                pose[joint] = middle_pose()[joint] + short * (end - middle_pose()[joint])
                yield from self.moves(pose)

    def close(self):
        os.close(self._reading)
        if self._typing is not None:
            os.close(self._typing)

    def _see(self, text):
        self.seen += text


def middle_pose():
    """(6,) [rad]: as the guide describes it."""
    limits, pose = model_limits(), np.zeros(6)
    pose[GRIPPER] = (limits.lower_rad[GRIPPER] + limits.upper_rad[GRIPPER]) / 2
    return pose
