"""Calibration of the arm in lerobot's file format, and the two lines that turn servo counts into radians.

One file per arm, `<calibration_dir>/<id>.json`:
{motor: {id, drive_mode, homing_offset, range_min, range_max}}.
Counts are what the servo shows: its encoder minus homing_offset, 4096 per turn.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from robot.errors import CalibrationError
from robot.types import F32, GRIPPER, JOINT_NAMES, Limits

I32 = NDArray[np.int32]
F64 = NDArray[np.float64]

COUNTS_PER_TURN: Final = 4096
RAD_PER_COUNT: Final = 2 * math.pi / COUNTS_PER_TURN
MAX_OFFSET: Final = 2047


@dataclass(frozen=True, slots=True)
class JointCalibration:
    """One joint as lerobot stores it: servo id, direction, offset and range in counts."""

    id: int
    drive_mode: int
    homing_offset: int
    range_min: int
    range_max: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """Six joints in the order of JOINT_NAMES. source names where it came from, for messages."""

    joints: tuple[JointCalibration, ...]
    source: str

    def __post_init__(self) -> None:
        for name, joint in zip(JOINT_NAMES, self.joints, strict=True):
            _check_joint(name, joint, self.source)
        empty = self.limits.lower_rad >= self.limits.upper_rad
        for index in np.flatnonzero(empty):
            joint = self.joints[index]
            raise CalibrationError(
                f"{self.source}: the range of {JOINT_NAMES[index]} ({joint.range_min}..{joint.range_max})"
                " shares nothing with the arm model's; calibrate the arm again"
            )

    def rad(self, counts: I32) -> F32:
        """Joint angles (6,) [rad] of servo counts (6,)."""
        return ((counts - self._zero_counts()) * RAD_PER_COUNT).astype(np.float32)

    def counts(self, q_rad: F32) -> I32:
        """Nearest servo counts (6,) of joint angles (6,) [rad]."""
        return np.rint(q_rad / RAD_PER_COUNT + self._zero_counts()).astype(np.int32)

    @property
    def limits(self) -> Limits:
        """Range both the calibration and the arm model allow [rad]."""
        low, high = (
            self.rad(np.array([getattr(joint, end) for joint in self.joints], np.int32))
            for end in ("range_min", "range_max")
        )
        model = model_limits()
        return Limits(np.maximum(low, model.lower_rad), np.minimum(high, model.upper_rad))

    def _zero_counts(self) -> F64:
        """(6,) counts at joint angle zero: mid-range; for the gripper, range_min is its closed end."""
        zero = np.array([(joint.range_min + joint.range_max) / 2 for joint in self.joints])
        closed_rad = float(model_limits().lower_rad[GRIPPER])
        zero[GRIPPER] = self.joints[GRIPPER].range_min - closed_rad / RAD_PER_COUNT
        return zero


@cache
def model_limits() -> Limits:
    """Range of the arm model's joints (6,) [rad]."""
    arm = json.loads(files("robot").joinpath("assets/so101_arm.json").read_text())
    ranges = {joint["name"]: joint["range_rad"] for joint in arm["joints"]}
    table = np.array([ranges[name] for name in JOINT_NAMES], np.float32)
    return Limits(table[:, 0], table[:, 1])


def calibration_path(calibration_dir: Path, robot_id: str) -> Path:
    """Where the calibration of arm `robot_id` lies."""
    return Path(calibration_dir) / f"{robot_id}.json"


def load_calibration(
    calibration_dir: Path, robot_id: str, port: str = "PORT", role: str = "follower"
) -> Calibration:
    """The calibration of arm `robot_id`. Raises CalibrationError that says how to make or mend it.

    role: "follower" or "leader".
    """
    path = calibration_path(calibration_dir, robot_id)
    how = how_to_calibrate(calibration_dir, robot_id, port, role)
    if not path.is_file():
        raise CalibrationError(f"no calibration for arm {robot_id!r}: {path} does not exist. {how}")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise CalibrationError(f"{path} is not JSON ({error}). {how}") from error
    if not isinstance(content, dict) or set(content) != set(JOINT_NAMES):
        found = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise CalibrationError(f"{path} must name the joints {list(JOINT_NAMES)}, it names {found}. {how}")
    return Calibration(tuple(_parse(name, content[name], path) for name in JOINT_NAMES), str(path))


def save_calibration(calibration: Calibration, calibration_dir: Path, robot_id: str) -> Path:
    """Write `calibration` as `<calibration_dir>/<robot_id>.json` in one piece; returns the path."""
    path = calibration_path(calibration_dir, robot_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {name: asdict(joint) for name, joint in zip(JOINT_NAMES, calibration.joints, strict=True)}
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(content, indent=4) + "\n")
    os.replace(unfinished, path)
    return path


def calibration_id(calibration: Calibration) -> str:
    """First 16 hexadecimal digits of the sha256 of the six joints' numbers: equal when every number is."""
    joints = json.dumps([asdict(joint) for joint in calibration.joints], sort_keys=True)
    return hashlib.sha256(joints.encode()).hexdigest()[:16]


def check_calibration_id(calibration: Calibration, expected: str) -> None:
    """Raise CalibrationError unless `calibration` is the one the task record names; "" names none."""
    found = calibration_id(calibration)
    if expected and found != expected:
        raise CalibrationError(
            f"task.calibration_id is {expected!r}, {calibration.source} is {found!r}: this arm was "
            "calibrated anew since the task was recorded. Put that calibration back, or set "
            f"--task.calibration_id={found} and record again"
        )


def how_to_calibrate(calibration_dir: Path, robot_id: str, port: str, role: str = "follower") -> str:
    """The command that makes a calibration, or writes an existing one to the servos. role: or "leader"."""
    arm = "teleop" if role == "leader" else "robot"
    return (
        f"Run: hilserl calibrate --config_path FILE{' --leader' if role == 'leader' else ''}, or:"
        f" lerobot-calibrate --{arm}.type=so101_{role} --{arm}.port={port} --{arm}.id={robot_id}"
        f" --{arm}.calibration_dir={calibration_dir}"
    )


def _check_joint(name: str, joint: JointCalibration, source: str) -> None:
    if joint.drive_mode != 0:
        raise CalibrationError(
            f"{source}: {name}.drive_mode is {joint.drive_mode}, an SO-101 servo has 0 (not inverted)"
        )
    if not 0 <= joint.range_min < joint.range_max < COUNTS_PER_TURN:
        raise CalibrationError(
            f"{source}: the range of {name}, {joint.range_min}..{joint.range_max}, must grow within 0..4095"
        )
    if abs(joint.homing_offset) > MAX_OFFSET:
        raise CalibrationError(
            f"{source}: {name}.homing_offset is {joint.homing_offset}, a servo keeps -2047..2047"
        )


def _parse(name: str, content: object, path: Path) -> JointCalibration:
    wanted = [field.name for field in fields(JointCalibration)]
    if not isinstance(content, dict) or set(content) != set(wanted):
        raise CalibrationError(f"{path}: {name} must hold {wanted}, it holds {content}")
    for key, value in content.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise CalibrationError(f"{path}: {name}.{key} is {value!r}; it must be a whole number")
    return JointCalibration(**content)
