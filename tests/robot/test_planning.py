"""Laws of planned ways and of parking, from random poses in which a real arm could stand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from robot.clearance import ROUNDING_M, Clearance
from robot.errors import NoClearWay
from robot.parking import REST_RAD, park_path, park_way, rest_pose
from robot.planning import KEEP_M, plan, way_out
from robot.types import Limits
from tests.fakes.arm_geometry import ArmGeometry

GEOMETRY = ArmGeometry()
LIMITS = Limits(*GEOMETRY.limits)
CLEARANCE = Clearance()
WORKING = np.array([0.1, -0.6, 0.7, 1.4, 1.57, 0.8], np.float32)
NEAR = GEOMETRY.near_poses(4, 20, CLEARANCE)
FREE = [*GEOMETRY.free_poses(3, 120), *NEAR]
ROUTES = [(q, goal) for q in FREE for goal in (WORKING, rest_pose(q, LIMITS))]


def follow(start, corners, step_rad=0.013):
    """Every pose of a way as somebody follows it, in steps of his own."""
    poses = [start[None]]
    for begin, end in pairwise([start, *corners]):
        count = max(1, int(np.ceil(np.abs(end - begin).max() / step_rad)))
        poses.append(begin + (end - begin) * np.linspace(0, 1, count + 1, dtype=np.float32)[1:, None])
    return np.vstack(poses).astype(np.float32)


def assert_clear(way):
    """The guard's law: clear, or no nearer than it was before."""
    count, _ = CLEARANCE.allowed(way, CLEARANCE.best_at(way[0]), rounding_m=ROUNDING_M)
    assert count == len(way), CLEARANCE.told(way[count])


def test_from_wherever_an_arm_can_stand_a_clear_way_leads_to_work_and_to_rest():
    for start, goal in ROUTES:
        corners = plan(CLEARANCE, LIMITS, start, goal)
        np.testing.assert_array_equal(corners[-1], goal)
        way = follow(start, corners)
        assert (way >= LIMITS.lower_rad - 1e-6).all() and (way <= LIMITS.upper_rad + 1e-6).all()
        assert_clear(way)


def test_some_ways_are_not_straight():
    """The straight way is not always clear: without other routes not all would arrive."""
    assert any(not CLEARANCE.is_clear(start, goal, KEEP_M) for start, goal in ROUTES)
    assert any(len(plan(CLEARANCE, LIMITS, start, goal)) > 1 for start, goal in ROUTES)


def test_the_same_start_gives_the_same_way():
    for start, goal in ROUTES[:20]:
        one, other = (plan(CLEARANCE, LIMITS, start, goal) for _ in range(2))
        np.testing.assert_array_equal(np.array(one), np.array(other))


def test_a_preferred_route_is_taken_where_it_is_clear_and_left_where_it_is_not():
    over = np.array([0.1, -1.0, 0.8, 0.8, 1.57, 0.8], np.float32)
    through = np.array([0.1, 0.6, 0.6, 1.0, 1.57, 0.8], np.float32)
    assert CLEARANCE.told(through) and not CLEARANCE.told(over)
    start = np.array([0.5, -0.8, 0.5, 0.8, 0.0, 0.0], np.float32)
    np.testing.assert_array_equal(plan(CLEARANCE, LIMITS, start, WORKING, [[over]]), [over, WORKING])
    np.testing.assert_array_equal(plan(CLEARANCE, LIMITS, start, WORKING, [[through]]), [WORKING])


def test_an_arm_that_is_too_near_moves_out_first():
    assert len(NEAR) == 20
    for start in NEAR:
        corners = way_out(CLEARANCE, LIMITS, start)
        assert corners and not CLEARANCE.told(corners[-1])
        assert_clear(follow(start, corners))
    assert way_out(CLEARANCE, LIMITS, WORKING) == []


def test_a_goal_that_is_not_clear_and_a_start_without_a_way_out_are_named():
    low = WORKING.copy()
    low[1] += 1.0
    with pytest.raises(NoClearWay, match=r"the goal .* not clear: .* above the table"):
        plan(CLEARANCE, LIMITS, WORKING, low)
    start = next(q for q, rest in ROUTES[1::2] if not CLEARANCE.is_clear(q, rest, KEEP_M))
    pinned = Limits(start - np.float32(1e-3), start + np.float32(1e-3))
    with pytest.raises(NoClearWay, match=r"no clear way leads from .* comes the .* mm .*by hand"):
        plan(CLEARANCE, pinned, start, rest_pose(start, LIMITS))


def test_parking_is_clear_from_wherever_an_arm_can_stand():
    for start in FREE:
        path = np.array([start, *park_path(start, LIMITS, CLEARANCE)])
        np.testing.assert_allclose(path[-1][:5], REST_RAD, atol=1e-5)
        assert_clear(path)


def test_an_arm_comes_down_even_where_no_way_is_clear():
    """A table that is said to be too high, or a pose no arm can have: it must not stay up."""
    for start in GEOMETRY.poses(9, 20):
        rest = rest_pose(start, LIMITS)
        way = park_way(start, rest, LIMITS, Clearance(0.3))
        np.testing.assert_array_equal(way[-1], rest)
