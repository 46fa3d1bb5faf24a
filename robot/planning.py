"""Clear ways in joint space: straight where that is clear, else over raised postures.

The same start and goal give the same way. Every pose of a way is allowed by the arm's Clearance.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from robot.clearance import Clearance, straight
from robot.errors import NoClearWay
from robot.types import F32, GRIPPER, NUM_JOINTS, Limits

KEEP_M: Final = 2e-4
"""Room beyond the margins: who follows a way in other steps than the planner's is not refused."""
RAISED_RAD: Final = (
    (-1.0, 0.8, 0.8),
    (-1.4, 1.4, 0.3),
    (-0.5, 0.0, 0.8),
    (0.0, -0.8, 0.8),
    (-1.4, 0.8, -1.0),
)
"""Shoulder lift, elbow and wrist of postures with the hand high and free, tried in this order."""
OUT_RAD, OUT_STEPS, DIRECTIONS = 0.04, 60, 64
"""An arm that is too near moves out by steps of OUT_RAD, each in the best of so many directions."""
ROOM_M: Final = 0.03
"""Room from which other ways are tried where the next clear pose is a dead end."""


def plan(
    clearance: Clearance,
    limits: Limits,
    start_rad: F32,
    goal_rad: F32,
    preferred: Iterable[Sequence[F32]] = (),
) -> list[F32]:
    """Corners (6,) [rad] of a clear way from start_rad to goal_rad (6,) [rad], the start left out.

    Between corners it is straight, all joints at once. preferred: routes to try before the straight
    one, each the corners before the goal. A start that is too near to something first moves out.
    Raises NoClearWay naming what is in the way.
    """
    if told := clearance.told(goal_rad):
        raise NoClearWay(f"the goal {_shown(goal_rad)} rad itself is not clear: {told}")
    for room_m in (KEEP_M, ROOM_M):
        out = way_out(clearance, limits, start_rad, room_m)
        free = out[-1] if out else start_rad
        for route in (*preferred, (), *raised_routes(limits, free, goal_rad)):
            corners = [*route, goal_rad]
            if is_clear(clearance, free, corners):
                return [*out, *corners]
    hits = (q for q in straight(start_rad, goal_rad) if clearance.told(q))
    told = clearance.told(next(hits, start_rad)) or "nothing too near"
    raise NoClearWay(
        f"no clear way leads from {_shown(start_rad)} to {_shown(goal_rad)} rad; on the straight one comes "
        f"{told}. Move the arm by hand to where it is free"
    )


def is_clear(clearance: Clearance, start_rad: F32, corners: Iterable[F32]) -> bool:
    """Whether every straight leg from start_rad through the corners is clear, with KEEP_M to spare."""
    return all(clearance.is_clear(begin, end, KEEP_M) for begin, end in pairwise([start_rad, *corners]))


def way_out(clearance: Clearance, limits: Limits, start_rad: F32, room_m: float = KEEP_M) -> list[F32]:
    """Corners of a way along which the arm gets more and more room, up to room_m, as far as steps lead.

    Empty where it has that room already. The gripper stays as it is.
    """
    rng = np.random.default_rng(0)
    corners: list[F32] = []
    q, slack = start_rad, clearance.slack(start_rad)
    while slack.min() < room_m and len(corners) < OUT_STEPS:
        turns = rng.uniform(-1, 1, (DIRECTIONS, NUM_JOINTS))
        turns[: 2 * GRIPPER, :GRIPPER] = np.vstack([np.eye(GRIPPER), -np.eye(GRIPPER)])
        turns[:, GRIPPER] = 0.0
        turns *= OUT_RAD / np.abs(turns).max(axis=1, keepdims=True)
        ends = np.clip(q + turns, limits.lower_rad, limits.upper_rad).astype(np.float32)
        reached = clearance.slack(ends)
        allowed = (reached >= np.minimum(slack, KEEP_M)).all(axis=1)
        gain = np.where(allowed, reached.min(axis=1), -np.inf)
        chosen = int(np.argmax(gain))
        if gain[chosen] <= slack.min():
            break
        q, slack = ends[chosen], reached[chosen]
        corners.append(q)
    if corners and clearance.is_clear(start_rad, corners[-1], KEEP_M):
        return corners[-1:]
    return corners


def raised_routes(limits: Limits, start_rad: F32, goal_rad: F32) -> list[list[F32]]:
    """Routes over raised postures: up where the arm stands, round, and down where it goes."""
    routes = []
    for raised in RAISED_RAD:
        up, over = start_rad.copy(), goal_rad.copy()
        up[1:4] = over[1:4] = raised
        routes.append([np.clip(q, limits.lower_rad, limits.upper_rad) for q in (up, over)])
    return routes


def _shown(q_rad: F32) -> str:
    return str(np.round(q_rad.astype(float), 2).tolist())
