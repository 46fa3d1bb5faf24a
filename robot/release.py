"""Freeing an arm after whatever happened: no calibration, half a bus, faults, a program that died."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from robot.calibration import Calibration, load_calibration
from robot.clearance import Clearance
from robot.errors import BusError, CalibrationError
from robot.landing import Lander, Landing
from robot.servo_link import ServoLink
from robot.servo_setup import check_calibration
from robot.timing import RealClock
from robot.types import JOINT_NAMES, Clock

RETRIES: Final = 10
GRASP_S: Final = 5.0
"""Time to take hold of an arm that is let go where it stands."""
FREE, NOT_FREE = 0, 1


def release(
    port: str,
    robot_id: str,
    calibration_dir: str | Path,
    *,
    max_joint_speed_rad_s: float,
    move: bool,
    say: Callable[[str], None],
    clock: Clock | None = None,
    clearance: Clearance | None = None,
) -> int:
    """Hold, park and release the arm; where it cannot be parked, or without `move`, let it go as it stands.

    Returns the exit status: 0 when every servo is known to be free. Raises BusError when the port is missing
    or another program (its actor, its watchdog) has it: that one frees the arm, or is to be ended first.
    """
    clock = clock or RealClock()
    calibration, why_not = _calibration(Path(calibration_dir), robot_id, port)
    joints = calibration.joints if calibration else ()
    ids = {name: joint.id for name, joint in zip(JOINT_NAMES, joints, strict=False)} or factory_ids()
    link = ServoLink(port, ids, RETRIES, clock)
    link.open()
    try:
        if calibration is not None:
            why_not = _disagreement(link, calibration, port) or why_not
        lander = Lander(
            link,
            None if why_not else calibration,
            clock,
            clearance or Clearance(),
            max_joint_speed_rad_s,
        )
        return _free(lander, "" if move else "--here was given", why_not, clock, say)
    finally:
        link.close()


def factory_ids() -> dict[str, int]:
    """Servo ids as every SO-101 is built: 1 at the base to 6 in the hand."""
    return {name: index + 1 for index, name in enumerate(JOINT_NAMES)}


def _free(lander: Lander, unwanted: str, impossible: str, clock: Clock, say: Callable[[str], None]) -> int:
    states, silent = lander.await_bus(0.0)
    for joint, told in silent.items():
        say(f"{joint}: {told}")
    held = [joint for joint, state in states.items() if state.torque]
    if states and not held and not silent:
        say("nothing to do: every servo is released")
        return FREE
    if held and not (unwanted or impossible):
        say(f"{', '.join(held)} hold torque: the arm holds where it is, then it is parked; keep clear")
        for joint, told in lander.hold(states).items():
            say(f"{joint}: {told}")
        landing = lander.land()
    else:
        say(f"not parked: {impossible or unwanted or 'no servo that answers has torque'}")
        say(f"HOLD THE ARM: it is let go where it stands in {GRASP_S:g} s")
        clock.sleep_until(clock.now_s() + GRASP_S)
        landing = lander.release()
    return _tell(landing, say)


def _tell(landing: Landing, say: Callable[[str], None]) -> int:
    for who, what in landing.problems.items():
        say(f"{who}: {what}")
    if landing.on:
        say(f"NOT released: {', '.join(landing.on)}. Hold the arm and switch its supply off")
        return NOT_FREE
    say("every servo is released")
    return FREE


def _calibration(folder: Path, robot_id: str, port: str) -> tuple[Calibration | None, str]:
    """The calibration, or why there is none that can be used."""
    try:
        return load_calibration(folder, robot_id, port), ""
    except (CalibrationError, OSError) as error:
        return None, f"without its calibration nobody knows the way to its rest pose ({error})"


def _disagreement(link: ServoLink, calibration: Calibration, port: str) -> str:
    """Why the calibration must not be used to move this arm; silent servos are not asked."""
    memories = {}
    for joint in JOINT_NAMES:
        with contextlib.suppress(BusError):
            memories[joint] = link.read_memory(joint)
    try:
        check_calibration(port, calibration, memories, "")
    except CalibrationError as error:
        return str(error)
    return ""
