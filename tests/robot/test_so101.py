"""Laws of the SO-101 driver, on a simulated bus behind a real pseudo-terminal, with faults at the wire."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lerobot.motors import Motor, MotorCalibration, MotorNormMode
from lerobot.motors.feetech import FeetechMotorsBus

from robot.calibration import (
    RAD_PER_COUNT,
    Calibration,
    JointCalibration,
    load_calibration,
    model_limits,
    save_calibration,
)
from robot.errors import BusError, CalibrationError, CommandRefused, ServoFault, TorqueLost
from robot.parking import PARK_MIN_S, REST_RAD
from robot.servo_link import fault_words
from robot.servo_setup import GRIPPER_SETTINGS, SETTINGS, write_calibration
from robot.so101 import SO101
from robot.twin.faults import Status
from robot.twin.servo_bus import packet, take_packet
from robot.twin.world_body import twin_calibration
from robot.types import GRIPPER, JOINT_NAMES
from tests.fakes.arm import HandClock
from tests.fakes.servo_rig import POSE, Rig, impatient, settled, watch_goals


@pytest.fixture
def rig(tmp_path):
    rig = Rig(tmp_path)
    yield rig
    rig.close()


# --- counts and radians -------------------------------------------------------------------------------------


@st.composite
def calibrations(draw):
    joints = []
    for index in range(6):
        low = draw(st.integers(0, 1800))
        joints.append(
            JointCalibration(
                index + 1, 0, draw(st.integers(-2047, 2047)), low, draw(st.integers(low + 200, 4095))
            )
        )
    return Calibration(tuple(joints), "drawn")


@settings(deadline=None, max_examples=50)
@given(calibrations(), st.floats(0, 1))
def test_counts_to_radians_and_back_is_the_identity(calibration, share):
    low = np.array([joint.range_min for joint in calibration.joints], np.int32)
    top = np.array([joint.range_max for joint in calibration.joints], np.int32)
    for counts in (low, (low + top) // 2, top, (low + share * (top - low)).astype(np.int32)):
        assert (calibration.counts(calibration.rad(counts)) == counts).all()


@settings(deadline=None, max_examples=50)
@given(calibrations())
def test_zero_is_mid_range_and_the_gripper_closes_at_range_min(calibration):
    low = np.array([joint.range_min for joint in calibration.joints])
    top = np.array([joint.range_max for joint in calibration.joints])
    ends = calibration.rad(low) + calibration.rad(top)
    assert ends[:GRIPPER] == pytest.approx(np.zeros(5), abs=1e-6)
    assert calibration.rad(low)[GRIPPER] == pytest.approx(-0.174533, abs=1e-6)
    spans = (top - low) * 2 * np.pi / 4096
    assert calibration.rad(top) - calibration.rad(low) == pytest.approx(spans, rel=1e-5)


@settings(deadline=None, max_examples=50)
@given(calibrations())
def test_a_command_within_limits_stays_within_the_calibrated_counts(calibration):
    limits, model = calibration.limits, model_limits()
    assert (limits.lower_rad >= model.lower_rad).all()
    assert (limits.upper_rad <= model.upper_rad).all()
    for q_rad in (limits.lower_rad, limits.upper_rad):
        counts = calibration.counts(q_rad)
        for joint, count in zip(calibration.joints, counts, strict=True):
            assert joint.range_min <= count <= joint.range_max


@settings(deadline=None, max_examples=20)
@given(calibrations(), st.integers(0, 4095))
def test_body_joints_agree_with_lerobots_degrees(calibration, counts):
    """lerobot divides a turn by 4095, we by 4096 as the encoder does: 0.025 % apart, and no more."""
    names = JOINT_NAMES[:GRIPPER]
    motors = {name: Motor(i + 1, "sts3215", MotorNormMode.DEGREES) for i, name in enumerate(names)}
    theirs = {
        name: MotorCalibration(joint.id, 0, joint.homing_offset, joint.range_min, joint.range_max)
        for name, joint in zip(names, calibration.joints, strict=False)
    }
    bus = FeetechMotorsBus("none", motors, theirs)
    degrees = bus._normalize({i + 1: counts for i in range(5)})
    ours = calibration.rad(np.full(6, counts, np.int32))[:GRIPPER]
    assert np.rad2deg(ours) * 4096 / 4095 == pytest.approx(list(degrees.values()), abs=1e-3)


def test_the_twins_calibration_covers_the_whole_model_range():
    limits, model = twin_calibration().limits, model_limits()
    half_count = RAD_PER_COUNT / 2
    assert limits.lower_rad == pytest.approx(model.lower_rad, abs=half_count)
    assert limits.upper_rad == pytest.approx(model.upper_rad, abs=half_count)


# --- calibration files --------------------------------------------------------------------------------------


def test_calibration_files_are_lerobots(tmp_path):
    path = save_calibration(twin_calibration(), tmp_path, "arm")
    for content in json.loads(path.read_text()).values():
        assert MotorCalibration(**content).drive_mode == 0
    assert load_calibration(tmp_path, "arm").joints == twin_calibration().joints


def test_a_missing_calibration_says_how_to_make_one(tmp_path):
    with pytest.raises(
        CalibrationError, match=r"nobody\.json does not exist.*lerobot-calibrate.*--robot\.id=nobody"
    ):
        SO101("port", "nobody", tmp_path, HandClock())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("elbow_flex"), "must name the joints"),
        (lambda c: c["elbow_flex"].pop("range_min"), "elbow_flex must hold"),
        (lambda c: c["elbow_flex"].update(range_min=1.5), "elbow_flex.range_min is 1.5"),
        (lambda c: c["elbow_flex"].update(range_min=4000), "elbow_flex, 4000"),
        (lambda c: c["elbow_flex"].update(drive_mode=1), "elbow_flex.drive_mode is 1"),
        (lambda c: c["elbow_flex"].update(homing_offset=-2048), "homing_offset is -2048"),
        (lambda c: c["gripper"].update(range_min=4094), "gripper"),
    ],
)
def test_a_bad_calibration_file_is_refused_by_name(tmp_path, change, message):
    path = save_calibration(twin_calibration(), tmp_path, "arm")
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(CalibrationError, match=message):
        load_calibration(tmp_path, "arm")


def test_a_calibration_unlike_the_servos_is_refused_and_can_be_written(rig):
    rig.bus.servos[2].memory.set("Max_Position_Limit", 3000)
    file_value = rig.calibration.joints[2].range_max
    with pytest.raises(
        CalibrationError, match=rf"elbow_flex\.range_max: file {file_value}, servo 3000.*lerobot-calibrate"
    ):
        rig.arm().connect()
    assert rig.body.goal == [None] * 6, "an uncalibrated arm was energised"
    link = rig.arm()._link
    link.open()
    write_calibration(link, rig.calibration)
    link.close()
    rig.bus.power_cycle()
    rig.connected().read()


# --- connecting ---------------------------------------------------------------------------------------------


def test_connecting_sets_the_servos_up_and_moves_nothing(rig):
    arm = rig.connected()
    assert settled(arm).q_rad == pytest.approx(POSE, abs=2 * RAD_PER_COUNT)
    assert rig.body.goal == pytest.approx(POSE, abs=RAD_PER_COUNT)
    for joint in JOINT_NAMES:
        for name, value in (GRIPPER_SETTINGS if joint == "gripper" else SETTINGS).items():
            assert rig.register(joint, name) == value, (joint, name)
        assert rig.register(joint, "Lock") == 1


def test_connecting_again_writes_no_eeprom_and_lets_nothing_go(rig):
    rig.connected().close()
    writes = []
    for servo in rig.bus.servos:
        original = servo.write

        def spy(address, data, original=original):
            writes.append(address)
            original(address, data)

        servo.write = spy
    seen = watch_goals(rig)
    rig.connected()
    assert not seen.released, "an arm that holds was let go"
    assert writes
    assert all(40 <= address < 80 for address in writes), sorted(set(writes))


def test_the_servos_themselves_are_given_the_speed_limit(rig):
    """Where commands are lost the next is far off: the guard has no say in how fast that is gone."""
    rig.connected(max_joint_speed_rad_s=4.0)
    assert {rig.register(joint, "Goal_Velocity") for joint in JOINT_NAMES} == {round(3.8 / RAD_PER_COUNT)}
    assert rig.bus.speed_limits_rad_s() == pytest.approx([3.8] * 6, abs=1e-3)
    rig.bus.power_cycle()
    assert rig.bus.speed_limits_rad_s() == [np.inf] * 6


def test_a_port_in_use_is_busy(rig):
    rig.connected()
    with pytest.raises(BusError, match="busy: another program"):
        rig.connected()


def test_a_port_that_is_not_there_is_named(rig):
    rig.port.unplug()
    with pytest.raises(BusError, match=r"servo-bus: opening the port"):
        rig.connected()


def test_a_servo_of_another_model_is_refused(rig):
    rig.bus.servos[3].memory.set("Model_Number", 1284)
    with pytest.raises(BusError, match=r"servo 4 \(wrist_flex\) is model 1284"):
        rig.connected()


def test_velocity_follows_the_servos_unit(rig):
    arm = rig.connected()
    rig.body.velocity_rad_s = lambda joint: 0.5
    assert arm.read().qd_rad_s == pytest.approx([0.5] * 6, abs=RAD_PER_COUNT)


# --- commands -----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(0, 1), min_size=6, max_size=6))
def test_the_arm_goes_where_it_is_told(shared_rig, shares):
    arm, rig = shared_rig
    low, top = arm.limits.lower_rad, arm.limits.upper_rad
    target = np.clip((low + np.array(shares) * (top - low)).astype(np.float32), low, top)
    arm.command(target)
    arm.read()  # the command has arrived when the next answer has
    assert rig.body.goal == pytest.approx(target, abs=0.51 * RAD_PER_COUNT + 4e-4)


@pytest.fixture(scope="module")
def shared_rig(tmp_path_factory):
    rig = Rig(tmp_path_factory.mktemp("rig"))
    yield rig.connected(), rig
    rig.close()


@pytest.mark.parametrize("bad", [np.zeros(5), np.zeros((6, 1)), np.float32(0)])
def test_a_command_of_another_shape_is_refused(shared_rig, bad):
    arm, rig = shared_rig
    before = rig.goals()
    with pytest.raises(CommandRefused, match=r"6 joint angles .* shape"):
        arm.command(bad)
    assert rig.goals() == before


@pytest.mark.parametrize("joint", range(6))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3.0, -3.0])
def test_a_command_outside_the_limits_is_refused_by_name(shared_rig, joint, value):
    arm, rig = shared_rig
    before = rig.goals()
    target = np.zeros(6, np.float32)
    target[joint] = value
    limits = f"{arm.limits.lower_rad[joint]:.4f} .. {arm.limits.upper_rad[joint]:.4f}"
    with pytest.raises(CommandRefused, match=f"{JOINT_NAMES[joint]} = .*{limits}"):
        arm.command(target)
    assert rig.goals() == before


# --- a bad bus ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "faults",
    [
        {"drop_rate": 0.1},
        {"corrupt_rate": 0.1},
        {"drop_rate": 0.05, "corrupt_rate": 0.05},
        {"late_rate": 0.3, "late_s": 0.08},
    ],
)
def test_reads_survive_a_bad_bus_and_are_never_wrong(rig, faults):
    arm = rig.connected()
    for name, value in faults.items():
        setattr(rig.faults, name, value)
    for _ in range(25):
        assert arm.read().q_rad == pytest.approx(POSE, abs=2 * RAD_PER_COUNT)
    assert arm.stats.retries > 0
    assert arm.stats.failures == 0


@pytest.mark.parametrize(
    "faults", [{"drop_rate": 0.05}, {"corrupt_rate": 0.05}, {"late_rate": 0.05, "late_s": 0.08}]
)
def test_connecting_over_a_bad_bus_sets_everything(rig, faults):
    for name, value in faults.items():
        setattr(rig.faults, name, value)
    rig.connected()
    assert rig.register("gripper", "Max_Torque_Limit") == 500
    assert rig.register("wrist_roll", "P_Coefficient") == 16
    assert None not in rig.body.goal


def test_a_stale_answer_of_another_kind_is_not_taken_for_this_one(rig):
    """A confirmation that comes late, in front of the answer, is no position."""
    arm = rig.connected()
    answer = rig.bus.receive
    rig.bus.receive = lambda data: packet(6, 0) + packet(5, 0, bytes(2)) + answer(data)
    assert arm.read().q_rad == pytest.approx(POSE, abs=2 * RAD_PER_COUNT)


def test_a_retry_asks_only_the_servos_that_kept_silent(rig):
    arm = impatient(rig.connected())
    requests, unread = [], bytearray()
    answer = rig.bus.receive

    def overhear(data):
        unread.extend(data)  # on a slow machine two requests may come at once
        while (content := take_packet(unread)) is not None:
            requests.append(list(content[5:]))
        return answer(data)

    rig.bus.receive = overhear
    rig.faults.silent = frozenset({3})
    with pytest.raises(BusError):
        arm.read()
    assert requests[0] == [1, 2, 3, 4, 5, 6]
    assert requests[1:] == [[3]] * 2


def test_a_silent_servo_is_named_and_the_others_are_not(rig):
    arm = impatient(rig.connected())
    rig.faults.silent = frozenset({3})
    with pytest.raises(BusError) as error:
        arm.read()
    assert "elbow_flex (servo 3)" in str(error.value)
    assert "position" in str(error.value)
    assert rig.port.port in str(error.value)
    assert "servo 4" not in str(error.value)
    rig.faults.silent = frozenset()
    arm.read()


@pytest.mark.parametrize(
    ("status", "word"),
    [(Status.OVERLOAD, "overloaded"), (Status.OVERHEAT, "overheated"), (Status.VOLTAGE, "voltage")],
)
def test_a_servo_fault_is_told_in_words(rig, status, word):
    arm = rig.connected()
    rig.faults.status[4] = status
    with pytest.raises(ServoFault, match=rf"wrist_flex \(servo 4\): .*{word}"):
        arm.read()
    assert [word in servo.faults for servo in arm.health()] == [False, False, False, True, False, False]
    rig.bus.power_cycle()


def test_every_status_bit_has_words():
    for bit in Status:
        assert fault_words(int(bit)) and "unknown" not in fault_words(int(bit))
    assert fault_words(0) == ""
    assert fault_words(Status.OVERLOAD | Status.OVERHEAT) == "overheated, overloaded"
    assert "0x40" in fault_words(0x40)


def test_health_is_in_physical_units(rig):
    servo = rig.connected().health()[0]
    assert (servo.temperature_c, servo.voltage_v) == (30.0, 7.4)


def test_the_cable_may_be_pulled_and_put_back(rig):
    arm = rig.connected()
    rig.port.unplug()
    for act in (arm.read, lambda: arm.command(np.zeros(6, np.float32))):
        with pytest.raises(BusError, match="USB cable"):
            act()
    rig.port.plug()
    assert arm.read().q_rad == pytest.approx(POSE, abs=2 * RAD_PER_COUNT)
    arm.command(np.zeros(6, np.float32))
    assert settled(arm).q_rad == pytest.approx(np.zeros(6), abs=2 * RAD_PER_COUNT)


def test_an_arm_that_lost_its_supply_too_holds_again_where_it_is(rig):
    arm = rig.connected()
    arm.command(np.zeros(6, np.float32))
    settled(arm)
    rig.port.unplug()
    with pytest.raises(BusError):
        arm.read()
    rig.bus.power_cycle()
    rig.body.q_rad[:] = POSE
    rig.port.plug()
    with pytest.raises(TorqueLost, match="shoulder_pan, .*, gripper lost torque"):
        arm.read()
    assert "may move in" in arm.unwell
    rig.clock.t_s += 10
    assert arm.unwell == ""
    assert rig.body.goal == pytest.approx(POSE, abs=2 * RAD_PER_COUNT)


def test_another_arm_at_the_same_port_is_refused(rig):
    arm = rig.connected()
    rig.port.unplug()
    with pytest.raises(BusError):
        arm.read()
    rig.bus.servos[0].memory.set("Homing_Offset", 77)
    rig.port.plug()
    with pytest.raises(CalibrationError, match=r"shoulder_pan.homing_offset: file 0, servo 77"):
        arm.read()


# --- parking ------------------------------------------------------------------------------------------------


def test_park_folds_slowly_and_releases_the_hand_first(rig):
    arm = rig.connected()
    seen, started_s = watch_goals(rig), rig.clock.now_s()
    arm.park()
    assert rig.clock.now_s() - started_s >= PARK_MIN_S - 1e-6
    assert seen.released == [5, 4, 3, 2, 1, 0]
    for joint, goals in enumerate(seen.goals):
        steps = np.abs(np.diff([POSE[joint], *goals]))
        assert steps.max() < np.deg2rad(5), JOINT_NAMES[joint]
        assert goals[-1] == pytest.approx([*REST_RAD, POSE[GRIPPER]][joint], abs=2 * RAD_PER_COUNT)
    arm.park()
    with pytest.raises(CommandRefused, match="released"):
        arm.command(np.zeros(6, np.float32))
    arm.connect()
    arm.command(np.zeros(6, np.float32))


def test_park_before_connecting_and_after_closing_does_nothing(rig):
    rig.arm().park()
    arm = rig.connected()
    arm.close()
    arm.park()
    arm.close()


@pytest.mark.parametrize(
    ("fault", "error", "word"),
    [
        (lambda f: f.status.update({4: Status.OVERLOAD}), ServoFault, r"wrist_flex: overloaded \(servo 4\)"),
        (lambda f: setattr(f, "silent", frozenset({4})), BusError, "wrist_flex: could not be released"),
    ],
)
def test_one_bad_servo_does_not_keep_the_others_from_parking(rig, fault, error, word):
    arm = impatient(rig.connected())
    seen = watch_goals(rig)
    fault(rig.faults)
    pushed = rig.goals()[3]
    with pytest.raises(error, match=word):
        arm.park()
    assert rig.goals()[3] == pushed, "a servo that failed was pushed on"
    for joint in (0, 1, 2, 4):
        assert seen.goals[joint][-1] == pytest.approx(REST_RAD[joint], abs=2 * RAD_PER_COUNT)
    assert [index for index in seen.released if index != 3] == [5, 4, 2, 1, 0]
    arm.park()


def test_park_without_a_cable_says_so_and_ends(rig):
    arm = impatient(rig.connected())
    rig.port.unplug()
    with pytest.raises(BusError, match="gripper: could not be released"):
        arm.park()


def test_park_over_a_bad_bus(rig):
    arm = rig.connected()
    rig.faults.drop_rate = rig.faults.corrupt_rate = 0.02
    arm.park()
    assert rig.body.goal == [None] * 6


def test_an_interrupt_while_parking_still_releases_the_arm(rig):
    arm = rig.connected()

    def interrupted(_t_s):
        raise KeyboardInterrupt

    rig.clock.sleep_until = interrupted
    with pytest.raises(KeyboardInterrupt):
        arm.park()
    assert rig.body.goal == [None] * 6
