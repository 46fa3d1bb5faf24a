"""How well the arm is: its servos' heat, voltage, load and current, and its bus; when to warn and to pause.

Plain data and rules; `robot.so101` measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

CHECK_S: Final = 0.4
"""The driver looks at the servos' health so often while somebody uses the arm."""


@dataclass(slots=True)
class LinkStats:
    """Counts since the link was made: exchanges asked for, extra tries they took, and how many failed."""

    exchanges: int = 0
    retries: int = 0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class ServoHealth:
    """One servo now. load: share of full torque, -1..1. faults: in words, empty when well."""

    joint: str
    temperature_c: float
    voltage_v: float
    load: float
    current_a: float
    faults: str


@dataclass(frozen=True, slots=True)
class HealthLimits:
    """Beyond `warn` a message is said; beyond `pause` the arm holds until all is within `warn` again.

    Voltage, load and current count when they stay beyond the limit for lasting_s: a moving arm has peaks.
    The servo's own limits (70 C, and what its EEPROM says of voltage and load) drop the arm: see that these
    come first. A supply of 12 V needs other voltages than one of 5 V or 7.4 V.
    """

    warn_temperature_c: float = 55.0
    pause_temperature_c: float = 65.0
    warn_voltage_v: float = 4.8
    pause_voltage_v: float = 4.4
    warn_load: float = 0.7
    pause_load: float = 0.9
    warn_current_a: float = 1.5
    pause_current_a: float = 2.2
    lasting_s: float = 1.5


@dataclass(frozen=True, slots=True)
class _Quantity:
    """One measured quantity: how it is called, its unit, its limits, and the side on which it is bad."""

    name: str
    unit: str
    digits: int
    warn: float
    pause: float
    margin: float
    low_is_bad: bool
    lasting_s: float
    advice: str

    @property
    def well(self) -> float:
        """Where a warning or a pause ends: a little within `warn`, so that a wavering value is told once."""
        return self.warn + (self.margin if self.low_is_bad else -self.margin)

    def beyond(self, value: float, limit: float) -> bool:
        return value < limit if self.low_is_bad else value > limit

    def told(self, joint: str, value: float, limit: float) -> str:
        which = "least" if self.low_is_bad else "most"
        return (
            f"{joint}: {self.name} {value:.{self.digits}f} {self.unit},"
            f" at {which} {limit:.{self.digits}f} {self.unit}"
        )


class HealthWatch:
    """Judges readings of the servos as they come.

    for line in watch.update(readings, now_s): say(line)
    watch.pause     why the arm must hold, in words; empty when it may move
    """

    def __init__(self, limits: HealthLimits) -> None:
        self._quantities = _quantities(limits)
        self._since: dict[tuple[str, str, float], float] = {}
        self._warned: set[tuple[str, str]] = set()
        self._paused: dict[tuple[str, str], str] = {}
        self.readings: tuple[ServoHealth, ...] = ()

    @property
    def pause(self) -> str:
        """Each servo and value that keeps the arm from moving, with its limit; empty when none does."""
        return "; ".join(self._paused.values())

    def update(self, readings: Sequence[ServoHealth], now_s: float) -> list[str]:
        """Take in one reading of every servo. Returns what a person should hear, once each."""
        self.readings = tuple(readings)
        lines: list[str] = []
        for reading in readings:
            for quantity, value in zip(self._quantities, _values(reading), strict=True):
                lines += self._judge(reading.joint, quantity, value, now_s)
        return lines

    def _judge(self, joint: str, quantity: _Quantity, value: float, now_s: float) -> list[str]:
        key = joint, quantity.name
        warn = self._lasts(joint, quantity, value, quantity.warn, now_s)
        pause = self._lasts(joint, quantity, value, quantity.pause, now_s)
        if not quantity.beyond(value, quantity.well):
            was_paused, was_warned = self._paused.pop(key, None) is not None, key in self._warned
            self._warned.discard(key)
            over = f"{joint}: {quantity.name} is {value:.{quantity.digits}f} {quantity.unit}, well again"
            return [over] if was_paused or was_warned else []
        if pause:
            new = key not in self._paused
            told = quantity.told(joint, value, quantity.pause)
            self._paused[key] = f"{told} ({quantity.advice})"
            self._warned.add(key)
            return [f"PAUSE: {self._paused[key]}"] if new else []
        if warn and key not in self._warned:
            self._warned.add(key)
            return [f"warning: {quantity.told(joint, value, quantity.warn)} ({quantity.advice})"]
        return []

    def _lasts(self, joint: str, quantity: _Quantity, value: float, limit: float, now_s: float) -> bool:
        """Whether the value has been beyond the limit for as long as counts."""
        key = joint, quantity.name, limit
        if not quantity.beyond(value, limit):
            self._since.pop(key, None)
            return False
        return now_s - self._since.setdefault(key, now_s) >= quantity.lasting_s


def _values(reading: ServoHealth) -> tuple[float, float, float, float]:
    """In the order of `_quantities`."""
    return reading.temperature_c, reading.voltage_v, abs(reading.load), reading.current_a


def _quantities(limits: HealthLimits) -> tuple[_Quantity, ...]:
    lasting = limits.lasting_s
    return (
        _Quantity(
            "temperature", "C", 0, limits.warn_temperature_c, limits.pause_temperature_c, 2.0, False, 0.0,
            "let it cool; it works against a weight or a stop",
        ),
        _Quantity(
            "voltage", "V", 1, limits.warn_voltage_v, limits.pause_voltage_v, 0.1, True, lasting,
            "the supply is weak, shared by two arms, or its plug is loose",
        ),
        _Quantity(
            "load", "of full torque", 2, limits.warn_load, limits.pause_load, 0.05, False, lasting,
            "something blocks the joint or weighs on it",
        ),
        _Quantity(
            "current", "A", 2, limits.warn_current_a, limits.pause_current_a, 0.1, False, lasting,
            "something blocks the joint or weighs on it",
        ),
    )  # fmt: skip
