"""What lies between simulated servos and the physics: the moved joints, their calibration, a helping hand."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Final

import numpy as np

from robot.calibration import RAD_PER_COUNT, Calibration, JointCalibration, model_limits
from robot.twin.registers import OFFSET_SIGN_BIT, encode_sign
from robot.twin.servo_bus import ServoBus
from robot.twin.world import World
from robot.types import F32, GRIPPER, JOINT_NAMES, NUM_JOINTS

MIDDLE: Final = 2048
SHOULDER_LIFT, WRIST_FLEX = JOINT_NAMES.index("shoulder_lift"), JOINT_NAMES.index("wrist_flex")
HAND_PERIOD_S: Final = 20.0
"""The simulated person holds the arm in its middle for one period, then sweeps every joint for one."""


class WorldBody:
    """Lets servos on another thread drive a World. Only `advance` touches the World.

    A hand (q_rad (6,)) holds released joints where a person would move them; None lets them hang.
    """

    def __init__(self, world: World) -> None:
        self.hand_rad: F32 | None = None
        self._world = world
        self._lock = threading.Lock()
        self._goal = world.q_rad()
        self._driven = np.zeros(NUM_JOINTS, bool)
        self._setpoint, self._held = self._goal.copy(), self._driven.copy()
        self._now = (world.q_rad(), world.qd_rad_s(), world.torque_nm())

    def set_goal_rad(self, joint: int, rad: float | None) -> None:
        with self._lock:
            self._driven[joint] = rad is not None
            if rad is not None:
                self._goal[joint] = rad

    def position_rad(self, joint: int) -> float:
        return float(self._now[0][joint])

    def velocity_rad_s(self, joint: int) -> float:
        return float(self._now[1][joint])

    def torque_nm(self, joint: int) -> float:
        return float(self._now[2][joint]) if self._driven[joint] else 0.0

    def advance(self, seconds: float, speed_rad_s: Sequence[float] = (math.inf,) * NUM_JOINTS) -> None:
        """Pass the servos' goals to the physics and move it on.

        speed_rad_s: a servo approaches its goal no faster than this (6,) [rad/s].
        """
        with self._lock:
            goal, driven = self._goal.copy(), self._driven.copy()
        if (hand := self.hand_rad) is not None:
            goal, driven = np.where(driven, goal, hand).astype(np.float32), np.ones(NUM_JOINTS, bool)
        way = np.asarray(speed_rad_s) * seconds
        start = np.where(self._held, self._setpoint, self._now[0])  # what gains torque starts where it is
        self._setpoint = (start + np.clip(goal - start, -way, way)).astype(np.float32)
        self._held = driven
        self._world.set_goal(self._setpoint)
        self._world.set_torque(driven)
        self._world.step(seconds)
        self._now = (self._world.q_rad(), self._world.qd_rad_s(), self._world.torque_nm())


def twin_calibration() -> Calibration:
    """What calibrating the twin gives: encoders read 2048 at joint zero, ranges cover the arm model's."""
    limits = model_limits()
    low = np.rint(limits.lower_rad / RAD_PER_COUNT).astype(int)
    high = np.ceil(limits.upper_rad / RAD_PER_COUNT).astype(int)
    joints = []
    for index in range(NUM_JOINTS):
        # A body joint's zero is the middle of its range, so the range is even about it.
        half = int(min(max(-low[index], high[index]), MIDDLE - 1))
        first = int(low[index]) if index == GRIPPER else -half
        last = int(high[index]) if index == GRIPPER else half
        joints.append(JointCalibration(index + 1, 0, 0, MIDDLE + first, MIDDLE + last))
    return Calibration(tuple(joints), "the twin's own calibration")


def store_calibration(bus: ServoBus, calibration: Calibration) -> None:
    """Put `calibration` into the servos' EEPROM, as calibrating them would."""
    for servo, joint in zip(bus.servos, calibration.joints, strict=True):
        servo.memory.set("ID", joint.id)
        servo.memory.set("Homing_Offset", encode_sign(joint.homing_offset, OFFSET_SIGN_BIT))
        servo.memory.set("Min_Position_Limit", joint.range_min)
        servo.memory.set("Max_Position_Limit", joint.range_max)
        servo.memory.keep()


def sweep() -> list[F32]:
    """Poses (6,) [rad] that take every joint to both ends of its range without touching the table."""
    low, high = model_limits().lower_rad, model_limits().upper_rad
    middle = np.zeros(NUM_JOINTS, np.float32)
    middle[GRIPPER] = (low[GRIPPER] + high[GRIPPER]) / 2
    poses: list[F32] = [middle]
    for lift, others in ((high, low), (low, high)):
        pose = others.copy()
        pose[SHOULDER_LIFT], pose[WRIST_FLEX] = lift[SHOULDER_LIFT], 0.0
        poses += [pose, middle]
    for end in (low, high):
        pose = middle.copy()
        pose[WRIST_FLEX] = end[WRIST_FLEX]
        poses += [pose, middle]
    return poses


def hand_at(elapsed_s: float) -> F32:
    """(6,) [rad]: where a simulated person holds the arm: in its middle, then through `sweep`."""
    poses = sweep()
    turn = max(0.0, elapsed_s % (2 * HAND_PERIOD_S) - HAND_PERIOD_S) / HAND_PERIOD_S
    place = turn * (len(poses) - 1)
    before = min(int(place), len(poses) - 2)
    pose: F32 = poses[before] + np.float32(place - before) * (poses[before + 1] - poses[before])
    return pose
