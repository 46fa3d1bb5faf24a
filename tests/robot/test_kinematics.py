from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilserl.config import TaskConfig
from robot.arm_shape import arm_description
from robot.errors import KinematicsError
from robot.kinematics import Kinematics
from robot.types import GRIPPER, WRIST_ROLL, Limits

TASK = TaskConfig()
LOW, HIGH = np.array(TASK.workspace_min), np.array(TASK.workspace_max)
KINEMATICS = Kinematics()
LIMITS = KINEMATICS.limits
NEUTRAL = np.array([0, 0, 0, 0, TASK.wrist_roll, TASK.reset_gripper], np.float32)


def tilt_rad(q_rad) -> float:
    """Angle between the hand's approach axis and straight down."""
    return float(np.arccos(np.clip(-KINEMATICS.fk(q_rad).rotmat[2, 0], -1, 1)))


def usable_poses(count: int, max_tilt_rad: float = 1.0) -> list[np.ndarray]:
    """Joint angles within limits whose hand is in the box: their positions are reachable for certain."""
    rng, found = np.random.default_rng(0), []
    while len(found) < count:
        q = rng.uniform(LIMITS.lower_rad, LIMITS.upper_rad).astype(np.float32)
        q[WRIST_ROLL] = TASK.wrist_roll
        xyz = KINEMATICS.fk(q).xyz_m
        if (xyz > LOW).all() and (xyz < HIGH).all() and tilt_rad(q) < max_tilt_rad:
            found.append(q)
    return found


@pytest.mark.parametrize("vector", arm_description()["fk_test_vectors"])
def test_forward_kinematics_equal_the_data_sheet(vector):
    pose = KINEMATICS.fk(np.array(vector["q_rad"]))
    np.testing.assert_allclose(pose.xyz_m, vector["xyz_m"], atol=1e-5)
    np.testing.assert_allclose(pose.rotmat.ravel(), vector["rotmat_rowmajor"], atol=1e-4)


def test_the_data_sheet_has_forty_vectors_that_move_every_joint():
    q = np.array([vector["q_rad"] for vector in arm_description()["fk_test_vectors"]])
    assert q.shape == (40, 6) and (np.ptp(q[:, :5], axis=0) > 1.0).all()


def test_inverse_kinematics_arrive_wherever_the_arm_can_be_and_keep_roll_and_gripper():
    worst = 0.0
    for q in usable_poses(120):
        target = KINEMATICS.fk(q).xyz_m
        solved = KINEMATICS.ik(target, NEUTRAL)
        worst = max(worst, float(np.linalg.norm(KINEMATICS.fk(solved).xyz_m - target)))
        assert solved.dtype == np.float32
        assert (solved >= LIMITS.lower_rad).all() and (solved <= LIMITS.upper_rad).all()
        np.testing.assert_allclose(solved[[WRIST_ROLL, GRIPPER]], NEUTRAL[[WRIST_ROLL, GRIPPER]], atol=1e-5)
    assert worst < 0.002


@pytest.mark.parametrize("x", [0.15, 0.20, 0.25])
@pytest.mark.parametrize("y", [-0.10, 0.0, 0.10])
def test_low_over_the_table_the_hand_points_straight_down(x, y):
    for z in (0.0, 0.02, 0.04):
        assert tilt_rad(KINEMATICS.ik((x, y, z), NEUTRAL)) < np.radians(5)


def test_far_out_pointing_down_gives_way_and_position_does_not():
    for y in (-0.10, 0.0, 0.10):
        for z in (0.0, 0.05, 0.10):
            q = KINEMATICS.ik((0.35, y, z), NEUTRAL)
            assert np.linalg.norm(KINEMATICS.fk(q).xyz_m - (0.35, y, z)) < 1e-3
            assert tilt_rad(q) > np.radians(10)


def test_a_small_move_of_the_hand_is_the_small_move_of_the_joints_that_makes_it():
    step_rad = 1e-4
    for q in usable_poses(25, max_tilt_rad=0.5):
        start = KINEMATICS.ik(KINEMATICS.fk(q).xyz_m, NEUTRAL).astype(np.float64)
        at = KINEMATICS.fk(start).xyz_m
        columns = [(KINEMATICS.fk(start + step_rad * row).xyz_m - at) / step_rad for row in np.eye(6)]
        for axis in np.eye(3):
            move = 0.003 * axis
            step = KINEMATICS.ik(at + move, start) - start
            if np.linalg.norm(KINEMATICS.fk(start + step).xyz_m - at - move) > 1e-3:
                continue  # out of reach
            np.testing.assert_allclose(np.array(columns).T @ step, move, atol=5e-4)


@settings(max_examples=80, deadline=None)
@given(
    st.tuples(st.floats(0.15, 0.32), st.floats(-0.12, 0.12), st.floats(0.0, 0.12)),
    st.lists(st.floats(-1, 1), min_size=6, max_size=6),
)
def test_tilt_angles_are_small_and_continuous_where_the_arm_works(xyz, direction):
    q = KINEMATICS.ik(np.array(xyz), NEUTRAL).astype(np.float64)
    nudge = 0.01 * np.array(direction)
    before = KINEMATICS.tilt_euler(q, TASK.wrist_roll)
    after = KINEMATICS.tilt_euler(q + nudge, TASK.wrist_roll)
    assert np.abs(before).max() < np.pi / 2
    assert np.abs(after - before).max() < 3 * np.abs(nudge).sum() + 1e-9


def test_tilt_angles_are_zero_when_the_hand_points_straight_down_at_pan_zero():
    q = KINEMATICS.ik((0.22, 0.0, 0.02), NEUTRAL)
    q[0] = 0.0
    # the gripper is mounted with a twist of 0.049
    assert np.abs(KINEMATICS.tilt_euler(q, TASK.wrist_roll)).max() < 0.06
    pan = q + np.float32(0.3) * np.eye(6, dtype=np.float32)[0]
    turned = KINEMATICS.tilt_euler(pan, TASK.wrist_roll)
    assert abs(np.abs(turned).max() - 0.3) < 0.06  # a turn of the pan is seen, once


def test_a_point_out_of_reach_gives_the_nearest_angles_within_the_limits():
    q = KINEMATICS.ik((0.9, 0.0, 0.1), NEUTRAL)
    assert (q >= LIMITS.lower_rad).all() and (q <= LIMITS.upper_rad).all()
    assert KINEMATICS.fk(q).xyz_m[0] > 0.38


def test_narrower_limits_are_kept():
    lower, upper = LIMITS.lower_rad.copy(), LIMITS.upper_rad.copy()
    lower[0], upper[0], upper[3] = -0.2, 0.2, 1.2
    narrow = Kinematics(Limits(lower, upper))
    for y in (-0.15, 0.0, 0.15):
        q = narrow.ik((0.25, y, 0.05), NEUTRAL)
        assert (q >= lower).all() and (q <= upper).all()


@pytest.mark.parametrize("bad", [np.zeros(5), np.zeros((1, 6)), np.full(6, np.nan)])
def test_joint_angles_that_are_none_are_refused(bad):
    with pytest.raises(KinematicsError, match="6 finite numbers"):
        KINEMATICS.fk(bad)


@pytest.mark.parametrize("bad", [np.zeros(2), np.array([0.2, np.inf, 0.1])])
def test_positions_that_are_none_are_refused(bad):
    with pytest.raises(KinematicsError, match="3 finite numbers"):
        KINEMATICS.ik(bad, NEUTRAL)
