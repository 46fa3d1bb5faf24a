"""Faults to inject at the wire: what a bus and a camera do on a bad day. Deterministic given a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from enum import Enum, IntFlag

import numpy as np

from robot.types import U8


class Status(IntFlag):
    """Bits of the servo's Status register, repeated in every status packet."""

    VOLTAGE = 1
    ANGLE = 2
    OVERHEAT = 4
    OVERCURRENT = 8
    OVERLOAD = 32


class CameraFault(Enum):
    """What is wrong with the camera's stream."""

    NONE = "none"
    FROZEN = "frozen"
    BLACK = "black"
    TORN = "torn"
    MISSING = "missing"


@dataclass(slots=True)
class Faults:
    """The faults in force; change the fields at any time, from any thread.

    drop_rate, corrupt_rate: chance per packet, in each direction. late_rate: chance per answer of being held
    back by late_s [s]. silent: ids of servos that do not answer. status: latched Status bits by servo id.
    heat_c, voltage_v, load (share of full torque, -1..1): what a servo shows instead of what it measures, by
    id; unlike `status` it does nothing by itself.
    """

    seed: int = 0
    drop_rate: float = 0.0
    corrupt_rate: float = 0.0
    late_rate: float = 0.0
    late_s: float = 0.1
    silent: frozenset[int] = frozenset()
    status: dict[int, Status] = field(default_factory=dict)
    heat_c: dict[int, float] = field(default_factory=dict)
    voltage_v: dict[int, float] = field(default_factory=dict)
    load: dict[int, float] = field(default_factory=dict)
    camera: CameraFault = CameraFault.NONE
    _rng: random.Random = field(init=False)
    _last: U8 | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)

    def on_packet(self, packet: bytes) -> bytes:
        """`packet` as it comes out of the cable: whole, with one byte changed, or nothing."""
        if self.drop_rate and self._rng.random() < self.drop_rate:
            return b""
        if self.corrupt_rate and packet and self._rng.random() < self.corrupt_rate:
            damaged = bytearray(packet)
            damaged[self._rng.randrange(len(damaged))] ^= self._rng.randrange(1, 256)
            return bytes(damaged)
        return packet

    def delay_s(self) -> float:
        """How long the next answer is held back [s]."""
        return self.late_s if self.late_rate and self._rng.random() < self.late_rate else 0.0

    def on_picture(self, rgb: U8) -> U8 | None:
        """`rgb` (H, W, 3) as the camera sends it; None when it sends nothing."""
        if self.camera is CameraFault.MISSING:
            return None
        if self.camera is CameraFault.BLACK:
            return np.zeros_like(rgb)
        if self.camera is CameraFault.FROZEN:
            self._last = rgb if self._last is None else self._last
            return self._last
        before, self._last = self._last, rgb
        if self.camera is CameraFault.TORN and before is not None:
            torn = rgb.copy()
            # The lower half of an older picture, shifted sideways as after a lost line.
            torn[len(rgb) // 2 :] = np.roll(before[len(rgb) // 2 :], rgb.shape[1] // 3, axis=1)
            return torn
        return rgb
