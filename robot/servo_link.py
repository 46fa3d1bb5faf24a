"""Exchanges with the arm's servos over the vendor's SDK: bounded retries, reconnection, raw counts.

What arrives late from an earlier exchange must never pass for the answer to a later one. So the input is
emptied before each exchange, answers are matched by servo id and exact size, and the driver reads in few
shapes only, each of its own size. The SDK is used as lerobot's bus uses it, but without lerobot, whose import
takes seconds and brings torch: the watchdog must be there at once and cost nothing.
"""

from __future__ import annotations

import errno
import termios
from collections.abc import Callable, Iterable, Mapping
from types import MethodType
from typing import Any, Final

import scservo_sdk as scs
import serial

from robot.devices import resolve_port
from robot.errors import BusError, DeviceError
from robot.health import LinkStats
from robot.twin.registers import LOAD_SIGN_BIT, OFFSET_SIGN_BIT, POSITION_SIGN_BIT, REGISTERS, decode_sign
from robot.types import Clock

MEMORY_SIZE: Final = 87
STATUS_OVERHEAD: Final = 6
"""Bytes of a status packet around its data."""
BAUD: Final = 1_000_000
BACKOFF_S: Final = 0.01
READ_WAIT_S: Final = 0.002
"""Longest sleep inside one read of the port; without it the serial library spins while it waits."""
ANSWER_MS: Final = 50.0
"""How long an answer may take beyond its bytes: a USB adapter under load is slow."""
SIGN_BITS: Final = {
    "Present_Load": LOAD_SIGN_BIT,
    "Homing_Offset": OFFSET_SIGN_BIT,
    "Goal_Position": POSITION_SIGN_BIT,
    "Goal_Velocity": POSITION_SIGN_BIT,
    "Present_Position": POSITION_SIGN_BIT,
    "Present_Velocity": POSITION_SIGN_BIT,
}
"""Registers that hold sign and magnitude, with the bit of the sign."""
_PORT_ERRORS: Final = (OSError, termios.error, DeviceError)
_STATUS_WORDS: Final = {
    1: "supply voltage out of range",
    2: "angle sensor failed",
    4: "overheated",
    8: "current too high",
    32: "overloaded",
}


def fault_words(status: int) -> str:
    """A servo's status byte in words; empty when it is well."""
    known = [word for bit, word in _STATUS_WORDS.items() if status & bit]
    unknown = status & ~sum(_STATUS_WORDS)
    return ", ".join([*known, *([f"unknown status bits {unknown:#04x}"] if unknown else [])])


def decode(name: str, data: bytes) -> int:
    """Value of register `name` from its bytes, sign applied."""
    raw = int.from_bytes(data, "little")
    return decode_sign(raw, SIGN_BITS[name]) if name in SIGN_BITS else raw


