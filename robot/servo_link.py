"""Exchanges with the arm's servos over lerobot's FeetechMotorsBus: bounded retries, reconnection, raw counts.

What arrives late from an earlier exchange must never pass for the answer to a later one. So the input is
emptied before each exchange, answers are matched by servo id and exact size, and the driver reads in two
shapes only: the whole memory, and position with velocity.
"""

from __future__ import annotations

import fcntl
import termios
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import scservo_sdk as scs
from lerobot.motors import Motor, MotorNormMode
from lerobot.motors.encoding_utils import decode_sign_magnitude, encode_sign_magnitude
from lerobot.motors.feetech import FeetechMotorsBus
from lerobot.motors.feetech.tables import STS_SMS_SERIES_CONTROL_TABLE, STS_SMS_SERIES_ENCODINGS_TABLE

from robot.errors import BusError
from robot.types import Clock

SERVO_MODEL: Final = "sts3215"
MEMORY_SIZE: Final = 87
STATUS_OVERHEAD: Final = 6
"""Bytes of a status packet around its data."""
BACKOFF_S: Final = 0.01
READ_WAIT_S: Final = 0.002
"""Longest sleep inside one read of the port; without it the serial library spins while it waits."""
_REGISTERS: Final[dict[str, tuple[int, int]]] = STS_SMS_SERIES_CONTROL_TABLE
_SIGN_BITS: Final[dict[str, int]] = STS_SMS_SERIES_ENCODINGS_TABLE
_PORT_ERRORS: Final = (OSError, termios.error, ConnectionError)
_STATUS_WORDS: Final = {
    1: "supply voltage out of range",
    2: "angle sensor failed",
    4: "overheated",
    8: "current too high",
    32: "overloaded",
}


@dataclass(slots=True)
class LinkStats:
    """Counts since the link was made: exchanges asked for, extra tries they took, and how many failed."""

    exchanges: int = 0
    retries: int = 0
    failures: int = 0


def fault_words(status: int) -> str:
    """A servo's status byte in words; empty when it is well."""
    known = [word for bit, word in _STATUS_WORDS.items() if status & bit]
    unknown = status & ~sum(_STATUS_WORDS)
    return ", ".join([*known, *([f"unknown status bits {unknown:#04x}"] if unknown else [])])


def decode(name: str, data: bytes) -> int:
    """Value of register `name` from its bytes, sign applied."""
    raw = int.from_bytes(data, "little")
    return int(decode_sign_magnitude(raw, _SIGN_BITS[name])) if name in _SIGN_BITS else raw


