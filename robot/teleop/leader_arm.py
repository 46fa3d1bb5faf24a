"""The SO-101 leader on its servo bus: joint angles in, never a command out, never torque on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from robot.calibration import Calibration, how_to_calibrate, load_calibration
from robot.errors import BusError, CalibrationError, RobotError, TeleopError
from robot.servo_link import ServoLink, fault_words
from robot.servo_setup import CALIBRATED, MODEL_NUMBER, Memories, check_calibration
from robot.servo_state import STATE_ADDRESS, STATE_SIZE, ServoState
from robot.teleop.leader_motion import turned
from robot.types import F32, GRIPPER, JOINT_NAMES, Clock

AGREE_DEG: Final = 3.0
"""Two arms held in the same pose must agree in every joint to this, before torque comes on."""


def pose_differences_deg(leader_rad: F32, follower_rad: F32) -> dict[str, float]:
    """{joint: leader minus follower, in degrees} of two arms a person holds in the same pose.

    leader_rad, follower_rad: (6,) [rad]. The shortest way round counts. The gripper is left out: a leader's
    is a trigger with a range of its own.
    """
    way = np.degrees(turned(np.asarray(leader_rad, np.float32), np.asarray(follower_rad, np.float32)))
    return {name: float(way[index]) for index, name in enumerate(JOINT_NAMES) if index != GRIPPER}


def held_by(calibrations: Mapping[str, Calibration], memories: Memories) -> list[str]:
    """Names of the calibrations that the servos hold in their memory, every number equal."""
    return [
        name
        for name, calibration in calibrations.items()
        if all(
            getattr(joint, field) == memories[motor][register]
            for motor, joint in zip(JOINT_NAMES, calibration.joints, strict=True)
            for register, field in CALIBRATED.items()
        )
    ]


class LeaderArm:
    """A leader arm at `port`, with the calibration `<calibration_dir>/<leader_id>.json`.

    arm = LeaderArm(...); arm.connect(); q_rad = arm.read(); ...; arm.close()

    torque: whether any of its servos was found energised at the last reading.
    """

    def __init__(
        self,
        port: str,
        leader_id: str,
        calibration_dir: str | Path,
        clock: Clock,
        retries: int = 3,
        *,
        others: Mapping[str, Calibration] | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Read the calibration; nothing is opened yet. Raises CalibrationError.

        others: {what a person calls it: calibration} of the arms this one could be confused with.
        """
        folder = Path(calibration_dir)
        self.calibration = load_calibration(folder, leader_id, port, role="leader")
        self._how = how_to_calibrate(folder, leader_id, port, role="leader")
        self._name, self._others, self._say = f"leader {leader_id!r}", dict(others or {}), say
        ids = {name: joint.id for name, joint in zip(JOINT_NAMES, self.calibration.joints, strict=True)}
        self._link = ServoLink(port, ids, retries, clock)
        limits = self.calibration.limits
        self._closed_rad, self._open_rad = float(limits.lower_rad[GRIPPER]), float(limits.upper_rad[GRIPPER])
        self._opened = 0
        self.torque = False

    def connect(self) -> None:
        """Open the bus, see that this is the leader, and let it go limp should it hold.

        Raises TeleopError when it is missing or silent, and CalibrationError that names the arm which is at
        its port instead: nothing was written to that one.
        """
        self._link.close()
        try:
            self._link.open()
            self._check()
        except BusError as error:
            self._link.close()
            raise TeleopError(f"{self._name} cannot be used: {error}") from error
        except BaseException:
            self._link.close()
            raise

    def read(self) -> F32:
        """Joint angles (6,) [rad] now. Raises TeleopError once it is gone, never an old pose.

        Raises CalibrationError when another arm took its place.
        """
        try:
            answers = self._link.sync_read(STATE_ADDRESS, STATE_SIZE, JOINT_NAMES, "reading the leader")
            if self._link.opened != self._opened:
                self._check()  # the cable was out: it may be another arm now
        except BusError as error:
            self._link.close()
            raise TeleopError(f"{self._name} is gone; plug it in again: {error}") from error
        except RobotError:
            self._link.close()
            raise
        states = [ServoState.of(answers[name]) for name in JOINT_NAMES]
        self.torque = any(state.torque for state in states)
        return self.calibration.rad(np.array([state.position for state in states], np.int32))

    def gripper_share(self, q_rad: F32) -> float:
        """The gripper of a pose (6,) [rad] in its calibrated range: 0 closed to 1 open."""
        share = (float(q_rad[GRIPPER]) - self._closed_rad) / (self._open_rad - self._closed_rad)
        return min(1.0, max(0.0, share))

    def close(self) -> None:
        """Close the port. More than once is allowed."""
        self._link.close()

    def _check(self) -> None:
        """See that the servos are this leader's, and release those that hold."""
        opened, port = self._link.opened, self._link.port
        memories = {name: self._link.read_memory(name) for name in JOINT_NAMES}
        wrong = [name for name, memory in memories.items() if memory["Model_Number"] != MODEL_NUMBER]
        if wrong:
            raise TeleopError(f"{port}: {', '.join(wrong)}: no STS3215 servos; is this the {self._name}?")
        self._check_role(memories)
        if told := [f"{name}: {fault_words(status)}" for name, status in self._link.status.items() if status]:
            self._say(f"{self._name} reports {'; '.join(told)}; it is read all the same")
        holding = [name for name, memory in memories.items() if memory["Torque_Enable"]]
        for name in holding:
            self._link.write(name, "Torque_Enable", 0)
        if holding:
            self._say(f"{self._name} held itself ({', '.join(holding)}); it is released now")
        self.torque = False
        self._opened = opened

    def _check_role(self, memories: Memories) -> None:
        port = self._link.port
        found = held_by({self._name: self.calibration} | self._others, memories)
        if self._name not in found:
            if found:
                raise CalibrationError(
                    f"the arm at {port} is {' and '.join(found)}, not {self._name}, by the calibration in its"
                    " servos: the ports are swapped. Exchange teleop.port and robot.port"
                )
            check_calibration(port, self.calibration, memories, self._how)
        for other in set(found) - {self._name}:
            self._say(
                f"{self._name} and {other} have equal calibrations: which of them is at {port} cannot be told"
            )
