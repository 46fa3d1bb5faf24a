"""The SO-101 arm on its servo bus: radians above, servo counts below."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from robot.calibration import I32, RAD_PER_COUNT, how_to_calibrate, load_calibration
from robot.errors import BusError, CommandRefused, ServoFault
from robot.parking import PARK_STEP_S, park_path
from robot.servo_link import LinkStats, ServoLink, decode, fault_words
from robot.servo_setup import MODEL_NUMBER, check_calibration, set_up_servo
from robot.types import F32, JOINT_NAMES, NUM_JOINTS, ArmState, Clock, Limits

STATE_ADDRESS: Final = 56
STATE_SIZE: Final = 4
"""Present_Position and Present_Velocity lie side by side."""
HEALTH_SIZE: Final = 15
"""From Present_Position to Present_Current."""
FAST_VELOCITY_UNIT, FINE_VELOCITY_UNIT, PHASE_FINE_VELOCITY = 50, 1, 0x04
"""Present_Velocity counts in 50 or 1 counts per second, by a bit of the Phase register."""
CURRENT_A: Final = 0.0065


@dataclass(frozen=True, slots=True)
class ServoHealth:
    """One servo now. load: share of full torque, -1..1. faults: in words, empty when well."""

    joint: str
    temperature_c: float
    voltage_v: float
    load: float
    current_a: float
    faults: str


class SO101:
    """An Arm over the servo bus at `port`, with the calibration `<calibration_dir>/<robot_id>.json`.

    arm = SO101(...); arm.connect(); ...; arm.park(); arm.close()
    """

    def __init__(
        self,
        port: str,
        robot_id: str,
        calibration_dir: str | Path,
        clock: Clock,
        retries: int = 3,
        hand_height_m: Callable[[F32], float] | None = None,
    ) -> None:
        """Read the calibration; nothing is opened yet. Raises CalibrationError.

        hand_height_m: height of the hand above the table [m] at joint angles (6,) [rad]; None takes the arm
        model's.
        """
        self._calibration = load_calibration(Path(calibration_dir), robot_id, port)
        self._how = how_to_calibrate(Path(calibration_dir), robot_id, port)
        self._limits = self._calibration.limits
        self._clock = clock
        ids = {name: joint.id for name, joint in zip(JOINT_NAMES, self._calibration.joints, strict=True)}
        self._link = ServoLink(port, ids, retries, clock)
        self._hand_height_m = hand_height_m
        self._velocity_unit: I32 = np.ones(NUM_JOINTS, np.int32)
        self._awake = False
        self._opened = 0
        self._counts: I32 = np.zeros(NUM_JOINTS, np.int32)

    @property
    def limits(self) -> Limits:
        """Range `command` accepts: what calibration and arm model both allow."""
        return self._limits

    @property
    def stats(self) -> LinkStats:
        """How often the bus failed and was retried."""
        return self._link.stats

    def connect(self) -> None:
        """Open the bus, check every servo and its calibration, set it up, and hold the present pose.

        Raises BusError, CalibrationError (file and servo disagree) or ServoFault (in words).
        """
        self._link.open()
        try:
            memories = self._check_servos()
            for name in JOINT_NAMES:
                set_up_servo(self._link, name, memories[name])
            self._hold()
        except BaseException:
            self._link.close()
            raise

    def read(self) -> ArmState:
        """Measured state now. Raises BusError, or ServoFault naming joint and fault."""
        answers = self._link.sync_read(
            STATE_ADDRESS, STATE_SIZE, JOINT_NAMES, "reading position and velocity"
        )
        stamp_s = self._clock.now_s()
        self._raise_faults()
        self._resume_after_reconnect()
        self._counts = np.array([decode("Present_Position", answers[n][:2]) for n in JOINT_NAMES], np.int32)
        speed = np.array([decode("Present_Velocity", answers[name][2:]) for name in JOINT_NAMES])
        qd_rad_s = (speed * self._velocity_unit * RAD_PER_COUNT).astype(np.float32)
        return ArmState(self._calibration.rad(self._counts), qd_rad_s, stamp_s)

    def command(self, q_rad: F32) -> None:
        """Set the joint target (6,) [rad]. Raises CommandRefused naming joint, value and limits; BusError."""
        if not self._awake:
            raise CommandRefused("the arm is released (not connected, or parked); connect() makes it hold")
        check_command(q_rad, self._limits)
        self._resume_after_reconnect()
        counts = self._calibration.counts(q_rad)
        self._link.sync_write("Goal_Position", dict(zip(JOINT_NAMES, counts.tolist(), strict=True)))

    def health(self) -> list[ServoHealth]:
        """Temperature, voltage, load and faults of each servo. A fault is reported here, not raised."""
        answers = self._link.sync_read(STATE_ADDRESS, HEALTH_SIZE, JOINT_NAMES, "reading servo health")
        return [
            ServoHealth(
                joint=name,
                temperature_c=float(data[7]),
                voltage_v=data[6] / 10,
                load=decode("Present_Load", data[4:6]) / 1000,
                current_a=int.from_bytes(data[13:15], "little") * CURRENT_A,
                faults=fault_words(self._link.status[name] | data[9]),
            )
            for name, data in answers.items()
        ]

    def park(self) -> None:
        """Lift the hand if it is low, fold the arm slowly, release it joint by joint, hand first.

        Servos that fail are left out of the motion and do not keep the others from parking. What went wrong
        is raised at the end: ServoFault or BusError, naming each servo. A released arm is left as it is.
        """
        if not self._awake:
            return
        problems: dict[str, str] = {}
        try:
            self._fold(problems)
        finally:
            self._release(problems)
        if problems:
            faulty = any(self._link.status.values())
            told = "; ".join(f"{who}: {what}" for who, what in problems.items())
            hint = " Switch the arm's supply off and on to clear latched faults." if faulty else ""
            raise (ServoFault if faulty else BusError)(f"parked and released, but {told}.{hint}")

    def close(self) -> None:
        """Close the port without moving or releasing the arm. More than once is allowed."""
        self._awake = False
        self._link.close()

    def _check_servos(self) -> dict[str, dict[str, int]]:
        """Memory of every servo, each known to be the right model, well, and calibrated as the file says."""
        memories = {name: self._link.read_memory(name) for name in JOINT_NAMES}
        self._opened = self._link.opened
        for name, memory in memories.items():
            if memory["Model_Number"] != MODEL_NUMBER:
                raise BusError(
                    f"{self._link.port}: servo {self._link.ids[name]} ({name}) is model"
                    f" {memory['Model_Number']}, an SO-101 has STS3215 servos (model {MODEL_NUMBER})"
                )
        check_calibration(self._link.port, self._calibration, memories, self._how)
        self._raise_faults()
        fine = np.array([memories[name]["Phase"] & PHASE_FINE_VELOCITY for name in JOINT_NAMES])
        self._velocity_unit = np.where(fine, FINE_VELOCITY_UNIT, FAST_VELOCITY_UNIT).astype(np.int32)
        self._counts = np.array([memories[name]["Present_Position"] for name in JOINT_NAMES], np.int32)
        return memories

    def _hold(self) -> None:
        """Energise every servo where it is."""
        present = np.clip(
            self._counts,
            [joint.range_min for joint in self._calibration.joints],
            [joint.range_max for joint in self._calibration.joints],
        )
        for name, counts in zip(JOINT_NAMES, present.tolist(), strict=True):
            self._link.write(name, "Goal_Position", counts)
            self._link.write(name, "Torque_Enable", 1)
            self._link.write(name, "Lock", 1)
        self._awake = True

    def _resume_after_reconnect(self) -> None:
        """After the cable was out: the same arm, and holding again if its supply was off too."""
        if self._link.opened == self._opened:
            return
        memories = self._check_servos()
        if self._awake and not all(memory["Torque_Enable"] == 1 for memory in memories.values()):
            for name in JOINT_NAMES:
                set_up_servo(self._link, name, memories[name])
            self._hold()

    def _raise_faults(self) -> None:
        told = self._faults()
        if told:
            faults = "; ".join(f"{who}: {what}" for who, what in told.items())
            raise ServoFault(
                f"{self._link.port}: {faults}. Park the arm, let it cool, free what blocks it, and switch its"
                " supply off and on to clear latched faults."
            )

    def _faults(self) -> dict[str, str]:
        return {
            f"{name} (servo {self._link.ids[name]})": fault_words(status)
            for name, status in self._link.status.items()
            if status
        }

    def _fold(self, problems: dict[str, str]) -> None:
        """Move the servos that can move to the rest pose; note the others in `problems`."""
        movable: list[str] = []
        for name, index in zip(JOINT_NAMES, range(NUM_JOINTS), strict=True):
            try:
                data = self._link.sync_read(
                    STATE_ADDRESS, STATE_SIZE, [name], "reading the pose to park from"
                )
            except BusError as error:
                problems[name] = str(error)
                continue
            self._counts[index] = decode("Present_Position", data[name][:2])
            if not self._link.status[name]:
                movable.append(name)
        problems.update(self._faults())
        try:
            for q_rad in park_path(self._calibration.rad(self._counts), self._limits, self._height_m()):
                counts = dict(zip(JOINT_NAMES, self._calibration.counts(q_rad).tolist(), strict=True))
                if movable:
                    self._link.sync_write("Goal_Position", {name: counts[name] for name in movable})
                self._clock.sleep_until(self._clock.now_s() + PARK_STEP_S)
        except BusError as error:
            problems["the way to the rest pose"] = str(error)

    def _release(self, problems: dict[str, str]) -> None:
        for name in reversed(JOINT_NAMES):
            try:
                self._link.write(name, "Torque_Enable", 0)
            except BusError as error:
                problems[name] = f"could not be released, hold the arm before switching it off ({error})"
        problems.update(self._faults())
        self._awake = False

    def _height_m(self) -> Callable[[F32], float]:
        if self._hand_height_m is None:
            # Not at the top: the physics engine takes a second to load, and a first command must not wait.
            from robot.kinematics import Kinematics

            kinematics = Kinematics()
            self._hand_height_m = lambda q_rad: float(kinematics.fk(q_rad).xyz_m[2])
        return self._hand_height_m


def check_command(q_rad: F32, limits: Limits) -> None:
    """Raise CommandRefused naming joint, value and limits unless q_rad is (6,) and within `limits`."""
    if np.shape(q_rad) != (NUM_JOINTS,):
        raise CommandRefused(
            f"a command is {NUM_JOINTS} joint angles [rad] {JOINT_NAMES}, got shape {np.shape(q_rad)}"
        )
    for name, value, low, high in zip(JOINT_NAMES, q_rad, limits.lower_rad, limits.upper_rad, strict=True):
        if not low <= value <= high:  # also refuses what is not a number
            raise CommandRefused(f"{name} = {value:.4f} rad is outside {low:.4f} .. {high:.4f} rad")
