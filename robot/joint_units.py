"""Joint values as lerobot's tools store them -> rad. The one line for each unit, undoing lerobot's own.

lerobot writes the five arm joints in degrees from mid-range (or, with use_degrees=false, in -100..100 of the
calibrated range), and the gripper in 0..100 of its calibrated range, whatever the arm joints are in.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robot.calibration import (
    COUNTS_PER_TURN,
    Calibration,
    calibration_id,
    check_calibration_id,
    load_calibration,
)
from robot.errors import CalibrationError
from robot.types import F32, GRIPPER, JOINT_NAMES, NUM_JOINTS

F64 = NDArray[np.float64]
UNITS = ("degrees", "normalized", "rad")
DEGREES_PER_COUNT = 360 / (COUNTS_PER_TURN - 1)
"""lerobot divides a turn by the highest count, not by the number of counts."""
ROUNDING = 0.01
"""How far beyond its range a normalised value may be by rounding."""


@dataclass(frozen=True, slots=True)
class JointUnits:
    """One unit of recorded joint values, with the calibration of the arm that recorded them.

    calibration: None for "rad" only.
    """

    unit: str
    calibration: Calibration | None

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise CalibrationError(f"a joint unit is one of {UNITS}, got {self.unit!r}")
        if self.calibration is None and self.unit != "rad":
            raise CalibrationError(
                f"joint values in {self.unit} need the calibration of the arm that recorded them: lerobot "
                "stores the gripper (and normalised joints) as a share of its calibrated range"
            )

    @property
    def identity(self) -> str:
        """Unit and calibration in one string: equal when the same values give the same angles."""
        return self.unit if self.calibration is None else f"{self.unit}/{calibration_id(self.calibration)}"

    def rad(self, values: F64) -> F32:
        """Joint angles (N, 6) [rad] of recorded values (N, 6), to the nearest servo count.

        Raises CalibrationError naming row, joint and value where one cannot be of this unit.
        """
        if values.ndim != 2 or values.shape[1] != NUM_JOINTS:
            raise CalibrationError(f"joint values must be (N, {NUM_JOINTS}), got {values.shape}")
        if self.unit == "rad" or self.calibration is None:
            return values.astype(np.float32)
        low, high = (
            np.array([getattr(joint, end) for joint in self.calibration.joints], np.float64)
            for end in ("range_min", "range_max")
        )
        _check_range(values[:, GRIPPER:], 0.0, 100.0, GRIPPER, "a gripper is stored in percent")
        counts = values / DEGREES_PER_COUNT + (low + high) / 2
        if self.unit == "normalized":
            _check_range(values[:, :GRIPPER], -100.0, 100.0, 0, "normalised joints are")
            counts = low + (values + 100) / 200 * (high - low)
        counts[:, GRIPPER] = low[GRIPPER] + values[:, GRIPPER] / 100 * (high[GRIPPER] - low[GRIPPER])
        return self.calibration.rad(np.rint(counts).astype(np.int32))


def load_joint_units(unit: str, calibration_dir: str, robot_id: str, expected_id: str) -> JointUnits:
    """The unit with the calibration `<calibration_dir>/<robot_id>.json`; expected_id: "" for any.

    Raises CalibrationError when the file is missing, broken, or not the expected one.
    """
    if unit == "rad":
        return JointUnits(unit, None)
    calibration = load_calibration(Path(calibration_dir), robot_id)
    check_calibration_id(calibration, expected_id)
    return JointUnits(unit, calibration)


def _check_range(values: F64, low: float, high: float, first: int, what: str) -> None:
    off = np.argwhere((values < low - ROUNDING) | (values > high + ROUNDING))
    if len(off):
        row, joint = off[0]
        raise CalibrationError(
            f"row {row}: {JOINT_NAMES[first + joint]} is {values[row, joint]:.4g}, but {what} "
            f"{low:g}..{high:g}: the unit is another one"
        )
