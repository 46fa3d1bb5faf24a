"""A scripted operator for the twin: a Teleop that sees where the cube is and has a human's hands.

It demonstrates whole episodes, or watches a policy and helps in short corrections. Its hands lag, shake and
pause; its gripper thumb knows only close, hold and open.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from robot.twin import model
from robot.twin.lift import FINGER_CLEARANCE_M, GRASP_M
from robot.twin.world import World
from robot.types import GRIPPER, ArmState, Operator

F64 = NDArray[np.float64]

HOVER_M, CARRY_M = 0.055, 0.10
"""Heights of the hand [m]: above the cube before descending, and where it lifts to."""
ALIGNED_M = 0.010
OPEN_ENOUGH_RAD = 0.7
CLOSING_STEPS = 12
"""Steps of closing without a grip after which the operator opens and tries again."""


class Phase(Enum):
    """What the operator is doing."""

    APPROACH = "approach"
    DESCEND = "descend"
    CLOSE = "close"
    LIFT = "lift"


@dataclass(frozen=True, slots=True)
class Hands:
    """How human the operator is. Noise and gains in action units; pauses in control steps.

    lag: share of the last action kept in the next (0 none). noise: standard deviation of a slow tremor.
    pause_rate: chance of a pause at each step. reaction: steps by which what it sees is old.
    """

    gain: float = 0.3
    lag: float = 0.5
    noise: float = 0.08
    pause_rate: float = 0.05
    pause_steps: tuple[int, int] = (2, 6)
    reaction: int = 1


PERFECT = Hands(gain=0.5, lag=0.0, noise=0.0, pause_rate=0.0, reaction=0)


class Script:
    """The skill itself: from what is seen to an action, by phases. No randomness of its own."""

    def __init__(self, world: World, action_scale_m: float, gain: float) -> None:
        self._world = world
        self._scale_m = action_scale_m
        self._gain = gain
        self.phase = Phase.APPROACH
        self._closing = 0

    def reset(self) -> None:
        """Take up the skill where the arm now is: lift what is gripped, else approach."""
        self.phase, self._closing = (Phase.LIFT if self._gripped() else Phase.APPROACH), 0

    def _gripped(self) -> bool:
        contacts = {contact.other for contact in self._world.cube_contacts()}
        return {model.FIXED_FINGER, model.MOVING_FINGER} <= contacts

    def remaining_m(self) -> float:
        """How much is left to do, as a distance: to the grasp, then up to the carrying height [m]."""
        hand, lift_m = self._world.hand_xyz_m(), CARRY_M - GRASP_M
        if self._gripped():
            return max(0.0, CARRY_M - float(hand[2]))
        return lift_m + float(np.linalg.norm(np.array([*self.goal_xy(), GRASP_M]) - hand))

    def goal_xy(self) -> F64:
        """(2,) where the hand must be for the cube to stand between the fingers [m]."""
        gripper_x = self._world.hand_rotmat()[:, 2]
        across = gripper_x[:2] / max(float(np.linalg.norm(gripper_x[:2])), 1e-6)
        offset = self._world.cube_size_m() / 2 + FINGER_CLEARANCE_M
        return self._world.cube_xyz_m()[:2] - across * offset

    def act(self, gripper_rad: float) -> F64:
        """(4,) action before the hands spoil it."""
        hand = self._world.hand_xyz_m()
        off_xy = self.goal_xy() - hand[:2]
        self._advance(float(np.linalg.norm(off_xy)), float(hand[2]), gripper_rad, self._gripped())
        if self.phase is Phase.APPROACH:
            near = float(np.linalg.norm(off_xy)) < 3 * ALIGNED_M
            return self._towards(off_xy, (HOVER_M if near else HOVER_M + 0.015) - hand[2], 1.0)
        if self.phase is Phase.DESCEND:
            return self._towards(off_xy, GRASP_M - hand[2], 1.0 if gripper_rad < OPEN_ENOUGH_RAD else 0.0)
        if self.phase is Phase.CLOSE:
            return self._towards(np.zeros(2), GRASP_M - hand[2], -1.0)
        return self._towards(np.zeros(2), CARRY_M - hand[2], -1.0)

    def _advance(self, off_m: float, height_m: float, gripper_rad: float, gripped: bool) -> None:
        if self.phase is Phase.APPROACH and off_m < ALIGNED_M and gripper_rad > OPEN_ENOUGH_RAD:
            self.phase = Phase.DESCEND
        elif self.phase is Phase.DESCEND and off_m > 2.5 * ALIGNED_M:
            self.phase = Phase.APPROACH
        elif self.phase is Phase.DESCEND and height_m < GRASP_M + 0.006:
            self.phase, self._closing = Phase.CLOSE, 0
        elif self.phase is Phase.CLOSE:
            self._closing += 1
            if gripped and self._closing >= 3:
                self.phase = Phase.LIFT
            elif self._closing > CLOSING_STEPS:
                self.phase = Phase.APPROACH
        elif self.phase is Phase.LIFT and not gripped and height_m > GRASP_M + 0.02:
            self.phase = Phase.APPROACH

    def _towards(self, off_xy: F64, off_z: float, gripper: float) -> F64:
        move = self._gain * np.array([*off_xy, off_z]) / self._scale_m
        return np.array([*np.clip(move, -1.0, 1.0), gripper])


class Skill(Protocol):
    """What hands can carry out. act: (4,) action for the gripper's angle [rad], before the hands spoil it."""

    def reset(self) -> None: ...

    def act(self, gripper_rad: float) -> F64: ...


