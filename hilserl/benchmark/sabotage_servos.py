"""Mistakes at the servo bus, and in the configuration of the arm behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from hilserl.benchmark.sabotage import Mistake
from hilserl.benchmark.sabotage_bus import BOTH, PORTS, servos, touch
from hilserl.benchmark.sabotage_setup import ARM, LEADER, Setup, edit_json
from hilserl.benchmark.sabotage_trials import WIRE_CONFIG
from robot.calibration import Calibration, calibration_id, load_calibration, save_calibration
from robot.twin.faults import Faults, Status
from robot.twin.servo_bus import ServoBus
from robot.twin.world_body import store_calibration
from robot.types import JOINT_NAMES


def register(joint: str, name: str, value: int) -> Callable[[Setup], None]:
    """A servo's register holds another value, kept over power-off."""

    def plant(setup: Setup) -> None:
        def change(bus: ServoBus, _: Faults) -> None:
            memory = bus.servos[JOINT_NAMES.index(joint)].memory
            memory.set(name, value)
            memory.keep()

        setup.servos = change

    return plant


def fault(change: Callable[[Faults], None]) -> Callable[[Setup], None]:
    """Something is wrong with supply, heat or the servos themselves."""

    def plant(setup: Setup) -> None:
        setup.servos = lambda _, faults: change(faults)

    return plant


def recalibrated(joint: str, low: int, high: int, *, told: bool) -> Callable[[Setup], None]:
    """One joint was calibrated over another span, in the file and, where `told`, in the servos too."""

    def plant(setup: Setup) -> None:
        old = load_calibration(setup.calibration, ARM)
        index = JOINT_NAMES.index(joint)
        joints = list(old.joints)
        joints[index] = replace(joints[index], range_min=low, range_max=high)
        new = Calibration(tuple(joints), old.source)
        save_calibration(new, setup.calibration, ARM)
        if told:
            setup.servos = lambda bus, _: store_calibration(bus, new)

    return plant


def _swapped_ids(setup: Setup) -> None:
    def change(bus: ServoBus, _: Faults) -> None:
        bus.servos[2].memory.set("ID", 4)
        bus.servos[3].memory.set("ID", 3)

    setup.servos = change


def _of_the_task(setup: Setup) -> None:
    """The record names this calibration; then the arm is calibrated anew, and its servos know."""
    known = calibration_id(load_calibration(setup.calibration, ARM))
    edit_json(setup.wire_file, {"task": {"calibration_id": known}})
    recalibrated("elbow_flex", 1000, 3096, told=True)(setup)


def _in_calibration(joint: str, values: dict[str, int], arm: str = ARM) -> Callable[[Setup], None]:
    return lambda setup: edit_json(setup.calibration / f"{arm}.json", {joint: values})


def _no_calibration(setup: Setup) -> None:
    (setup.calibration / f"{ARM}.json").unlink()


def _leaders_calibration(setup: Setup) -> None:
    teleop = {"type": "leader", "port": "/dev/ttyACM1", "id": ARM, "calibration_dir": str(setup.calibration)}
    edit_json(setup.wire_file, {"teleop": teleop})


def in_wire(changes: dict[str, object]) -> Callable[[Setup], None]:
    """The servo arm's configuration says otherwise."""
    return lambda setup: edit_json(setup.wire_file, changes)


