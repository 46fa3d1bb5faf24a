"""What one servo says of itself in one answer: torque, goal, place and speed; and its health on top."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from robot.health import ServoHealth
from robot.servo_link import decode, fault_words
from robot.twin.registers import REGISTERS

STATE_ADDRESS: Final = REGISTERS["Torque_Enable"].address
STATE_SIZE: Final = REGISTERS["Present_Load"].address - STATE_ADDRESS
"""Up to Present_Velocity. Torque_Enable is read every time: a servo whose supply dipped for a moment answers
as if nothing had happened, limp, and would leap at the next goal."""
HEALTH_SIZE: Final = 71 - STATE_ADDRESS
"""Up to Present_Current."""
CURRENT_A: Final = 0.0065


@dataclass(frozen=True, slots=True)
class ServoState:
    """torque: it is energised. goal, position: counts. velocity: in the unit its Phase register sets."""

    torque: bool
    goal: int
    position: int
    velocity: int

    @classmethod
    def of(cls, data: bytes) -> Self:
        """From an answer that begins at STATE_ADDRESS."""
        return cls(
            torque=_value(data, "Torque_Enable") == 1,
            goal=_value(data, "Goal_Position"),
            position=_value(data, "Present_Position"),
            velocity=_value(data, "Present_Velocity"),
        )


def health_of(joint: str, data: bytes, status: int) -> ServoHealth:
    """Health of a servo, from HEALTH_SIZE bytes from STATE_ADDRESS and the status byte of its answer."""
    return ServoHealth(
        joint=joint,
        temperature_c=float(_value(data, "Present_Temperature")),
        voltage_v=_value(data, "Present_Voltage") / 10,
        load=_value(data, "Present_Load") / 1000,
        current_a=_value(data, "Present_Current") * CURRENT_A,
        faults=fault_words(status | _value(data, "Status")),
    )


def _value(data: bytes, name: str) -> int:
    begin = REGISTERS[name].address - STATE_ADDRESS
    return decode(name, data[begin : begin + REGISTERS[name].size])
