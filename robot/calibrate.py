"""How an arm is calibrated, from the readings of its servos alone: no port, no terminal.

A person holds the released arm in its middle pose, then moves every joint to both its stops. Nothing is
written to the servos on the way: `raw` counts are what the encoder itself shows, 0..4095 in a turn, whatever
offset a servo has now. The result is what lerobot stores: the middle pose shows half a turn, the range is
where the joint has been, and the wrist's roll has the whole turn.

Joint zero is the middle of the range: the upper arm upright, forearm and hand level and straight ahead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from robot.calibration import (
    COUNTS_PER_TURN,
    I32,
    MAX_OFFSET,
    RAD_PER_COUNT,
    Calibration,
    JointCalibration,
    model_limits,
)
from robot.errors import CalibrationError
from robot.types import F32, GRIPPER, JOINT_NAMES, NUM_JOINTS, WRIST_ROLL

FOLLOWER, LEADER = "follower", "leader"
SPAN_OFF: Final = 0.1
"""Share by which a joint's span may differ from the arm model's, and from the other arm's."""
FULL_TURN: Final = 0.9
"""Share of a turn over which the wrist's roll must be calibrated."""
MIDDLE_OFF_DEG: Final = 15.0
"""How far a joint may be from its middle when a person says that the arm is in its middle pose."""
LEAST_MOVED: Final = 0.5
"""Share of its way by the arm model that a joint must have been moved, whatever the person says."""
JUMP: Final = COUNTS_PER_TURN // 4
"""A joint that moved further between two readings may have gone round the other way."""
MIDDLE_POSE: Final = (
    "upper arm upright, forearm level and straight ahead, hand level in line with it, "
    "wrist rolled so that the moving finger is on top, gripper half open"
)

Faults = dict[str, str]
"""{joint: what is wrong with it, in words}."""


@dataclass(frozen=True, slots=True)
class OtherArm:
    """The arm this one works with, leader or follower, for comparison. name: as a person knows it."""

    name: str
    role: str
    calibration: Calibration


class Sweep:
    """Where each joint has been since the middle pose, followed across the encoder's wrap.

    low, high, now: (6,) counts away from the middle pose.
    """

    def __init__(self, middle: I32) -> None:
        """middle: raw counts (6,) in the middle pose."""
        self.middle: I32 = (middle % COUNTS_PER_TURN).astype(np.int32)
        self.now: I32 = np.zeros(NUM_JOINTS, np.int32)
        self.low: I32 = self.now.copy()
        self.high: I32 = self.now.copy()
        self._jumped = np.zeros(NUM_JOINTS, bool)

    def add(self, raw: I32) -> None:
        """One reading: raw counts (6,)."""
        half = COUNTS_PER_TURN // 2
        step = (raw - self.middle - self.now + half) % COUNTS_PER_TURN - half
        self._jumped = self._jumped | (np.abs(step) > JUMP)
        self.now = (self.now + step).astype(np.int32)
        self.low = np.minimum(self.low, self.now).astype(np.int32)
        self.high = np.maximum(self.high, self.now).astype(np.int32)

    @property
    def spans(self) -> I32:
        """(6,) counts over which each joint was moved."""
        return self.high - self.low

    @property
    def jumped(self) -> list[str]:
        """Joints that moved too far between two readings to be followed."""
        return [JOINT_NAMES[index] for index in np.flatnonzero(self._jumped)]


def expected_spans(role: str = FOLLOWER) -> dict[str, float]:
    """{joint: counts between its stops, by the arm model}. A leader's gripper is a trigger and not in it."""
    limits = model_limits()
    spans = (limits.upper_rad - limits.lower_rad) / RAD_PER_COUNT
    return {
        name: float(span)
        for name, span in zip(JOINT_NAMES, spans, strict=True)
        if role == FOLLOWER or name != JOINT_NAMES[GRIPPER]
    }


def spans_of(calibration: Calibration) -> dict[str, int]:
    """{joint: counts of its range}."""
    return {
        name: joint.range_max - joint.range_min
        for name, joint in zip(JOINT_NAMES, calibration.joints, strict=True)
    }


def span_faults(spans: Mapping[str, int], role: str = FOLLOWER, other: OtherArm | None = None) -> Faults:
    """What is wrong with the calibrated spans {joint: counts} of an arm.

    A joint must span what the arm model says, the wrist's roll a full turn, and both what `other` spans;
    where the other one itself is wrong, that is no fault of this arm's (see `other_faults`).
    """
    faults: Faults = {}
    others = {} if other is None else spans_of(other.calibration)
    wrong_there = other_faults(other)
    for name, span in spans.items():
        expected = expected_spans(role).get(name)
        if name == JOINT_NAMES[WRIST_ROLL]:
            if span < FULL_TURN * (COUNTS_PER_TURN - 1):
                faults[name] = f"spans {span} counts, a full turn is {COUNTS_PER_TURN - 1}"
        elif expected is not None and abs(span / expected - 1) > SPAN_OFF:
            faults[name] = f"spans {span} counts, expected {expected:.0f}"
        if other is None or name in faults or name in wrong_there or name == JOINT_NAMES[GRIPPER]:
            continue
        if abs(span / others[name] - 1) > SPAN_OFF:
            faults[name] = f"spans {span} counts, the {other.role} {other.name!r} {others[name]}"
    return faults