MISTAKES = (
    Mistake(
        "servo_offset_differs", "E 64, B 26", register("elbow_flex", "Homing_Offset", 142),
        servos("servo_calibration"), "servo_calibration", "elbow_flex.homing_offset: file 0, servo 142",
    ),
    Mistake(
        "stale_calibration_file", "B 26, E 64", recalibrated("wrist_flex", 1100, 2996, told=False),
        servos("servo_calibration"), "servo_calibration", "wrist_flex.range_min",
    ),
    Mistake(
        "calibrated_anew_since_the_task", "E 64, L 114", _of_the_task,
        servos("servo_calibration"), "calibration_id", "task record",
    ),
    Mistake(
        "wrist_roll_over_half_a_turn", "E 62", recalibrated("wrist_roll", 984, 3113, told=True),
        servos("calibration_spans"), "calibration_spans", "wrist_roll spans 2129",
    ),
    Mistake(
        "elbow_not_moved_to_its_stops", "E 62", recalibrated("elbow_flex", 1400, 2696, told=True),
        servos("calibration_spans"), "calibration_spans", "elbow_flex spans 1296",
    ),
    Mistake(
        "two_servo_ids_swapped", "E 63, D 54", _swapped_ids,
        servos("servo_calibration"), "servo_calibration", "elbow_flex",
    ),
    Mistake(
        "servo_silent", "D 58", fault(lambda faults: setattr(faults, "silent", frozenset({5}))),
        servos("servo_identity"), "servo_identity", "no answer from wrist_roll",
    ),
    Mistake(
        "servo_of_another_baud_rate", "D 58", register("gripper", "Baud_Rate", 4),
        servos("servo_identity"), "servo_identity", "no answer from gripper",
    ),
    Mistake(
        "servo_of_another_model", "E", register("shoulder_lift", "Model_Number", 2825),
        servos("servo_identity"), "servo_identity", "shoulder_lift is model 2825",
    ),
    Mistake(
        "two_arms_on_one_supply", "D 60",
        fault(lambda faults: faults.voltage_v.update({joint: 4.3 for joint in range(1, 7)})),
        servos("servo_supply"), "servo_voltage", "4.3 V",
    ),
    Mistake(
        "wrist_flex_hot", "D 59", fault(lambda faults: faults.heat_c.update({4: 67.0})),
        servos("servo_supply"), "servo_temperature", "67 C at wrist_flex",
    ),
    Mistake(
        "overload_latched", "D 55, D 56", fault(lambda faults: faults.status.update({4: Status.OVERLOAD})),
        servos("servo_faults"), "servo_faults", "wrist_flex: overload",
    ),
    Mistake(
        "torque_limit_left_low", "A 1, D", register("shoulder_lift", "Max_Torque_Limit", 200),
        servos("servo_limits"), "servo_limits", "shoulder_lift.Max_Torque_Limit",
    ),
    Mistake(
        "gripper_may_burn_out", "D 59", register("gripper", "Protection_Time", 0),
        servos("servo_limits"), "servo_limits", "gripper.Protection_Time",
    ),
    Mistake(
        "overload_does_not_let_go", "D 59", register("elbow_flex", "Unloading_Condition", 0),
        servos("servo_limits"), "servo_limits", "elbow_flex.Unloading_Condition",
    ),
    Mistake(
        "calibration_of_nobody", "B 26", _no_calibration,
        servos("servo_calibration"), "servo_calibration", "no calibration for arm",
    ),
    Mistake(
        "joint_inverted_in_software", "E 63", _in_calibration("wrist_flex", {"drive_mode": 1}),
        servos("servo_calibration"), "servo_calibration", "drive_mode is 1",
    ),
    Mistake(
        "gripper_range_of_a_leader", "E 62", recalibrated("gripper", 1900, 2400, told=True),
        servos("calibration_spans"), "calibration_spans", "gripper spans 500",
    ),
    Mistake(
        "wrist_horn_30_degrees_off", "E 62, A 10", lambda setup: setattr(setup, "leader_rad", 0.52),
        BOTH, "leader_agreement", "wrist_roll +",
    ),
    Mistake(
        "leader_wrist_over_half_a_turn", "E 62",
        _in_calibration("wrist_roll", {"range_min": 984, "range_max": 3113}, LEADER),
        BOTH, "leader_spans", "wrist_roll",
    ),
    Mistake(
        "arms_swapped_after_a_reboot", "D 54", lambda setup: setattr(setup, "adapter", LEADER),
        servos("arm_binding"), "arm_binding", "was calibrated behind 'arm'",
    ),
    Mistake(
        "fingertip_3_cm_off", "B 31, E 64", touch(np.array([0.0, 0.0, 0.03])),
        servos("touch_residual"), "touch_residual", "30 mm",
    ),
    Mistake(
        "port_of_another_day", "D 54", in_wire({"robot": {"port": "/dev/ttyACM7"}}),
        PORTS, "ports", "/dev/ttyACM7 is not there",
    ),
    Mistake(
        "leader_and_follower_on_one_port", "D 54, A 10",
        in_wire({"teleop": {"type": "leader", "port": "/dev/null", "id": "leader"}}),
        WIRE_CONFIG, "ConfigError", "leader and follower have one each",
    ),
    Mistake(
        "leader_with_the_followers_calibration", "A 10",
        _leaders_calibration,
        WIRE_CONFIG, "ConfigError", "calibrated one by one",
    ),
    Mistake(
        "pause_before_the_warning", "D 59",
        in_wire({"robot": {"health": {"pause_temperature_c": 40.0}}}),
        WIRE_CONFIG, "ConfigError", "pause_temperature_c",
    ),
    Mistake(
        "oracle_on_a_real_arm", "N 120",
        in_wire({"task": {"success": {"kind": "oracle"}}}),
        WIRE_CONFIG, "ConfigError", "oracle",
    ),
)  # fmt: skip
"""At the servo bus, and in the configuration of the arm behind it."""
