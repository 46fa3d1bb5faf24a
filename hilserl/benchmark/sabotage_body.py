"""Mistakes of the arm itself, planted below the guard of the lock-step twin, and of whoever drives it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from hilserl.benchmark.sabotage import Mistake
from hilserl.benchmark.sabotage_setup import Setup
from hilserl.benchmark.sabotage_trials import BODY, doctor, room
from hilserl.types import Obs
from robot.twin.lockstep import LockstepArm
from robot.types import F32, JOINT_NAMES

if TYPE_CHECKING:
    from hilserl.body import Body

LIFT, ELBOW, FLEX, GRIPPER = (
    JOINT_NAMES.index(name) for name in ("shoulder_lift", "elbow_flex", "wrist_flex", "gripper")
)


class _Turned(LockstepArm):
    """A gripper that closes when it should open."""

    def command(self, q_rad: F32) -> None:
        """The gripper's goal mirrored within its range."""
        other = q_rad.copy()
        other[GRIPPER] = self.limits.lower_rad[GRIPPER] + self.limits.upper_rad[GRIPPER] - q_rad[GRIPPER]
        super().command(other)


class _Flipped(LockstepArm):
    """A wrist assembled the wrong way about."""

    def command(self, q_rad: F32) -> None:
        """The wrist's goal with the other sign."""
        other = q_rad.copy()
        other[FLEX] = -q_rad[FLEX]
        super().command(np.clip(other, self.limits.lower_rad, self.limits.upper_rad))


class _Loose(LockstepArm):
    """An elbow whose horn slips: it goes half the way from its middle."""

    def command(self, q_rad: F32) -> None:
        """Half of it."""
        other = q_rad.copy()
        other[ELBOW] = q_rad[ELBOW] / 2
        super().command(other)


class _Sagging(LockstepArm):
    """A shoulder that hangs lower than it is told: the hand stays 3 cm low."""

    def command(self, q_rad: F32) -> None:
        """A tenth of a radian further down."""
        other = q_rad.copy()
        other[LIFT] += np.float32(0.1)
        super().command(np.clip(other, self.limits.lower_rad, self.limits.upper_rad))


class _Sticky(LockstepArm):
    """Servos whose dead band swallows small steps."""

    def command(self, q_rad: F32) -> None:
        """Only goals that are far enough away move a joint."""
        here = self.read().q_rad
        super().command(np.where(np.abs(q_rad - here) > 0.05, q_rad, here).astype(np.float32))


class _Creeping(LockstepArm):
    """Each command takes the measured pose for the last goal, so gravity adds up."""

    _fallen = 0.0

    def command(self, q_rad: F32) -> None:
        """A little lower each time."""
        self._fallen += 2e-5
        other = q_rad.copy()
        other[LIFT] += np.float32(self._fallen)
        super().command(np.clip(other, self.limits.lower_rad, self.limits.upper_rad))


def driven(command: Callable[[Body], object]) -> Callable[[Setup], None]:
    """Somebody commands the body."""

    def plant(setup: Setup) -> None:
        def run(body: Body) -> None:
            command(body)

        setup.command = run

    return plant


def _degrees(body: Body) -> None:
    body.arm.command(np.degrees(body.arm.read().q_rad).astype(np.float32))


def _nothing_a_number(body: Body) -> None:
    body.arm.command(np.full(6, np.nan, np.float32))


def _leap(body: Body) -> None:
    """Straight to the rest pose."""
    body.arm.command(np.array([0.0, -1.7, 1.65, 0.8, 0.0, 0.0], np.float32))


def _to_two(body: Body) -> None:
    body.env.step(np.array([0, 0, 0, 2], np.float32))


def _of_joints(body: Body) -> None:
    body.env.step(np.zeros(6, np.float32))


def _floats(body: Body) -> None:
    """Pictures of 0 to 1."""
    frame = next(iter(body.env.frames.values()))
    Obs({"gripper_cam": frame.rgb.astype(np.float32) / 255}, np.zeros(18, np.float32))  # type: ignore[dict-item]


def _moved(name: str, row: str, part: type, check: str, word: str, catcher: str = "") -> Mistake:
    plant = room("robot.twin.lockstep.LockstepArm", part)
    return Mistake(name, row, plant, doctor(check), catcher or check, word, quick=False)


MISTAKES = (
    Mistake("guard_given_degrees", "A 9, A 12", driven(_degrees), BODY, "CommandRefused", "its limits are"),
    Mistake("guard_given_no_number", "A 12", driven(_nothing_a_number), BODY, "CommandRefused", "nan rad"),
    Mistake("leap_to_the_rest_pose", "D 55, B 16", driven(_leap), BODY, "CommandRefused", "rad/s"),
    Mistake("policy_acts_0_to_2", "A 3, A 4", driven(_to_two), BODY, "ValueError", "[-1, 1]"),
    Mistake("joints_for_an_action", "A 2, A 15", driven(_of_joints), BODY, "ValueError", "float32 (4,)"),
    Mistake("pictures_0_to_1", "C 42, C 45", driven(_floats), BODY, "ValueError", "must be uint8"),
    _moved("gripper_turned_about", "A 3", _Turned, "gripper_round_trip", "degrees"),
    _moved("wrist_flipped", "E 63", _Flipped, "joint_motion", "wrist_flex"),
    _moved("elbow_slips", "A 1", _Loose, "joint_motion", "elbow_flex"),
    _moved("reset_3_cm_low", "B 18, B 21", _Sagging, "reset_repeatability", "mm"),
    _moved("dead_band_swallows_moves", "A 8, B 18", _Sticky, "reset_repeatability", "missed by"),
    _moved("arm_creeps_down", "B 17", _Creeping, "zero_action_drift", "mm"),
)  # fmt: skip
"""Of the arm, and of those who drive it."""
