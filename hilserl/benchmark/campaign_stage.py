"""The stage of a fault campaign: a wire-level twin whose physics and pictures bear witness.

What the simulated arm did is written down at every servo tick, by the physics itself. Every picture carries
its number, in a strip at its top and again at its bottom, so that a stored picture tells when it was taken
and whether it is whole.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hilserl.benchmark.campaign_judge import Trace
from robot.calibration import save_calibration
from robot.twin.bus_port import BusPort
from robot.twin.faults import CameraFault, Faults, Status
from robot.twin.model import CUBE, TABLE
from robot.twin.servo_bus import ServoBus
from robot.twin.wire import WireTwin
from robot.twin.world import World
from robot.twin.world_body import hand_at, store_calibration, twin_calibration
from robot.types import F32, NUM_JOINTS, U8

BITS: Final = 20
CELL_PX: Final = 24
STRIP_PX: Final = 36
LEFT_PX: Final = 80
"""Where the strip begins: with the part of the picture that the policy sees."""


class WitnessWorld(World):
    """A World that writes down what its arm does, and numbers its pictures."""

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[tuple[float, float, F32, NDArray[np.bool_], F32, NDArray[np.float64], float]] = []
        self._on: NDArray[np.bool_] = np.zeros(NUM_JOINTS, bool)
        self._table = self._geom[TABLE]
        self.taken_s: list[float] = []
        """Monotonic time [s] of each numbered picture."""

    def set_torque(self, enabled: NDArray[np.bool_]) -> None:
        """Written down, too."""
        super().set_torque(enabled)
        self._on = np.array(enabled, bool)

    def step(self, seconds: float) -> None:
        """Written down: when, where the arm is, which joints are energised, how deep it is in the table."""
        super().step(seconds)
        depth_m = max(
            (
                -float(contact.dist)
                for contact in self._data.contact[: self._data.ncon]
                if self._table in (contact.geom1, contact.geom2)
                and self._cube_geom not in (contact.geom1, contact.geom2)
            ),
            default=0.0,
        )
        driven = np.array(self._data.ctrl, np.float32)
        arm = self.q_rad(), self._on, driven, self.hand_xyz_m()
        self._rows.append((time.monotonic(), self.time_s, *arm, depth_m))

    def render_gripper(self) -> U8:
        """The picture with its number."""
        picture = super().render_gripper()
        write_number(picture, len(self.taken_s))
        self.taken_s.append(time.monotonic())
        return picture

    def trace(self) -> Trace:
        """What was written down so far."""
        rows = list(self._rows)
        columns = [np.array(column) for column in zip(*rows, strict=True)]
        return Trace(*columns)

    @property
    def _cube_geom(self) -> int:
        return int(self._geom[CUBE])


def write_number(picture: U8, number: int) -> None:
    """Write `number` as black and white cells into the top and the bottom of uint8 RGB (480, 640, 3).

    In Gray's code: the next picture differs in one cell.
    """
    bits: NDArray[np.int64] = ((number ^ number >> 1) >> np.arange(BITS)) & 1
    strip = np.repeat(bits, CELL_PX).astype(np.uint8)[None, :, None] * np.uint8(255)
    columns = slice(LEFT_PX, LEFT_PX + BITS * CELL_PX)
    picture[:STRIP_PX, columns] = strip
    picture[-STRIP_PX:, columns] = strip


def read_numbers(image: U8) -> tuple[int, int]:
    """The numbers at top and bottom of a policy image uint8 RGB (S, S, 3); -1 where there is none."""
    size = image.shape[0]
    half = STRIP_PX / 480 * size / 2
    return _number(image, int(half)), _number(image, int(size - half))


def _number(image: U8, row: int) -> int:
    size = image.shape[1]
    columns = ((np.arange(BITS) + 0.5) * size / BITS).astype(int)
    levels = image[row - 1 : row + 2, columns].mean(axis=(0, 2))
    if (np.abs(levels - 127.5) < 40).any():
        return -1
    bits = (levels > 127.5).astype(np.int64)
    # Each bit of the number is the sum of its Gray bit and all higher ones.
    number = np.cumsum(bits[::-1])[::-1] % 2
    return int((number << np.arange(BITS)).sum())


class Stage:
    """with Stage(folder) as stage: a program opens stage.twin.port; stage.begin / stage.end_fault."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.world = WitnessWorld()
        self.faults = Faults(seed)
        self.twin = WireTwin(
            folder / "calibration",
            "twin",
            seed=seed,
            link=folder / "servo-bus",
            faults=self.faults,
            world=self.world,
        )

    def inject(self, kind: str, numbers: dict[str, float]) -> None:
        """Make a fault of a bus or camera kind begin."""
        faults, servo = self.faults, int(numbers.get("servo", 0))
        match kind:
            case "loss_1" | "loss_5" | "loss_20":
                faults.drop_rate = numbers["rate"]
            case "late":
                faults.late_rate, faults.late_s = numbers["rate"], numbers["late_s"]
            case "corrupted":
                faults.corrupt_rate = numbers["rate"]
            case "silent":
                faults.silent = frozenset([servo])
            case "overload":
                faults.load[servo] = numbers["load"]
            case "heat":
                faults.heat_c[servo] = numbers["celsius"]
            case "voltage":
                faults.voltage_v[servo] = numbers["volts"]
            case "tripped":
                faults.status[servo] = Status(int(numbers["status"]))
            case "supply":
                self.twin.bus.power_cycle()
            case "unplugged":
                self.twin.unplug()
            case _:
                faults.camera = CameraFault(kind)

    def clear(self) -> None:
        """All is well again."""
        faults = self.faults
        faults.drop_rate = faults.late_rate = faults.corrupt_rate = 0.0
        faults.silent = frozenset()
        for shown in (faults.load, faults.heat_c, faults.voltage_v, faults.status):
            shown.clear()
        faults.camera = CameraFault.NONE
        self.twin.replug()


class _HandMoved:
    """A servo body without torque that a person moves for a while and lets rest for a while."""

    def __init__(self) -> None:
        self._start_s = time.monotonic()

    def set_goal_rad(self, joint: int, rad: float | None) -> None:
        """A leader is never driven."""

    def position_rad(self, joint: int) -> float:
        t_s = time.monotonic() - self._start_s
        return float(hand_at(0.0)[joint] + 0.35 * np.sin(2.2 * t_s + joint) * (t_s % 6.0 < 4.0))

    def velocity_rad_s(self, joint: int) -> float:
        return 0.0

    def torque_nm(self, joint: int) -> float:
        return 0.0


class LeaderStage:
    """A leader arm on a bus of its own, moved by a hand; calibrated as `<folder>/calibration/leader.json`."""

    def __init__(self, folder: Path) -> None:
        faults = Faults()
        bus = ServoBus(_HandMoved(), faults)
        calibration = twin_calibration()
        store_calibration(bus, calibration)
        save_calibration(calibration, folder / "calibration", "leader")
        self.cable = BusPort(bus, faults, folder / "leader-bus")
        self.cable.plug()
