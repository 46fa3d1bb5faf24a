"""The body in learning units: reset and step at the control rate, actions in, observations out.

This is where an action in [-1, 1] becomes metres and radians (`_advance_reference`), where a camera frame
becomes a policy image (`policy_image`), and where the state vector is built (`state_vector`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np

from hilserl.config import CropConfig, TaskConfig
from hilserl.types import Obs, Spec, check_action
from robot.clearance import Clearance
from robot.errors import BusError, CameraError, KinematicsError, ResetStopped, TorqueLost
from robot.kinematics import F64, Kinematics
from robot.planning import KEEP_M, plan
from robot.types import (
    F32,
    GRIPPER,
    JOINT_NAMES,
    NUM_JOINTS,
    U8,
    WRIST_ROLL,
    Arm,
    ArmState,
    Camera,
    Clock,
    Frame,
    Scene,
)

RESET_SPEED_RAD_S = 1.5
RESET_CLEARANCE_M = 0.10
"""Height the hand is lifted to before it travels to its reset pose."""
RESET_TOLERANCE_M = 0.003
SETTLE_S = 0.4
BUS_PATIENCE_S = 60.0
"""How long an arm whose cable is out is waited for between episodes."""
AGAIN_S = 0.5
SPEED_MARGIN = 0.8
"""Share of the guard's speed limit that a step or a reset may use."""
CLIPPED_M = 1e-3
"""A step shortened by more than this counts as clipped."""
GRIPPER_CLOSED_RAD = -0.17
"""The gripper is never commanded further closed."""
GRIPPER_MARGIN_RAD = 0.1
"""How much further than at reset the gripper may be opened."""
STATE_NAMES = (
    *(f"joint_pos.{name}_rad" for name in JOINT_NAMES),
    *(f"joint_vel.{name}_rad_s" for name in JOINT_NAMES),
    *(f"ee_xyz.{axis}_m" for axis in "xyz"),
    *(f"ee_euler.{axis}_rad" for axis in "xyz"),
)


def task_spec(task: TaskConfig) -> Spec:
    """The observation and action contract of a task."""
    return Spec(tuple(task.camera_ids), (*task.resize_size, 3), STATE_NAMES)


def max_steps(task: TaskConfig) -> int:
    """Control steps until an episode times out."""
    return round(task.control_time_s * task.fps)


