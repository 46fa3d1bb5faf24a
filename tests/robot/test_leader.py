"""Laws of the leader arm as a teleop, over a simulated bus behind a real pseudo-terminal and the real SDK."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robot.calibration import Calibration, model_limits, save_calibration
from robot.errors import CalibrationError, TeleopError
from robot.kinematics import Kinematics
from robot.teleop.leader import Leader
from robot.teleop.leader_arm import LeaderArm, held_by, pose_differences_deg
from robot.teleop.leader_motion import GRAB_READS, REST_S, STILL_M
from robot.twin.faults import Status
from robot.twin.world_body import store_calibration, twin_calibration
from robot.types import GRIPPER, JOINT_NAMES, ArmState, Event, Operator
from tests.fakes.servo_rig import Rig

SCALE_M, LEASH_M, DT_S = 0.02, 0.05, 0.1
SPAN_RAD, BAND_RAD = (-0.17, 0.9), 0.25
KINEMATICS = Kinematics()
RETRIES = 20
OPEN, CLOSED = (float(end[GRIPPER]) for end in (model_limits().upper_rad, model_limits().lower_rad))


def calibrated(*offsets: int) -> Calibration:
    """The twin's calibration, its horns mounted otherwise."""
    joints = twin_calibration().joints
    moved = [replace(joint, homing_offset=n) for joint, n in zip(joints, offsets, strict=False)]
    return Calibration((*moved, *joints[len(moved) :]), "elsewhere")


FOLLOWER, LEADER = calibrated(10, 20), calibrated(-30, 40)


class Buttons:
    """A device with buttons, pressed by the test."""

    def __init__(self) -> None:
        self.held, self.events, self.seeds, self.closed = False, [], [], 0

    def read(self, state: ArmState) -> Operator:
        action = np.ones(4, np.float32) if self.held else None
        return Operator(action, self.events.pop(0) if self.events else None)

    def reset(self, seed: int) -> None:
        self.seeds.append(seed)

    def stop_asked(self) -> bool:
        return Event.STOP in self.events

    def close(self) -> None:
        self.closed += 1


class Bench:
    """A leader arm on a bus, a hand at it, and a follower whose gripper stands at `follower`."""

    def __init__(self, folder) -> None:
        self.rig, self.said, self.buttons = Rig(folder), [], Buttons()
        save_calibration(LEADER, folder, "lead")
        self.hold(LEADER)
        self.follower = 0.3
        self.retries = RETRIES
        self.writes: list[tuple[int, int]] = []
        for servo in self.rig.bus.servos:
            self._watch(servo)

    def _watch(self, servo) -> None:
        write = servo.write

        def noted(address: int, data: bytes) -> None:
            self.writes.append((servo.id, address))
            write(address, data)

        servo.write = noted

    def hold(self, calibration: Calibration) -> None:
        """The arm at the port is the one of this calibration, in a pose it was put in."""
        store_calibration(self.rig.bus, calibration)
        self.pose(0.1, -0.6, 0.7, 0.5, 0.2, OPEN)

    def pose(self, *q_rad: float) -> None:
        # the twin's encoders show the joint angle less the offset
        offsets = [joint.homing_offset * 2 * np.pi / 4096 for joint in LEADER.joints]
        self.rig.body.q_rad = np.array(q_rad) + offsets

    def move(self, joint: int, rad: float) -> None:
        self.rig.body.q_rad[joint] += rad

    def grip(self, share: float) -> None:
        offset = LEADER.joints[GRIPPER].homing_offset * 2 * np.pi / 4096
        self.rig.body.q_rad[GRIPPER] = CLOSED + share * (OPEN - CLOSED) + offset

    def arm(self) -> LeaderArm:
        return LeaderArm(
            self.rig.port.port,
            "lead",
            self.rig.folder,
            self.rig.clock,
            self.retries,
            others={"follower 'arm'": FOLLOWER},
            say=self.said.append,
        )

    def leader(self) -> Leader:
        return Leader(
            self.arm(),
            self.buttons,
            self.rig.clock,
            action_scale_m=SCALE_M,
            leash_m=LEASH_M,
            gripper_span_rad=SPAN_RAD,
            gripper_band_rad=BAND_RAD,
            say=self.said.append,
        )

    def read(self, leader: Leader) -> Operator:
        """One control step."""
        self.rig.clock.t_s += DT_S
        q_rad = np.zeros(6, np.float32)
        q_rad[GRIPPER] = self.follower
        return leader.read(ArmState(q_rad, np.zeros(6, np.float32), 0.0))

    def take_over(self, leader: Leader) -> Operator:
        """Hold the button for one step."""
        self.buttons.held = True
        return self.read(leader)

    def torque(self) -> list[int]:
        return [servo.memory.get("Torque_Enable") for servo in self.rig.bus.servos]


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.rig.close()


