"""Bringing an arm down whatever state it is in: look, hold, fold, release servo by servo.

Used by the driver's own parking, by the watchdog, and by `hilserl release`. Nothing here stops at one bad
servo: what went wrong is gathered by servo, in words, and the others are parked and released all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from robot.calibration import I32, Calibration
from robot.clearance import Clearance
from robot.errors import BusError
from robot.parking import PARK_STEP_S, park_path, rest_pose
from robot.servo_link import ServoLink, fault_words
from robot.servo_state import STATE_ADDRESS, STATE_SIZE, ServoState
from robot.types import F32, GRIPPER, JOINT_NAMES, Clock

BUS_PATIENCE_S: Final = 5.0
"""How long a bus that is gone is waited for, each time it goes."""
MAX_OUTAGES: Final = 3
LOOK_EVERY: Final = 5
"""Steps of the way between two looks at the servos: one that lost its torque is not driven on."""
AGAIN_S: Final = 0.1
HOLD_TRIES: Final = 5
GOAL_COUNTS: Final = 2
"""A goal that reads back so close is the one that was written; a servo may round it to its limits."""
SETTLE_S, SETTLED_RAD = 1.0, 0.1
"""A joint is waited for so long, and is at rest when it is so near."""
LIMP: Final = "had no torque and was left alone"


@dataclass(slots=True)
class Landing:
    """What became of each servo. problems: what went wrong, by joint or step. on: joints still energised.

    released: joints let go, in order. limp: joints that had no torque from the start.
    """

    problems: dict[str, str] = field(default_factory=dict)
    released: list[str] = field(default_factory=list)
    limp: list[str] = field(default_factory=list)
    on: list[str] = field(default_factory=lambda: list(JOINT_NAMES))

    def told(self) -> str:
        """The problems in one line."""
        return "; ".join(f"{who}: {what}" for who, what in self.problems.items())


@dataclass(frozen=True, slots=True)
class Lander:
    """One arm on an open (or lost) bus. calibration: None where it is not known: nothing can then be moved.

    clearance: what it keeps from its table and itself. max_speed_rad_s: no joint is moved faster.
    """

    link: ServoLink
    calibration: Calibration | None
    clock: Clock
    clearance: Clearance
    max_speed_rad_s: float

    def look(self, joints: Iterable[str] = JOINT_NAMES) -> tuple[dict[str, ServoState], dict[str, str]]:
        """State of each servo that answers, and what is wrong with each that does not."""
        wanted = list(joints)
        states: dict[str, ServoState] = {}
        silent: dict[str, str] = {}
        for group in (wanted, *([joint] for joint in wanted)):
            try:
                answers = self.link.sync_read(STATE_ADDRESS, STATE_SIZE, group, "reading torque and pose")
            except BusError as error:
                if len(group) == 1:
                    silent[group[0]] = str(error)
            else:
                states |= {joint: ServoState.of(data) for joint, data in answers.items()}
            if len(states) == len(wanted):
                break
        return states, silent

    def await_bus(self, patience_s: float) -> tuple[dict[str, ServoState], dict[str, str]]:
        """As `look`, again and again until servos answer or patience_s is over.

        A bus that comes back answers in part at first: only what two looks agree on counts.
        """
        end_s, before = self.clock.now_s() + patience_s, set(JOINT_NAMES)
        while True:
            states, silent = self.look()
            if (states and set(states) == before) or self.clock.now_s() >= end_s:
                return states, silent
            before = set(states)
            self.clock.sleep_until(self.clock.now_s() + AGAIN_S)

    def hold(self, states: Mapping[str, ServoState]) -> dict[str, str]:
        """Make each energised arm joint hold where it is; the gripper keeps its goal, so that a grasp lasts.

        Returns what went wrong, by joint.
        """
        goals = {
            joint: state.position
            for joint, state in states.items()
            if state.torque and joint != JOINT_NAMES[GRIPPER]
        }
        for _ in range(HOLD_TRIES):
            if not goals:
                return {}
            try:
                self.link.sync_write("Goal_Position", goals)
            except BusError as error:
                return dict.fromkeys(goals, str(error))
            now, silent = self.look(goals)
            goals = {
                joint: goal
                for joint, goal in goals.items()
                if joint in silent or abs(now[joint].goal - goal) > GOAL_COUNTS
            }
        return dict.fromkeys(goals, "did not take the order to hold")

    def land(self, patience_s: float = BUS_PATIENCE_S) -> Landing:
        """Park and release. An arm that has no torque anywhere is left as it is."""
        landing = Landing()
        try:
            states, silent = self.await_bus(patience_s)
            landing.problems.update(silent)
            landing.problems.update(self._faults())
            landing.limp = [joint for joint, state in states.items() if not state.torque]
            if len(landing.limp) == len(JOINT_NAMES):
                landing.on = []
                return landing
            if states:
                self._fold(states, landing)
        finally:
            if landing.on:
                self._release(landing)
        return landing

    def release(self) -> Landing:
        """Let go where the arm stands."""
        landing = Landing()
        self._release(landing)
        return landing

    def _fold(self, states: Mapping[str, ServoState], landing: Landing) -> None:
        """Move what can move to the rest pose, from wherever it is; start again after each outage."""
        if self.calibration is None:
            landing.problems["the way to the rest pose"] = "not gone: without a calibration nobody knows it"
            return
        for joint in landing.limp:
            landing.problems[joint] = LIMP
        movable = [j for j, state in states.items() if state.torque and not self.link.status[j]]
        for outage in range(MAX_OUTAGES + 1):
            if not movable:
                return
            try:
                self._follow(self._pose(states), movable, landing)
                self._settle(movable, landing)
                return
            except BusError as error:
                states, silent = self.await_bus(BUS_PATIENCE_S)
                if not states or outage == MAX_OUTAGES:
                    landing.problems["the way to the rest pose"] = str(error)
                    return
                movable = [joint for joint in self._still(movable, states, landing) if joint in states]
                landing.problems.update({j: told for j, told in silent.items() if j not in landing.problems})

    def _follow(self, q_rad: F32, movable: list[str], landing: Landing) -> None:
        assert self.calibration is not None
        path = park_path(q_rad, self.calibration.limits, self.clearance, self.max_speed_rad_s)
        for step, target in enumerate(path):
            begin_s = self.clock.now_s()
            if step % LOOK_EVERY == 0:
                states, _ = self.look(movable)
                movable[:] = self._still(movable, states, landing)
            counts = dict(zip(JOINT_NAMES, self.calibration.counts(target).tolist(), strict=True))
            if not movable:
                return
            self.link.sync_write("Goal_Position", {joint: counts[joint] for joint in movable})
            self.clock.sleep_until(max(self.clock.now_s(), begin_s + PARK_STEP_S))

    def _still(self, movable: list[str], states: Mapping[str, ServoState], landing: Landing) -> list[str]:
        """Those of `movable` that may be driven on; what happened to the others goes to the problems."""
        landing.problems.update(self._faults())
        for joint in movable:
            if joint in states and not states[joint].torque and joint not in landing.problems:
                landing.problems[joint] = "lost its torque on the way (was its supply off?)"
        return [
            joint
            for joint in movable
            if not self.link.status[joint] and (joint not in states or states[joint].torque)
        ]

    def _settle(self, movable: list[str], landing: Landing) -> None:
        """Wait until the joints have arrived; name those that do not."""
        assert self.calibration is not None
        rest = rest_pose(self._pose({}), self.calibration.limits)
        end_s = self.clock.now_s() + SETTLE_S
        while True:
            states, _ = self.look(movable)
            off = np.abs(self._pose(states) - rest)
            late = [
                j for j in states if off[JOINT_NAMES.index(j)] > SETTLED_RAD and j != JOINT_NAMES[GRIPPER]
            ]
            if not late:
                return
            if self.clock.now_s() >= end_s:
                break
            self.clock.sleep_until(self.clock.now_s() + AGAIN_S)
        for joint in late:
            away = off[JOINT_NAMES.index(joint)]
            landing.problems.setdefault(joint, f"is {away:.2f} rad from its rest pose: is it blocked?")

    def _pose(self, states: Mapping[str, ServoState]) -> F32:
        """Joint angles (6,) [rad]; a servo that is not in `states` is taken to be at rest."""
        assert self.calibration is not None
        at_rest = rest_pose(np.zeros(len(JOINT_NAMES), np.float32), self.calibration.limits)
        counts: I32 = self.calibration.counts(at_rest)
        for joint, state in states.items():
            counts[JOINT_NAMES.index(joint)] = state.position
        return self.calibration.rad(counts)

    def _release(self, landing: Landing) -> None:
        """Hand first, so that what is let go hangs on what still holds."""
        for joint in reversed(JOINT_NAMES):
            try:
                self.link.write(joint, "Torque_Enable", 0)
            except BusError as error:
                told = f"could not be released, hold the arm before switching it off ({error})"
                landing.problems[joint] = told
            else:
                landing.on.remove(joint)
                if joint not in landing.limp:
                    landing.released.append(joint)
        for joint, told in self._faults().items():
            landing.problems.setdefault(joint, told)

    def _faults(self) -> dict[str, str]:
        return {
            joint: f"{fault_words(status)} (servo {self.link.ids[joint]})"
            for joint, status in self.link.status.items()
            if status
        }