def other_faults(other: OtherArm | None) -> Faults:
    """What is wrong with the other arm's own calibration."""
    return {} if other is None else span_faults(spans_of(other.calibration), other.role)


def sweep_faults(sweep: Sweep, role: str = FOLLOWER, other: OtherArm | None = None) -> Faults:
    """What speaks against a calibration from `sweep`; empty when it may be stored."""
    faults = span_faults(stored_spans(sweep), role, other)
    swept = {name: int(span) for name, span in zip(JOINT_NAMES, sweep.spans, strict=True)}
    roll = JOINT_NAMES[WRIST_ROLL]
    able = expected_spans()[roll]
    if swept[roll] < (1 - SPAN_OFF) * able:
        faults[roll] = f"was rolled over {swept[roll]} counts, it can roll over {able:.0f}"
    elif off := _roll_off_deg(sweep):
        faults[roll] = (
            f"was {abs(off):.0f} degrees off the middle between its stops in the middle pose: hold it as "
            "described; if it was, the wrist is assembled the wrong way round"
        )
    for index in np.flatnonzero((sweep.low < -MAX_OFFSET) | (sweep.high > MAX_OFFSET)):
        if index != WRIST_ROLL:
            faults[JOINT_NAMES[index]] = "went more than half a turn from the middle pose"
    for name in sweep.jumped:
        faults[name] = "moved too fast to be followed: begin again from the middle"
    return faults


def stored_spans(sweep: Sweep) -> dict[str, int]:
    """{joint: counts} a calibration from `sweep` has: the wrist's roll gets the whole turn."""
    spans = {name: int(span) for name, span in zip(JOINT_NAMES, sweep.spans, strict=True)}
    return spans | {JOINT_NAMES[WRIST_ROLL]: COUNTS_PER_TURN - 1}


def calibration_of(sweep: Sweep, ids: Sequence[int], source: str, role: str = FOLLOWER) -> Calibration:
    """The calibration `sweep` gives servos with these ids (6,).

    Raises CalibrationError for a range no servo can have: a joint that was not moved, or too far.
    """
    for name, there in expected_spans(role).items():
        moved = int(sweep.spans[JOINT_NAMES.index(name)])
        if moved < LEAST_MOVED * there:
            raise CalibrationError(
                f"{source}: {name} was moved over {moved} counts, its stops are about {there:.0f} apart: "
                "move it to both"
            )
    half = COUNTS_PER_TURN // 2 - 1
    joints = []
    for index, name in enumerate(JOINT_NAMES):
        offset = min(int(sweep.middle[index]) - half, MAX_OFFSET)
        shown = int(sweep.middle[index]) - offset
        low, high = shown + int(sweep.low[index]), shown + int(sweep.high[index])
        if index == WRIST_ROLL:
            low, high = 0, COUNTS_PER_TURN - 1
        if not 0 <= low < high < COUNTS_PER_TURN:
            raise CalibrationError(
                f"{source}: {name} was at {low}..{high}, half a turn to both sides of the middle pose is "
                f"0..{COUNTS_PER_TURN - 1}: was the arm in its middle, and was the joint moved?"
            )
        joints.append(JointCalibration(ids[index], 0, offset, low, high))
    return Calibration(tuple(joints), source)


def shown(raw: I32, calibration: Calibration) -> I32:
    """(6,) counts that servos with this calibration show where their encoders are at `raw` (6,)."""
    offsets = np.array([joint.homing_offset for joint in calibration.joints], np.int32)
    return ((raw - offsets) % COUNTS_PER_TURN).astype(np.int32)


def raw_counts(shown_counts: I32, offsets: I32) -> I32:
    """(6,) counts of the encoders of servos that show these counts with these homing offsets."""
    return ((shown_counts + offsets) % COUNTS_PER_TURN).astype(np.int32)


def middle_faults(q_rad: F32) -> Faults:
    """Joints that are not in their middle though the arm (6,) [rad] is held in its middle pose.

    The gripper's zero is its closed end, so it is not asked.
    """
    return {
        name: f"reads {np.degrees(q_rad[index]):+.0f} degrees in the middle pose, it must be within "
        f"{MIDDLE_OFF_DEG:.0f} of 0"
        for index, name in enumerate(JOINT_NAMES)
        if index != GRIPPER and abs(np.degrees(q_rad[index])) > MIDDLE_OFF_DEG
    }


def _roll_off_deg(sweep: Sweep) -> float:
    """How far the roll was off the middle of its range [degrees]; 0 within the tolerance.

    A wrist that turned all the way round has shown no stops, and no middle.
    """
    if sweep.spans[WRIST_ROLL] >= COUNTS_PER_TURN - 1:
        return 0.0
    limits = model_limits()
    there = (limits.lower_rad[WRIST_ROLL] + limits.upper_rad[WRIST_ROLL]) / 2
    found = (sweep.low[WRIST_ROLL] + sweep.high[WRIST_ROLL]) / 2 * RAD_PER_COUNT
    off = float(np.degrees(found - there))
    return off if abs(off) > MIDDLE_OFF_DEG else 0.0
