"""A camera as geometry: which place on the table a pixel shows, and at which pixel a place is seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pinhole:
    """A camera without distortion, in the robot base frame.

    centre_m: (3,). rotmat: (3, 3), columns are the camera's axes: right, up, and backwards out of the lens.
    focal_px: focal length. size: (width, height) of its pictures [px]. Pixels are (right, down) from the
    picture's upper left corner, pixel centres at halves.
    """

    centre_m: F64
    rotmat: F64
    focal_px: float
    size: tuple[int, int]

    def on_table(self, pixels: F64, height_m: float = 0.0) -> F64:
        """(N, 2) [m]: where pixels (N, 2) see the plane z = height_m; nan where they look past it."""
        right = pixels[:, 0] - self.size[0] / 2
        down = pixels[:, 1] - self.size[1] / 2
        rays = np.stack([right, -down, np.full(len(pixels), -self.focal_px)], axis=1) @ self.rotmat.T
        with np.errstate(divide="ignore", invalid="ignore"):
            far = (height_m - self.centre_m[2]) / rays[:, 2]
            met = self.centre_m[:2] + far[:, None] * rays[:, :2]
        return np.where((np.isfinite(far) & (far > 0))[:, None], met, np.nan)

    def pixels(self, points_m: F64) -> F64:
        """(N, 2): where points (N, 3) are seen, also beyond the picture's edge; nan for those behind it."""
        seen = (points_m - self.centre_m) @ self.rotmat
        depth = -seen[:, 2:]
        with np.errstate(divide="ignore", invalid="ignore"):
            away = self.focal_px * seen[:, :2] / depth
        middle = np.array(self.size) / 2
        return np.where(depth > 0, middle + away * [1, -1], np.nan)
