"""The lock-step twin: the interfaces of a real body, a simulated clock, as fast as the machine allows."""

from __future__ import annotations

from collections import deque

import numpy as np

from robot.errors import CommandRefused
from robot.timing import SimClock
from robot.twin.lift import LiftConfig
from robot.twin.world import World, arrange_lift
from robot.types import F32, JOINT_NAMES, NUM_JOINTS, ArmState, Frame, Limits

ROUNDING_RAD = 1e-3
"""How far beyond a limit a target counts as rounding: less than one servo count."""


class LockstepArm:
    """An Arm inside a World. Commands take effect `latency_s` after they are given, as on the real bus."""

    def __init__(self, world: World, latency_s: float) -> None:
        self._world = world
        self._latency_s = latency_s
        self._pending: deque[tuple[float, F32]] = deque()

    @property
    def limits(self) -> Limits:
        """Range `command` accepts."""
        return self._world.limits

    def read(self) -> ArmState:
        """Measured state now."""
        return ArmState(self._world.q_rad(), self._world.qd_rad_s(), self._world.time_s)

    def command(self, q_rad: F32) -> None:
        """Set the joint target (6,) [rad], in force `latency_s` from now. Raises CommandRefused."""
        if q_rad.shape != (NUM_JOINTS,) or not np.isfinite(q_rad).all():
            raise CommandRefused(f"a joint target must be {NUM_JOINTS} finite numbers [rad], got {q_rad}")
        low, high = self.limits.lower_rad, self.limits.upper_rad
        beyond = np.maximum(low - q_rad, q_rad - high)
        worst = int(np.argmax(beyond))
        if beyond[worst] > ROUNDING_RAD:
            raise CommandRefused(
                f"{JOINT_NAMES[worst]} = {q_rad[worst]:.4f} rad is outside "
                f"{low[worst]:.4f} .. {high[worst]:.4f} rad"
            )
        self._pending.append((self._world.time_s + self._latency_s, np.array(q_rad, np.float32)))

    def advance(self, seconds: float) -> None:
        """Let the world run, applying each pending command when its time has come."""
        end = self._world.time_s + seconds
        while self._pending and self._pending[0][0] < end - 1e-9:
            due_s, goal = self._pending.popleft()
            if due_s > self._world.time_s:
                self._world.step(due_s - self._world.time_s)
            self._world.set_goal(goal)
        if end > self._world.time_s:
            self._world.step(end - self._world.time_s)

    def park(self) -> None:
        """Nothing can fall in a simulation that stops."""

    def close(self) -> None:
        """Nothing to release."""


class LockstepCamera:
    """The gripper camera, rendered when asked."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._count = 0

    def latest(self) -> Frame:
        """The picture of this very moment."""
        self._count += 1
        return Frame(self._world.render_gripper(), self._world.time_s, self._count - 1)

    def close(self) -> None:
        """Nothing to release; the world owns the renderer."""


class LockstepTwin:
    """One world behind the interfaces of a body: `arm`, `camera`, `clock`, and itself as the Scene."""

    def __init__(self, config: LiftConfig, width: int = 640, height: int = 480) -> None:
        self.world = World(width, height)
        self.arm = LockstepArm(self.world, config.latency_s)
        self.camera = LockstepCamera(self.world)
        self.clock = SimClock(self.arm.advance)
        self._config = config

    def arrange(self, seed: int) -> dict[str, float]:
        """Draw the scene of episode `seed`."""
        return arrange_lift(self.world, self._config, seed)

    def lifted(self) -> bool:
        """Ground truth of the task: the cube is pinched and high enough now."""
        return self.world.lifted(self._config.lift_height)

    def close(self) -> None:
        """Release the renderer."""
        self.world.close()
