"""The guided calibration: what a person is told and shown, and what is done when ENTER is pressed."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Sequence
from typing import IO, Final

import numpy as np

from robot.calibrate import (
    MIDDLE_POSE,
    Faults,
    OtherArm,
    Sweep,
    calibration_of,
    expected_spans,
    middle_faults,
    other_faults,
    shown,
    spans_of,
    stored_spans,
    sweep_faults,
)
from robot.calibrate_arm import ReleasedArm
from robot.calibrate_touch import F64, Touch, judge_touch
from robot.calibration import I32, Calibration
from robot.errors import CalibrationError
from robot.kinematics import Kinematics
from robot.types import GRIPPER, JOINT_NAMES, Clock

AGAIN, KEEP = "again", "keep"
PLAIN_EVERY_S: Final = 2.0
"""Where lines cannot be overwritten the live table is printed so often."""
STILL_READINGS, STILL_COUNTS = 10, 8
"""A touch is the mean of so many readings, within so many counts of each other."""


class Answers:
    """Lines a person types, without waiting for them."""

    def __init__(self, source: IO[str] | int) -> None:
        self._file = source if isinstance(source, int) else source.fileno()
        self._bytes = b""

    def poll(self) -> str | None:
        """The next line, without spaces around it; None while there is none.

        Raises CalibrationError when the input ended.
        """
        if b"\n" not in self._bytes and select.select([self._file], [], [], 0)[0]:
            data = os.read(self._file, 4096)
            if not data:
                raise CalibrationError("the input ended before the calibration: nothing was stored")
            self._bytes += data
        if b"\n" not in self._bytes:
            return None
        line, _, self._bytes = self._bytes.partition(b"\n")
        return line.decode(errors="replace").strip()


class Screen:
    """Lines for a person, and a table that stays in its place on a terminal."""

    def __init__(self, write: Callable[[str], None], overwrites: bool, clock: Clock) -> None:
        """write: prints text as it is. overwrites: whether it is a terminal."""
        self._write, self._overwrites, self._clock = write, overwrites, clock
        self._lines, self._next_s = 0, -np.inf

    def say(self, line: str) -> None:
        """A line that stays; a table before it stays as well."""
        self._lines, self._next_s = 0, -np.inf
        self._write(line + "\n")

    def table(self, lines: Sequence[str]) -> None:
        """Show `lines` instead of the table shown before."""
        if not self._overwrites and self._clock.now_s() < self._next_s:
            return
        self._next_s = self._clock.now_s() + PLAIN_EVERY_S
        up = f"\x1b[{self._lines}A" if self._overwrites and self._lines else ""
        end = "\x1b[K\n" if self._overwrites else "\n"
        self._write(up + "".join(line + end for line in lines))
        self._lines = len(lines)


class Guide:
    """Leads a person through calibration and touch test of one released arm."""

    def __init__(
        self, arm: ReleasedArm, role: str, other: OtherArm | None, answers: Answers, screen: Screen
    ) -> None:
        self._arm, self._role, self._other = arm, role, other
        self._answers, self._screen, self._say = answers, screen, screen.say
        self._word = ""

    def calibrate(self, ids: Sequence[int], source: str) -> Calibration:
        """A calibration the checks, or the person, found good. ids: (6,). Nothing is stored.

        Raises BusError, and CalibrationError when the input ends.
        """
        for name, fault in other_faults(self._other).items():
            assert self._other is not None
            self._say(
                f"NOTE: {name} of the {self._other.role} {self._other.name!r} {fault}: calibrate it too"
            )
        while True:
            calibration = self._sweep(ids, source)
            if calibration is not None and self._confirmed(calibration):
                return calibration
            self._say("from the beginning")

    def touch(self, calibration: Calibration, points_m: F64) -> Touch:
        """The tip put on each of these points (N, 3) [m], one after the other. Raises BusError."""
        kinematics, tips = Kinematics(), []
        self._say(
            "Close the gripper. Put the inner edge of the FIXED finger's tip on each mark (metres from the "
            "axis of the base, x ahead, y to the left) and press ENTER while it stands still."
        )
        for index, (x, y, z) in enumerate(points_m):
            self._say(f"point {index + 1} of {len(points_m)}: x {x:.3f}, y {y:.3f}, z {z:.3f}")
            q_rad = calibration.rad(shown(self._still(), calibration))
            tips.append(kinematics.fk(q_rad).xyz_m)
        return judge_touch(points_m, np.array(tips))

    def _sweep(self, ids: Sequence[int], source: str) -> Calibration | None:
        """Middle and ranges. None: begin again."""
        self._say(f"1/3 MIDDLE. Hold the arm so: {MIDDLE_POSE}. Then press ENTER.")
        middle = self._follow(lambda raw: [f"{n:14} {c:5}" for n, c in zip(JOINT_NAMES, raw, strict=True)])
        sweep = Sweep(middle)
        self._say(
            "2/3 RANGE. Move each joint slowly to both its stops, one after the other; roll the wrist as far "
            "as it goes both ways. Press ENTER when no joint wants more."
        )

        def add(raw: I32) -> list[str]:
            sweep.add(raw)
            return sweep_table(sweep, self._role, self._other)

        while True:
            self._follow(add)
            if self._word == AGAIN:
                return None
            faults = sweep_faults(sweep, self._role, self._other)
            if self._accepted(faults, "Move on and press ENTER"):
                try:
                    return calibration_of(sweep, ids, source, self._role)
                except CalibrationError as error:
                    self._say(f"cannot be stored: {error}")

    def _confirmed(self, calibration: Calibration) -> bool:
        """The middle pose once more, now in degrees. False: begin again."""
        self._say("3/3 CHECK. Hold the arm in the middle pose once more and press ENTER.")

        def degrees(raw: I32) -> list[str]:
            q_deg = np.degrees(calibration.rad(shown(raw, calibration)))
            return [f"{n:14} {angle:+6.1f} degrees" for n, angle in zip(JOINT_NAMES, q_deg, strict=True)]

        while True:
            raw = self._follow(degrees)
            if self._word == AGAIN:
                return False
            faults = middle_faults(calibration.rad(shown(raw, calibration)))
            if self._accepted(faults, "Hold it as described and press ENTER"):
                return True

    def _accepted(self, faults: Faults, how: str) -> bool:
        """Whether to go on: nothing is wrong, or the person wants it all the same."""
        for name, fault in faults.items():
            self._say(f"  {name} {fault}")
        if faults and self._word != KEEP:
            self._say(f'{how}; "{AGAIN}" ENTER begins anew, "{KEEP}" ENTER takes it as it is.')
            return False
        if faults:
            self._say("taken all the same")
        return True

    def _follow(self, show: Callable[[I32], Sequence[str]]) -> I32:
        """Show every reading until a line is typed; the last reading, raw counts (6,)."""

        def typed() -> bool:
            line = self._answers.poll()
            self._word = (line or "").lower()
            return line is not None

        for raw in self._arm.readings(typed):
            self._screen.table(show(raw))
            last = raw
        return last

    def _still(self) -> I32:
        """Raw counts (6,) of an arm that stands still at ENTER."""
        while True:
            first = self._follow(lambda _raw: [])
            # Against the first one, so that a joint at the encoder's wrap has a mean as well.
            seen = np.array(
                [Sweep(first).now] + [_away(first, self._arm.raw()) for _ in range(STILL_READINGS)]
            )
            if np.ptp(seen, axis=0).max() <= STILL_COUNTS:
                mean: I32 = (first + np.rint(seen.mean(axis=0))).astype(np.int32)
                return mean
            self._say("the arm moved: hold it still and press ENTER again")


def sweep_table(sweep: Sweep, role: str, other: OtherArm | None) -> list[str]:
    """One line per joint: counts from the middle pose, the span, what it should be, and what is missing."""
    there = {} if other is None else spans_of(other.calibration)
    expected, faults, stored = expected_spans(role), sweep_faults(sweep, role, other), stored_spans(sweep)
    lines = [f"{'joint':14} {'now':>6} {'min':>6} {'max':>6} {'span':>6} {'model':>6} {'other':>6}"]
    for index, name in enumerate(JOINT_NAMES):
        model, beside = expected.get(name), there.get(name)
        if other is not None and index == GRIPPER:
            beside = None  # a leader's is a trigger
        numbers = (sweep.now[index], sweep.low[index], sweep.high[index], sweep.spans[index])
        columns = "".join(f" {number:6}" for number in numbers)
        columns += "".join(f" {'-' if value is None else round(value):>6}" for value in (model, beside))
        lines.append(f"{name:14}{columns}  {faults.get(name, f'ok ({stored[name]})')}")
    return lines


def _away(first: I32, raw: I32) -> I32:
    sweep = Sweep(first)
    sweep.add(raw)
    return sweep.now
