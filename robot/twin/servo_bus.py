"""Six STS3215 servos on one Feetech bus: bytes in, bytes out. No port, no threads, no clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum
from typing import Final, Protocol

from robot.twin import registers as reg
from robot.twin.faults import Faults, Status
from robot.twin.registers import Memory, decode_sign, encode_sign

BROADCAST: Final = 0xFE
HEADER: Final = b"\xff\xff"
MAX_LENGTH: Final = 250
STALL_TORQUE_NM: Final = 2.94
STALL_CURRENT: Final = 415
"""[6.5 mA] drawn at stall torque: 2.7 A."""
WARM_C, OVERHEATED_C = 30, 75
SUPPLY, UNDERVOLTAGE = 74, 38
"""[0.1 V] shown usually, and while the voltage fault is on."""


class ServoBody(Protocol):
    """What the servos move. joint: 0 at the base .. 5; angles in rad, zero as in the arm model."""

    def set_goal_rad(self, joint: int, rad: float | None) -> None:
        """None switches the joint's torque off: it is limp."""
        ...

    def position_rad(self, joint: int) -> float: ...

    def velocity_rad_s(self, joint: int) -> float: ...

    def torque_nm(self, joint: int) -> float: ...


class Instruction(IntEnum):
    """Instructions of the protocol."""

    PING = 0x01
    READ = 0x02
    WRITE = 0x03
    REG_WRITE = 0x04
    ACTION = 0x05
    SYNC_READ = 0x82
    SYNC_WRITE = 0x83


def checksum(content: bytes) -> int:
    """Checksum over everything between the header and the checksum itself."""
    return ~sum(content) & 0xFF


def packet(servo_id: int, code: int, parameters: bytes = b"") -> bytes:
    """A packet: `code` is the instruction, or the error byte of a status packet."""
    content = bytes((servo_id, len(parameters) + 2, code)) + parameters
    return HEADER + content + bytes((checksum(content),))


def take_packet(buffer: bytearray) -> bytes | None:
    """Remove and return the first valid packet of `buffer` (id .. parameters), skipping garbage before it.

    None when no whole packet is there yet; what may still become one is left in `buffer`.
    """
    while (start := buffer.find(HEADER)) >= 0:
        del buffer[:start]
        while buffer[:3] == b"\xff\xff\xff":  # an id is never 0xff: the header starts one later
            del buffer[0]
        if len(buffer) < 4:
            return None
        length = buffer[3]
        if not 2 <= length <= MAX_LENGTH:
            del buffer[:2]
            continue
        if len(buffer) < length + 4:
            return None
        content = bytes(buffer[2 : length + 3])
        if checksum(content) == buffer[length + 3]:
            del buffer[: length + 4]
            return content
        del buffer[:2]
    del buffer[: len(buffer) - (1 if buffer.endswith(b"\xff") else 0)]
    return None