class Demonstrator:
    """A Teleop that plays every step itself: demonstrations, and the scripted baseline.

    skill: what it plays; by default the task itself.
    """

    def __init__(self, world: World, action_scale_m: float, hands: Hands, skill: Skill | None = None) -> None:
        self._script = skill or Script(world, action_scale_m, hands.gain)
        self._hands = hands
        self.reset(0)

    def reset(self, seed: int) -> None:
        """A new episode begins."""
        self._script.reset()
        self._rng = np.random.default_rng((seed, 0x0DE))
        self._tremor: F64 = np.zeros(3)
        self._last: F64 = np.zeros(3)
        self._paused = 0
        self._seen: list[F64] = []

    def read(self, state: ArmState) -> Operator:
        """The operator's action now; it always has the arm."""
        wanted = self._script.act(float(state.q_rad[GRIPPER]))
        self._seen.append(wanted)
        old = self._seen[max(0, len(self._seen) - 1 - self._hands.reaction)]
        return Operator(action=self._by_hand(old).astype(np.float32))

    def _by_hand(self, wanted: F64) -> F64:
        hands, rng = self._hands, self._rng
        if self._paused == 0 and rng.random() < hands.pause_rate:
            self._paused = int(rng.integers(*hands.pause_steps, endpoint=True))
        if self._paused > 0:
            self._paused -= 1
            self._last = np.zeros(3)
            return np.zeros(4)
        self._tremor = 0.8 * self._tremor + 0.6 * hands.noise * rng.standard_normal(3)
        move = hands.lag * self._last + (1 - hands.lag) * wanted[:3]
        self._last = move
        return np.array([*np.clip(move + self._tremor, -1.0, 1.0), wanted[3]])

    def stop_asked(self) -> bool:
        """Never."""
        return False

    def close(self) -> None:
        """Nothing to release."""


@dataclass(frozen=True, slots=True)
class Patience:
    """When the helping operator takes over, and for how long.

    dawdle_steps: steps without progress of progress_m after which it may help. help_steps: length of one
    correction. rate: chance of helping when help is due, in the first episode; it falls linearly to zero over
    `episodes` episodes: the budget decays.
    """

    rate: float = 0.8
    episodes: int = 60
    dawdle_steps: int = 10
    progress_m: float = 0.004
    help_steps: tuple[int, int] = (5, 15)


class Corrector:
    """A Teleop that lets the policy play and corrects it briefly when it drifts or dawdles.

    Episodes are counted from `first_episode` on, so that a restarted actor goes on with the same budget.
    """

    def __init__(
        self, world: World, action_scale_m: float, hands: Hands, patience: Patience, first_episode: int = 0
    ) -> None:
        self._script = Script(world, action_scale_m, hands.gain)
        self._demonstrator = Demonstrator(world, action_scale_m, hands)
        self._patience = patience
        self._episode = first_episode - 1
        self.reset(0)
        self._episode = first_episode - 1

    def reset(self, seed: int) -> None:
        """A new episode begins; the budget shrinks by one episode's share."""
        self._rng = np.random.default_rng((seed, 0xC0))
        self._episode += 1
        self._seed, self._helps = seed, 0
        self._best_m, self._idle_steps, self._left = np.inf, 0, 0

    @property
    def rate(self) -> float:
        """Chance of helping when help is due, now."""
        share_left = 1.0 - self._episode / max(1, self._patience.episodes)
        return self._patience.rate * max(0.0, share_left)

    def read(self, state: ArmState) -> Operator:
        """A correction's action while one lasts, else nothing."""
        if self._left == 0 and self._due():
            self._helps += 1
            self._demonstrator.reset(self._seed * 1000 + self._helps)
            self._left = int(self._rng.integers(*self._patience.help_steps, endpoint=True))
        if self._left == 0:
            return Operator()
        self._left -= 1
        self._best_m, self._idle_steps = np.inf, 0
        return self._demonstrator.read(state)

    def _due(self) -> bool:
        """No progress for a while: help is due, and given with the present chance (else it waits again)."""
        remaining_m = self._script.remaining_m()
        if remaining_m < self._best_m - self._patience.progress_m:
            self._best_m, self._idle_steps = remaining_m, 0
            return False
        self._idle_steps += 1
        if self._idle_steps < self._patience.dawdle_steps:
            return False
        self._idle_steps = 0
        return bool(self._rng.random() < self.rate)

    def stop_asked(self) -> bool:
        """Never."""
        return False

    def close(self) -> None:
        """Nothing to release."""