class ServoLink:
    """The bus of one arm. ids: servo id of each joint name. Not thread-safe.

    opened counts how often the port was opened: a change tells that the cable was out. status keeps the last
    status byte of each joint's servo.
    """

    def __init__(self, port: str, ids: Mapping[str, int], retries: int, clock: Clock) -> None:
        """retries: how many more times an exchange is tried after the first."""
        self.port, self.ids = port, dict(ids)
        self.opened = 0
        self.status = dict.fromkeys(ids, 0)
        self.stats = LinkStats()
        self._retries, self._clock = retries, clock
        self._bus: FeetechMotorsBus | None = None
        self._closed = True

    def open(self) -> None:
        """Open the port. Raises BusError when it is missing or in use."""
        self._closed = False
        self._exchange("opening the port", lambda: "")

    def close(self) -> None:
        """Close the port; nothing is sent. More than once is allowed."""
        self._closed = True
        self._drop_port()

    def read_memory(self, joint: str) -> dict[str, int]:
        """Every register of one servo, by lerobot's names, signs applied. Raises BusError."""
        data = self.sync_read(0, MEMORY_SIZE, [joint], f"reading the memory of {self._named(joint)}")[joint]
        return {
            name: decode(name, data[address : address + size]) for name, (address, size) in _REGISTERS.items()
        }

    def sync_read(self, address: int, size: int, joints: Iterable[str], what: str) -> dict[str, bytes]:
        """`size` bytes from `address` of each joint's servo, in one exchange; a retry asks the silent ones.

        Raises BusError naming `what` and the servos that did not answer.
        """
        answers: dict[str, bytes] = {}
        wanted = list(joints)

        def attempt() -> str:
            missing = [joint for joint in wanted if joint not in answers]
            answers.update(self._ask(address, size, missing))
            silent = [self._named(joint) for joint in missing if joint not in answers]
            return f"no valid answer from {', '.join(silent)}" if silent else ""

        self._exchange(f"{what} (address {address}, {size} bytes)", attempt)
        return answers

    def write(self, joint: str, name: str, value: int) -> None:
        """Write one register and wait for the servo to confirm it. Raises BusError."""
        address, size = _REGISTERS[name]
        raw = encode_sign_magnitude(value, _SIGN_BITS[name]) if name in _SIGN_BITS else value
        data = list(raw.to_bytes(size, "little"))

        def attempt() -> str:
            bus = self._require_bus()
            result, status = bus.packet_handler.writeTxRx(
                bus.port_handler, self.ids[joint], address, size, data
            )
            if result != scs.COMM_SUCCESS:
                return f"no valid answer from {self._named(joint)}"
            self.status[joint] = status
            return ""

        self._exchange(f"writing {name} = {value} to {self._named(joint)}", attempt)

    def sync_write(self, name: str, values: Mapping[str, int]) -> None:
        """Write one register of several servos at once. Servos do not confirm it. Raises BusError."""
        ids_values = {self.ids[joint]: value for joint, value in values.items()}
        address, size = _REGISTERS[name]

        def attempt() -> str:
            bus = self._require_bus()
            encoded = bus._encode_sign(name, dict(ids_values))
            bus._sync_write(address, size, encoded)
            return ""

        self._exchange(f"writing {name} to servos {sorted(ids_values)}", attempt)

    def _ask(self, address: int, size: int, joints: list[str]) -> dict[str, bytes]:
        """One sync read; returns what came back whole before the time was up."""
        bus = self._require_bus()
        handler, port = bus.packet_handler, bus.port_handler
        by_id = {self.ids[joint]: joint for joint in joints}
        if handler.syncReadTx(port, address, size, list(by_id), len(by_id)) != scs.COMM_SUCCESS:
            return {}
        answers: dict[str, bytes] = {}
        while len(answers) < len(joints):
            packet, result = handler.rxPacket(port)
            if result == scs.COMM_RX_TIMEOUT:
                break
            if result != scs.COMM_SUCCESS or len(packet) != size + STATUS_OVERHEAD:
                continue
            joint = by_id.get(packet[scs.PKT_ID])
            if joint is not None:
                self.status[joint] = packet[scs.PKT_ERROR]
                answers[joint] = bytes(packet[scs.PKT_PARAMETER0 : scs.PKT_PARAMETER0 + size])
        return answers

    def _exchange(self, what: str, attempt: Callable[[], str]) -> None:
        """Run `attempt` until it returns no complaint, at most 1 + retries times, ever slower."""
        if self._closed:
            raise BusError(f"{self.port} is closed: {what} needs connect() first")
        self.stats.exchanges += 1
        for tries in range(self._retries + 1):
            if tries:
                self.stats.retries += 1
                self._clock.sleep_until(self._clock.now_s() + BACKOFF_S * 2 ** (tries - 1))
            try:
                port = self._require_bus().port_handler
                port.is_using = False
                port.ser.reset_input_buffer()
                complaint = attempt()
            except _PORT_ERRORS as error:
                self._drop_port()
                complaint = f"the port failed: {error}".replace("\n", " ")
            if not complaint:
                return
        self.stats.failures += 1
        raise BusError(
            f"{self.port}: {what}: {complaint} ({self._retries + 1} tries);"
            " check the USB cable, the servo chain's plugs and the arm's supply"
        )

    def _require_bus(self) -> FeetechMotorsBus:
        """The open bus; opens it if the port was lost."""
        if self._bus is None:
            motors = {
                joint: Motor(id_, SERVO_MODEL, MotorNormMode.DEGREES) for joint, id_ in self.ids.items()
            }
            bus = FeetechMotorsBus(self.port, motors)
            bus.connect(handshake=False)
            serial = bus.port_handler.ser
            try:
                fcntl.flock(serial.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                bus.port_handler.closePort()
                raise BusError(
                    f"{self.port} is busy: another program drives this arm; end it, or name another port"
                ) from error
            serial.timeout = READ_WAIT_S
            self._bus = bus
            self.opened += 1
        return self._bus

    def _drop_port(self) -> None:
        if self._bus is not None and self._bus.port_handler.is_open:
            self._bus.port_handler.closePort()
        self._bus = None

    def _named(self, joint: str) -> str:
        return f"{joint} (servo {self.ids[joint]})"
