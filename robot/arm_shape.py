"""What the SO-101 is made of: its data sheet, and the boxes and capsules that stand for its parts.

Frames, joint axes, limits and inertias come from robot/assets/so101_arm.json (the arm maker's CAD export);
the shapes are ours. The twin draws and collides them, and `robot.clearance` keeps them apart. No physics
engine is loaded.

Gripper body frame: +x towards the moving finger, -y towards the camera, -z towards the fingertips.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

BASE, SHOULDER, UPPER_ARM, LOWER_ARM = "base", "shoulder", "upper_arm", "lower_arm"
WRIST, HAND, JAW = "wrist", "gripper", "moving_jaw_so101_v1"
FIXED_FINGER, MOVING_FINGER = "fixed_finger", "moving_finger"

FIXED_FACE_X: Final = -0.008
"""Inner face of the fixed finger in the gripper frame [m]: the plane the TCP site lies in."""
FINGER_TIP_Z, FINGER_ROOT_Z = -0.0985, -0.030
FINGER_HALF: Final = (0.004, 0.009)
"""Half thickness and half width of a finger [m]."""
PARALLEL_AT_RAD, PARALLEL_GAP = 0.165, 0.030
"""The moving finger is parallel to the fixed one at this gripper angle, a 30 mm cube apart."""


@dataclass(frozen=True, slots=True)
class Box:
    """A box in the frame of `body`. pos: centre, half: half edges [m]. turn_rad: about its own z axis."""

    body: str
    pos: tuple[float, float, float]
    half: tuple[float, float, float]
    turn_rad: float = 0.0


@dataclass(frozen=True, slots=True)
class Capsule:
    """A capsule in the frame of `body`. ends: x, y, z of the one and of the other end of its axis [m]."""

    body: str
    ends: tuple[float, float, float, float, float, float]
    radius: float


def arm_description() -> dict[str, Any]:
    """The arm's data sheet: bodies, joints, sites, servo, FK test vectors; units in the key names."""
    text = files("robot").joinpath("assets/so101_arm.json").read_text(encoding="utf-8")
    description: dict[str, Any] = json.loads(text)
    return description


LINKS: Final[tuple[Box | Capsule, ...]] = (
    Box(BASE, (0.0, 0.0, 0.03), (0.045, 0.035, 0.03)),
    Box(SHOULDER, (-0.02, 0.0, -0.03), (0.024, 0.018, 0.026)),
    Capsule(UPPER_ARM, (0.0, -0.012, 0.018, -0.1126, -0.02, 0.018), 0.014),
    Box(UPPER_ARM, (-0.105, -0.02, 0.018), (0.018, 0.020, 0.016)),
    Capsule(LOWER_ARM, (0.0, 0.003, 0.018, -0.125, 0.003, 0.018), 0.013),
    Box(WRIST, (0.0, -0.03, 0.02), (0.016, 0.022, 0.018)),
    Box(HAND, (0.0, 0.012, -0.018), (0.022, 0.014, 0.018)),
    Box(HAND, (0.006, -0.004, -0.022), (0.022, 0.012, 0.010)),
)
"""Boxes for servos and capsules for links."""


def fingers(description: dict[str, Any]) -> dict[str, Box]:
    """The fixed and the moving finger, by name."""
    jaw_pos = np.array(next(part for part in description["bodies"] if part["name"] == JAW)["pos_m"])
    half_x, half_y = FINGER_HALF
    half_z = (FINGER_ROOT_Z - FINGER_TIP_Z) / 2
    middle_z = (FINGER_ROOT_Z + FINGER_TIP_Z) / 2
    # The moving finger, placed where it must be at PARALLEL_AT_RAD and carried back into the jaw's frame:
    # gripper = jaw_pos + Rx(90 deg) Rz(q) jaw.
    offset = np.array([FIXED_FACE_X + PARALLEL_GAP + half_x, 0.0, middle_z]) - jaw_pos
    along_x, across, along_z = offset[0], -offset[1], offset[2]
    cos, sin = np.cos(PARALLEL_AT_RAD), np.sin(PARALLEL_AT_RAD)
    return {
        FIXED_FINGER: Box(HAND, (FIXED_FACE_X - half_x, 0.0, middle_z), (half_x, half_y, half_z)),
        MOVING_FINGER: Box(
            JAW,
            (cos * along_x + sin * along_z, -sin * along_x + cos * along_z, across),
            (half_x, half_z, half_y),
            -PARALLEL_AT_RAD,
        ),
    }
