"""The Feetech STS3215's memory, as data.

Addresses, sizes, units and initial values follow the vendor's STS memory table and the STS3215's factory
settings; lerobot's table of the same servo is compared with this one in the tests. Values are little-endian.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Final

MEMORY_SIZE: Final = 96
COUNTS_PER_TURN: Final = 4096
RAD_PER_COUNT: Final = 2 * math.pi / COUNTS_PER_TURN
MODEL_NUMBER: Final = 777
POSITION_SIGN_BIT: Final = 15
OFFSET_SIGN_BIT: Final = 11
LOAD_SIGN_BIT: Final = 10
PHASE_MULTI_TURN: Final = 0x10
SET_MIDDLE: Final = 128
"""Written to Torque_Enable it makes the present position the middle (2048)."""


class Area(Enum):
    """Where a register lives. EEPROM survives a power cycle if it was written while Lock was 0."""

    EEPROM = "eeprom"
    RAM = "ram"


@dataclass(frozen=True, slots=True)
class Register:
    """One register: address, size [bytes], value after power-up (RAM) or from the factory (EEPROM)."""

    address: int
    size: int
    initial: int
    area: Area
    read_only: bool = False


def _rom(address: int, size: int, initial: int, read_only: bool = False) -> Register:
    return Register(address, size, initial, Area.EEPROM, read_only)


def _ram(address: int, size: int, initial: int, read_only: bool = False) -> Register:
    return Register(address, size, initial, Area.RAM, read_only)


REGISTERS: Final[dict[str, Register]] = {
    "Firmware_Major_Version": _rom(0, 1, 3, read_only=True),
    "Firmware_Minor_Version": _rom(1, 1, 10, read_only=True),
    "Model_Number": _rom(3, 2, MODEL_NUMBER, read_only=True),
    "ID": _rom(5, 1, 1),
    "Baud_Rate": _rom(6, 1, 0),
    "Return_Delay_Time": _rom(7, 1, 250),
    "Response_Status_Level": _rom(8, 1, 1),
    "Min_Position_Limit": _rom(9, 2, 0),
    "Max_Position_Limit": _rom(11, 2, 4095),
    "Max_Temperature_Limit": _rom(13, 1, 70),
    "Max_Voltage_Limit": _rom(14, 1, 80),
    "Min_Voltage_Limit": _rom(15, 1, 40),
    "Max_Torque_Limit": _rom(16, 2, 1000),
    "Phase": _rom(18, 1, 12),
    "Unloading_Condition": _rom(19, 1, 44),
    "LED_Alarm_Condition": _rom(20, 1, 47),
    "P_Coefficient": _rom(21, 1, 32),
    "D_Coefficient": _rom(22, 1, 32),
    "I_Coefficient": _rom(23, 1, 0),
    "Minimum_Startup_Force": _rom(24, 2, 16),
    "CW_Dead_Zone": _rom(26, 1, 1),
    "CCW_Dead_Zone": _rom(27, 1, 1),
    "Protection_Current": _rom(28, 2, 500),
    "Angular_Resolution": _rom(30, 1, 1),
    "Homing_Offset": _rom(31, 2, 0),
    "Operating_Mode": _rom(33, 1, 0),
    "Protective_Torque": _rom(34, 1, 20),
    "Protection_Time": _rom(35, 1, 200),
    "Overload_Torque": _rom(36, 1, 80),
    "Velocity_closed_loop_P_proportional_coefficient": _rom(37, 1, 10),
    "Over_Current_Protection_Time": _rom(38, 1, 200),
    "Velocity_closed_loop_I_integral_coefficient": _rom(39, 1, 10),
    "Torque_Enable": _ram(40, 1, 0),
    "Acceleration": _ram(41, 1, 0),
    "Goal_Position": _ram(42, 2, 0),
    "Goal_Time": _ram(44, 2, 0),
    "Goal_Velocity": _ram(46, 2, 0),
    "Torque_Limit": _ram(48, 2, 1000),
    "Lock": _ram(55, 1, 1),
    "Present_Position": _ram(56, 2, 0, read_only=True),
    "Present_Velocity": _ram(58, 2, 0, read_only=True),
    "Present_Load": _ram(60, 2, 0, read_only=True),
    "Present_Voltage": _ram(62, 1, 74, read_only=True),
    "Present_Temperature": _ram(63, 1, 30, read_only=True),
    "Async_Write_Flag": _ram(64, 1, 0, read_only=True),
    "Status": _ram(65, 1, 0, read_only=True),
    "Moving": _ram(66, 1, 0, read_only=True),
    "Present_Current": _ram(69, 2, 0, read_only=True),
    "Goal_Position_2": _ram(71, 2, 0, read_only=True),
    "Moving_Velocity_Threshold": _rom(80, 1, 1),
    "DTs": _rom(81, 1, 10),
    "Velocity_Unit_factor": _rom(82, 1, 1),
    "Hts": _rom(83, 1, 0),
    "Maximum_Velocity_Limit": _rom(84, 1, 70),
    "Maximum_Acceleration": _rom(85, 1, 50),
    "Acceleration_Multiplier": _rom(86, 1, 1),
}


def encode_sign(value: int, sign_bit: int) -> int:
    """`value` as sign and magnitude with the sign in bit `sign_bit`; the magnitude saturates."""
    magnitude = min(abs(value), (1 << sign_bit) - 1)
    return magnitude | (1 << sign_bit) if value < 0 else magnitude


def decode_sign(raw: int, sign_bit: int) -> int:
    """The inverse of `encode_sign`."""
    magnitude = raw & ((1 << sign_bit) - 1)
    return -magnitude if raw >> sign_bit & 1 else magnitude


class Memory:
    """The bytes of one servo: what it works with now, and what its EEPROM keeps."""

    def __init__(self, servo_id: int) -> None:
        self._live = bytearray(MEMORY_SIZE)
        self._kept = bytearray(MEMORY_SIZE)
        for register in REGISTERS.values():
            self._put(register, register.initial)
        self._put(REGISTERS["ID"], servo_id)
        self._kept[:] = self._live

    def get(self, name: str) -> int:
        """Value of a register, unsigned."""
        register = REGISTERS[name]
        return int.from_bytes(self._live[register.address : register.address + register.size], "little")

    def set(self, name: str, value: int) -> None:
        """Set a register from inside the servo: access rules do not apply, EEPROM is not touched."""
        self._put(REGISTERS[name], value)

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes from `address`; places without a register read 0."""
        return bytes(self._live[address : address + size]).ljust(size, b"\0")

    def write(self, address: int, data: bytes) -> frozenset[str]:
        """Write from the bus. Read-only and unused places are left alone. Returns the registers written.

        While Lock is 1, a value written to EEPROM works at once but is forgotten at power-off.
        """
        keep = self.get("Lock") == 0
        written = set()
        for offset, byte in enumerate(data):
            name = _NAME_AT.get(address + offset)
            if name is None or REGISTERS[name].read_only:
                continue
            self._live[address + offset] = byte
            if keep and REGISTERS[name].area is Area.EEPROM:
                self._kept[address + offset] = byte
            written.add(name)
        return frozenset(written)

    def keep(self) -> None:
        """Store every EEPROM register as it is now."""
        self._kept[:] = self._live

    def power_cycle(self) -> None:
        """Switch off and on: EEPROM as kept, RAM as at power-up, torque limit from its EEPROM value."""
        for register in REGISTERS.values():
            end = register.address + register.size
            if register.area is Area.EEPROM:
                self._live[register.address : end] = self._kept[register.address : end]
            else:
                self._put(register, register.initial)
        self.set("Torque_Limit", self.get("Max_Torque_Limit"))

    def _put(self, register: Register, value: int) -> None:
        end = register.address + register.size
        self._live[register.address : end] = value.to_bytes(register.size, "little")


_NAME_AT: Final[dict[int, str]] = {
    register.address + offset: name for name, register in REGISTERS.items() for offset in range(register.size)
}
