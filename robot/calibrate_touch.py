"""The touch test: the fingertip is put on marked points of the table, and the arm model says where it is.

Points and tips are in metres in the robot base frame, z = 0 on the table. What is measured is kept beside
the calibrations, one file for each that was tested: `<arm id>.touch.<calibration id>.json`. So it comes back
with a calibration that is restored, and never speaks for another one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from robot.calibration import Calibration, calibration_id
from robot.errors import CalibrationError, CartesianRefused

F64 = NDArray[np.float64]

SHEET_M: Final[F64] = np.array([[0.18, 0.10, 0], [0.18, -0.10, 0], [0.28, -0.10, 0], [0.28, 0.10, 0]])
"""A sheet of paper, 20 cm wide and 10 cm deep, straight ahead of the arm; its near edge is 18 cm from pan."""
WARN_M, REFUSE_M = 0.01, 0.02
OK, WARN, REFUSED = "ok", "warn", "refused"
HOW: Final = "hilserl calibrate --touch"


@dataclass(frozen=True, slots=True)
class Touch:
    """What a touch test found.

    points_m, tips_m: (N, 3) where the points are, and where the arm model says the tip was. error_m: (N,)
    between the two. fit_m: (N,) what is left when the points may lie elsewhere on the table, shifted by
    shift_m (2,) and turned by turn_rad about the base: an arm that is wrong in itself.
    """

    points_m: F64
    tips_m: F64
    error_m: F64
    fit_m: F64
    shift_m: F64
    turn_rad: float

    @property
    def residual_m(self) -> float:
        """The largest error of a point."""
        return float(self.error_m.max())

    @property
    def verdict(self) -> str:
        """OK, WARN above WARN_M, REFUSED above REFUSE_M."""
        return OK if self.residual_m <= WARN_M else WARN if self.residual_m <= REFUSE_M else REFUSED

    def lines(self) -> list[str]:
        """For a person: each point, and what the errors look like."""
        said = [
            f"point {index + 1} at {_cm(point)}: the arm says {_cm(tip)}, {1000 * error:.1f} mm off "
            f"({1000 * fit:.1f} mm after the best fit in the plane)"
            for index, (point, tip, error, fit) in enumerate(
                zip(self.points_m, self.tips_m, self.error_m, self.fit_m, strict=True)
            )
        ]
        said.append(
            f"largest error {1000 * self.residual_m:.1f} mm (warns above {1000 * WARN_M:.0f}, refuses above "
            f"{1000 * REFUSE_M:.0f})"
        )
        if self.verdict != OK and self.fit_m.max() <= WARN_M:
            shift = 1000 * self.shift_m
            said.append(
                f"all points are off alike: by {shift[0]:+.0f} mm in x and {shift[1]:+.0f} mm in y, turned "
                f"{np.degrees(self.turn_rad):+.1f} degrees. Do the marks lie where they are said to? If they "
                "do, calibrate again"
            )
        elif self.verdict != OK:
            said.append("the points do not fit each other: a joint is calibrated or assembled wrong")
        return said


def judge_touch(points_m: F64, tips_m: F64) -> Touch:
    """Compare known points (N, 3) [m] with where the arm model says the tip was (N, 3) [m]. At least three.

    Raises CalibrationError for too few points, or numbers that are none.
    """
    points, tips = np.asarray(points_m, np.float64), np.asarray(tips_m, np.float64)
    if points.shape != tips.shape or points.ndim != 2 or points.shape[1] != 3 or len(points) < 3:
        raise CalibrationError(
            f"a touch test needs three points or more, each (x, y, z), got {points.shape} and {tips.shape}"
        )
    if not (np.isfinite(points).all() and np.isfinite(tips).all()):
        raise CalibrationError("a touch test needs finite positions")
    turn, shift = _fit_plane(points[:, :2], tips[:, :2])
    moved = points.copy()
    moved[:, :2] = points[:, :2] @ _turn(turn).T + shift
    error, fit = (np.linalg.norm(tips - there, axis=1) for there in (points, moved))
    return Touch(points, tips, error, fit, shift, turn)


def touch_file(calibration: Calibration, calibration_dir: str | Path, arm_id: str) -> Path:
    """Where the touch test of an arm with this calibration is kept."""
    return Path(calibration_dir) / f"{arm_id}.touch.{calibration_id(calibration)}.json"


def save_touch(touch: Touch, calibration: Calibration, calibration_dir: str | Path, arm_id: str) -> Path:
    """Keep the result beside the calibration it is of; returns the path."""
    path = touch_file(calibration, calibration_dir, arm_id)
    told = {
        "calibration_id": calibration_id(calibration),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "verdict": touch.verdict,
        "residual_m": touch.residual_m,
        "points_m": touch.points_m.tolist(),
        "tips_m": touch.tips_m.tolist(),
        "fit_m": touch.fit_m.tolist(),
    }
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(told, indent=1) + "\n")
    os.replace(unfinished, path)
    return path


def load_touch(
    calibration: Calibration, calibration_dir: str | Path, arm_id: str
) -> tuple[Touch, str] | None:
    """The touch test of this calibration and when it was made (UTC); None where none was.

    Judged anew from the positions in the file. Raises CalibrationError for a file that is damaged, or of
    another calibration.
    """
    path = touch_file(calibration, calibration_dir, arm_id)
    if not path.is_file():
        return None
    try:
        told = json.loads(path.read_text())
        touch = judge_touch(np.array(told["points_m"], np.float64), np.array(told["tips_m"], np.float64))
        of, when = str(told["calibration_id"]), str(told["when"])
    except (ValueError, KeyError, TypeError, CalibrationError) as error:
        raise CalibrationError(f"{path} is damaged ({error}); make the test again: {HOW}") from error
    if of != calibration_id(calibration):
        raise CalibrationError(f"{path} is of calibration {of}, its name says otherwise; test again: {HOW}")
    return touch, when


def check_touch(calibration: Calibration, calibration_dir: str | Path, arm_id: str) -> str:
    """A sentence about the touch test of this calibration.

    Raises CartesianRefused when it found the hand too far off, CalibrationError for a damaged file.
    """
    kept = load_touch(calibration, calibration_dir, arm_id)
    if kept is None:
        return f"no touch test was made with this calibration: nobody knows how far off its hand is ({HOW})"
    touch, when = kept
    found = f"touch test of {when}: {1000 * touch.residual_m:.1f} mm off at most"
    if touch.verdict == REFUSED:
        raise CartesianRefused(
            f"arm {arm_id!r}, calibration {calibration_id(calibration)}: {found}, more than "
            f"{1000 * REFUSE_M:.0f} mm: the hand is not where the arm model says, so it is not driven in "
            f"metres. See whether the marks lie where they were said to, calibrate again, and repeat: {HOW}"
        )
    return found if touch.verdict == OK else f"WARNING: {found}, more than {1000 * WARN_M:.0f} mm"


def parse_points(text: str) -> F64:
    """Points (N, 3) [m] from "x,y;x,y;..." in metres; z is 0 unless given. Raises CalibrationError."""
    try:
        points = [[float(number) for number in one.split(",")] for one in text.split(";")]
        if not all(len(point) in (2, 3) for point in points) or len(points) < 3:
            raise ValueError("three points or more, each x,y or x,y,z")
    except ValueError as error:
        raise CalibrationError(f"--points {text!r}: {error}; write x,y;x,y;x,y;x,y in metres") from error
    return np.array([[*point, 0.0][:3] for point in points])


def _fit_plane(points: F64, tips: F64) -> tuple[float, F64]:
    """(turn [rad], shift (2,) [m]) that bring `points` (N, 2) nearest to `tips` (N, 2)."""
    a, b = points - points.mean(axis=0), tips - tips.mean(axis=0)
    turn = float(np.arctan2((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum(), (a * b).sum()))
    return turn, tips.mean(axis=0) - _turn(turn) @ points.mean(axis=0)


def _turn(angle: float) -> F64:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


def _cm(place: Sequence[float] | F64) -> str:
    return f"({', '.join(f'{100 * value:.1f}' for value in place)}) cm"