@pytest.fixture
def leader(bench):
    leader = bench.leader()
    leader.reset(0)
    yield leader
    leader.close()


def hand(arm: LeaderArm) -> np.ndarray:
    return KINEMATICS.fk(arm.read()).xyz_m


# --- motion -------------------------------------------------------------------------------------------------


def test_the_pose_is_the_one_the_servos_show(bench):
    arm = bench.arm()
    arm.connect()
    np.testing.assert_allclose(arm.read(), [0.1, -0.6, 0.7, 0.5, 0.2, OPEN], atol=0.0016)
    for share in (0.0, 0.25, 1.0):
        bench.grip(share)
        assert arm.gripper_share(arm.read()) == pytest.approx(share, abs=0.002)
    arm.close()


def test_integrated_actions_are_the_leaders_displacement_since_the_take_over(bench, leader):
    """Over the real bus, from any pose, with any motion before the take-over; and no jump at its start."""
    angles = st.tuples(*[st.floats(-0.6, 0.6)] * 5)
    turns = st.lists(st.tuples(st.integers(0, 4), st.floats(-0.12, 0.12)), min_size=1, max_size=8)

    @settings(deadline=None, max_examples=12, suppress_health_check=list(HealthCheck), database=None)
    @given(start=angles, before=turns, moves=turns)
    def law(start, before, moves):
        bench.buttons.held = False
        leader.reset(0)
        bench.pose(*start, OPEN)
        for joint, rad in before[: GRAB_READS - 1]:
            bench.move(joint, rad)
            assert bench.read(leader).action is None
        first = bench.take_over(leader).action
        np.testing.assert_array_equal(first, np.zeros(4, np.float32))
        begin = hand(leader._arm)
        actions = [first]
        for joint, rad in moves:
            bench.move(joint, rad)
            actions.append(bench.read(leader).action)
            # the hand waits for the arm: nothing is dropped
            actions += [bench.read(leader).action for _ in range(12)]
        done = SCALE_M * np.sum(np.array(actions, np.float64)[:, :3], axis=0)
        assert leader._motion.dropped_m == 0.0
        assert np.abs(done - (hand(leader._arm) - begin)).max() < STILL_M
        assert not actions[-1].any(), "a still leader asks for exactly nothing"

    leader._motion._leash_m = np.inf
    law()


def test_taking_over_again_starts_from_where_the_leader_is_by_then(bench, leader):
    bench.take_over(leader)
    bench.move(0, 0.3)
    assert bench.read(leader).action.any()
    bench.buttons.held = False
    assert bench.read(leader).action is None
    bench.move(1, 0.5)
    assert not bench.take_over(leader).action.any()
    assert not bench.read(leader).action.any(), "what was owed to the first take-over is forgotten"


def test_motion_dropped_for_being_too_fast_is_said(bench, leader):
    bench.take_over(leader)
    bench.move(0, 0.8)
    bench.read(leader)
    bench.buttons.held = False
    bench.read(leader)
    (told,) = bench.said
    assert "too far ahead" in told and "mm of its motion were dropped" in told


def test_grabbing_takes_over_resting_gives_back(bench, leader):
    acting = []
    for _ in range(GRAB_READS + 3):
        bench.move(0, 0.05)
        acting.append(bench.read(leader).action is not None)
    assert acting == [False] * GRAB_READS + [True] * 3
    acting = [bench.read(leader).action is not None for _ in range(round(REST_S / DT_S) + 2)]
    assert acting[0] and not acting[-1]


