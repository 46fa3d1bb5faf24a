"""The SO-101 arm on its servo bus: radians above, servo counts below."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from robot.calibration import I32, RAD_PER_COUNT, how_to_calibrate, load_calibration
from robot.clearance import Clearance
from robot.errors import BusError, CommandRefused, RobotError, ServoFault, TorqueLost
from robot.health import CHECK_S, HealthLimits, HealthWatch, LinkStats, ServoHealth
from robot.landing import Lander
from robot.servo_link import ServoLink, fault_words
from robot.servo_setup import MODEL_NUMBER, check_calibration, set_up_servo
from robot.servo_state import HEALTH_SIZE, STATE_ADDRESS, STATE_SIZE, ServoState, health_of
from robot.types import F32, JOINT_NAMES, NUM_JOINTS, ArmState, Clock, Limits

FAST_VELOCITY_UNIT, FINE_VELOCITY_UNIT, PHASE_FINE_VELOCITY = 50, 1, 0x04
"""Present_Velocity counts in 50 or 1 counts per second, by a bit of the Phase register."""
HANDS_OFF_S: Final = 3.0
"""An arm that lost its torque and holds again does not move for so long: somebody may have a hand on it."""


class Supervisor(Protocol):
    """Who stands by to bring the arm down if this program cannot.

    torque: hears True before any servo may be energised, and False when all are known to be released.
    check raises WatchdogLost when nobody stands by any more.
    """

    def torque(self, on: bool) -> None: ...

    def check(self) -> None: ...


class Nobody:
    """The supervisor of an arm that has none."""

    def torque(self, on: bool) -> None:
        """Nobody hears it."""

    def check(self) -> None:
        """Nobody is missed."""


class SO101:
    """An Arm over the servo bus at `port`, with the calibration `<calibration_dir>/<robot_id>.json`.

    arm = SO101(...); arm.connect(); ...; arm.park(); arm.close()

    torque: whether any of its servos may be energised.
    """

    def __init__(
        self,
        port: str,
        robot_id: str,
        calibration_dir: str | Path,
        clock: Clock,
        retries: int = 3,
        *,
        clearance: Clearance | None = None,
        health: HealthLimits | None = None,
        max_joint_speed_rad_s: float = np.inf,
        say: Callable[[str], None] = lambda line: None,
        supervisor: Supervisor | None = None,
    ) -> None:
        """Read the calibration; nothing is opened yet. Raises CalibrationError.

        clearance: what parking keeps from the table and from the arm itself; the table is at the height of
        the base without it. max_joint_speed_rad_s: parking and the servos keep to it. say: hears of the
        servos' health. supervisor: without one nobody stands by.
        """
        self._calibration = load_calibration(Path(calibration_dir), robot_id, port)
        self._how = how_to_calibrate(Path(calibration_dir), robot_id, port)
        self._limits = self._calibration.limits
        self._clock, self._say, self._supervisor = clock, say, supervisor or Nobody()
        self._max_speed_rad_s = max_joint_speed_rad_s
        ids = {name: joint.id for name, joint in zip(JOINT_NAMES, self._calibration.joints, strict=True)}
        self._link = ServoLink(port, ids, retries, clock)
        self._lander = Lander(
            self._link, self._calibration, clock, clearance or Clearance(), max_joint_speed_rad_s
        )
        self._watch, self._next_check_s = HealthWatch(health or HealthLimits()), -np.inf
        self._velocity_unit: I32 = np.ones(NUM_JOINTS, np.int32)
        self._awake = self.torque = False
        self._opened = 0
        self._lost_bus, self._lost_s, self._hands_off_s = "", 0.0, -np.inf

    @property
    def limits(self) -> Limits:
        """Range `command` accepts: what calibration and arm model both allow."""
        return self._limits

    @property
    def stats(self) -> LinkStats:
        """How often the bus failed and was retried."""
        return self._link.stats

    @property
    def last_health(self) -> tuple[ServoHealth, ...]:
        """What the last check of the servos found; empty before the first."""
        return self._watch.readings

    @property
    def unwell(self) -> str:
        """Why the arm must not move now, in words; empty when it may. Holding is allowed all the same."""
        if self._lost_bus:
            return self._lost_bus
        if (left_s := self._hands_off_s - self._clock.now_s()) > 0:
            return f"the arm lost its torque and holds again; it may move in {left_s:.1f} s"
        return self._watch.pause

    def connect(self) -> None:
        """Open the bus, check every servo and its calibration, set it up, and hold the present pose.

        Raises BusError, CalibrationError (file and servo disagree) or ServoFault (in words).
        """
        self._link.open()
        try:
            memories = self._check_servos()
            self._energise(memories)
        except BaseException:
            # What was energised before it failed is not left hanging.
            with contextlib.suppress(RobotError):
                self.park()
            self._link.close()
            raise

    def read(self) -> ArmState:
        """Measured state now.

        Raises BusError; ServoFault naming joint and fault; TorqueLost once when servos were found limp,
        after making them hold where they are; WatchdogLost.
        """
        self._supervisor.check()
        now_s = self._clock.now_s()
        check = now_s >= self._next_check_s
        size = HEALTH_SIZE if check else STATE_SIZE
        try:
            answers = self._link.sync_read(
                STATE_ADDRESS, size, JOINT_NAMES, "reading torque, position and velocity"
            )
        except BusError as error:
            self._bus_lost(error)
            raise
        stamp_s = self._clock.now_s()
        if self._lost_bus:
            self._say(f"the arm's bus is back after {stamp_s - self._lost_s:.1f} s")
            self._lost_bus = ""
        self._raise_faults()
        states = {name: ServoState.of(answers[name]) for name in JOINT_NAMES}
        self._check_torque(states)
        if check:
            self._next_check_s = now_s + CHECK_S
            health = [health_of(name, answers[name], self._link.status[name]) for name in JOINT_NAMES]
            for line in self._watch.update(health, stamp_s):
                self._say(line)
        counts = np.array([states[name].position for name in JOINT_NAMES], np.int32)
        speed = np.array([states[name].velocity for name in JOINT_NAMES])
        qd_rad_s = (speed * self._velocity_unit * RAD_PER_COUNT).astype(np.float32)
        return ArmState(self._calibration.rad(counts), qd_rad_s, stamp_s)

    def command(self, q_rad: F32) -> None:
        """Set the joint target (6,) [rad]. Raises CommandRefused naming joint, value and limits; BusError.

        After an outage of the bus nothing is written before a `read` has looked at the servos.
        """
        if not self._awake:
            raise CommandRefused("the arm is released (not connected, or parked); connect() makes it hold")
        check_command(q_rad, self._limits)
        self._supervisor.check()
        if self._link.lost or self._link.opened != self._opened:
            self.read()
        counts = self._calibration.counts(q_rad)
        try:
            self._link.sync_write("Goal_Position", dict(zip(JOINT_NAMES, counts.tolist(), strict=True)))
        except BusError as error:
            self._bus_lost(error)
            raise

    def health(self) -> list[ServoHealth]:
        """Temperature, voltage, load and faults of each servo. A fault is reported here, not raised."""
        answers = self._link.sync_read(STATE_ADDRESS, HEALTH_SIZE, JOINT_NAMES, "reading servo health")
        return [health_of(name, data, self._link.status[name]) for name, data in answers.items()]

    def park(self) -> None:
        """Lift the hand if it is low, fold the arm slowly, release it joint by joint, hand first.

        Servos that fail are left out of the motion and do not keep the others from parking. What went wrong
        is raised at the end: ServoFault or BusError, naming each servo. A released arm is left as it is.
        """
        if not self._awake:
            return
        self._awake = False
        landing = self._lander.land()
        self.torque = bool(landing.on)
        if not landing.on:
            self._supervisor.torque(False)
        if landing.problems:
            faulty = any(self._link.status.values())
            hint = " Switch the arm's supply off and on to clear latched faults." if faulty else ""
            done = "could not be released" if landing.on else "parked and released"
            raise (ServoFault if faulty else BusError)(f"{done}, but {landing.told()}.{hint}")

    def close(self) -> None:
        """Close the port without moving or releasing the arm. More than once is allowed."""
        self._awake = False
        self._link.close()

    def _check_servos(self) -> dict[str, dict[str, int]]:
        """Memory of every servo, each known to be the right model, well, and calibrated as the file says."""
        opened = self._link.opened
        memories = {name: self._link.read_memory(name) for name in JOINT_NAMES}
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
        self._opened = opened  # only now: until then nothing may be commanded
        return memories

    def _energise(self, memories: dict[str, dict[str, int]]) -> None:
        """Set every servo up and make it hold where it is."""
        self._supervisor.torque(True)
        self._awake = self.torque = True
        for name in JOINT_NAMES:
            set_up_servo(self._link, name, memories[name], self._max_speed_rad_s)
        for name, joint in zip(JOINT_NAMES, self._calibration.joints, strict=True):
            present = min(max(memories[name]["Present_Position"], joint.range_min), joint.range_max)
            self._link.write(name, "Goal_Position", present)
            self._link.write(name, "Torque_Enable", 1)
            self._link.write(name, "Lock", 1)

    def _check_torque(self, states: dict[str, ServoState]) -> None:
        """After the cable was out it must be the same arm. Limp servos hold again, then TorqueLost."""
        limp = [name for name, state in states.items() if self._awake and not state.torque]
        if self._link.opened == self._opened and not limp:
            return
        memories = self._check_servos()
        if not limp:
            return
        self._hands_off_s = self._clock.now_s() + HANDS_OFF_S
        self._energise(memories)
        raise TorqueLost(
            f"{self._link.port}: {', '.join(limp)} lost torque (was the supply off, or is it weak?)."
            f" The arm holds again where it is and may move in {HANDS_OFF_S:g} s"
        )

    def _bus_lost(self, error: BusError) -> None:
        self._lost_s = self._lost_s if self._lost_bus else self._clock.now_s()
        self._lost_bus = str(error)

    def _raise_faults(self) -> None:
        told = [
            f"{name} (servo {self._link.ids[name]}): {fault_words(status)}"
            for name, status in self._link.status.items()
            if status
        ]
        if told:
            raise ServoFault(
                f"{self._link.port}: {'; '.join(told)}. Park the arm, let it cool, free what blocks it, and"
                " switch its supply off and on to clear latched faults."
            )


def check_command(q_rad: F32, limits: Limits) -> None:
    """Raise CommandRefused naming joint, value and limits unless q_rad is (6,) and within `limits`."""
    if np.shape(q_rad) != (NUM_JOINTS,):
        raise CommandRefused(
            f"a command is {NUM_JOINTS} joint angles [rad] {JOINT_NAMES}, got shape {np.shape(q_rad)}"
        )
    for name, value, low, high in zip(JOINT_NAMES, q_rad, limits.lower_rad, limits.upper_rad, strict=True):
        if not low <= value <= high:  # also refuses what is not a number
            raise CommandRefused(f"{name} = {value:.4f} rad is outside {low:.4f} .. {high:.4f} rad")
