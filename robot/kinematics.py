"""Forward and inverse kinematics of the SO-101 on the arm model (MuJoCo and mink).

The hand is the site `gripperframe`, in metres in the robot base frame. Its approach axis (site +x) points
down at the table in the top-down pose. The arm has five joints for the hand: position comes first, pointing
down second, so that beyond x of about 0.30 m the hand tilts instead of stopping short.
"""

from __future__ import annotations

from dataclasses import dataclass

import mink
import mujoco
import numpy as np
from numpy.typing import NDArray

from robot.errors import KinematicsError
from robot.twin.model import TCP_SITE, arm_spec
from robot.types import F32, GRIPPER, NUM_JOINTS, WRIST_ROLL, Limits

F64 = NDArray[np.float64]

ORIENTATION_COST = 0.01
"""Weight of pointing down [1/rad] against position [1/m]: costs under 0.3 mm where both cannot be had."""
MAX_TURN_RAD = 0.1
"""Largest turn asked of one iteration: a large turn's second-order error would spoil the position."""
MAX_STEP_RAD = 0.3
TILT_TIEBREAK = 1e-4
"""[m/rad]: among positions that are good enough, the one that points down most is kept."""
MAX_ITERATIONS, REACH_ITERATIONS = 40, 8
POSITION_TOLERANCE_M = 1e-4
SOLVER_DAMPING = 1e-6
JOINT_MARGIN_RAD = np.radians(3.0) + 1e-4
"""Room left to both ends of each joint that places the hand: at its stop a servo stalls and overheats."""
SOLVER_DT_S = 1.0
"""mink integrates velocities; with one second per iteration a velocity is a step."""


@dataclass(frozen=True, slots=True)
class Pose:
    """Pose of the hand in the base frame. xyz_m: (3,) [m]. rotmat: (3, 3), columns are the hand's axes."""

    xyz_m: F64
    rotmat: F64