def test_a_new_episode_begins_with_the_policy_and_its_own_seed(bench, leader):
    for _ in range(GRAB_READS + 3):
        bench.move(0, 0.05)
        bench.read(leader)
    leader.reset(7)
    assert bench.buttons.seeds[-1] == 7
    bench.move(0, 0.05)
    assert bench.read(leader).action is None


def test_verdicts_come_from_the_buttons_with_and_without_the_arm(bench, leader):
    bench.buttons.events = list(Event)
    assert leader.stop_asked()
    heard = [bench.read(leader).event]
    bench.buttons.held = True
    heard += [bench.read(leader).event for _ in range(len(Event))]
    assert heard == [*Event, None]
    assert not leader.stop_asked()


# --- the gripper --------------------------------------------------------------------------------------------


def test_the_gripper_follows_positions_and_a_still_leader_holds(bench, leader):
    bench.grip(0.5)
    bench.follower = 0.365  # the middle of its span
    bench.take_over(leader)
    for share, wanted in [(0.5, 0), (0.45, 0), (0.2, -1), (0.0, -1), (0.9, 1), (1.0, 1), (0.5, 0)]:
        bench.grip(share)
        assert [bench.read(leader).action[3] for _ in range(3)] == [wanted] * 3
    bench.grip(0.0)
    bench.follower = -0.17
    assert bench.read(leader).action[3] == 0, "both closed"


def test_what_the_follower_holds_is_not_dropped_at_the_take_over(bench, leader):
    bench.grip(1.0)
    bench.follower = 0.1
    bench.take_over(leader)
    assert [bench.read(leader).action[3] for _ in range(5)] == [0.0] * 5
    for share, wanted in [(0.6, 0), (0.2, 0), (0.0, -1), (1.0, 1)]:  # picked up where it meets the follower's
        bench.grip(share)
        assert bench.read(leader).action[3] == wanted


# --- torque and roles ---------------------------------------------------------------------------------------


def test_a_leader_is_never_written_to_nor_energised(bench):
    leader = bench.leader()
    for _ in range(5):
        bench.move(0, 0.1)
        bench.read(leader)
    leader.reset(0)
    leader.close()
    leader.close()
    assert bench.writes == [] and bench.torque() == [0] * 6 and leader.torque is False


def test_a_leader_that_holds_itself_is_released_and_it_is_said(bench):
    bench.rig.bus.servos[2].write(40, bytes([1]))
    leader = bench.leader()
    assert bench.torque() == [0] * 6
    assert any("elbow_flex" in line and "released" in line for line in bench.said)
    bench.rig.bus.servos[2].write(40, bytes([1]))
    bench.read(leader)
    assert leader.torque, "what is shown of it is what was read"
    leader.close()


def test_a_follower_at_the_leaders_port_is_named_and_nothing_is_written_to_it(bench):
    bench.hold(FOLLOWER)
    for servo in bench.rig.bus.servos:
        servo.write(40, bytes([1]))  # it hangs in the air
    bench.writes.clear()
    with pytest.raises(CalibrationError, match=r"is follower 'arm', not leader 'lead'.*swapped"):
        bench.leader()
    assert bench.writes == [] and bench.torque() == [1] * 6
    assert bench.buttons.closed == 1


def test_an_arm_of_neither_calibration_is_named_joint_by_joint(bench):
    bench.hold(calibrated(-30, 41))
    with pytest.raises(CalibrationError, match=r"shoulder_lift\.homing_offset: file 40, servo 41"):
        bench.leader()


def test_arms_with_equal_calibrations_cannot_be_told_apart_and_it_is_said(bench):
    save_calibration(FOLLOWER, bench.rig.folder, "lead")
    bench.hold(FOLLOWER)
    bench.leader().close()
    assert any("cannot be told" in line for line in bench.said)


numbers = st.lists(st.integers(-200, 200), min_size=6, max_size=6)


