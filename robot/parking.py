"""The way an arm is laid down before it is released."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Final

import numpy as np

from robot.types import F32, GRIPPER, JOINT_NAMES, Limits

SHOULDER_LIFT: Final = JOINT_NAMES.index("shoulder_lift")
REST_RAD: Final = (0.0, -1.7, 1.65, 0.8, 0.0)
"""Folded with the hand 3 cm above the table: released, it settles without falling. The gripper stays."""
PARK_STEP_S: Final = 0.02
PARK_SPEED_RAD_S: Final = 1.2
PARK_MIN_S: Final = 2.0
LIFT_S, LIFT_RAD = 0.5, 0.35
"""A hand that would drag over the table is first raised by turning the shoulder back."""
CLEARANCE_SAMPLES: Final = 12
PEAK: Final = 1.5
"""An eased move is so much faster in its middle than on the whole."""


def rest_pose(q_rad: F32, limits: Limits) -> F32:
    """Where an arm at q_rad (6,) [rad] is laid down: (6,) [rad], the gripper as it is."""
    return np.clip(np.array([*REST_RAD, q_rad[GRIPPER]], np.float32), limits.lower_rad, limits.upper_rad)


def park_path(
    q_rad: F32, limits: Limits, height_m: Callable[[F32], float], max_speed_rad_s: float = np.inf
) -> Iterator[F32]:
    """Targets (6,) [rad], PARK_STEP_S apart, from q_rad to rest; no joint is faster than max_speed_rad_s.

    Of three ways (straight, lifted a little first, shoulder all the way back first) the one whose lowest
    point, by height_m [m] at joint angles (6,), is highest.
    """
    speed = min(PARK_SPEED_RAD_S, max_speed_rad_s / PEAK)
    rest = rest_pose(q_rad, limits)
    lifted, back = q_rad.copy(), q_rad.copy()
    lifted[SHOULDER_LIFT] = max(q_rad[SHOULDER_LIFT] - LIFT_RAD, limits.lower_rad[SHOULDER_LIFT])
    back[SHOULDER_LIFT] = rest[SHOULDER_LIFT]
    routes = ([q_rad, rest], [q_rad, lifted, rest], [q_rad, back, rest])
    way = max(routes, key=lambda route: lowest_m(route, height_m))
    for start, end in pairwise(way):
        fastest_s = float(np.abs(end - start).max()) / speed
        yield from _ease(start, end, max(fastest_s, PARK_MIN_S if end is rest else LIFT_S))


def lowest_m(route: list[F32], height_m: Callable[[F32], float]) -> float:
    """Height of the lowest point [m] on the way through `route`, its first pose left out."""
    shares = np.linspace(0, 1, CLEARANCE_SAMPLES)[1:]
    return min(height_m(start + (end - start) * share) for start, end in pairwise(route) for share in shares)


def _ease(start: F32, end: F32, seconds: float) -> Iterator[F32]:
    steps = round(seconds / PARK_STEP_S)
    for step in range(1, steps + 1):
        share = step / steps
        yield (start + (end - start) * (share * share * (3 - 2 * share))).astype(np.float32)
