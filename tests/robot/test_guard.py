from __future__ import annotations

import threading
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot.clearance import ROUNDING_M, Clearance, straight
from robot.errors import BusError, CommandRefused
from robot.guard import EARLY_S, LIMIT_ROUNDING_RAD, LONGEST_MOVE_S, SLEW_ROUNDING_RAD, Guard
from robot.parking import REST_RAD
from robot.planning import way_out
from robot.timing import RealClock
from robot.types import GRIPPER, NUM_JOINTS, Limits
from tests.fakes.arm import FakeArm, HandClock, pose
from tests.fakes.arm_geometry import ArmGeometry

SPEED = 2.0


def guarded(**changes) -> tuple[Guard, FakeArm, HandClock]:
    arm, clock = FakeArm(), HandClock()
    settings = {"max_joint_speed_rad_s": SPEED, "watchdog_s": 0.5, **changes}
    return Guard(arm, clock, **settings), arm, clock


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros(6), "float32"),
        (np.zeros(5, np.float32), "float32"),
        (np.zeros((1, 6), np.float32), "float32"),
        ([0.0] * 6, "list"),
        (pose(0.0, np.nan), "'shoulder_lift'.*nan"),
        (pose(np.inf), "'shoulder_pan'.*inf"),
    ],
)
def test_a_malformed_target_is_refused_and_reaches_no_servo(bad, message):
    guard, arm, _ = guarded()
    with pytest.raises(CommandRefused, match=message):
        guard.command(bad)
    assert arm.commands == []


def test_a_target_beyond_the_limits_is_refused_by_name_and_rounding_is_set_to_the_limit():
    model = Limits(np.full(6, -3.0, np.float32), np.full(6, 0.05, np.float32))
    guard, arm, _ = guarded(model_limits=model)
    np.testing.assert_allclose(guard.limits.upper_rad, 0.05)
    np.testing.assert_allclose(guard.limits.lower_rad, -2.0)
    with pytest.raises(CommandRefused, match=r"'elbow_flex'.*0\.0520 rad.*\[-2\.0000, 0\.0500\]"):
        guard.command(pose(0.0, 0.0, 0.052))
    guard.command(pose(0.05 + LIMIT_ROUNDING_RAD / 2))
    assert len(arm.commands) == 1 and arm.commands[0][0] == np.float32(0.05)


def test_limits_that_leave_no_range_are_refused_at_once():
    model = Limits(np.full(6, 2.5, np.float32), np.full(6, 3.0, np.float32))
    with pytest.raises(ValueError, match="'shoulder_pan' has no range left"):
        guarded(model_limits=model)


def test_the_first_target_must_be_near_the_measured_pose():
    guard, arm, _ = guarded()
    arm.q_rad[1] = 1.0
    with pytest.raises(CommandRefused, match=r"'shoulder_lift'.*1\.0000 rad, to 0\.0000 rad.*2 rad/s"):
        guard.command(pose())
    guard.command(pose(0.0, 0.9))
    assert len(arm.commands) == 1


def test_a_pause_buys_no_jump():
    guard, arm, clock = guarded(watchdog_s=1000.0)
    guard.command(pose())
    clock.t_s += 60.0
    with pytest.raises(CommandRefused, match="interpolate"):
        guard.command(pose(SPEED * (LONGEST_MOVE_S + EARLY_S) + 0.01))
    guard.command(pose(SPEED * LONGEST_MOVE_S))
    assert len(arm.commands) == 2


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.001, 0.02, 0.3]) | st.floats(0.0, 0.2),
            st.lists(st.sampled_from([0.0, 0.03]) | st.floats(-0.3, 0.3), min_size=6, max_size=6),
        ),
        min_size=2,
        max_size=40,
    )
)
def test_no_sequence_of_accepted_commands_is_faster_than_allowed(plan):
    """Between any two accepted commands the way is within speed x time + tolerance, whatever the timing."""
    guard, arm, clock = guarded(watchdog_s=1000.0, divergence_rad=100.0)
    guard.command(pose())
    clock.t_s += 1.0  # the way back to the measured pose is free only while the measurement is fresh
    accepted = []
    for dt, move in plan:
        clock.t_s += dt
        target = (arm.q_rad + np.array(move, np.float32)).astype(np.float32)
        try:
            guard.command(target)
        except CommandRefused:
            continue
        accepted.append((clock.t_s, target))
    for i, (begin_s, _) in enumerate(accepted):
        way = 0.0
        for j in range(i + 1, len(accepted)):
            way += float(np.abs(accepted[j][1] - accepted[j - 1][1]).max())
            allowed = SPEED * (accepted[j][0] - begin_s + EARLY_S) + (j - i) * SLEW_ROUNDING_RAD
            assert way <= allowed + 1e-5


