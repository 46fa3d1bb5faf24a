"""The lock-step body for tests: a real Env over the real twin, with or without pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hilserl.config import SuccessConfig, TaskConfig
from hilserl.env import Env
from hilserl.types import Obs, Step
from robot.clearance import Clearance
from robot.errors import CommandRefused
from robot.kinematics import Kinematics
from robot.twin.lift import LiftConfig
from robot.twin.lockstep import LockstepTwin
from robot.types import F32, GRIPPER, Arm, ArmState, Camera, Frame, Limits, Operator

LIFT = TaskConfig(
    name="lift", random_ee_range_xy=0.03, random_ee_range_z=0.01, success=SuccessConfig(kind="oracle")
)
EMPTY_TABLE = LiftConfig(cube_center_xy=(-0.3, 0.3), cube_range_xy=0.0)
"""The cube lies where the hand never comes."""
MAX_JOINT_SPEED = 4.0


def at(task: TaskConfig, *xyz: float) -> TaskConfig:
    """The task with this reset position, not randomised, and an empty table."""
    return replace(task, reset_xyz=xyz, random_ee_reset=False, scene=EMPTY_TABLE)


def action(x: float = 0.0, y: float = 0.0, z: float = 0.0, gripper: float = 0.0) -> F32:
    return np.array([x, y, z, gripper], np.float32)


class BlankCamera:
    """Gives the same black picture; rendering costs most of a lock-step test."""

    def __init__(self, width: int = 640, height: int = 480) -> None:
        self._frame = Frame(np.zeros((height, width, 3), np.uint8), 0.0, 0)

    def latest(self) -> Frame:
        return self._frame

    def close(self) -> None:
        """Nothing to release."""


class LoggedArm:
    """Passes everything on and keeps the commands. refuse: it refuses each."""

    def __init__(self, arm: Arm) -> None:
        self._arm = arm
        self.commands: list[F32] = []
        self.refuse = False

    @property
    def limits(self) -> Limits:
        return self._arm.limits

    def read(self) -> ArmState:
        return self._arm.read()

    def command(self, q_rad: F32) -> None:
        if self.refuse:
            raise CommandRefused("no further")
        self._arm.command(q_rad)
        self.commands.append(q_rad.copy())

    def park(self) -> None:
        self._arm.park()

    def close(self) -> None:
        self._arm.close()


class Body:
    """Twin and Env of one task. camera: what the Env looks through, the blank one when None.

    table_z_m: where the Env believes the table."""

    def __init__(
        self,
        task: TaskConfig = LIFT,
        camera: Camera | None = None,
        pictures: bool = False,
        table_z_m: float = 0.0,
    ) -> None:
        self.task = task
        self.twin = LockstepTwin(task.scene)
        self.arm = LoggedArm(self.twin.arm)
        self.kinematics = Kinematics()
        chosen = camera or (self.twin.camera if pictures else BlankCamera())
        self.env = Env(
            task=task,
            arm=self.arm,
            cameras={"gripper_cam": chosen},
            clock=self.twin.clock,
            kinematics=self.kinematics,
            scene=self.twin,
            max_joint_speed=MAX_JOINT_SPEED,
            clearance=Clearance(table_z_m),
        )

    def hand(self) -> np.ndarray:
        """(3,) measured position of the hand [m]."""
        return self.kinematics.fk(self.env.state.q_rad).xyz_m

    def gripper(self) -> float:
        """Measured gripper in units of 0 (closed) to 100 (open)."""
        low, high = self.arm.limits.lower_rad[GRIPPER], self.arm.limits.upper_rad[GRIPPER]
        return float(100 * (self.env.state.q_rad[GRIPPER] - low) / (high - low))

    def play(self, *steps: F32, rest: int = 0) -> None:
        """Execute the actions, then `rest` zero actions."""
        for step in (*steps, *[action()] * rest):
            self.env.step(step)


class Tape:
    """A listener that keeps the episode."""

    def __init__(self) -> None:
        self.obs: list[Obs] = []
        self.steps: list[Step] = []

    def begin(self, obs: Obs) -> None:
        self.obs.append(obs)

    def step(self, step: Step) -> None:
        self.steps.append(step)
        self.obs.append(step.obs)


class Says:
    """A Teleop that says a list, by step, and nothing after it."""

    def __init__(self, *says: Operator) -> None:
        self._says = says
        self._step = -1

    def reset(self, seed: int) -> None:
        self._step = -1

    def read(self, state: ArmState) -> Operator:
        self._step += 1
        return self._says[self._step] if self._step < len(self._says) else Operator()

    def stop_asked(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing to release."""


class Plays:
    """A policy that plays a list of actions, by step, and zeros after it. Counts what it observed."""

    def __init__(self, *actions: F32) -> None:
        self._actions = actions
        self.seen = 0

    def reset(self) -> None:
        self.seen = 0

    def observe(self, obs: Obs) -> None:
        self.seen += 1

    def act(self, obs: Obs) -> F32:
        self.seen += 1
        return self._actions[self.seen - 1] if self.seen <= len(self._actions) else action()
