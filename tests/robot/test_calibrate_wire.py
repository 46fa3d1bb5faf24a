"""`hilserl calibrate` on simulated servos behind a real pseudo-terminal and the real SDK, led by a person."""

from __future__ import annotations

import os
import re
import sys

import numpy as np
import pytest

from hilserl.cli import main
from robot.calibrate import LEADER, OtherArm
from robot.calibrate_session import DONE, TOO_FAR, Place, calibrate, listed, restore, touch, write
from robot.calibrate_touch import SHEET_M, check_touch
from robot.calibrate_versions import versions
from robot.calibration import (
    RAD_PER_COUNT,
    Calibration,
    calibration_id,
    load_calibration,
    model_limits,
    save_calibration,
)
from robot.errors import BusError, CalibrationError, CartesianRefused
from robot.kinematics import Kinematics
from robot.servo_link import ServoLink
from robot.servo_setup import CALIBRATED
from robot.twin.registers import OFFSET_SIGN_BIT, decode_sign
from robot.types import JOINT_NAMES
from tests.fakes.person import Person, middle_pose
from tests.fakes.servo_rig import Rig

ZEROS = (2048, 100, 4000, 1500, 3000, 2500)
"""Raw counts of the encoders at joint zero: two of them wrap within the joint's range."""
KINEMATICS = Kinematics()


class Bench(Rig):
    """The rig with horns mounted anyhow, held by a person."""

    def __init__(self, folder):
        super().__init__(folder)
        for servo, zero in zip(self.bus.servos, ZEROS, strict=True):
            servo._zero = zero
        self.person = Person(self.body)
        self.place = Place(self.port.port, "arm", folder, "follower")

    def eeprom(self):
        """What the servos hold after their supply was off: per joint offset, min, max."""
        for servo in self.bus.servos:
            servo.power_cycle()
        return [
            (
                decode_sign(servo.memory.get("Homing_Offset"), OFFSET_SIGN_BIT),
                servo.memory.get("Min_Position_Limit"),
                servo.memory.get("Max_Position_Limit"),
            )
            for servo in self.bus.servos
        ]

    def files(self):
        return {path.name: path.read_bytes() for path in self.folder.iterdir() if path.suffix == ".json"}

    def calibrates(self, *deeds, other=None, **how):
        self.person.does(*(deeds or [self.person.calibrates(**how)]))
        return calibrate(self.place, other, self.person.terminal)

    def close(self):
        super().close()
        self.person.close()


def in_file(calibration):
    return [(one.homing_offset, one.range_min, one.range_max) for one in calibration.joints]


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def assert_true(bench):
    """The servos hold the file, and what they show is where the joints are."""
    calibration = load_calibration(bench.folder, "arm")
    assert bench.eeprom() == in_file(calibration)
    limits = model_limits()
    centre = (limits.lower_rad + limits.upper_rad) / 2
    centre[4:] = 0
    bench.body.q_rad = np.array((0.3, -0.8, 0.9, 0.7, -0.4, 0.5))
    shown = bench.connected().read().q_rad
    np.testing.assert_allclose(shown, bench.body.q_rad - centre, atol=4 * RAD_PER_COUNT)


# --- the whole way ------------------------------------------------------------------------------------------


def test_a_person_calibrates_an_arm_and_it_reads_true(bench):
    before = bench.files()["arm.json"]
    assert bench.calibrates() == DONE
    assert_true(bench)
    assert bench.files()["arm.001.json"] == before, "the calibration from before is kept"
    for word in ("1/3 MIDDLE", "2/3 RANGE", "3/3 CHECK", "hilserl calibrate --touch", "wrist_roll"):
        assert word in bench.person.seen


