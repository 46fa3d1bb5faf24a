"""The way an arm is laid down before it is released."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from robot.types import F32, GRIPPER, JOINT_NAMES, NUM_JOINTS, Limits

SHOULDER_LIFT: Final = JOINT_NAMES.index("shoulder_lift")
REST_RAD: Final = (0.0, -1.7, 1.65, 0.8, 0.0)
"""Folded with the hand 3 cm above the table: released, it settles without falling. The gripper stays."""
PARK_STEP_S: Final = 0.02
PARK_SPEED_RAD_S: Final = 1.2
PARK_MIN_S: Final = 2.0
LIFT_S, LIFT_RAD, LOW_M = 0.5, 0.35, 0.08
"""A hand below LOW_M is first raised by turning the shoulder."""


def park_path(q_rad: F32, limits: Limits, height_m: Callable[[F32], float]) -> Iterator[F32]:
    """Targets (6,) [rad], PARK_STEP_S apart, from q_rad to rest: first up if low, then folding."""
    if height_m(q_rad) < LOW_M:
        raised = [
            q_rad + np.eye(NUM_JOINTS, dtype=np.float32)[SHOULDER_LIFT] * turn
            for turn in (LIFT_RAD, -LIFT_RAD)
        ]
        inside = [np.clip(q, limits.lower_rad, limits.upper_rad) for q in raised]
        lifted = max(inside, key=height_m)
        yield from _ease(q_rad, lifted, LIFT_S)
        q_rad = lifted
    rest = np.array([*REST_RAD, q_rad[GRIPPER]], np.float32)
    rest = np.clip(rest, limits.lower_rad, limits.upper_rad)
    farthest = float(np.abs(rest - q_rad).max())
    yield from _ease(q_rad, rest, max(PARK_MIN_S, farthest / PARK_SPEED_RAD_S))


def _ease(start: F32, end: F32, seconds: float) -> Iterator[F32]:
    steps = round(seconds / PARK_STEP_S)
    for step in range(1, steps + 1):
        share = step / steps
        yield (start + (end - start) * (share * share * (3 - 2 * share))).astype(np.float32)
