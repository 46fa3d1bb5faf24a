"""The real arm in numbers, for the actor's log: how often its bus failed, and how its servos are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from robot.health import LinkStats, ServoHealth


class Servos(Protocol):
    """The driver's numbers."""

    @property
    def stats(self) -> LinkStats: ...

    @property
    def last_health(self) -> Sequence[ServoHealth]: ...


class ArmMetrics:
    """Called once per logged episode, it returns the glossary's metrics of the arm since the call before."""

    def __init__(self, servos: Servos | None) -> None:
        """servos: None for an arm that has none; the row is then empty."""
        self._servos = servos
        self._before = LinkStats() if servos is None else replace(servos.stats)

    def __call__(self) -> dict[str, float]:
        if self._servos is None:
            return {}
        before, now = self._before, replace(self._servos.stats)
        self._before = now
        row: dict[str, float] = {
            "actor/bus_retry_share": (now.retries - before.retries)
            / max(1, now.exchanges - before.exchanges),
            "actor/bus_failures": now.failures - before.failures,
        }
        if health := self._servos.last_health:
            row["actor/hottest_servo_c"] = max(servo.temperature_c for servo in health)
            row["actor/lowest_voltage_v"] = min(servo.voltage_v for servo in health)
            row["actor/largest_load"] = max(abs(servo.load) for servo in health)
        return row
