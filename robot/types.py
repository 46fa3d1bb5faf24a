"""Plain data and the small interfaces of the body.

Quantities: joint angles in rad, float32 (6,), ordered as JOINT_NAMES, gripper included;
positions in metres in the robot base frame; actions float32 (4,) in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

JOINT_NAMES = (
    "shoulder_pan",
    "shoulder_lift",
    "elbow_flex",
    "wrist_flex",
    "wrist_roll",
    "gripper",
)
NUM_JOINTS = len(JOINT_NAMES)
GRIPPER = JOINT_NAMES.index("gripper")
WRIST_ROLL = JOINT_NAMES.index("wrist_roll")
ACTION_NAMES = ("delta_x", "delta_y", "delta_z", "gripper")
"""Components of an action; gripper: -1 closes, 0 holds, +1 opens."""


@dataclass(frozen=True, slots=True)
class ArmState:
    """One timestamped reading of the arm.

    q_rad: (6,) measured joint angles [rad]. qd_rad_s: (6,) joint velocities [rad/s].
    stamp_s: clock time of the reading [s].
    """

    q_rad: F32
    qd_rad_s: F32
    stamp_s: float


@dataclass(frozen=True, slots=True)
class Frame:
    """One camera picture at native size. rgb: uint8 (H, W, 3). stamp_s: time of capture [s].

    index counts captured frames from 0, so that a stuck camera shows as a standing index.
    """

    rgb: U8
    stamp_s: float
    index: int


class Event(Enum):
    """What a person may say once, at an edge, beside moving the arm."""

    SUCCESS = "success"
    FAILURE = "failure"
    DISCARD = "discard"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Operator:
    """What the operator says at one control step.

    action: (4,) in [-1, 1] while the operator has taken over, None while the policy acts.
    event: an edge-triggered button press since the last step, or None.
    """

    action: F32 | None = None
    event: Event | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Joint range the arm may be commanded to. lower_rad, upper_rad: (6,) [rad]."""

    lower_rad: F32
    upper_rad: F32


class Arm(Protocol):
    """A position-controlled arm.

    The loop it takes part in:

        state = arm.read()
        while running:
            arm.command(target(state))
            clock.sleep_until(next_tick)
            state = arm.read()
        arm.close()
    """

    @property
    def limits(self) -> Limits:
        """Range `command` accepts."""
        ...

    def read(self) -> ArmState:
        """Measured state now. Raises BusError when the arm cannot be read."""
        ...

    def command(self, q_rad: F32) -> None:
        """Set the joint target (6,) [rad]. Raises CommandRefused outside `limits` or when not finite."""
        ...

    def park(self) -> None:
        """Bring the arm down slowly and release it. Safe to call in any state, more than once."""
        ...

    def close(self) -> None:
        """Release the arm's resources without moving it. More than once is allowed."""
        ...


class Camera(Protocol):
    """A source of pictures. `latest` never returns a stale picture: it raises CameraError."""

    def latest(self) -> Frame: ...

    def close(self) -> None: ...


class Teleop(Protocol):
    """A device a person (or a scripted operator) drives the arm with.

    Called once per control step, with the state the operator sees.
    """

    def read(self, state: ArmState) -> Operator: ...

    def reset(self, seed: int) -> None:
        """A new episode begins: forget pending events, but never a STOP; seed anything random."""
        ...

    def stop_asked(self) -> bool:
        """Whether a STOP waits to be read. Asked while the arm moves to its reset pose; never raises."""
        ...

    def close(self) -> None: ...


class Clock(Protocol):
    """Time of the world the arm lives in: wall time, or the simulated time of a twin."""

    def now_s(self) -> float: ...

    def sleep_until(self, t_s: float) -> None: ...


class Scene(Protocol):
    """What surrounds the arm and is put in order before each episode.

    `arrange` puts the object in place: the twin draws it from `seed`; with a real arm a
    person does it. It returns facts worth storing with the episode (units in the key names).
    """

    def arrange(self, seed: int) -> Mapping[str, float | str]: ...