def encode(name: str, value: int) -> bytes:
    """Bytes of register `name` that hold `value`. Raises ValueError where it does not fit."""
    raw = value
    if name in SIGN_BITS:
        magnitude = 1 << SIGN_BITS[name]
        if abs(value) >= magnitude:
            raise ValueError(f"{name} = {value} is beyond +-{magnitude - 1}")
        raw = abs(value) | (magnitude if value < 0 else 0)
    try:
        return raw.to_bytes(REGISTERS[name].size, "little")
    except OverflowError:
        raise ValueError(f"{name} = {value} does not fit {REGISTERS[name].size} bytes") from None


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
        self._port: Any = None  # the SDK's PortHandler; it comes without types
        self._sdk: Any = scs.PacketHandler(0)
        self._closed = True

    def open(self) -> None:
        """Open the port. Raises BusError when it is missing or in use."""
        self._closed = False
        self._exchange("opening the port", lambda: "")

    @property
    def lost(self) -> bool:
        """The port failed and has not been opened again; the next read or write does."""
        return self._port is None

    def close(self) -> None:
        """Close the port; nothing is sent. More than once is allowed."""
        self._closed = True
        self._drop_port()

    def read_memory(self, joint: str) -> dict[str, int]:
        """Every register of one servo, by lerobot's names, signs applied. Raises BusError."""
        data = self.sync_read(0, MEMORY_SIZE, [joint], f"reading the memory of {self._named(joint)}")[joint]
        return {
            name: decode(name, data[register.address : register.address + register.size])
            for name, register in REGISTERS.items()
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
        address, data = REGISTERS[name].address, list(encode(name, value))

        def attempt() -> str:
            result, status = self._sdk.writeTxRx(self._port, self.ids[joint], address, len(data), data)
            if result != scs.COMM_SUCCESS:
                return f"no valid answer from {self._named(joint)}"
            self.status[joint] = status
            return ""

        self._exchange(f"writing {name} = {value} to {self._named(joint)}", attempt)

    def sync_write(self, name: str, values: Mapping[str, int]) -> None:
        """Write one register of several servos at once. Servos do not confirm it.

        Raises BusError at once when the port fails: behind a port that was lost and found again may be
        servos that lost their torque, and a goal must not reach them before somebody has looked.
        """
        what = f"writing {name} to servos {sorted(self.ids[joint] for joint in values)}"
        if self._port is None:
            raise BusError(
                f"{self.port}: {what}: the port was lost and nobody has looked at the servos since"
            )
        words = b"".join(bytes([self.ids[joint]]) + encode(name, value) for joint, value in values.items())
        register = REGISTERS[name]

        def attempt() -> str:
            self._sdk.syncWriteTxOnly(self._port, register.address, register.size, list(words), len(words))
            return ""

        self._exchange(what, attempt, reopen=False)

    def _ask(self, address: int, size: int, joints: list[str]) -> dict[str, bytes]:
        """One sync read; returns what came back whole before the time was up."""
        by_id = {self.ids[joint]: joint for joint in joints}
        if self._sdk.syncReadTx(self._port, address, size, list(by_id), len(by_id)) != scs.COMM_SUCCESS:
            return {}
        answers: dict[str, bytes] = {}
        while len(answers) < len(joints):
            packet, result = self._sdk.rxPacket(self._port)
            if result == scs.COMM_RX_TIMEOUT:
                break
            if result != scs.COMM_SUCCESS or len(packet) != size + STATUS_OVERHEAD:
                continue
            joint = by_id.get(packet[scs.PKT_ID])
            if joint is not None:
                self.status[joint] = packet[scs.PKT_ERROR]
                answers[joint] = bytes(packet[scs.PKT_PARAMETER0 : scs.PKT_PARAMETER0 + size])
        return answers

    def _exchange(self, what: str, attempt: Callable[[], str], *, reopen: bool = True) -> None:
        """Run `attempt` until it returns no complaint, at most 1 + retries times, ever slower.

        reopen: whether a port that fails is opened again and the attempt repeated.
        """
        if self._closed:
            raise BusError(f"{self.port} is closed: {what} needs connect() first")
        self.stats.exchanges += 1
        for tries in range(self._retries + 1):
            if tries:
                self.stats.retries += 1
                self._clock.sleep_until(self._clock.now_s() + BACKOFF_S * 2 ** (tries - 1))
            try:
                self._open_port()
                self._port.is_using = False
                self._port.ser.reset_input_buffer()
                complaint = attempt()
            except _PORT_ERRORS as error:
                self._drop_port()
                complaint = f"the port failed: {error}".replace("\n", " ")
                if not reopen:
                    break
            if not complaint:
                return
        self.stats.failures += 1
        raise BusError(
            f"{self.port}: {what}: {complaint} ({tries + 1} tries);"
            " check the USB cable, the servo chain's plugs and the arm's supply"
        )

    def _open_port(self) -> None:
        """Open the port unless it is open. Raises BusError when another program has it."""
        if self._port is not None:
            return
        device = resolve_port(self.port)
        port: Any = scs.PortHandler(device)
        try:
            # Locked before anything else happens: the program that drives the arm notices nothing.
            port.ser = serial.Serial(device, BAUD, timeout=READ_WAIT_S, exclusive=True)
        except serial.SerialException as error:
            if error.errno != errno.EWOULDBLOCK:
                raise
            raise BusError(
                f"{self.port} is busy: another program drives this arm; end it, or name another port"
            ) from error
        port.is_open, port.baudrate, port.tx_time_per_byte = True, BAUD, 10_000 / BAUD
        port.setPacketTimeout = MethodType(_packet_timeout, port)
        self._port = port
        self.opened += 1

    def _drop_port(self) -> None:
        if self._port is not None:
            self._port.closePort()
        self._port = None

    def _named(self, joint: str) -> str:
        return f"{joint} (servo {self.ids[joint]})"


def _packet_timeout(port: Any, length: int) -> None:  # noqa: ANN401  # the SDK comes without types
    """The SDK's setPacketTimeout with its unit mended and ANSWER_MS of patience, as lerobot has it."""
    port.packet_start_time = port.getCurrentTime()
    port.packet_timeout = port.tx_time_per_byte * (length + 3) + ANSWER_MS