def test_an_arm_that_never_was_calibrated(bench):
    (bench.folder / "arm.json").unlink()
    for servo in bench.bus.servos:
        servo.memory.set("Homing_Offset", 0)
        servo.memory.set("Min_Position_Limit", 0)
        servo.memory.set("Max_Position_Limit", 4095)
        servo.memory.keep()
    assert bench.calibrates() == DONE
    assert_true(bench)
    assert len(versions(bench.folder, "arm")) == 1


def test_lost_and_damaged_packets_change_nothing(bench):
    bench.person.holds = 15
    bench.faults.drop_rate = bench.faults.corrupt_rate = 0.02
    assert bench.calibrates() == DONE
    bench.faults.drop_rate = bench.faults.corrupt_rate = 0.0
    assert_true(bench)


def test_lerobot_reads_the_file_and_finds_it_in_the_servos(bench):
    bench.calibrates()
    from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig

    robot = SO101Follower(
        SO101FollowerConfig(port=bench.port.port, id="arm", calibration_dir=bench.folder, use_degrees=True)
    )
    ours = load_calibration(bench.folder, "arm")
    for name, joint in zip(JOINT_NAMES, ours.joints, strict=True):
        theirs = robot.calibration[name]
        assert (theirs.id, theirs.drive_mode) == (joint.id, 0)
        assert (theirs.homing_offset, theirs.range_min, theirs.range_max) == (
            joint.homing_offset, joint.range_min, joint.range_max,
        )  # fmt: skip
    held = {
        name: dict(zip(CALIBRATED, values, strict=True))
        for name, values in zip(JOINT_NAMES, bench.eeprom(), strict=True)
    }
    assert all(held[name]["Homing_Offset"] == robot.calibration[name].homing_offset for name in JOINT_NAMES)


# --- what a person may do wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize("joint", range(6))
def test_a_joint_that_was_not_moved_is_asked_for_and_then_taken(bench, joint):
    person, middle = bench.person, middle_pose()
    bench.calibrates(
        person.moves(middle), person.types(), person.sweeps(middle, still=(joint,)), person.types(),
        person.types("keep"),  # even so: its range is not known
        person.sweeps(middle, still=set(range(6)) - {joint}), person.types(), person.types(),
    )  # fmt: skip
    assert f"  {JOINT_NAMES[joint]} " in person.seen
    assert (
        f"cannot be stored: the new calibration of 'arm': {JOINT_NAMES[joint]} was moved over" in person.seen
    )
    assert_true(bench)


def test_a_roll_that_was_not_turned_all_its_way_is_refused(bench):
    person, middle = bench.person, middle_pose()
    before = bench.files(), bench.eeprom()
    with pytest.raises(CalibrationError, match="the input ended before the calibration: nothing was stored"):
        bench.calibrates(
            person.moves(middle),
            person.types(),
            person.sweeps(middle, short=0.8),
            person.types(),
            person.leaves(),
        )
    assert "wrist_roll was rolled over" in person.seen
    assert (bench.files(), bench.eeprom()) == before


def test_a_wrong_middle_is_refused(bench):
    person = bench.person
    wrong = middle_pose()
    wrong[1] += np.radians(40)
    before = bench.files(), bench.eeprom()
    with pytest.raises(CalibrationError, match="the input ended"):
        bench.calibrates(person.calibrates(middle=wrong), person.leaves())
    assert "shoulder_lift reads +40 degrees in the middle pose, it must be within 15 of 0" in person.seen
    assert (bench.files(), bench.eeprom()) == before


def test_a_wrist_the_wrong_way_round_is_refused(bench):
    person = bench.person
    turned = middle_pose()
    turned[4] = np.radians(90)
    with pytest.raises(CalibrationError, match="the input ended"):
        bench.calibrates(person.calibrates(middle=turned), person.leaves())
    assert "wrist_roll was 9" in person.seen and "off the middle" in person.seen