@settings(deadline=None)
@given(st.lists(st.floats(-0.019, 0.019), min_size=1, max_size=50))
def test_a_steady_interpolation_with_timer_jitter_is_never_refused(jitter):
    guard, arm, clock = guarded()
    arm.q_rad[0] = -1.5
    start = clock.t_s
    for i, late in enumerate(jitter):
        clock.t_s = max(clock.t_s, start + 0.02 * i + max(0.0, late))
        guard.command(pose(-1.5 + 0.02 * i * SPEED))
    assert len(arm.commands) == len(jitter)


def test_back_to_where_the_arm_was_just_measured_is_free_and_beyond_it_is_not():
    guard, arm, clock = guarded(divergence_rad=100.0)
    arm.stuck = {GRIPPER}
    squeeze = pose()
    for _ in range(10):
        clock.t_s += 0.02
        squeeze[GRIPPER] -= 0.03
        guard.command(squeeze)
    guard.read()
    guard.command(pose())
    guard.command(squeeze + pose(0, 0, 0, 0, 0, 0.27))
    clock.t_s += LONGEST_MOVE_S + 0.01
    far = squeeze - pose(0, 0, 0, 0, 0, 0.1)
    with pytest.raises(CommandRefused, match="'gripper'"):
        guard.command(far)


def test_an_old_measurement_frees_nothing():
    guard, arm, clock = guarded(watchdog_s=1000.0)
    guard.read()
    for i in range(50):
        clock.t_s += 0.02
        guard.command(pose(i * 0.02))
    with pytest.raises(CommandRefused, match="'shoulder_pan'"):
        guard.command(pose())


def test_a_refused_command_changes_nothing():
    guard, arm, clock = guarded()
    guard.command(pose())
    with pytest.raises(CommandRefused):
        guard.command(pose(1.0))
    clock.t_s += 0.02
    guard.command(pose(0.04))
    assert len(arm.commands) == 2


def drive(guard, clock, target, seconds, hz=50):
    for _ in range(int(seconds * hz)):
        clock.t_s += 1.0 / hz
        guard.read()
        guard.command(target)


def test_a_blocked_joint_is_named_and_the_arm_holds_where_it_is():
    guard, arm, clock = guarded()
    arm.stuck = {2}
    for i in range(20):
        clock.t_s += 0.02
        guard.read()
        guard.command(pose(0.0, 0.0, i * 0.02))
    with pytest.raises(CommandRefused, match=r"'elbow_flex' is at 0\.0000 rad.*blocked"):
        drive(guard, clock, pose(0.0, 0.0, 0.38), 1.0)
    assert guard.holding
    np.testing.assert_allclose(arm.commands[-1], pose(), atol=1e-6)
    arm.stuck = set()
    with pytest.raises(CommandRefused, match="the measured pose it holds"):
        guard.command(pose(0.0, 0.0, 0.38))
    guard.command(pose(0.0, 0.0, 0.02))
    assert not guard.holding


def test_a_lagging_arm_is_not_taken_for_a_blocked_one():
    """Half a second behind at full speed: far from the target, never far from where it was told to be."""
    guard, arm, clock = guarded()
    arm.stuck = set(range(6))
    past = []
    for i in range(100):
        clock.t_s += 0.02
        past.append(pose(i * 0.02))
        arm.q_rad = past[max(0, i - 20)].copy()
        guard.read()
        guard.command(past[-1])
    assert len(arm.commands) == 100


def test_squeezing_with_the_gripper_is_normal():
    guard, arm, clock = guarded()
    arm.stuck = {GRIPPER}
    target = pose()
    for _ in range(50):
        target[GRIPPER] -= 0.02
        drive(guard, clock, target, 0.02)
    drive(guard, clock, target, 2.0)
    assert not guard.holding


