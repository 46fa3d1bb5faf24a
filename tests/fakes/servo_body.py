"""Six joints that follow their goals with a first-order lag, one step each time they are looked at."""

from __future__ import annotations

import numpy as np


class LagBody:
    """A ServoBody without physics. Released joints stay where they are."""

    def __init__(self, q_rad=(0.0,) * 6, decay: float = 0.5) -> None:
        self.q_rad = np.array(q_rad, dtype=np.float64)
        self.goal: list[float | None] = [None] * 6
        self._decay = decay

    def set_goal_rad(self, joint: int, rad: float | None) -> None:
        self.goal[joint] = rad

    def position_rad(self, joint: int) -> float:
        goal = self.goal[joint]
        if goal is not None:
            self.q_rad[joint] = goal + (self.q_rad[joint] - goal) * self._decay
        return float(self.q_rad[joint])

    def velocity_rad_s(self, joint: int) -> float:
        return 0.0

    def torque_nm(self, joint: int) -> float:
        goal = self.goal[joint]
        return 0.0 if goal is None else 0.1 * (goal - float(self.q_rad[joint]))