class Kinematics:
    """Kinematics of one arm. Not thread-safe: each thread makes its own."""

    def __init__(self, limits: Limits | None = None) -> None:
        """limits: range of the solutions; the model's own limits without it."""
        spec = arm_spec()
        if limits is not None:
            for joint, low, high in zip(spec.joints, limits.lower_rad, limits.upper_rad, strict=True):
                joint.range = (float(low), float(high))
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        self._site = self._model.site(TCP_SITE).id
        self._configuration = mink.Configuration(self._model)
        self._hand = mink.FrameTask(
            TCP_SITE, "site", position_cost=1.0, orientation_cost=(0.0, ORIENTATION_COST, ORIENTATION_COST)
        )
        self._reach = mink.FrameTask(TCP_SITE, "site", position_cost=1.0, orientation_cost=0.0)
        self._limits = [mink.ConfigurationLimit(self._model)]
        self._frozen = [mink.DofFreezingTask(self._model, dof_indices=[WRIST_ROLL, GRIPPER])]
        self.limits = Limits(
            self._model.jnt_range[:NUM_JOINTS, 0].astype(np.float32),
            self._model.jnt_range[:NUM_JOINTS, 1].astype(np.float32),
        )

    def fk(self, q_rad: F32 | F64) -> Pose:
        """Pose of the hand at joint angles q_rad (6,) [rad]."""
        q = np.asarray(q_rad, dtype=np.float64)
        if q.shape != (NUM_JOINTS,) or not np.isfinite(q).all():
            raise KinematicsError(f"joint angles must be {NUM_JOINTS} finite numbers [rad], got {q}")
        self._data.qpos[:NUM_JOINTS] = q
        mujoco.mj_kinematics(self._model, self._data)
        return Pose(
            self._data.site_xpos[self._site].copy(), self._data.site_xmat[self._site].reshape(3, 3).copy()
        )

    def ik(self, xyz_m: F32 | F64, q_start_rad: F32 | F64) -> F32:
        """Joint angles (6,) [rad] that bring the hand to xyz_m (3,) [m], pointing down as far as it can.

        Wrist roll and gripper stay as in q_start_rad (6,), where the search starts. Where the point cannot
        be reached the nearest found angles are returned: compare `fk` of the result with the target.
        """
        q = np.clip(np.asarray(q_start_rad, np.float64), self.limits.lower_rad, self.limits.upper_rad)
        target = np.asarray(xyz_m, dtype=np.float64)
        if target.shape != (3,) or not np.isfinite(target).all():
            raise KinematicsError(f"a hand position must be 3 finite numbers [m], got {target}")
        best_q, best_score = q, np.inf
        for iteration in range(MAX_ITERATIONS):
            # The last iterations give up tilt altogether, should pointing down still hold the hand back.
            task = self._hand if iteration < MAX_ITERATIONS - REACH_ITERATIONS else self._reach
            self._configuration.update(q)
            pose = self._configuration.get_transform_frame_to_world(TCP_SITE, "site")
            rotmat = pose.rotation().as_matrix()
            error = float(np.linalg.norm(pose.translation() - target))
            goal = _turned_down(rotmat)
            tilt = float(np.arccos(np.clip(-rotmat[2, 0], -1, 1)))
            score = max(error, POSITION_TOLERANCE_M) + TILT_TIEBREAK * tilt
            if score < best_score - 1e-7:
                best_q, best_score = q, score
            elif error < POSITION_TOLERANCE_M:
                break
            task.set_target(mink.SE3.from_rotation_and_translation(mink.SO3.from_matrix(goal), target))
            velocity = mink.solve_ik(
                self._configuration,
                [task],
                SOLVER_DT_S,
                solver="daqp",
                damping=SOLVER_DAMPING,
                limits=self._limits,
                constraints=self._frozen,
            )
            step = velocity * SOLVER_DT_S
            q = q + step * min(1.0, MAX_STEP_RAD / max(float(np.abs(step).max()), 1e-9))
            q = np.clip(q, self.limits.lower_rad, self.limits.upper_rad)
        return best_q.astype(np.float32)

    def tilt_euler(self, q_rad: F32 | F64, wrist_roll_rad: float) -> F64:
        """(3,) [rad]: x-y-z Euler angles of the hand against the top-down pose at pan 0.

        Taken against that pose they stay near zero in use; Euler angles of the raw rotation would sit on
        their singularity exactly where the arm works (field report H2).
        """
        relative = _top_down(wrist_roll_rad).T @ self.fk(q_rad).rotmat
        return np.array(
            [
                np.arctan2(relative[2, 1], relative[2, 2]),
                np.arctan2(-relative[2, 0], np.hypot(relative[2, 1], relative[2, 2])),
                np.arctan2(relative[1, 0], relative[0, 0]),
            ]
        )


def working_limits(limits: Limits) -> Limits:
    """`limits` less JOINT_MARGIN_RAD for the joints that place the hand; roll and gripper keep theirs."""
    margin = np.full(NUM_JOINTS, JOINT_MARGIN_RAD, np.float32)
    margin[[WRIST_ROLL, GRIPPER]] = 0.0
    return Limits(limits.lower_rad + margin, limits.upper_rad - margin)


def _turned_down(rotmat: F64) -> F64:
    """`rotmat` turned by at most MAX_TURN_RAD on the shortest way to an approach axis that points down."""
    down = np.array([0.0, 0.0, -1.0])
    axis = np.cross(rotmat[:, 0], down)
    sine, cosine = float(np.linalg.norm(axis)), float(rotmat[:, 0] @ down)
    if sine < 1e-9:
        return rotmat
    angle = min(np.arctan2(sine, cosine), MAX_TURN_RAD)
    turn = mink.SO3.exp(axis / sine * angle).as_matrix()
    result: F64 = turn @ rotmat
    return result


def _top_down(wrist_roll_rad: float) -> F64:
    """Rotation of the hand pointing straight down at pan 0 with this wrist roll."""
    cos, sin = np.cos(wrist_roll_rad), np.sin(wrist_roll_rad)
    return np.array([[0.0, -sin, cos], [0.0, cos, sin], [-1.0, 0.0, 0.0]])
