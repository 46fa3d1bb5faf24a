"""What an arm's program and its watchdog process tell each other, and what the watchdog leaves behind.

Plain data; no driver is imported.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

BEAT_S: Final = 0.2
"""Time between two signs of life."""
READY: Final = b"ready\n"
HEARD: Final = b".\n"
"""The watchdog's answer to each sign of life."""


@dataclass(frozen=True, slots=True)
class WatchdogSettings:
    """Which arm to watch over, and with how much patience.

    quiet_s: silence that counts as frozen. kill_after_s: how much later a frozen program is ended, because
    it still has the port. park_after_s: idle time of a main loop after which its program is ended too.
    hold_s: how long the arm is held before it is parked. port_patience_s: how long a port that is missing or
    busy is waited for. table_z_m: height of the table in the arm's base frame [m].
    """

    port: str
    robot_id: str
    calibration_dir: str
    max_joint_speed_rad_s: float
    bus_retries: int = 3
    park_after_s: float = 60.0
    quiet_s: float = 1.0
    kill_after_s: float = 2.0
    hold_s: float = 0.5
    port_patience_s: float = 60.0
    table_z_m: float = 0.0

    def to_json(self) -> str:
        """One line; `from_json` reads it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The settings in `text`."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class Beat:
    """One sign of life. torque: servos may be energised. idle_s: since the main loop last used the arm."""

    torque: bool
    idle_s: float

    def line(self) -> bytes:
        """As it goes through the pipe."""
        return json.dumps([self.torque, round(self.idle_s, 3)]).encode() + b"\n"

    @classmethod
    def of(cls, line: bytes) -> Self:
        """From one line."""
        torque, idle_s = json.loads(line)
        return cls(torque, idle_s)


@dataclass(slots=True)
class Emergency:
    """What a watchdog had to do once, and how it ended. steps: (seconds since it was noticed, what).

    servos: what became of each, by joint. shown: a person was told at a later start.
    """

    robot_id: str
    port: str
    pid: int
    reason: str
    when: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    steps: list[tuple[float, str]] = field(default_factory=list)
    outcome: str = ""
    servos: dict[str, str] = field(default_factory=dict)
    shown: bool = False

    def told(self) -> str:
        """In one line."""
        return (
            f"{self.when}: the watchdog of arm {self.robot_id!r} stepped in ({self.reason}):"
            f" {self.outcome or 'it did not finish'}"
        )

    def save(self, path: Path) -> None:
        """Write it in one piece."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(asdict(self), indent=1) + "\n")
        os.replace(unfinished, path)


def emergency_path(calibration_dir: str | Path, robot_id: str) -> Path:
    """Where the last emergency of arm `robot_id` is kept: beside its calibration."""
    return Path(calibration_dir) / "watchdog" / f"{robot_id}.json"


def read_emergency(path: Path) -> Emergency | None:
    """The last emergency; None where there was none, or where the file cannot be read."""
    try:
        content = json.loads(path.read_text())
        content["steps"] = [(float(t_s), str(what)) for t_s, what in content["steps"]]
        return Emergency(**content)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def show_emergency(calibration_dir: str | Path, robot_id: str) -> str:
    """What the watchdog did since a person last started this arm, in one line; empty where nothing.

    It is marked as shown; the file stays.
    """
    path = emergency_path(calibration_dir, robot_id)
    last = read_emergency(path)
    if last is None or last.shown:
        return ""
    last.shown = True
    last.save(path)
    return f"{last.told()} (all of it: {path})"
