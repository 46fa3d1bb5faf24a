"""Laws of bringing the arm down: whatever happens on the way, the rest is parked, released and told."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lerobot.motors.feetech.tables import STS_SMS_SERIES_ENCODINGS_TABLE

from robot.clearance import Clearance
from robot.errors import BusError
from robot.landing import LIMP, Lander
from robot.parking import PARK_MIN_S, PARK_STEP_S, REST_RAD, park_path, rest_pose
from robot.servo_link import SIGN_BITS, ServoLink, decode, encode
from robot.twin.registers import REGISTERS
from robot.twin.world_body import twin_calibration
from robot.types import GRIPPER, JOINT_NAMES
from tests.fakes.servo_rig import POSE, Rig, watch_goals

LIMITS = twin_calibration().limits
REST = [*REST_RAD, POSE[GRIPPER]]


@pytest.fixture
def rig(tmp_path):
    rig = Rig(tmp_path)
    yield rig
    rig.close()


class Told:
    """A supervisor that remembers what it heard, and what the servos did by then."""

    def __init__(self, rig):
        self.rig, self.heard = rig, []

    def torque(self, on):
        self.heard.append((on, [servo.memory.get("Torque_Enable") for servo in self.rig.bus.servos]))

    def check(self):
        pass


def at_step(rig, step, act):
    """Call `act` when the arm has slept `step` times."""
    sleep, count = rig.clock.sleep_until, [0]

    def counting(t_s):
        count[0] += 1
        if count[0] == step:
            act()
        sleep(t_s)

    rig.clock.sleep_until = counting


def lander(rig, arm=None, calibration="own", **options):
    """On a bus of its own (the arm's is closed), as another process would have it."""
    if arm is not None:
        arm._link.close()
    ids = {name: index + 1 for index, name in enumerate(JOINT_NAMES)}
    link = ServoLink(rig.port.port, ids, 3, rig.clock)
    link.open()
    rig.arms.append(link)
    known = rig.calibration if calibration == "own" else None
    return Lander(link, known, rig.clock, Clearance(), options.get("speed", 4.0))


# --- the way ------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=6, max_size=6), st.floats(0.2, 5.0))
def test_the_way_to_rest_is_slow_continuous_and_never_faster_than_the_limit(shares, speed):
    q_rad = (LIMITS.lower_rad + np.array(shares) * (LIMITS.upper_rad - LIMITS.lower_rad)).astype(np.float32)
    path = np.stack([q_rad, *park_path(q_rad, LIMITS, Clearance(), speed)])
    steps = np.abs(np.diff(path, axis=0))
    assert (steps / PARK_STEP_S).max() <= speed * 1.03
    assert np.rad2deg(steps.max()) < 30
    assert len(steps) * PARK_STEP_S >= PARK_MIN_S - 1e-9
    assert path[-1] == pytest.approx(rest_pose(q_rad, LIMITS), abs=1e-5)
    assert (path[:, GRIPPER] == q_rad[GRIPPER]).all() or path[-1][GRIPPER] == pytest.approx(q_rad[GRIPPER])


# --- what may happen on the way -----------------------------------------------------------------------------


def test_a_cable_out_on_the_way_is_waited_for_and_the_way_gone_from_where_the_arm_is(rig):
    arm = rig.connected(retries=3)
    seen = watch_goals(rig)
    at_step(rig, 40, rig.port.unplug)
    at_step(rig, 70, rig.port.plug)
    arm.park()
    assert sorted(seen.released) == list(range(6))
    for joint in range(6):
        goals = [POSE[joint], *seen.goals[joint]]
        assert np.abs(np.diff(goals)).max() < np.deg2rad(5), JOINT_NAMES[joint]
        assert goals[-1] == pytest.approx(REST[joint], abs=0.01)


def test_an_arm_whose_cable_stays_out_is_not_said_to_be_released(rig):
    told = Told(rig)
    arm = rig.connected(retries=3, supervisor=told)
    at_step(rig, 40, rig.port.unplug)
    with pytest.raises(BusError, match=r"could not be released, but.*gripper: could not be released, hold"):
        arm.park()
    assert [on for on, _ in told.heard] == [True]


def test_a_servo_that_loses_its_torque_on_the_way_is_driven_no_further(rig):
    arm = rig.connected()
    seen = watch_goals(rig)
    at_step(rig, 40, lambda: (rig.bus.servos[2].power_cycle(), seen.goals[2].clear()))
    with pytest.raises(BusError, match=r"parked and released, but elbow_flex: lost its torque on the way"):
        arm.park()
    assert seen.goals[2] == []
    for joint in (0, 1, 3, 4):
        assert seen.goals[joint][-1] == pytest.approx(REST_RAD[joint], abs=0.01)
    assert not any(servo.memory.get("Torque_Enable") for servo in rig.bus.servos)


def test_a_blocked_joint_is_named_and_released(rig):
    arm = rig.connected()
    place = rig.body.position_rad
    rig.body.position_rad = lambda joint: POSE[2] if joint == 2 else place(joint)
    with pytest.raises(BusError, match=r"elbow_flex: is 0\.75 rad from its rest pose: is it blocked"):
        arm.park()
    assert rig.body.goal == [None] * 6


def test_the_supervisor_hears_of_torque_before_it_comes_and_of_its_end_when_it_is_gone(rig):
    told = Told(rig)
    arm = rig.connected(supervisor=told)
    arm.park()
    (first_on, before), (last_on, after) = told.heard
    assert first_on and not any(before)
    assert not last_on and not any(after)


def test_what_was_energised_when_connecting_failed_is_released(rig):
    told = Told(rig)
    arm = rig.arm(supervisor=told, retries=2)
    answer = rig.bus.receive

    def fails_late(data):
        result = answer(data)
        if rig.bus.servos[3].memory.get("Torque_Enable"):
            rig.faults.silent = frozenset({5})
        return result

    rig.bus.receive = fails_late
    with pytest.raises(BusError, match="wrist_roll"):
        arm.connect()
    torque = [servo.memory.get("Torque_Enable") for servo in rig.bus.servos]
    assert torque[:4] == [0, 0, 0, 0]
    assert [on for on, _ in told.heard] == [True], "servo 5 was never heard to be released"


# --- in another process -------------------------------------------------------------------------------------


def test_holding_stops_every_joint_where_it_is_and_keeps_the_grip(rig):
    arm = rig.connected()
    pose = np.array(POSE, np.float32)
    pose[GRIPPER] = 0.2
    pose[0] = 0.5
    arm.command(pose)
    arm.read()
    landing = lander(rig, arm)
    rig.body.q_rad[:] = [0.4, *POSE[1:5], 0.45]
    rig.body.position_rad = lambda joint: float(rig.body.q_rad[joint])
    assert landing.hold(landing.look()[0]) == {}
    assert rig.body.goal == pytest.approx([0.4, *POSE[1:5], 0.2], abs=0.005)


@pytest.mark.parametrize("faults", [{"drop_rate": 0.1}, {"corrupt_rate": 0.1}])
def test_holding_over_a_bad_bus_is_made_sure_of(rig, faults):
    arm = rig.connected()
    arm.command(np.array(POSE, np.float32) + np.float32(0.1))
    landing = lander(rig, arm)
    for name, value in faults.items():
        setattr(rig.faults, name, value)
    rig.body._decay = 1.0  # nothing moves on
    here = [rig.body.position_rad(joint) for joint in range(6)]
    problems = landing.hold(landing.look()[0])
    assert problems == {}
    assert rig.body.goal[:5] == pytest.approx(here[:5], abs=0.005)


def test_an_arm_without_torque_is_left_as_it_is(rig):
    seen = watch_goals(rig)
    landing = lander(rig).land()
    assert (landing.on, landing.released, landing.problems) == ([], [], {})
    assert seen.goals == [[]] * 6 and seen.released == []


def test_servos_that_are_limp_from_the_start_are_never_driven(rig):
    arm = rig.connected()
    rig.bus.servos[4].power_cycle()
    seen = watch_goals(rig)
    landing = lander(rig, arm).land()
    assert seen.goals[4] == []
    assert landing.problems == {"wrist_roll": LIMP}
    assert landing.limp == ["wrist_roll"] and landing.on == []
    assert landing.released == ["gripper", "wrist_flex", "elbow_flex", "shoulder_lift", "shoulder_pan"]
    assert seen.goals[1][-1] == pytest.approx(REST_RAD[1], abs=0.01)


def test_without_a_calibration_an_arm_is_only_let_go(rig):
    arm = rig.connected()
    seen = watch_goals(rig)
    landing = lander(rig, arm, calibration=None).land()
    assert seen.goals == [[]] * 6
    assert seen.released == [5, 4, 3, 2, 1, 0]
    assert "without a calibration" in landing.told()


# --- the link -----------------------------------------------------------------------------------------------


def test_signs_are_lerobots():
    theirs = {name: bit for name, bit in STS_SMS_SERIES_ENCODINGS_TABLE.items() if name in REGISTERS}
    assert theirs == SIGN_BITS


@given(st.sampled_from(sorted(REGISTERS)), st.integers(-40000, 70000))
def test_a_register_holds_a_value_exactly_or_refuses_it(name, value):
    bits = SIGN_BITS.get(name)
    size = REGISTERS[name].size
    fits = abs(value) < 1 << bits if bits is not None else 0 <= value < 1 << 8 * size
    if fits:
        assert decode(name, encode(name, value)) == value and len(encode(name, value)) == size
    else:
        with pytest.raises(ValueError, match=f"{name} = {value}"):
            encode(name, value)
