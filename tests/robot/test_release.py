"""Laws of `hilserl release`: whatever state the arm is in, it ends free, or a person is told what to hold."""

from __future__ import annotations

import pytest

from robot.calibration import calibration_path
from robot.errors import BusError
from robot.parking import REST_RAD
from robot.release import GRASP_S, release
from robot.twin.faults import Status
from tests.fakes.servo_rig import Rig, watch_goals


@pytest.fixture
def rig(tmp_path):
    rig = Rig(tmp_path)
    yield rig
    rig.close()


@pytest.fixture
def left(rig):
    """The rig with an arm that some program left hanging."""
    rig.connected()._link.close()
    rig.seen = watch_goals(rig)
    return rig


def freed(rig, move=True):
    """(exit status, what was said, how long it took [s])."""
    said, begin_s = [], rig.clock.now_s()
    status = release(
        rig.port.port,
        "arm",
        rig.folder,
        max_joint_speed_rad_s=4.0,
        move=move,
        say=said.append,
        clock=rig.clock,
    )
    return status, "\n".join(said), rig.clock.now_s() - begin_s


def torque(rig):
    return [servo.memory.get("Torque_Enable") for servo in rig.bus.servos]


def test_an_arm_left_hanging_is_parked_and_free(left):
    status, said, _ = freed(left)
    assert status == 0 and "every servo is released" in said
    assert torque(left) == [0] * 6
    for joint, goal in enumerate(REST_RAD):
        assert left.seen.goals[joint][-1] == pytest.approx(goal, abs=0.01)


def test_a_free_arm_is_left_alone(rig):
    seen = watch_goals(rig)
    status, said, took_s = freed(rig)
    assert status == 0 and "nothing to do" in said and took_s < GRASP_S
    assert seen.goals == [[]] * 6


@pytest.mark.parametrize("why", ["missing", "broken", "of another arm", "not wanted"])
def test_without_a_way_it_is_let_go_where_it_stands_after_a_warning(left, why):
    path = calibration_path(left.folder, "arm")
    if why == "missing":
        path.unlink()
    elif why == "broken":
        path.write_text("{")
    elif why == "of another arm":
        left.bus.servos[1].memory.set("Homing_Offset", 100)
    status, said, took_s = freed(left, move=why != "not wanted")
    assert status == 0
    assert took_s >= GRASP_S
    assert "HOLD THE ARM" in said and "not parked: " in said
    expected = {
        "missing": "does not exist",
        "broken": "is not JSON",
        "of another arm": "shoulder_lift.homing_offset: file 0, servo 100",
        "not wanted": "--here",
    }
    assert expected[why] in said
    assert left.seen.goals == [[]] * 6 and left.seen.released == [5, 4, 3, 2, 1, 0]


def test_a_servo_with_a_fault_does_not_keep_the_others(left):
    left.faults.status[4] = Status.OVERLOAD
    status, said, _ = freed(left)
    assert status == 0 and "wrist_flex: overloaded (servo 4)" in said
    assert torque(left) == [0] * 6


def test_a_servo_that_is_silent_is_named_and_not_said_to_be_free(left):
    left.faults.silent = frozenset({3})
    status, said, _ = freed(left)
    assert status == 1 and "NOT released: elbow_flex. Hold the arm and switch its supply off" in said
    assert torque(left) == [0, 0, 1, 0, 0, 0]


def test_limp_servos_are_not_energised(left):
    left.bus.servos[1].power_cycle()
    status, said, _ = freed(left)
    assert status == 0 and "shoulder_lift: had no torque" in said
    assert left.seen.goals[1] == [] and torque(left) == [0] * 6


def test_a_program_that_drives_the_arm_is_not_disturbed(rig):
    arm = rig.connected()
    with pytest.raises(BusError, match="busy: another program drives this arm"):
        freed(rig)
    arm.read()
    assert torque(rig) == [1] * 6