def test_watchdog_with_simulated_time_holds_the_measured_pose_at_the_next_call():
    guard, arm, clock = guarded()
    guard.command(pose(0.1))
    arm.q_rad[0] = 0.3  # pushed meanwhile
    clock.t_s += 0.49
    guard.read()
    assert not guard.holding
    clock.t_s += 0.02
    guard.read()
    assert guard.holding
    np.testing.assert_allclose(arm.commands[-1], pose(0.3))
    guard.read()
    assert len(arm.commands) == 2, "it holds once"
    clock.t_s += 0.02
    with pytest.raises(CommandRefused, match="the measured pose it holds"):
        guard.command(pose(0.1))
    guard.command(pose(0.3))
    assert not guard.holding


def test_a_hold_keeps_the_grip_and_stays_within_limits():
    guard, arm, clock = guarded()
    arm.stuck = {GRIPPER}
    squeeze = pose()
    squeeze[GRIPPER] = -0.15
    guard.command(squeeze)
    arm.q_rad[0] = 2.3  # beyond the limit of 2: pushed by hand
    clock.t_s += 1.0
    guard.read()
    assert guard.holding
    np.testing.assert_allclose(arm.commands[-1][[0, GRIPPER]], [2.0, -0.15])


def test_an_arm_never_commanded_is_never_held():
    guard, arm, clock = guarded()
    clock.t_s += 100.0
    guard.read()
    assert arm.commands == [] and not guard.holding


def test_park_disarms_and_the_next_command_starts_from_the_measured_pose():
    guard, arm, clock = guarded()
    guard.command(pose(0.1))
    guard.park()
    arm.q_rad[0] = -1.0
    clock.t_s += 100.0
    guard.read()
    assert len(arm.commands) == 1 and not guard.holding
    with pytest.raises(CommandRefused):
        guard.command(pose(0.1))
    guard.command(pose(-1.0))
    guard.close()
    guard.close()
    assert arm.calls == ["park", "close", "close"]


def real(arm: FakeArm, watchdog_s: float = 0.05) -> Guard:
    return Guard(arm, RealClock(), max_joint_speed_rad_s=SPEED, watchdog_s=watchdog_s)


def until(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)


def test_watchdog_thread_holds_by_itself_once_and_ends_with_the_guard():
    arm = FakeArm()
    before = threading.active_count()
    guard = real(arm)
    guard.command(pose(0.1))
    arm.q_rad[0] = 0.15
    until(lambda: guard.holding)
    time.sleep(0.2)
    assert len(arm.commands) == 2
    np.testing.assert_allclose(arm.commands[-1], pose(0.15))
    guard.command(pose(0.16))
    assert not guard.holding
    until(lambda: guard.holding)
    guard.close()
    assert threading.active_count() == before
    with pytest.raises(CommandRefused, match="closed"):
        guard.command(pose(0.16))


def test_a_bus_error_met_by_the_watchdog_reaches_the_caller_and_the_hold_is_tried_again():
    arm = FakeArm()
    guard = real(arm)
    guard.command(pose(0.1))
    arm.broken = True
    time.sleep(0.2)
    assert not guard.holding
    arm.broken = False
    until(lambda: guard.holding)
    with pytest.raises(BusError, match="servo 3"):
        guard.read()
    guard.read()
    guard.close()