class Servo:
    """One servo: its memory and the joint it turns. encoder_zero: raw count at joint angle zero."""

    def __init__(self, servo_id: int, joint: int, body: ServoBody, encoder_zero: int) -> None:
        self.memory = Memory(servo_id)
        self.pending: tuple[int, bytes] | None = None
        self._joint, self._body, self._zero = joint, body, encoder_zero
        self._release()

    @property
    def id(self) -> int:
        """Its present address on the bus."""
        return self.memory.get("ID")

    def write(self, address: int, data: bytes) -> None:
        """Write memory from the bus and act on it."""
        had_torque = self.memory.get("Torque_Enable") == 1
        written = self.memory.write(address, data)
        if "Torque_Enable" in written:
            self._switch_torque(had_torque, goal_given="Goal_Position" in written)
        elif "Goal_Position" in written:
            self.drive()

    def drive(self) -> None:
        """Pass the goal on to the joint, or release it."""
        faulty = self.memory.get("Status") & self.memory.get("Unloading_Condition")
        if self.memory.get("Torque_Enable") != 1 or faulty:
            self._release()
            return
        goal = decode_sign(self.memory.get("Goal_Position"), reg.POSITION_SIGN_BIT)
        low, high = self.memory.get("Min_Position_Limit"), self.memory.get("Max_Position_Limit")
        if low < high:
            goal = min(max(goal, low), high)
        self._body.set_goal_rad(self._joint, self._to_rad(goal))

    def refresh(self, status: Status, faults: Faults) -> None:
        """Bring the registers that show the present up to date. status: its latched faults."""
        changed = self.memory.get("Status") != int(status)
        velocity = round(self._body.velocity_rad_s(self._joint) / reg.RAD_PER_COUNT)
        share = faults.load.get(self.id, self._body.torque_nm(self._joint) / STALL_TORQUE_NM)
        volts = UNDERVOLTAGE if status & Status.VOLTAGE else SUPPLY
        degrees = OVERHEATED_C if status & Status.OVERHEAT else WARM_C
        values = {
            "Present_Position": encode_sign(self._present_counts(), reg.POSITION_SIGN_BIT),
            "Present_Velocity": encode_sign(velocity, reg.POSITION_SIGN_BIT),
            "Present_Load": encode_sign(max(-1000, min(1000, round(1000 * share))), reg.LOAD_SIGN_BIT),
            "Present_Current": min(500, round(STALL_CURRENT * abs(share))),
            "Present_Voltage": round(10 * faults.voltage_v.get(self.id, volts / 10)),
            "Present_Temperature": round(faults.heat_c.get(self.id, degrees)),
            "Status": int(status),
            "Moving": int(abs(velocity) > self.memory.get("Moving_Velocity_Threshold")),
        }
        for name, value in values.items():
            self.memory.set(name, value)
        if changed:
            self.drive()

    def power_cycle(self) -> None:
        """Switch off and on."""
        self.memory.power_cycle()
        self.pending = None
        self._release()

    def _switch_torque(self, had_torque: bool, goal_given: bool) -> None:
        value = self.memory.get("Torque_Enable")
        if value == reg.SET_MIDDLE:
            shift = encode_sign(self._raw_counts() - reg.COUNTS_PER_TURN // 2, reg.OFFSET_SIGN_BIT)
            self.memory.write(reg.REGISTERS["Homing_Offset"].address, shift.to_bytes(2, "little"))
            self.memory.set("Torque_Enable", 0)
        if not had_torque and not goal_given:
            # A servo that gains torque holds where it is; it does not leap to an old goal.
            present = encode_sign(self._present_counts(), reg.POSITION_SIGN_BIT)
            self.memory.set("Goal_Position", present)
        self.drive()

    def _release(self) -> None:
        self._body.set_goal_rad(self._joint, None)

    def _offset(self) -> int:
        return decode_sign(self.memory.get("Homing_Offset"), reg.OFFSET_SIGN_BIT)

    def _raw_counts(self) -> int:
        return round(self._body.position_rad(self._joint) / reg.RAD_PER_COUNT) + self._zero

    def _present_counts(self) -> int:
        shown = self._raw_counts() - self._offset()
        return shown if self.memory.get("Phase") & reg.PHASE_MULTI_TURN else shown % reg.COUNTS_PER_TURN

    def _to_rad(self, counts: int) -> float:
        """The joint angle within half a turn of joint zero that shows `counts`."""
        half = reg.COUNTS_PER_TURN // 2
        raw = (counts + self._offset() - self._zero + half) % reg.COUNTS_PER_TURN - half
        return raw * reg.RAD_PER_COUNT


class ServoBus:
    """The servos of one arm, ids 1.. in joint order, answering as on a real half-duplex bus."""

    def __init__(self, body: ServoBody, faults: Faults, encoder_zeros: Sequence[int] = (2048,) * 6) -> None:
        """encoder_zeros: raw encoder count of each servo at joint angle zero (how the horn was mounted)."""
        self.servos = [Servo(joint + 1, joint, body, zero) for joint, zero in enumerate(encoder_zeros)]
        self.line_baud: int | None = None
        """Baud_Rate code the line runs at; a servo set to another hears nothing. None: all hear."""
        self._faults = faults
        self._buffer = bytearray()

    def receive(self, data: bytes) -> bytes:
        """Take bytes as they come (packets split or merged, garbage between); returns the servos' answers."""
        self._buffer += data
        answer = b""
        while (content := take_packet(self._buffer)) is not None:
            arrived = bytearray(self._faults.on_packet(HEADER + content + bytes((checksum(content),))))
            if (heard := take_packet(arrived)) is not None:
                answer += self._execute(heard[0], heard[2], heard[3:])
        return answer

    def tick(self) -> None:
        """Let the servos notice faults without being asked: an overloaded servo lets go by itself."""
        for servo in self.servos:
            servo.refresh(self._status(servo), self._faults)

    def speed_limits_rad_s(self) -> list[float]:
        """How fast each servo may turn [rad/s], by its Goal_Velocity; inf where that is 0."""
        counts = (decode_sign(s.memory.get("Goal_Velocity"), reg.POSITION_SIGN_BIT) for s in self.servos)
        return [abs(speed) * reg.RAD_PER_COUNT or math.inf for speed in counts]

    def power_cycle(self) -> None:
        """Switch the arm's supply off and on: faults clear, torque is off, only kept EEPROM stays."""
        self._faults.status.clear()
        for servo in self.servos:
            servo.power_cycle()

    def _status(self, servo: Servo) -> Status:
        return self._faults.status.get(servo.id, Status(0))

    def _listeners(self, servo_id: int) -> list[Servo]:
        return [
            servo
            for servo in self.servos
            if servo_id in (servo.id, BROADCAST)
            and servo.id not in self._faults.silent
            and self.line_baud in (None, servo.memory.get("Baud_Rate"))
        ]

    def _execute(self, servo_id: int, instruction: int, parameters: bytes) -> bytes:
        if instruction == Instruction.SYNC_WRITE:
            self._sync_write(parameters)
            return b""
        if instruction == Instruction.SYNC_READ and len(parameters) >= 2 and parameters[1] <= MAX_LENGTH - 2:
            asked = [servo for target in parameters[2:] for servo in self._listeners(target)]
            return b"".join(self._reply(servo, servo.id, parameters[:2]) for servo in asked)
        answer = b""
        for servo in self._listeners(servo_id):
            replied_as = servo.id  # a new ID counts from the next packet on
            if not self._obey(servo, instruction, parameters):
                continue
            always = instruction in (Instruction.PING, Instruction.READ)
            mute = servo_id == BROADCAST and instruction != Instruction.PING
            if not mute and (always or servo.memory.get("Response_Status_Level")):
                read = parameters if instruction == Instruction.READ else b""
                answer += self._reply(servo, replied_as, read)
        return answer

    def _obey(self, servo: Servo, instruction: int, parameters: bytes) -> bool:
        """Carry the instruction out. False: the servo does not understand it and stays mute."""
        servo.refresh(self._status(servo), self._faults)
        if instruction == Instruction.PING:
            return True
        if instruction == Instruction.READ:
            return len(parameters) == 2 and parameters[1] <= MAX_LENGTH - 2
        if instruction == Instruction.WRITE and len(parameters) >= 2:
            servo.write(parameters[0], parameters[1:])
            return True
        if instruction == Instruction.REG_WRITE and len(parameters) >= 2:
            servo.pending = (parameters[0], parameters[1:])
            servo.memory.set("Async_Write_Flag", 1)
            return True
        if instruction == Instruction.ACTION:
            if servo.pending is not None:
                address, data = servo.pending
                servo.pending = None
                servo.memory.set("Async_Write_Flag", 0)
                servo.write(address, data)
            return True
        return False

    def _sync_write(self, parameters: bytes) -> None:
        if len(parameters) < 2:
            return
        address, size = parameters[0], parameters[1]
        for start in range(2, len(parameters) - size, size + 1):
            for servo in self._listeners(parameters[start]):
                servo.refresh(self._status(servo), self._faults)
                servo.write(address, parameters[start + 1 : start + 1 + size])

    def _reply(self, servo: Servo, servo_id: int, read: bytes) -> bytes:
        """A status packet; `read` is (address, size) of the memory to send along, or empty."""
        servo.refresh(self._status(servo), self._faults)
        data = servo.memory.read(read[0], read[1]) if read else b""
        return self._faults.on_packet(packet(servo_id, int(self._status(servo)), data))
