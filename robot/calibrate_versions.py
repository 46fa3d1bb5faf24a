"""Every calibration an arm ever had: `<id>.json` is the present one, `<id>.001.json`, ... those before it.

A dataset knows its calibration by `calibration_id`: with that id the numbers it was recorded with are found.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from robot.calibration import (
    Calibration,
    calibration_id,
    calibration_path,
    load_calibration,
    save_calibration,
)
from robot.errors import CalibrationError


@dataclass(frozen=True, slots=True)
class Version:
    """A calibration that is kept. number: from 1; 0 is the present one. id: None when it is damaged."""

    number: int
    path: Path
    id: str | None


def keep_version(calibration_dir: Path, arm_id: str) -> Path | None:
    """Keep the present file under the next number; its path, None where there is no present file.

    One that is kept already, byte for byte, is not kept twice.
    """
    present = calibration_path(calibration_dir, arm_id)
    if not present.exists():
        return None
    content, number = present.read_bytes(), 1
    for version in versions(calibration_dir, arm_id)[1:]:
        if version.path.read_bytes() == content:
            return version.path
        number = version.number + 1
    # A copy, not a link: other programs write into the present file. It appears whole, and over no other.
    copy = present.with_suffix(".tmp")
    copy.write_bytes(content)
    while True:
        path = present.with_name(f"{arm_id}.{number:03d}.json")
        try:
            os.link(copy, path)
        except FileExistsError:
            number += 1
        else:
            copy.unlink()
            return path


def versions(calibration_dir: Path, arm_id: str) -> list[Version]:
    """The present calibration (number 0) where there is one, then those kept, oldest first."""
    pattern = re.compile(rf"{re.escape(arm_id)}\.(\d{{3,}})\.json")
    folder, present = Path(calibration_dir), calibration_path(calibration_dir, arm_id)
    kept = [
        (int(named.group(1)), path)
        for path in (folder.iterdir() if folder.is_dir() else [])
        if (named := pattern.fullmatch(path.name))
    ]
    listed = ([(0, present)] if present.exists() else []) + sorted(kept)
    return [Version(number, path, _id_of(path)) for number, path in listed]


def find_version(calibration_dir: Path, arm_id: str, wanted: str) -> Calibration:
    """The calibration `wanted` of this arm, by its id or its number; nothing is changed.

    Raises CalibrationError listing what there is.
    """
    there = versions(calibration_dir, arm_id)
    names = {wanted, wanted.lstrip("0")} if wanted.isdecimal() else {wanted}
    found = next((one for one in there if one.id == wanted), None)
    found = found or next((one for one in there if one.number and str(one.number) in names), None)
    if found is None:
        listed = ", ".join(f"{one.id or 'damaged'} ({one.path.name})" for one in there) or "none"
        raise CalibrationError(f"arm {arm_id!r} never had calibration {wanted!r}; there is: {listed}")
    return load_calibration(calibration_dir, found.path.stem)


def store_version(calibration: Calibration, calibration_dir: Path, arm_id: str) -> Path | None:
    """Make `calibration` the present one; where the one before is kept, None when there was none."""
    kept = keep_version(calibration_dir, arm_id)
    save_calibration(calibration, calibration_dir, arm_id)
    return kept


def _id_of(path: Path) -> str | None:
    try:
        return calibration_id(load_calibration(path.parent, path.stem))
    except (CalibrationError, OSError):
        return None