def test_the_other_arms_faults_are_told_and_not_this_ones(bench):
    joints = list(bench.calibration.joints)
    joints[4] = type(joints[4])(5, 0, 0, 900, 3029)
    leader = OtherArm("lead", LEADER, Calibration(tuple(joints), "lead.json"))
    assert bench.calibrates(other=leader) == DONE
    assert "NOTE: wrist_roll of the leader 'lead' spans 2129 counts, a full turn is 4095" in bench.person.seen


def test_again_begins_anew(bench):
    person, wrong = bench.person, middle_pose() + 0.5
    bench.calibrates(
        person.moves(wrong),
        person.types(),
        person.moves(middle_pose()),
        person.types("again"),
        person.calibrates(),
    )
    assert_true(bench)


# --- ends in the middle -------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["interrupts", "leaves"])
@pytest.mark.parametrize("deeds", [0, 1, 2, 3, 4, 5])
def test_an_end_before_the_last_line_changes_nothing(bench, end, deeds):
    before = bench.files(), bench.eeprom()
    person, middle = bench.person, middle_pose()
    all_deeds = [
        person.moves(middle),
        person.types(),
        person.sweeps(middle),
        person.types(),
        person.moves(middle),
    ]
    with pytest.raises((KeyboardInterrupt, CalibrationError)):
        bench.calibrates(*all_deeds[:deeds], getattr(person, end)())
    for left in all_deeds[deeds:]:
        left.close()
    assert (bench.files(), bench.eeprom()) == before


def test_a_cable_pulled_while_the_joints_are_moved(bench):
    before = bench.files(), bench.eeprom()
    person = bench.person

    def pulls():
        bench.port.unplug()
        yield

    with pytest.raises(BusError, match="check the USB cable"):
        bench.calibrates(person.moves(middle_pose()), person.types(), pulls())
    assert (bench.files(), bench.eeprom()) == before


