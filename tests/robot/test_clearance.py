"""Laws of the arm's distances: the physics engine is the judge."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot.arm_distance import LOWEST_JAW_RAD
from robot.clearance import (
    FINGER_MARGIN_M,
    FOLD_MARGIN_M,
    LINK_MARGIN_M,
    ROUNDING_M,
    SELF,
    SELF_MARGIN_M,
    TABLE,
    Clearance,
    straight,
)
from robot.parking import REST_RAD
from robot.types import GRIPPER
from tests.fakes.arm_geometry import ArmGeometry

COVER_M = 0.005
"""How much a distance is under-estimated at most: what balls stick out of the boxes they cover."""
GEOMETRY = ArmGeometry()
LOW, HIGH = GEOMETRY.limits
CLEARANCE = Clearance()
POSES = GEOMETRY.poses(0, 600)
shares = st.lists(st.floats(0, 1), min_size=6, max_size=6)


def gap_m(q_rad):
    """Least distance of the arm to itself, by the part under test."""
    shape = CLEARANCE._shape
    return float(shape.gaps(*CLEARANCE._frames(q_rad)).min())


def pose(values):
    return (LOW + np.array(values) * (HIGH - LOW)).astype(np.float32)


def test_no_pose_counts_as_clear_that_touches_and_none_as_nearer_than_it_is_by_much():
    touching = near = 0
    for q in POSES:
        exact, found = GEOMETRY.gap_m(q), gap_m(q)
        assert found <= max(exact, 0.0) + 1e-4, "over-estimated"
        if exact > 0:
            assert found > exact - COVER_M
        touching, near = touching + (exact <= 0), near + (0 < exact < 0.03)
    assert touching > 20 and near > 20, "the poses test nothing"


def test_heights_are_those_of_the_physics_engine():
    """Exactly so where the gripper is closed; opened, the moving finger counts where it is lowest, too."""
    for q in POSES:
        closed = q.copy()
        closed[GRIPPER] = min(q[GRIPPER], LOWEST_JAW_RAD)
        exact, exact_closed = GEOMETRY.lowest_m(q), GEOMETRY.lowest_m(closed)
        assert CLEARANCE.lowest_m(closed) == pytest.approx(exact_closed, abs=1e-5)
        assert CLEARANCE.lowest_m(q) == pytest.approx(min(exact, exact_closed), abs=1e-5)


def test_closing_the_gripper_of_a_hand_that_points_down_never_needs_room_below():
    q = np.array([0.2, -0.3, 0.6, 1.3, 1.57, 1.7], np.float32)
    before = CLEARANCE.slack(q)[TABLE]
    for opening in np.linspace(1.7, LOW[GRIPPER], 50):
        q[GRIPPER] = opening
        slack = CLEARANCE.slack(q)[TABLE]
        assert slack >= before - 1e-9
        before = slack


def test_many_poses_at_once_are_the_same_as_one_by_one():
    together = CLEARANCE.slack(POSES[:40].reshape(8, 5, 6))
    assert together.shape == (8, 5, 2)
    np.testing.assert_allclose(together.reshape(-1, 2), [CLEARANCE.slack(q) for q in POSES[:40]], atol=1e-12)


def test_a_higher_table_leaves_so_much_less():
    raised = Clearance(0.03)
    np.testing.assert_allclose(raised.slack(POSES)[:, TABLE], CLEARANCE.slack(POSES)[:, TABLE] - 0.03)
    np.testing.assert_array_equal(raised.slack(POSES)[:, SELF], CLEARANCE.slack(POSES)[:, SELF])
    with pytest.raises(ValueError, match="table_z_m"):
        Clearance(float("nan"))


def test_slack_is_room_beyond_the_margins_and_told_in_words_where_it_lacks():
    told = 0
    for q in POSES:
        slack, words = CLEARANCE.slack(q), CLEARANCE.told(q)
        assert ("above the table" in words) == (slack[TABLE] < 0)
        assert (" from the " in words) == (slack[SELF] < 0)
        told += bool(words)
        lowest = float(CLEARANCE.lowest_m(q))
        assert lowest - LINK_MARGIN_M - 1e-9 <= slack[TABLE] <= lowest - FINGER_MARGIN_M + 1e-9
        assert gap_m(q) - SELF_MARGIN_M - 1e-9 <= slack[SELF] <= gap_m(q) - FOLD_MARGIN_M + 1e-9
    assert told > 50


@pytest.mark.parametrize("opening", [-0.17, 0.0, 0.8, 1.7])
def test_the_folded_arm_is_clear(opening):
    assert CLEARANCE.told(np.array([*REST_RAD, opening], np.float32)) == ""


@settings(max_examples=80, deadline=None)
@given(shares, shares, st.floats(0, 0.002))
def test_a_way_stays_clear_or_only_moves_out(begin, end, keep_m):
    """Where a way is called clear every pose of it is; the farthest pose is on it, and clear to get to."""
    start, goal = pose(begin), pose(end)
    last = CLEARANCE.farthest(start, goal, keep_m)
    way = straight(start, last)
    bound = np.minimum(CLEARANCE.slack(start) - keep_m, 0.0)
    assert (CLEARANCE.slack(way) - keep_m >= bound - 1e-3).all()
    if CLEARANCE.is_clear(start, goal, keep_m):
        np.testing.assert_array_equal(last, goal)
    elif (last != goal).any():
        span = goal - start
        share = float(((last - start) @ span) / (span @ span))
        np.testing.assert_allclose(last, start + span * np.float32(share), atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(shares, st.lists(shares, min_size=3, max_size=12))
def test_who_is_too_near_gets_no_nearer_however_many_small_steps_he_takes(begin, targets):
    """Rounding does not add up."""
    q = pose(begin)
    best = CLEARANCE.best_at(q)
    bound = np.minimum(CLEARANCE.slack(q), 0.0)
    for target in targets:
        way = (q + (pose(target) - q) * np.linspace(0.002, 0.1, 50, dtype=np.float32)[:, None]).astype("f4")
        for step in way:
            count, reached = CLEARANCE.allowed(step[None], best, rounding_m=ROUNDING_M)
            if not count:
                break
            q, best = step, reached
            slack = CLEARANCE.slack(q)
            assert (slack >= bound - ROUNDING_M - 1e-9).all()
            bound = np.maximum(bound, np.minimum(slack, 0.0))


def test_rounding_does_not_add_up_along_a_way_either():
    """A slow descent from below the margin ends after ROUNDING_M, in one call or in many."""
    q = np.array([0.0, 0.3, 0.6, 1.0, 1.57, 0.0], np.float32)
    assert CLEARANCE.slack(q)[TABLE] < 0
    way = q + np.linspace(1e-4, 0.05, 500, dtype=np.float32)[:, None] * np.eye(6, dtype=np.float32)[1]
    assert (np.diff(CLEARANCE.slack(way)[:, TABLE]) > -ROUNDING_M / 2).all(), "each step is rounding"
    count, _ = CLEARANCE.allowed(way, CLEARANCE.best_at(q), rounding_m=ROUNDING_M)
    assert CLEARANCE.slack(way[count - 1])[TABLE] > CLEARANCE.slack(q)[TABLE] - ROUNDING_M - 1e-9
    best, taken = CLEARANCE.best_at(q), 0
    for pose_rad in way:
        allowed, best = CLEARANCE.allowed(pose_rad[None], best, rounding_m=ROUNDING_M)
        taken += allowed
    assert 0 < taken == count < 50


def test_the_watchdogs_own_imports_load_no_physics_engine():
    code = (
        "import robot.watchdog, robot.release, sys; from robot.clearance import Clearance; Clearance();"
        "print([name for name in ('mujoco', 'mink', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
