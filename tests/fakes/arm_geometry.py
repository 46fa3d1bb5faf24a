"""The arm's distances as the physics engine measures them: what `robot.clearance` is judged by."""

from __future__ import annotations

import mujoco
import numpy as np

from robot.arm_distance import MOVING, NEIGHBOURS, OBSTACLES
from robot.arm_shape import BASE, SHOULDER
from robot.twin import model as twin_model
from robot.types import NUM_JOINTS

FAR_M = 2.0


class ArmGeometry:
    """Asks MuJoCo. Distances are negative where parts overlap."""

    def __init__(self):
        self._model = twin_model.twin_spec(64, 64).compile()
        self._data = mujoco.MjData(self._model)
        geoms = [
            (geom, self._model.body(self._model.geom_bodyid[geom]).name) for geom in range(self._model.ngeom)
        ]
        bodies = {*MOVING, *OBSTACLES}
        self._table = self._model.geom(twin_model.TABLE).id
        self._links = [geom for geom, body in geoms if body in bodies - {BASE, SHOULDER}]
        self._pairs = [
            (part, block)
            for part, moving in geoms
            for block, obstacle in geoms
            if moving in MOVING and obstacle in OBSTACLES and (moving, obstacle) not in NEIGHBOURS
        ]
        self.limits = self._model.jnt_range[:NUM_JOINTS].T.astype(np.float32)

    def lowest_m(self, q_rad):
        """Height of the lowest link or finger over the table."""
        self._place(q_rad)
        return min(self._between(link, self._table) for link in self._links)

    def gap_m(self, q_rad):
        """Least distance between parts of the arm that are no neighbours."""
        self._place(q_rad)
        return min(self._between(*pair) for pair in self._pairs)

    def free(self, q_rad):
        """Whether a real arm could stand there: it touches neither the table nor itself."""
        return self.lowest_m(q_rad) > 0 and self.gap_m(q_rad) > 0

    def poses(self, seed, count):
        """Random poses (count, 6) [rad] within the joint limits."""
        return np.random.default_rng(seed).uniform(*self.limits, (count, NUM_JOINTS)).astype(np.float32)

    def free_poses(self, seed, count):
        """So many random poses in which a real arm could stand."""
        return [q for q in self.poses(seed, 4 * count) if self.free(q)][:count]

    def near_poses(self, seed, count, clearance):
        """So many of the free ones that are over 1 mm nearer to something than `clearance` allows."""
        poses = self.poses(seed, 400 * count)
        near = poses[clearance.slack(poses).min(axis=1) < -0.001]
        return [q for q in near if self.free(q)][:count]

    def _place(self, q_rad):
        self._data.qpos[:NUM_JOINTS] = q_rad
        mujoco.mj_kinematics(self._model, self._data)

    def _between(self, one, other):
        return mujoco.mj_geomDistance(self._model, self._data, one, other, FAR_M, None)
