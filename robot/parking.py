"""The way an arm is laid down before it is released."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import numpy as np

from robot.clearance import Clearance, straight
from robot.errors import NoClearWay
from robot.planning import is_clear, plan
from robot.types import F32, GRIPPER, JOINT_NAMES, Limits

SHOULDER_LIFT: Final = JOINT_NAMES.index("shoulder_lift")
REST_RAD: Final = (0.0, -1.7, 1.65, 0.8, 0.0)
"""Folded with the hand 3 cm above the table: released, it settles without falling. The gripper stays."""
PARK_STEP_S: Final = 0.02
PARK_SPEED_RAD_S: Final = 1.2
PARK_MIN_S: Final = 2.0
LIFT_S, LIFT_RAD = 0.5, 0.35
"""A hand that would drag over the table is first raised by turning the shoulder back."""
PEAK: Final = 1.5
"""An eased move is so much faster in its middle than on the whole."""


def rest_pose(q_rad: F32, limits: Limits) -> F32:
    """Where an arm at q_rad (6,) [rad] is laid down: (6,) [rad], the gripper as it is."""
    return np.clip(np.array([*REST_RAD, q_rad[GRIPPER]], np.float32), limits.lower_rad, limits.upper_rad)


def park_path(
    q_rad: F32, limits: Limits, clearance: Clearance, max_speed_rad_s: float = np.inf
) -> Iterator[F32]:
    """Targets (6,) [rad], PARK_STEP_S apart, from q_rad to rest; no joint is faster than max_speed_rad_s."""
    speed = min(PARK_SPEED_RAD_S, max_speed_rad_s / PEAK)
    rest = rest_pose(q_rad, limits)
    for start, end in pairwise([q_rad, *park_way(q_rad, rest, limits, clearance)]):
        far = float(np.abs(end - start).max())
        least_s = PARK_MIN_S if end is rest else LIFT_S * min(1.0, far / LIFT_RAD)
        yield from _ease(start, end, max(far / speed, least_s))


def park_way(q_rad: F32, rest: F32, limits: Limits, clearance: Clearance) -> list[F32]:
    """Corners (6,) [rad] of the way down, q_rad left out.

    Of three ways (straight, lifted a little first, shoulder all the way back first) the clear one whose
    lowest point is highest; where none is clear, a planned one. An arm must come down whatever happens: where
    there is no clear way at all it is the one of the three that keeps most room.
    """
    lifted, back = q_rad.copy(), q_rad.copy()
    lifted[SHOULDER_LIFT] = max(q_rad[SHOULDER_LIFT] - LIFT_RAD, limits.lower_rad[SHOULDER_LIFT])
    back[SHOULDER_LIFT] = rest[SHOULDER_LIFT]
    ways = ([rest], [lifted, rest], [back, rest])
    if clear := [way for way in ways if is_clear(clearance, q_rad, way)]:
        return max(clear, key=lambda way: float(clearance.lowest_m(_poses(q_rad, way)).min()))
    try:
        return plan(clearance, limits, q_rad, rest)
    except NoClearWay:
        return max(ways, key=lambda way: float(clearance.slack(_poses(q_rad, way)).min()))


def _poses(start: F32, corners: list[F32]) -> F32:
    """Poses (N, 6) [rad] all along a way."""
    return np.vstack([straight(begin, end) for begin, end in pairwise([start, *corners])])


def _ease(start: F32, end: F32, seconds: float) -> Iterator[F32]:
    steps = max(1, math.ceil(seconds / PARK_STEP_S))
    for step in range(1, steps + 1):
        share = step / steps
        yield (start + (end - start) * (share * share * (3 - 2 * share))).astype(np.float32)
