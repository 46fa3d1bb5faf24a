"""The servo bus of a released arm: its joints, which a person moves, and the calibration in its memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np

from robot.calibrate import LEADER, raw_counts
from robot.calibration import COUNTS_PER_TURN, I32, Calibration, load_calibration
from robot.errors import BusError, CalibrationError
from robot.release import factory_ids
from robot.servo_link import ServoLink, fault_words
from robot.servo_setup import (
    CALIBRATED,
    MODEL_NUMBER,
    Memories,
    check_calibration,
    write_calibration,
    write_registers,
)
from robot.servo_state import STATE_ADDRESS, STATE_SIZE, ServoState
from robot.types import JOINT_NAMES, Clock

PERIOD_S: Final = 0.02
RETRIES: Final = 10
SHOWN_OFF: Final = 60
"""Counts (5 degrees) by which a hand may move a joint between two looks at it."""

MEND: Final = "Run: hilserl calibrate --write"

Say = Callable[[str], None]


class ReleasedArm:
    """An arm without torque at `port`; nothing moves it. `store` alone writes to its memory.

    with ReleasedArm(port, ids, role, clock, say) as arm: raw = arm.raw()
    """

    def __init__(self, port: str, ids: dict[str, int], role: str, clock: Clock, say: Say) -> None:
        self._link = ServoLink(port, ids, RETRIES, clock)
        self._role, self._clock, self._say = role, clock, say
        self._offsets: I32 = np.zeros(len(JOINT_NAMES), np.int32)

    def __enter__(self) -> Self:
        """Raises BusError, and CalibrationError for servos that hold torque or are no STS3215."""
        self._link.open()
        try:
            self._check()
        except BaseException:
            self._link.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._link.close()

    def raw(self) -> I32:
        """What the encoders show now, (6,) counts 0..4095 without any offset. Raises BusError."""
        answers = self._link.sync_read(STATE_ADDRESS, STATE_SIZE, JOINT_NAMES, "reading the joints")
        positions = [ServoState.of(answers[name]).position for name in JOINT_NAMES]
        return raw_counts(np.array(positions, np.int32), self._offsets)

    def readings(self, until: Callable[[], bool]) -> Iterator[I32]:
        """`raw` again and again, at least once, until `until`."""
        while True:
            yield self.raw()
            if until():
                return
            self._clock.sleep_until(self._clock.now_s() + PERIOD_S)

    def check(self, calibration: Calibration) -> None:
        """Raise CalibrationError naming every joint that does not hold `calibration`; BusError."""
        check_calibration(self._link.port, calibration, self._memories(), MEND)

    def store(self, calibration: Calibration) -> None:
        """Write `calibration` to the servos' EEPROM, read it back, and see that they show what they must.

        Raises BusError or CalibrationError; then, and when interrupted, every servo that still answers gets
        back what it held before.
        """
        before, memories, offsets = self.raw(), self._memories(), self._offsets
        if holding := [name for name, memory in memories.items() if memory["Torque_Enable"]]:
            raise CalibrationError(
                f"{self._link.port}: {', '.join(holding)} hold torque now; release the arm"
            )
        try:
            write_calibration(self._link, calibration)
            self._offsets = np.array([joint.homing_offset for joint in calibration.joints], np.int32)
            self.check(calibration)
            self._check_shown(before)
        except BaseException:
            self._offsets = offsets
            self._put_back(memories)
            raise

    def _check_shown(self, before: I32) -> None:
        """Joints that seem to have moved count their offset otherwise than this program does."""
        half = COUNTS_PER_TURN // 2
        off = (self.raw() - before + half) % COUNTS_PER_TURN - half
        wrong = [f"{n} by {off[index]}" for index, n in enumerate(JOINT_NAMES) if abs(off[index]) > SHOWN_OFF]
        if wrong:
            raise CalibrationError(
                f"{self._link.port}: with the new calibration joints show other counts than they must: "
                f"{', '.join(wrong)}. Was the arm moved meanwhile? Lay it down, then write it again"
            )

    def _put_back(self, memories: Memories) -> None:
        """The calibration the servos held before; says which of them cannot be reached."""
        lost = []
        for name, memory in memories.items():
            try:
                now, wanted = self._link.read_memory(name), {reg: memory[reg] for reg in CALIBRATED}
                write_registers(self._link, name, now, wanted)
                self._link.write(name, "Lock", 1)  # it is open where the interruption came within a servo
            except BusError:
                lost.append(name)
        if lost:
            self._say(
                f"{', '.join(lost)} could not be set back to the calibration from before; the arm is not "
                "driven like this. Plug it in again, then: hilserl calibrate --write"
            )
        else:
            self._say("not calibrated: the servos hold what they held before")

    def _memories(self) -> dict[str, dict[str, int]]:
        return {name: self._link.read_memory(name) for name in JOINT_NAMES}

    def _check(self) -> None:
        memories = self._memories()
        others = [name for name, memory in memories.items() if memory["Model_Number"] != MODEL_NUMBER]
        if others:
            raise CalibrationError(
                f"{self._link.port}: {', '.join(others)}: no STS3215 (model {MODEL_NUMBER}), as an SO-101 has"
            )
        for name, status in self._link.status.items():
            if status:
                self._say(f"{name}: {fault_words(status)}; it can be calibrated, but find out why")
        holding = [name for name, memory in memories.items() if memory["Torque_Enable"]]
        if holding and self._role != LEADER:
            raise CalibrationError(
                f"{self._link.port}: {', '.join(holding)} hold torque: letting go here would drop the arm. "
                "Bring it down first: hilserl release"
            )
        for name in holding:
            self._link.write(name, "Torque_Enable", 0)
        self._offsets = np.array([memories[name]["Homing_Offset"] for name in JOINT_NAMES], np.int32)


def servo_ids(calibration_dir: Path, arm_id: str) -> dict[str, int]:
    """Servo ids of the arm's present calibration, those of the factory where it has none."""
    try:
        joints = load_calibration(calibration_dir, arm_id).joints
    except CalibrationError:
        return factory_ids()
    return {name: joint.id for name, joint in zip(JOINT_NAMES, joints, strict=True)}