def test_calls_of_many_threads_never_overlap_on_the_arm():
    class Single(FakeArm):
        inside = 0
        worst = 0

        def read(self):
            Single.inside += 1
            Single.worst = max(Single.worst, Single.inside)
            time.sleep(0.0005)
            state = super().read()
            Single.inside -= 1
            return state

    guard = real(Single(), watchdog_s=0.01)
    guard.command(pose())
    threads = [
        threading.Thread(target=lambda: [guard.read() for _ in range(50)], daemon=True) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    guard.close()
    assert Single.worst == 1


@pytest.mark.parametrize("name", ["max_joint_speed_rad_s", "watchdog_s", "divergence_rad", "divergence_s"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_senseless_settings_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        guarded(**{name: value})


def test_the_guard_is_an_arm():
    guard, _, _ = guarded()
    assert guard.limits.lower_rad.shape == (NUM_JOINTS,)
    assert guard.read().q_rad.shape == (NUM_JOINTS,)


# --- the table and the arm itself ---------------------------------------------------------------------------

CLEARANCE = Clearance()
GEOMETRY = ArmGeometry()
NEAR = GEOMETRY.near_poses(12, 12, CLEARANCE)
FREE = [*GEOMETRY.free_poses(11, 60), *NEAR]
STEP_RAD = 0.03
"""Of somebody who commands at 50 Hz."""
wishes = st.lists(st.tuples(st.integers(0, 5), st.floats(-1, 1)), min_size=3, max_size=12)


def on_a_table(start):
    """A guarded arm that stands at `start`, its limits and its clearance those of the real one."""
    arm, clock = FakeArm(), HandClock()
    arm.limits = Limits(*GEOMETRY.limits)
    arm.q_rad = start.copy()
    guard = Guard(
        arm, clock, max_joint_speed_rad_s=SPEED, watchdog_s=1000.0, divergence_rad=9.0, clearance=CLEARANCE
    )
    return guard, arm, clock


@settings(max_examples=30, deadline=None)
@given(st.integers(0, len(FREE) - 1), wishes)
def test_whatever_is_commanded_no_goal_comes_too_near_or_nearer_than_it_was(first, plan):
    """Towards random poses, step by step, a refused step being left out."""
    guard, arm, clock = on_a_table(FREE[first])
    bound = np.minimum(CLEARANCE.slack(FREE[first]), 0.0)
    goal = FREE[first].copy()
    for joint, share in plan:
        goal[joint] = GEOMETRY.limits[int(share > 0)][joint] * np.float32(abs(share))
        for _ in range(25):
            clock.t_s += 0.02
            guard.read()
            step = np.clip(goal - arm.q_rad, -STEP_RAD, STEP_RAD)
            try:
                guard.command((arm.q_rad + step).astype(np.float32))
            except CommandRefused:
                break
    for accepted in arm.commands:
        slack = CLEARANCE.slack(accepted)
        assert (slack >= bound - ROUNDING_M - 1e-9).all()
        bound = np.maximum(bound, np.minimum(slack, 0.0))


def test_a_step_into_the_table_and_one_into_the_arm_are_refused_in_words_and_move_nothing():
    low = np.array([0.1, 0.05, 0.45, 1.2, 1.57, 0.5], np.float32)
    folded = np.array([*REST_RAD, 0.5], np.float32)
    for start, joint, told in ((low, 1, "fingers .* mm above the table"), (folded, 3, "mm from the")):
        guard, arm, clock = on_a_table(start)
        target = start.copy()
        with pytest.raises(CommandRefused, match=f"brings the .*{told}.*keeps its last target"):
            for _ in range(60):
                clock.t_s += 0.02
                target[joint] += np.float32(STEP_RAD)
                guard.command(target)
        sent = len(arm.commands)
        with pytest.raises(CommandRefused):
            guard.command(target)
        assert len(arm.commands) == sent
        clock.t_s += 0.02
        guard.command(start if not sent else arm.commands[-1])


def test_a_long_step_over_something_is_refused_though_its_end_is_clear():
    """At full speed a target may be a tenth of a radian and more away: the way to it counts."""
    poses = GEOMETRY.poses(13, 8000)
    slack = CLEARANCE.slack(poses).min(axis=1)
    starts = np.repeat(poses[(slack > 0) & (slack < 0.002)], 400, axis=0)
    moves = np.random.default_rng(0).uniform(-0.19, 0.19, starts.shape).astype(np.float32)
    ends = np.clip(starts + moves, *GEOMETRY.limits)
    end_slack, middle_slack = (CLEARANCE.slack(q).min(axis=1) for q in (ends, (starts + ends) / 2))
    over = np.flatnonzero((end_slack > 0) & (middle_slack < -2 * ROUNDING_M))[:40]
    assert len(over) > 3
    for index in over:
        guard, arm, clock = on_a_table(starts[index])
        with pytest.raises(CommandRefused, match="brings the"):
            guard.command(ends[index])
        assert not arm.commands


def test_an_arm_that_is_too_near_may_stay_and_move_out_but_no_nearer():
    for start in NEAR:
        guard, arm, clock = on_a_table(start)
        guard.command(start)
        way = [start, *way_out(CLEARANCE, arm.limits, start)]
        for begin, end in pairwise(way):
            for q in straight(begin, end):
                clock.t_s += 0.02
                guard.command(q)
        assert not CLEARANCE.told(arm.commands[-1])
        guard.read()
        with pytest.raises(CommandRefused):
            for begin, end in pairwise(way[::-1]):
                for q in straight(begin, end):
                    clock.t_s += 0.02
                    guard.command(q)