@pytest.mark.parametrize("writes", [1, 2, 3, 4, 9, 17, 30])
def test_an_interruption_while_the_memories_are_written_puts_them_back(bench, monkeypatch, writes):
    before = bench.files(), bench.eeprom()
    true_write, count = ServoLink.write, [0]

    def interrupted(self, joint, name, value):
        count[0] += 1
        true_write(self, joint, name, value)
        if count[0] == writes:
            raise KeyboardInterrupt

    monkeypatch.setattr(ServoLink, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench.calibrates()
    assert "the servos hold what they held before" in bench.person.seen
    assert all(servo.memory.get("Lock") == 1 for servo in bench.bus.servos)
    assert (bench.files(), bench.eeprom()) == before


def test_a_servo_that_dies_while_written_is_named_and_the_others_put_back(bench):
    before = bench.files(), bench.eeprom()
    servo = bench.bus.servos[3]
    true_write = servo.write

    def dies(address, data):
        true_write(address, data)
        bench.faults.silent = frozenset({4})

    servo.write = dies
    with pytest.raises(BusError, match="wrist_flex"):
        bench.calibrates()
    assert "wrist_flex could not be set back" in bench.person.seen
    assert (bench.files(), bench.eeprom()) == before, "here its memory was not open yet"


def test_a_servo_that_forgets_what_it_is_told_is_no_calibrated_arm(bench):
    """Its EEPROM takes nothing: read back, and the old state is left."""
    before = bench.files()
    memory = bench.bus.servos[2].memory
    true_write = memory.write
    memory.write = lambda address, data: frozenset() if address == 31 else true_write(address, data)
    with pytest.raises(BusError, match="elbow_flex did not take its settings: Homing_Offset is"):
        bench.calibrates()
    assert bench.files() == before


def test_a_servo_that_counts_its_offset_the_other_way_round_is_found(bench):
    """Read back it is well; only what it shows tells."""
    before = bench.files(), bench.eeprom()
    servo = bench.bus.servos[1]
    servo._offset = lambda: -decode_sign(servo.memory.get("Homing_Offset"), OFFSET_SIGN_BIT)
    with pytest.raises(CalibrationError, match="joints show other counts than they must: shoulder_lift by"):
        bench.calibrates()
    assert (bench.files(), bench.eeprom()) == before


def test_an_arm_that_holds_is_not_let_go(bench):
    bench.connected()._link.close()
    with pytest.raises(
        CalibrationError, match="hold torque: letting go here would drop the arm.*hilserl release"
    ):
        bench.calibrates()
    assert all(servo.memory.get("Torque_Enable") for servo in bench.bus.servos)


def test_a_leader_that_holds_is_let_go(bench):
    bench.connected()._link.close()
    bench.place = Place(bench.port.port, "arm", bench.folder, LEADER)
    assert bench.calibrates() == DONE
    assert not any(servo.memory.get("Torque_Enable") for servo in bench.bus.servos)


# --- versions ----------------------------------------------------------------------------------------------


def test_a_version_comes_back_to_file_and_servos_and_can_be_changed_back(bench):
    first = load_calibration(bench.folder, "arm")
    bench.calibrates()
    second = load_calibration(bench.folder, "arm")
    assert second.joints != first.joints
    for wanted in (first, second, first):
        assert restore(bench.place, calibration_id(wanted), bench.person.terminal) == DONE
        assert load_calibration(bench.folder, "arm").joints == wanted.joints
        assert bench.eeprom() == in_file(wanted)
    lines = listed(bench.place)
    assert calibration_id(first) in lines[0] and calibration_id(second) in "".join(lines[1:])


def test_a_restore_that_fails_leaves_the_file(bench):
    bench.calibrates()
    before = bench.files()
    bench.faults.silent = frozenset({6})
    with pytest.raises(BusError, match="gripper"):
        restore(bench.place, "1", bench.person.terminal)
    assert bench.files() == before


def test_the_file_is_written_to_servos_that_lost_it(bench):
    bench.bus.servos[1].memory.set("Homing_Offset", 77)
    bench.bus.servos[1].memory.keep()
    with pytest.raises(CalibrationError, match=r"shoulder_lift\.homing_offset: file 0, servo 77.*--write"):
        bench.arm().connect()
    assert write(bench.place, bench.person.terminal) == DONE
    assert bench.eeprom() == in_file(bench.calibration)


# --- touch test --------------------------------------------------------------------------------------------


def touches(bench, off_deg, joint="elbow_flex"):
    """A touch test of a calibrated arm whose calibration is wrong in one joint by so much."""
    limits = model_limits()
    bench.calibrates()
    if off_deg:
        joints = list(load_calibration(bench.folder, "arm").joints)
        index, counts = JOINT_NAMES.index(joint), round(np.radians(off_deg) / RAD_PER_COUNT)
        one = joints[index]
        joints[index] = type(one)(
            one.id, 0, one.homing_offset, one.range_min - counts, one.range_max - counts
        )
        save_calibration(Calibration(tuple(joints), "bent"), bench.folder, "arm")
        write(bench.place, bench.person.terminal)
    person, deeds = bench.person, []
    centre = (limits.lower_rad + limits.upper_rad) / 2
    centre[4:] = 0
    for point in SHEET_M:
        start = np.array([-np.arctan2(point[1], point[0]), 0.3, 0.3, 0.9, 0, limits.lower_rad[5]])
        deeds += [person.moves(KINEMATICS.ik(point, start) + centre), person.types()]
    person.does(*deeds)
    return touch(bench.place, SHEET_M, person.terminal)


@pytest.mark.parametrize(
    ("off_deg", "status", "verdict"), [(0, DONE, "ok"), (3, DONE, "warn"), (-12.5, TOO_FAR, "refused")]
)
def test_a_wrong_joint_is_found_by_touch_and_the_arm_not_driven_in_metres(bench, off_deg, status, verdict):
    assert touches(bench, off_deg) == status
    assert f"{verdict}: kept in" in bench.person.seen
    calibration = load_calibration(bench.folder, "arm")
    if verdict != "refused":
        assert check_touch(calibration, bench.folder, "arm").startswith("WARNING") == (verdict == "warn")
        return
    with pytest.raises(CartesianRefused):
        check_touch(calibration, bench.folder, "arm")
    bent, before = calibration_id(calibration), bench.person
    restore(bench.place, "1", before.terminal)
    check_touch(load_calibration(bench.folder, "arm"), bench.folder, "arm")
    restore(bench.place, bent, before.terminal)
    with pytest.raises(CartesianRefused):  # it comes back with the calibration it was found for
        check_touch(load_calibration(bench.folder, "arm"), bench.folder, "arm")


def test_an_arm_that_moves_while_touched_is_asked_to_hold_still(bench):
    person = bench.person

    class Shaking:
        def __init__(self, body):
            self.body, self.count = body, 0

        def __call__(self, joint):
            self.count += 1
            return float(self.body.q_rad[joint]) + (0.1 if self.count % 40 < 20 else 0.0)

    true_position = bench.body.position_rad
    bench.body.position_rad = Shaking(bench.body)

    def calms():
        bench.body.position_rad = true_position
        yield

    person.does(person.types(), calms(), *(person.types() for _ in range(4)))
    touch(bench.place, SHEET_M, person.terminal)
    assert "the arm moved: hold it still" in person.seen


def test_no_touch_test_with_servos_that_hold_another_calibration(bench):
    bench.bus.servos[1].memory.set("Homing_Offset", 77)
    with pytest.raises(CalibrationError, match="file 0, servo 77"):
        touch(bench.place, SHEET_M, bench.person.terminal)


# --- the command -------------------------------------------------------------------------------------------


@pytest.fixture
def command(bench, capsys, monkeypatch):
    """`hilserl calibrate WORDS` with this input; gives the exit code and what was printed."""

    def run(*words, typed=""):
        reading, typing = os.pipe()
        os.write(typing, typed.encode())
        os.close(typing)
        monkeypatch.setattr(sys, "stdin", os.fdopen(reading))
        place = [
            f"--robot.port={bench.port.port}",
            "--robot.id=arm",
            f"--robot.calibration_dir={bench.folder}",
        ]
        code = main(["calibrate", "--config_path", "configs/twin_wire_config.json", *words, *place])
        told = capsys.readouterr()
        return code, told.out + told.err

    return run


def test_the_command_lists_writes_restores_and_binds(bench, command):
    bench.calibrates()
    first = versions(bench.folder, "arm")[1].id
    code, said = command("--list")
    assert code == 0 and f"001      {first}" in said and "not touch-tested" in said
    assert command(f"--restore={first}")[0] == 0
    assert bench.eeprom() == in_file(bench.calibration)
    code, said = command("--write")
    assert code == 0 and first in said
    code, said = command("--bind")
    assert code == 0 and "tells no serial number" in said


def test_the_command_ends_with_its_input_and_changes_nothing(bench, command):
    before = bench.files(), bench.eeprom()
    code, said = command(typed="\n\n\n")
    assert code == 2 and "shoulder_pan spans 0 counts, expected" in said and "nothing was stored" in said
    assert (bench.files(), bench.eeprom()) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--restore=nine"], "never had calibration 'nine'"),
        (["--points=1,2;3,4;5,6"], "give --touch as well"),
        (["--touch", "--points=1,2"], "three points or more"),
        (["--touch", "--leader"], "a leader has no hand"),
        (["--leader"], 'it is "scripted"|it is "none"|it is "gamepad"|it is "keyboard"'),
    ],
)
def test_a_wrong_command_is_named(command, words, message):
    code, said = command(*words)
    assert code == 2
    assert re.search(message, said), said


def test_the_lock_step_twin_has_no_servos_to_calibrate(capsys):
    assert main(["calibrate", "--config_path", "configs/twin_lift_train_config.json"]) == 2
    assert "only an arm on a servo bus can be calibrated" in capsys.readouterr().err
