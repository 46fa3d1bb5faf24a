"""What every Arm promises: the lock-step twin, the guard before it, servos on a bus."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from robot.errors import CommandRefused
from robot.guard import Guard
from robot.so101 import SO101
from robot.timing import RealClock
from robot.twin.lift import LiftConfig
from robot.twin.lockstep import LockstepTwin
from robot.twin.wire import WireTwin
from robot.types import F32, GRIPPER, JOINT_NAMES, NUM_JOINTS, Arm, ArmState, Clock

SPEED_RAD_S = 1.0
RATE_HZ = 50.0


@dataclass(frozen=True)
class Case:
    """An arm, its clock, and whether it moves when told to park."""

    arm: Arm
    clock: Clock

    def wait(self, seconds: float) -> None:
        self.clock.sleep_until(self.clock.now_s() + seconds)

    def go(self, goal: F32) -> ArmState:
        """Command the straight way from where the arm is to `goal`, and let it arrive."""
        start = self.here()
        count = max(1, round(float(np.abs(goal - start).max()) / SPEED_RAD_S * RATE_HZ))
        for index in range(1, count + 1):
            self.arm.command((start + (goal - start) * np.float32(index / count)).astype(np.float32))
            self.wait(1 / RATE_HZ)
        for _ in range(15):
            self.arm.command(goal)
            self.wait(1 / RATE_HZ)
        return self.arm.read()

    def here(self) -> F32:
        """The measured pose, as far as it may be commanded."""
        return np.clip(self.arm.read().q_rad, self.arm.limits.lower_rad, self.arm.limits.upper_rad)

    def nearby(self, joint: int, by_rad: float = 0.25) -> F32:
        """The present pose with one joint moved towards the middle of its range."""
        goal = self.here()
        middle = (self.arm.limits.lower_rad[joint] + self.arm.limits.upper_rad[joint]) / 2
        goal[joint] += by_rad if goal[joint] < middle else -by_rad
        return goal


def raised(clock: Clock, arm: Arm) -> Case:
    """The case with the arm off the table, so that every joint is free to move."""
    case = Case(arm, clock)
    case.go(np.array([0.0, -0.6, 0.4, 0.6, 0.0, 0.5], np.float32))
    return case


@pytest.fixture(params=["lockstep", "guarded", "servos", "guarded servos"], scope="module")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    if "servos" not in request.param:
        twin = LockstepTwin(LiftConfig())
        arm: Arm = twin.arm
        if request.param == "guarded":
            arm = Guard(arm, twin.clock, max_joint_speed_rad_s=4.0, watchdog_s=0.5)
        yield raised(twin.clock, arm)
        arm.close()
        return
    clock = RealClock()
    calibration: Path = tmp_path_factory.mktemp("calibration")
    with WireTwin(calibration, "twin") as wire:
        servos = SO101(wire.port, "twin", calibration, clock)
        servos.connect()
        arm = servos
        if request.param == "guarded servos":
            arm = Guard(servos, clock, max_joint_speed_rad_s=4.0, watchdog_s=5.0)
        try:
            yield raised(clock, arm)
        finally:
            arm.park()
            arm.close()


def test_a_reading_is_one_finite_stamped_state_within_reach(case):
    first = case.arm.read()
    case.wait(0.02)
    second = case.arm.read()
    for state in (first, second):
        for values in (state.q_rad, state.qd_rad_s):
            assert values.dtype == np.float32 and values.shape == (NUM_JOINTS,) and np.isfinite(values).all()
    assert second.stamp_s > first.stamp_s
    assert second.stamp_s - first.stamp_s < 5.0
    assert np.abs(first.q_rad).max() < np.pi


def test_a_reading_belongs_to_the_reader(case):
    state = case.arm.read()
    before = state.q_rad.copy()
    case.go(case.nearby(0))
    np.testing.assert_array_equal(state.q_rad, before)


def test_the_limits_leave_every_joint_a_range(case):
    limits = case.arm.limits
    for bound in (limits.lower_rad, limits.upper_rad):
        assert bound.dtype == np.float32 and bound.shape == (NUM_JOINTS,)
    assert (limits.upper_rad - limits.lower_rad > 0.5).all()


@pytest.mark.parametrize("joint", range(NUM_JOINTS), ids=JOINT_NAMES)
def test_each_joint_goes_where_it_is_sent_and_no_other_moves(case, joint):
    before, goal = case.here(), case.nearby(joint)
    reached = case.go(goal).q_rad
    assert abs(reached[joint] - goal[joint]) < 0.03
    others = np.delete(np.abs(reached - before), joint)
    assert others.max() < 0.03
    assert np.abs(case.arm.read().qd_rad_s).max() < 0.2


def test_the_measured_pose_can_be_commanded_and_holds(case):
    start = case.here()
    for _ in range(10):
        case.arm.command(start)
        case.wait(0.02)
    assert np.abs(case.arm.read().q_rad - start).max() < 0.02


def test_the_command_belongs_to_the_arm_and_may_be_reused(case):
    start = case.here()
    goal = case.nearby(0, 0.05)
    case.arm.command(goal)
    goal[:] = np.nan
    case.wait(0.3)
    assert np.abs(case.arm.read().q_rad - start).max() < 0.1


@pytest.mark.parametrize("joint", [0, GRIPPER])
@pytest.mark.parametrize("end", ["lower", "upper"])
def test_a_target_outside_the_limits_is_refused_by_name_and_moves_nothing(case, joint, end):
    bad, start = case.here(), case.here()
    limit = case.arm.limits.lower_rad if end == "lower" else case.arm.limits.upper_rad
    bad[joint] = limit[joint] + (-0.1 if end == "lower" else 0.1)
    with pytest.raises(CommandRefused, match=JOINT_NAMES[joint]):
        case.arm.command(bad)
    case.wait(0.2)
    assert np.abs(case.arm.read().q_rad - start).max() < 0.02


@pytest.mark.parametrize(
    "bad",
    [
        np.full(NUM_JOINTS, np.nan, np.float32),
        np.array([0, 0, np.inf, 0, 0, 0], np.float32),
        np.zeros(5, np.float32),
        np.zeros((1, NUM_JOINTS), np.float32),
    ],
)
def test_a_target_that_is_none_is_refused_and_moves_nothing(case, bad):
    start = case.here()
    with pytest.raises(CommandRefused):
        case.arm.command(bad)
    case.wait(0.2)
    assert np.abs(case.arm.read().q_rad - start).max() < 0.02


def test_parking_and_closing_may_be_repeated_and_come_last(case):
    """Runs last in this module: what is parked and closed is used no more."""
    for _ in range(2):
        case.arm.park()
    for _ in range(2):
        case.arm.close()
