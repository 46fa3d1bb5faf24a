"""What the arm's servos must hold in their memory: calibration and settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from robot.calibration import RAD_PER_COUNT, Calibration
from robot.errors import BusError, CalibrationError
from robot.servo_link import ServoLink
from robot.types import GRIPPER, JOINT_NAMES

MODEL_NUMBER: Final = 777
PHASE_MULTI_TURN: Final = 0x10
SPEED_SHARE: Final = 0.95
"""A servo is driven at this share of the joints' limit: a soft joint can swing past where it is driven."""
CALIBRATED: Final = {
    "Homing_Offset": "homing_offset",
    "Min_Position_Limit": "range_min",
    "Max_Position_Limit": "range_max",
}
SETTINGS: Final = {
    "Return_Delay_Time": 0,
    "Operating_Mode": 0,
    "P_Coefficient": 16,
    "I_Coefficient": 0,
    "D_Coefficient": 32,
    "Maximum_Acceleration": 254,
    "Acceleration": 254,
}
"""What lerobot's SO follower sets: position mode, soft gains, no slow ramps."""
GRIPPER_SETTINGS: Final = {
    **SETTINGS,
    "Max_Torque_Limit": 500,
    "Torque_Limit": 500,
    "Protection_Current": 250,
    "Overload_Torque": 25,
}
"""Half force, so that a closed gripper does not burn out. Torque_Limit: in force before the next power-up."""

Memories = Mapping[str, Mapping[str, int]]
"""Registers by joint."""


def check_calibration(port: str, calibration: Calibration, memories: Memories, how: str) -> None:
    """Raise CalibrationError naming every joint and both values unless the servos hold `calibration`.

    memories: of the servos to compare. how: the command that mends it.
    """
    different = [
        f"{name}.{field}: file {getattr(joint, field)}, servo {memories[name][register]}"
        for name, joint in zip(JOINT_NAMES, calibration.joints, strict=True)
        for register, field in CALIBRATED.items()
        if name in memories and getattr(joint, field) != memories[name][register]
    ]
    if different:
        raise CalibrationError(
            f"the calibration {calibration.source} is not that of the arm at {port}: {'; '.join(different)}."
            f" If this is the right arm, write the file to its servos (hilserl calibrate --write), or"
            f" calibrate again. {how}"
        )


def set_up_servo(link: ServoLink, joint: str, memory: Mapping[str, int], max_speed_rad_s: float) -> None:
    """Bring a servo's settings to ours, writing only what differs: its memory wears out. Raises BusError.

    max_speed_rad_s: the joint goes no faster, also when commands were lost and the next is far off; inf sets
    no limit. The servo is given SPEED_SHARE of it in counts per second; one that counts in 50 is free of it.
    """
    wanted = dict(GRIPPER_SETTINGS if joint == JOINT_NAMES[GRIPPER] else SETTINGS)
    speed_rad_s = SPEED_SHARE * max_speed_rad_s
    wanted["Goal_Velocity"] = round(speed_rad_s / RAD_PER_COUNT) if np.isfinite(speed_rad_s) else 0
    wanted["Phase"] = memory["Phase"] & ~PHASE_MULTI_TURN
    write_registers(link, joint, memory, wanted)


def write_registers(
    link: ServoLink, joint: str, memory: Mapping[str, int], wanted: Mapping[str, int]
) -> None:
    """Write the registers of one servo that differ from `wanted`, and read them back. Raises BusError.

    The servo is released first: its EEPROM opens only then. Lock is closed again afterwards.
    """
    changes = {name: value for name, value in wanted.items() if memory[name] != value}
    if not changes:
        return
    link.write(joint, "Torque_Enable", 0)
    link.write(joint, "Lock", 0)
    for name, value in changes.items():
        link.write(joint, name, value)
    link.write(joint, "Lock", 1)
    now = link.read_memory(joint)
    wrong = [f"{name} is {now[name]}, not {value}" for name, value in changes.items() if now[name] != value]
    if wrong:
        raise BusError(f"{link.port}: {joint} did not take its settings: {'; '.join(wrong)}")


def write_calibration(link: ServoLink, calibration: Calibration) -> None:
    """Store `calibration` in the servos, read back servo by servo. Releases those it changes; BusError."""
    for name, joint in zip(JOINT_NAMES, calibration.joints, strict=True):
        wanted = {register: int(getattr(joint, field)) for register, field in CALIBRATED.items()}
        write_registers(link, name, link.read_memory(name), wanted)