@settings(deadline=None, max_examples=50)
@given(st.lists(numbers, min_size=1, max_size=3), st.data())
def test_servos_hold_the_calibrations_whose_every_number_they_have(offsets, data):
    arms = {str(index): calibrated(*row) for index, row in enumerate(offsets)}
    chosen = data.draw(st.integers(0, len(offsets) - 1))
    memories = {
        name: {
            "Homing_Offset": joint.homing_offset,
            "Min_Position_Limit": joint.range_min,
            "Max_Position_Limit": joint.range_max,
        }
        for name, joint in zip(JOINT_NAMES, arms[str(chosen)].joints, strict=True)
    }
    expected = [name for name, row in zip(arms, offsets, strict=True) if row == offsets[chosen]]
    assert held_by(arms, memories) == expected
    memories["wrist_flex"]["Max_Position_Limit"] += 1
    assert held_by(arms, memories) == []


def test_a_missing_calibration_says_how_a_leader_is_calibrated(bench):
    with pytest.raises(CalibrationError, match=r"--teleop\.type=so101_leader --teleop\.port=P"):
        LeaderArm("P", "nobody", bench.rig.folder, bench.rig.clock)


# --- what goes wrong ----------------------------------------------------------------------------------------


def test_an_unplugged_leader_is_an_error_until_it_is_back_and_then_a_fresh_start(bench):
    bench.retries = 2
    leader = bench.leader()
    bench.take_over(leader)
    bench.rig.port.unplug()
    bench.move(0, 0.4)
    for _ in range(2):
        with pytest.raises(TeleopError, match="leader 'lead' is gone; plug it in again"):
            bench.read(leader)
    with pytest.raises(TeleopError, match="leader 'lead' cannot be used"):
        leader.reset(1)
    bench.rig.port.plug()
    leader._arm._link._retries = RETRIES
    leader.reset(2)
    assert not bench.read(leader).action.any(), "where it was moved to meanwhile does not matter"
    bench.move(0, 0.1)
    assert bench.read(leader).action.any()
    leader.close()


def test_another_arm_behind_the_replugged_cable_is_noticed(bench):
    leader = bench.leader()
    bench.rig.port.unplug()
    bench.hold(FOLLOWER)
    bench.rig.port.plug()
    with pytest.raises(CalibrationError, match="is follower 'arm'"):
        bench.read(leader)
    with pytest.raises(CalibrationError, match="is follower 'arm'"):
        leader.reset(0)
    leader.close()


def test_a_silent_servo_is_named(bench):
    bench.retries = 1
    leader = bench.leader()
    bench.rig.faults.silent = frozenset({4})
    with pytest.raises(TeleopError, match=r"wrist_flex \(servo 4\)"):
        bench.read(leader)
    leader.close()


def test_lost_and_damaged_packets_change_no_pose(bench):
    arm = bench.arm()
    arm.connect()
    wanted = arm.read()
    bench.rig.faults.drop_rate = bench.rig.faults.corrupt_rate = 0.03
    for _ in range(10):
        np.testing.assert_array_equal(arm.read(), wanted)
    arm.close()


def test_a_servo_that_reports_a_fault_is_told_and_the_leader_read_all_the_same(bench):
    bench.rig.faults.status[3] = Status.VOLTAGE
    arm = bench.arm()
    arm.connect()
    assert any("elbow_flex: supply voltage out of range" in line for line in bench.said)
    arm.read()
    arm.close()


# --- leader against follower --------------------------------------------------------------------------------

poses = st.lists(st.floats(-3.0, 3.0), min_size=6, max_size=6).map(lambda q: np.array(q, np.float32))


@settings(deadline=None)
@given(poses, poses, st.integers(-1, 1))
def test_pose_differences_are_signed_degrees_the_short_way_round(leader, follower, turns):
    there = pose_differences_deg(leader, follower + np.float32(2 * np.pi * turns))
    back = pose_differences_deg(follower, leader)
    assert list(there) == list(JOINT_NAMES[:GRIPPER])
    for index, name in enumerate(there):
        assert abs(there[name]) <= 180.001
        assert np.cos(np.radians(there[name] + back[name])) == pytest.approx(1.0, abs=1e-5)
        plain = np.degrees(float(leader[index]) - float(follower[index]))
        if abs(plain) < 179:
            assert there[name] == pytest.approx(plain, abs=0.01)
