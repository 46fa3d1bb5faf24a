"""How far the arm must stay from its table and from itself, and which ways are allowed.

Numpy only: the driver and the watchdog use it, too. The guard refuses what `allowed` does not allow; whoever
plans a way asks here first.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from robot.arm_distance import arm_shape
from robot.arm_shape import F64
from robot.types import F32, NUM_JOINTS

LINK_MARGIN_M: Final = 0.010
"""Least height of a link over the table."""
FINGER_MARGIN_M: Final = -0.003
"""Least height of a finger: fingers touch the table, and joints have play."""
SELF_MARGIN_M: Final = 0.010
"""Least distance of the hand to the base, the shoulder and the upper arm."""
FOLD_MARGIN_M: Final = 0.0
"""The same for lower arm and wrist: a folded arm lies close to itself. Distances are under-estimated."""
ROUNDING_M: Final = 1e-4
"""How much nearer than allowed the guard takes for rounding."""
RESOLUTION_RAD: Final = 0.02
"""A way is looked at in steps of this size: 8 mm of a stretched arm."""
FINE: Final = 8
"""The place where a way ends is found to this share of a step."""
TABLE, SELF = 0, 1
CHECKS: Final = ("table", "self")


class Clearance:
    """The margins of one arm on one table. table_z_m: height of the table in the arm's base frame [m]."""

    def __init__(self, table_z_m: float = 0.0) -> None:
        if not np.isfinite(table_z_m):
            raise ValueError(f"table_z_m must be a finite height [m], got {table_z_m}")
        self.table_z_m = table_z_m
        self._shape = arm_shape()
        self._least_m = np.where(self._shape.low_is_finger, FINGER_MARGIN_M, LINK_MARGIN_M)
        self._least_gap_m = np.where(self._shape.folding, FOLD_MARGIN_M, SELF_MARGIN_M)

    def slack(self, q_rad: F32 | F64) -> F64:
        """How much more room than its margins the arm has (..., 2) [m] at joint angles q_rad (..., 6) [rad].

        Columns as CHECKS. Below 0 the arm is too near.
        """
        frames = self._frames(q_rad)
        table = (self._shape.heights(*frames) - self._least_m).min(axis=1) - self.table_z_m
        itself = (self._shape.gaps(*frames) - self._least_gap_m).min(axis=1)
        return np.stack([table, itself], axis=1).reshape(*np.shape(q_rad)[:-1], len(CHECKS))

    def lowest_m(self, q_rad: F32 | F64) -> F64:
        """Height over the table (...,) [m] of the lowest point of arm and hand at q_rad (..., 6) [rad]."""
        heights: F64 = self._shape.heights(*self._frames(q_rad)).min(axis=1) - self.table_z_m
        return heights.reshape(np.shape(q_rad)[:-1])

    def told(self, q_rad: F32) -> str:
        """What is too near at q_rad (6,) [rad], in words; empty where nothing is."""
        slack, frames, said = self.slack(q_rad), self._frames(q_rad), []
        if slack[TABLE] < 0:
            heights = self._shape.heights(*frames)[0] - self.table_z_m
            worst = int(np.argmin(heights - self._least_m))
            said.append(
                f"the {self._shape.low_names[worst]} {1000 * heights[worst]:.1f} mm above the table "
                f"(at least {1000 * self._least_m[worst]:.0f} mm)"
            )
        if slack[SELF] < 0:
            gaps = self._shape.gaps(*frames)[0]
            worst = int(np.argmin(gaps - self._least_gap_m))
            part, obstacle = self._shape.pairs[worst]
            said.append(
                f"the {part} {1000 * gaps[worst]:.1f} mm from the {obstacle} "
                f"(at least {1000 * self._least_gap_m[worst]:.0f} mm)"
            )
        return " and ".join(said)

    def allowed(
        self, way_rad: F32 | F64, best_m: F64, *, keep_m: float = 0.0, rounding_m: float = 0.0
    ) -> tuple[int, F64]:
        """How many poses of a way (N, 6) [rad] may be gone through, and what `best_m` is then.

        A pose is allowed where each slack is at least keep_m [m], or, if it was less, at least its best so
        far: who is too near may stay and move out, but not nearer. best_m (2,) [m]: see `best_at`.
        rounding_m [m] is tolerated against the best, so that it does not add up along a way.
        """
        slack = np.minimum(self.slack(way_rad) - keep_m, 0.0)
        best = np.maximum.accumulate(np.vstack([best_m, slack]), axis=0)
        bad = (slack < best[:-1] - rounding_m).any(axis=1)
        count = int(np.argmax(bad)) if bad.any() else len(slack)
        return count, best[count]

    def best_at(self, q_rad: F32, keep_m: float = 0.0) -> F64:
        """The slack (2,) [m] that a way from q_rad (6,) [rad] must keep: at most 0."""
        return np.minimum(self.slack(q_rad) - keep_m, 0.0)

    def is_clear(self, start_rad: F32, end_rad: F32, keep_m: float = 0.0) -> bool:
        """Whether the straight way between two poses (6,) [rad] is allowed throughout."""
        way = straight(start_rad, end_rad)
        return self.allowed(way, self.best_at(start_rad, keep_m), keep_m=keep_m)[0] == len(way)

    def farthest(self, start_rad: F32, end_rad: F32, keep_m: float) -> F32:
        """The last pose (6,) [rad] on the straight way that is allowed; start_rad where none is."""
        way, best = straight(start_rad, end_rad), self.best_at(start_rad, keep_m)
        count, best = self.allowed(way, best, keep_m=keep_m)
        if count == len(way):
            return end_rad
        last = start_rad if count == 0 else way[count - 1]
        fine = np.linspace(last, way[count], FINE + 1, dtype=np.float32)[1:]
        count, _ = self.allowed(fine, best, keep_m=keep_m)
        found: F32 = last if count == 0 else fine[count - 1]
        return found

    def _frames(self, q_rad: F32 | F64) -> tuple[F64, F64]:
        return self._shape.frames(np.asarray(q_rad, np.float64).reshape(-1, NUM_JOINTS))


def straight(start_rad: F32, end_rad: F32) -> F32:
    """Poses (N, 6) [rad] on the straight way, at most RESOLUTION_RAD apart; the start is left out."""
    count = max(1, int(np.ceil(np.abs(end_rad - start_rad).max() / RESOLUTION_RAD)))
    shares = np.arange(1, count + 1, dtype=np.float32)[:, None] / np.float32(count)
    way: F32 = (start_rad + (end_rad - start_rad) * shares).astype(np.float32)
    way[-1] = end_rad
    return way
