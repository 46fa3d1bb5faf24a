"""What is known of a servo arm from its files: its calibration, and the touch test of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hilserl.config import Config


@dataclass(frozen=True, slots=True)
class ArmFacts:
    """calibration: its id, "" where there is none. touch: the last touch test in words, "" where none was.

    faults: what keeps the arm from being used, or from being driven in metres.
    """

    calibration: str
    versions: int
    touch: str
    faults: tuple[str, ...] = ()


def arm_facts(config: Config) -> ArmFacts:
    """Of the follower that `config` names; nothing is opened."""
    from robot.calibrate_touch import check_touch, load_touch
    from robot.calibrate_versions import versions
    from robot.calibration import calibration_id, check_calibration_id, load_calibration
    from robot.errors import CalibrationError, CartesianRefused

    robot = config.robot
    folder, faults, touch = Path(robot.calibration_dir), list[str](), ""
    kept = len([one for one in versions(folder, robot.id) if one.number])
    try:
        calibration = load_calibration(folder, robot.id, robot.port)
    except CalibrationError as error:
        return ArmFacts("", kept, "", (str(error),))
    try:
        check_calibration_id(calibration, config.task.calibration_id)
    except CalibrationError as error:
        faults.append(str(error))
    try:
        if load_touch(calibration, folder, robot.id) is not None:
            touch = check_touch(calibration, folder, robot.id)
    except (CalibrationError, CartesianRefused) as error:
        touch = str(error)
        faults.append(touch)
    return ArmFacts(calibration_id(calibration), kept, touch, tuple(faults))