def policy_image(frame: U8, crop: CropConfig, resize_size: tuple[int, int]) -> U8:
    """Crop a native frame uint8 RGB (H, W, 3) and shrink it by area to resize_size (height, width)."""
    bottom, right = crop.top + crop.height, crop.left + crop.width
    if bottom > frame.shape[0] or right > frame.shape[1]:
        raise CameraError(
            f"crop {crop} does not fit a frame of {frame.shape[1]}x{frame.shape[0]} pixels; "
            "correct task.crop_params_dict or the camera's size"
        )
    part = frame[crop.top : bottom, crop.left : right]
    return np.asarray(cv2.resize(part, resize_size[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def state_vector(state: ArmState, kinematics: Kinematics, wrist_roll_rad: float) -> F32:
    """float32 (18,), ordered as STATE_NAMES: a pure function of one reading of the arm."""
    xyz = kinematics.fk(state.q_rad).xyz_m
    euler = kinematics.tilt_euler(state.q_rad, wrist_roll_rad)
    return np.concatenate([state.q_rad, state.qd_rad_s, xyz, euler]).astype(np.float32)


def hand_range(task: TaskConfig, reference_xyz: F64, hand_xyz: F64) -> tuple[F64, F64]:
    """Lowest and highest commanded position (3,) [m] after one step: the box, and the leash to the hand.

    The leash keeps the reference from running further ahead of the hand; it never pulls it back.
    """
    low = np.maximum(np.minimum(reference_xyz, hand_xyz - task.leash), task.workspace_min)
    high = np.minimum(np.maximum(reference_xyz, hand_xyz + task.leash), task.workspace_max)
    return low, high


def gripper_range(
    task: TaskConfig, stop_rad: float, reference: float, measured: float
) -> tuple[float, float]:
    """Lowest and highest commanded gripper angle [rad] after one step. stop_rad: the arm's closed stop."""
    closed, opened = max(stop_rad, GRIPPER_CLOSED_RAD), task.reset_gripper + GRIPPER_MARGIN_RAD
    low = max(min(reference, measured - task.gripper_leash), closed)
    return low, min(max(reference, measured + task.gripper_leash), opened)


def reset_target(task: TaskConfig, seed: int) -> F64:
    """Where the reset of `seed` brings the hand (3,) [m]."""
    target = np.array(task.reset_xyz)
    if task.random_ee_reset:
        reach = np.array([task.random_ee_range_xy, task.random_ee_range_xy, task.random_ee_range_z])
        target = target + np.random.default_rng((seed, 0x5EED)).uniform(-reach, reach)
    return target


def reset_posture(task: TaskConfig, kinematics: Kinematics, xyz_m: F64) -> F32:
    """Joint angles (6,) [rad] of a reset with the hand at xyz_m (3,) [m]: the same from wherever it comes."""
    neutral = np.zeros(NUM_JOINTS, np.float32)
    neutral[WRIST_ROLL] = task.wrist_roll
    return _held(task, kinematics.ik(xyz_m, kinematics.ik(xyz_m, neutral)))


def _held(task: TaskConfig, q_rad: F32) -> F32:
    """The angles, with wrist roll and gripper as the task resets them."""
    q = q_rad.copy()
    q[WRIST_ROLL], q[GRIPPER] = task.wrist_roll, task.reset_gripper
    return q


@dataclass(slots=True)
class Timing:
    """How the control loop kept its rate. period_s: duration of each step; overruns: steps that came late."""

    period_s: list[float] = field(default_factory=list)
    overruns: int = 0


class Env:
    """One arm, its cameras and its table.

    obs = env.reset(seed)
    while True:
        obs = env.step(action)
    """

    def __init__(
        self,
        *,
        task: TaskConfig,
        arm: Arm,
        cameras: dict[str, Camera],
        clock: Clock,
        kinematics: Kinematics,
        scene: Scene,
        max_joint_speed: float,
        clearance: Clearance | None = None,
        unwell: Callable[[], str] = lambda: "",
    ) -> None:
        """max_joint_speed: what the arm's guard allows [rad/s]; a step never asks for more.

        clearance: what the arm keeps from its table and from itself, as the guard's; the table is at the
        height of the arm's base without it. unwell: why the arm must not move now, in words; empty when it
        may.
        """
        self._unwell = unwell
        self._clearance = clearance or Clearance()
        self._task = task
        self._arm = arm
        self._cameras = cameras
        self._clock = clock
        self._kinematics = kinematics
        self._scene = scene
        self._period_s = 1.0 / task.fps
        self._max_step_rad = SPEED_MARGIN * max_joint_speed * self._period_s
        self._reset_speed_rad_s = min(RESET_SPEED_RAD_S, SPEED_MARGIN * max_joint_speed)
        self._substeps = max(1, round(task.command_hz / task.fps))
        self._box = (np.array(task.workspace_min), np.array(task.workspace_max))
        self._gripper_stop = float(arm.limits.lower_rad[GRIPPER])
        self._reference_xyz: F64 = np.zeros(3)
        self._behind = False
        """The joints are still on their way to the reference."""
        self._reference_q = arm.read().q_rad.copy()
        self._tick_s = clock.now_s()
        self.spec = task_spec(task)
        self.state = arm.read()
        self.frames: dict[str, Frame] = {}
        self.timing = Timing()
        self.clipped_steps = 0
        """Steps of this episode in which the box, the leash, the table or the arm itself shortened the asked
        motion."""

    def await_arm(self, should_stop: Callable[[], bool]) -> bool:
        """Look at the arm; wait while its bus is gone or it is unwell. False when should_stop says so.

        Raises what the arm raises; BusError only when the bus stays away for BUS_PATIENCE_S.
        """
        end_s = self._clock.now_s() + BUS_PATIENCE_S
        while True:
            try:
                self._arm.read()
                if not self._unwell():
                    return True
            except TorqueLost:
                pass  # it holds again where it is; the driver says when it may move
            except BusError:
                if self._clock.now_s() > end_s:
                    raise
            if should_stop():
                return False
            self._clock.sleep_until(self._clock.now_s() + AGAIN_S)

    def reset(
        self, seed: int, should_stop: Callable[[], bool] = lambda: False
    ) -> tuple[Obs, dict[str, float | str]]:
        """Bring the arm to its (randomised) reset pose, arrange the scene, and look.

        Returns the first observation and facts about the start: the scene's, and the achieved hand position.
        Raises NoClearWay when no clear way leads there, and KinematicsError when the arm does not arrive
        within 3 mm, judged from measured joints; ResetStopped, at once, when should_stop says so on the way.
        """
        target = self.reset_target(seed)
        self._travel(target, should_stop)
        facts: dict[str, float | str] = dict(self._scene.arrange(seed))
        self._reference_xyz, self._behind = target, False
        self._tick_s = self._clock.now_s()
        self.timing = Timing()
        self.clipped_steps = 0
        obs = self._look()
        reached = self._kinematics.fk(self.state.q_rad).xyz_m
        facts |= {f"start_{axis}_m": float(value) for axis, value in zip("xyz", reached, strict=True)}
        return obs, facts

    def step(self, action: F32) -> Obs:
        """Execute one action (4,) in [-1, 1] for one control period and look again."""
        check_action(action)
        goal = self._advance_reference(action)
        self._move(goal)
        return self._look()

    def hold(self) -> None:
        """Hold still for one control period; nobody looks, so `state` and `frames` stay as they are."""
        self._move(self._reference_q)

    def _advance_reference(self, action: F32) -> F32:
        """THE line that scales an action: metres for the hand, radians for the gripper; then box and leash.

        The commanded reference is kept apart from the measured pose, so that nothing drifts; the leash keeps
        it from running further ahead of the arm, but never pulls it back, so that a zero action holds.
        """
        task = self._task
        hand = self._kinematics.fk(self.state.q_rad).xyz_m
        asked = self._reference_xyz + task.action_scale * action[:3].astype(np.float64)
        goal_xyz = np.clip(asked, *hand_range(task, self._reference_xyz, hand))

        measured, reference = float(self.state.q_rad[GRIPPER]), float(self._reference_q[GRIPPER])
        allowed = gripper_range(task, self._gripper_stop, reference, measured)
        goal_gripper = float(np.clip(reference + task.gripper_scale * action[3], *allowed))

        goal_q = self._reference_q.copy()
        if self._behind or np.abs(action[:3]).max() > 0:
            goal_q, self._reference_xyz = self._towards(goal_xyz)
        goal_q = self._kept_clear(goal_q, goal_gripper)
        self.clipped_steps += bool(np.abs(self._reference_xyz - asked).max() > CLIPPED_M)
        return goal_q

    def _kept_clear(self, goal_q: F32, goal_gripper: float) -> F32:
        """The goal with this gripper angle, or the last clear pose before it; then the reference stays there.

        The guard refuses what is too near to the table or to the arm itself; so nothing of the sort is sent.
        """
        start, clearance = self._reference_q, self._clearance
        goal = goal_q.copy()
        goal[GRIPPER] = goal_gripper
        if clearance.is_clear(start, goal, KEEP_M):
            return goal
        goal[GRIPPER] = start[GRIPPER]
        arm = clearance.farthest(start, goal, KEEP_M)
        both = arm.copy()
        both[GRIPPER] = goal_gripper
        self._behind = False
        self._reference_xyz = np.clip(self._kinematics.fk(arm).xyz_m, *self._box)
        return both if clearance.is_clear(start, both, KEEP_M) else arm

    def _towards(self, goal_xyz: F64) -> tuple[F32, F64]:
        """Joint angles for the next period, and the position they lead to.

        Near a singularity a short way of the hand is a long way of the joints: then the joints go part of the
        way now and the rest in the next steps, so that an action still means its distance. Where the arm
        cannot reach, the reference stays with the joints: it does not run away, and the way back begins
        at once.
        """
        goal_q = self._kinematics.ik(goal_xyz, self._reference_q)
        reached = self._kinematics.fk(goal_q).xyz_m
        if np.abs(reached - goal_xyz).max() > CLIPPED_M:
            goal_xyz = np.clip(reached, *self._box)
        step = goal_q - self._reference_q
        longest = float(np.abs(step).max())
        self._behind = longest > self._max_step_rad
        if self._behind:
            goal_q = self._reference_q + step * np.float32(self._max_step_rad / longest)
        return goal_q, goal_xyz

    def _move(self, goal_q: F32) -> None:
        """Command the way to goal_q in substeps of one control period, on an absolute schedule."""
        start_q, start_s = self._last_command, self._tick_s
        for substep in range(1, self._substeps + 1):
            due_s = start_s + substep * self._period_s / self._substeps
            if self._clock.now_s() > due_s and substep < self._substeps:
                continue
            self._command(start_q + (goal_q - start_q) * np.float32(substep / self._substeps))
            self._clock.sleep_until(due_s)
        self._reference_q = goal_q
        now_s = self._clock.now_s()
        self.timing.period_s.append(now_s - start_s)
        self._tick_s = start_s + self._period_s
        if now_s > self._tick_s + 0.5 * self._period_s:
            self.timing.overruns += 1
            self._tick_s = now_s

    def _command(self, q_rad: F32) -> None:
        self._last_command = q_rad
        self._arm.command(q_rad)

    def _look(self) -> Obs:
        self.state = self._arm.read()
        self.frames = {name: camera.latest() for name, camera in self._cameras.items()}
        images = {}
        for name, frame in self.frames.items():
            expected = (self._task.camera_height, self._task.camera_width, 3)
            if frame.rgb.shape != expected:
                raise CameraError(
                    f"camera {name!r} gives {frame.rgb.shape}, the task record says {expected} (H, W, 3)"
                )
            images[name] = policy_image(frame.rgb, self._task.crop_params_dict[name], self._task.resize_size)
        return Obs(images, state_vector(self.state, self._kinematics, self._task.wrist_roll))

    def reset_target(self, seed: int) -> F64:
        """Where the reset of `seed` brings the hand (3,) [m]."""
        return reset_target(self._task, seed)

    def _travel(self, target_xyz: F64, should_stop: Callable[[], bool]) -> None:
        """Open the gripper, lift, travel, descend: a planned way in joint space, from wherever the arm is."""
        self.state = self._arm.read()
        # A joint pressed against its stop is measured a little beyond the limit, where no command may go.
        limits = self._arm.limits
        start = self._last_command = np.clip(self.state.q_rad, limits.lower_rad, limits.upper_rad)
        hand, routes = self._kinematics.fk(start).xyz_m, []
        if hand[2] < RESET_CLEARANCE_M:
            lifted = self._kinematics.ik(np.array([hand[0], hand[1], RESET_CLEARANCE_M]), start)
            routes.append([_held(self._task, lifted)])
        goal = reset_posture(self._task, self._kinematics, target_xyz)
        for corner in plan(self._clearance, limits, start, goal, routes):
            self._sweep(corner, should_stop)
        self._reference_q = goal
        self._clock.sleep_until(self._clock.now_s() + SETTLE_S)
        self.state = self._arm.read()
        miss_m = float(np.linalg.norm(self._kinematics.fk(self.state.q_rad).xyz_m - target_xyz))
        if miss_m > RESET_TOLERANCE_M:
            raise KinematicsError(
                f"reset to {np.round(target_xyz, 4)} m missed by {miss_m * 1000:.1f} mm "
                f"(limit {RESET_TOLERANCE_M * 1000:.0f} mm), judged from measured joints"
            )

    def move_joints(self, goal_q: F32) -> ArmState:
        """Bring the joints to goal_q (6,) [rad] on a straight way at reset speed, let them settle, and read.

        For checks of the arm itself; the guard refuses what comes too near to the table or the arm.
        """
        self._last_command = self._arm.read().q_rad
        self._sweep(goal_q)
        self._clock.sleep_until(self._clock.now_s() + SETTLE_S)
        self.state = self._arm.read()
        self._reference_q = goal_q
        return self.state

    def _sweep(self, goal_q: F32, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Straight way in joint space at the reset's speed, commanded at command_hz."""
        start_q, start_s = self._last_command, self._clock.now_s()
        duration_s = float(np.abs(goal_q - start_q).max()) / self._reset_speed_rad_s
        count = max(1, round(duration_s * self._task.command_hz))
        for index in range(1, count + 1):
            if should_stop():
                raise ResetStopped("the arm was stopped on its way to the reset pose; it holds where it is")
            self._command(start_q + (goal_q - start_q) * np.float32(index / count))
            due_s = start_s + index / self._task.command_hz
            self._clock.sleep_until(due_s)
            start_s += max(0.0, self._clock.now_s() - due_s)  # a stall makes it later, never faster
