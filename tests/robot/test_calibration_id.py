from dataclasses import replace

import pytest

from robot.calibration import calibration_id, check_calibration_id
from robot.errors import CalibrationError
from robot.twin.wire import twin_calibration


def test_a_calibration_is_known_by_every_one_of_its_numbers() -> None:
    calibration = twin_calibration()
    name = calibration_id(calibration)
    check_calibration_id(calibration, name)
    check_calibration_id(calibration, "")
    for index, joint in enumerate(calibration.joints):
        for change in (
            replace(joint, homing_offset=joint.homing_offset + 1),
            replace(joint, range_min=joint.range_min + 1),
            replace(joint, range_max=joint.range_max - 1),
        ):
            joints = (*calibration.joints[:index], change, *calibration.joints[index + 1 :])
            other = replace(calibration, joints=joints)
            with pytest.raises(CalibrationError, match=f"task.calibration_id is '{name}'"):
                check_calibration_id(other, name)
