"""Torn pictures: a lost line shifts sideways all that follows it, so the lowest rows tell."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from robot.types import F32, U8

BAND: Final = 4
"""The lowest 1/BAND of the rows is looked at."""
COLUMNS, ROWS = 160, 30
"""Size it is shrunk to."""
FAR_COLUMNS: Final = 20
"""No camera turns so far between two pictures: an eighth of the width."""
ALIKE, BETTER = 0.6, 0.4
"""Correlation at the shifted place, and by how much it is above that at the old place, to count as torn."""
BACK_BETTER: Final = 0.1
"""By how much, for a shift that undoes the known one."""
UNRELATED_S: Final = 0.3
FORGET_S: Final = 3.0
"""A camera that seems torn for so long is believed again."""


class TearWatch:
    """Compares each picture with the one before it.

    if watch.update(picture, stamp_s): the picture is torn
    """

    def __init__(self) -> None:
        self._before: tuple[float, F32] | None = None
        self._shift, self._since_s = 0, 0.0

    def update(self, picture: U8, stamp_s: float) -> bool:
        """Whether `picture` uint8 (H, W, 3), taken at stamp_s [s], is torn."""
        band = _band(picture)
        before, self._before = self._before, (stamp_s, band)
        if before is None or stamp_s - before[0] > UNRELATED_S or stamp_s - self._since_s > FORGET_S:
            self._shift = 0
        if before is None or stamp_s - before[0] > UNRELATED_S:
            return False
        columns, alike, better = _shift(before[1], band)
        undone = self._shift and abs(_wrapped(self._shift + columns)) < FAR_COLUMNS
        if undone and abs(columns) >= FAR_COLUMNS and better > BACK_BETTER:
            self._shift = 0
        elif abs(columns) >= FAR_COLUMNS and alike > ALIKE and better > BETTER:
            self._since_s = self._since_s if self._shift else stamp_s
            self._shift = _wrapped(self._shift + columns)
        return self._shift != 0


def _band(picture: U8) -> F32:
    """The lowest rows, grey, (ROWS, COLUMNS), each row without its mean."""
    low = picture[-max(1, len(picture) // BAND) :]
    grey = cv2.resize(low, (COLUMNS, ROWS), interpolation=cv2.INTER_AREA).astype(np.float32).mean(axis=2)
    return np.asarray(grey - grey.mean(axis=1, keepdims=True), np.float32)


def _shift(before: F32, now: F32) -> tuple[int, float, float]:
    """Shift to the right [columns] at which `now` is most like `before`.

    And how alike (-1..1), and how much better that is than near no shift.
    """
    spectrum = (np.conj(np.fft.rfft(before, axis=1)) * np.fft.rfft(now, axis=1)).sum(axis=0)
    scale = float(np.sqrt((before**2).sum() * (now**2).sum())) + 1e-6
    alike = np.fft.irfft(spectrum, n=COLUMNS) / scale
    best = int(alike.argmax())
    near = np.concatenate([alike[: FAR_COLUMNS + 1], alike[-FAR_COLUMNS:]]).max()
    return _wrapped(best), float(alike[best]), float(alike[best] - near)


def _wrapped(columns: int) -> int:
    """The same shift within half a width."""
    return (columns + COLUMNS // 2) % COLUMNS - COLUMNS // 2
