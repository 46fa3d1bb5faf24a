"""A scripted operator who rehearses for a reward classifier: lifts, and what only looks like one.

Every other episode is a near miss: the cube is pushed, pinched at an edge, raised too little and dropped, or
not there at all. The operator ends each with a button, as a person would.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum

import numpy as np

from robot.twin.lift import GRASP_M
from robot.twin.operator import CARRY_M, F64, HOVER_M, OPEN_ENOUGH_RAD, Demonstrator, Hands, Script
from robot.twin.world import World
from robot.types import ArmState, Event, Operator, Scene


class Scenario(Enum):
    """What an episode shows."""

    LIFT = "lift"
    PUSHED = "pushed"
    PINCHED = "pinched at an edge"
    DROPPED = "dropped"
    ABSENT = "cube absent"


NEAR_MISSES = (Scenario.PUSHED, Scenario.PINCHED, Scenario.DROPPED, Scenario.ABSENT)
SCENARIO = "scenario"
"""Name of the fact that says which one an episode is."""
AWAY_XY_M = (-0.3, 0.3)
"""Where the cube lies when it is absent: behind the arm, out of sight."""
RAISED = 0.5
"""Share of the height of a success to which a near miss raises the cube."""
EDGE = 0.5
"""Share of the cube's half edge by which an edge grip is off its middle."""
HELD_STEPS = 10
"""So long a result is shown before the button."""
CLOSED_RAD = 0.0
"""The gripper pushes when it is about this far closed."""
CLOSE_STEPS = 8
PUSH_STEPS = 25
THERE_M = 0.008

Move = tuple[F64, float]
"""Where the hand shall go (3,) [m], and the thumb: -1 closes, 0 holds, +1 opens."""


def scenario_of(seed: int) -> Scenario:
    """Lift and near miss in turn, each kind of near miss as often as the others."""
    return NEAR_MISSES[seed // 2 % len(NEAR_MISSES)] if seed % 2 else Scenario.LIFT


class Rehearser:
    """A Teleop and its Scene: arranges an episode, plays it, and ends it with a button.

    scene: what arranges the table otherwise. lift_height_m: from here on it is a success.
    """

    def __init__(
        self, world: World, scene: Scene, lift_height_m: float, action_scale_m: float, hands: Hands
    ) -> None:
        self._world, self._scene = world, scene
        self._lift_height_m, self._scale_m, self._hands = lift_height_m, action_scale_m, hands
        self.reset(0)

    def arrange(self, seed: int) -> Mapping[str, float | str]:
        """Arrange the scene of episode `seed`; without a cube where it shall be absent."""
        facts = self._scene.arrange(seed)
        scenario = scenario_of(seed)
        if scenario is Scenario.ABSENT:
            self._world.place_cube(*AWAY_XY_M, 0.0, self._world.cube_size_m())
            facts = {name: fact for name, fact in facts.items() if not name.startswith("cube_")}
        return {**facts, SCENARIO: scenario.value}

    def reset(self, seed: int) -> None:
        """A new episode begins."""
        self._scenario, self._shown = scenario_of(seed), 0
        script = Script(self._world, self._scale_m, self._hands.gain)
        self._near_miss: NearMiss | None = None
        if self._scenario is not Scenario.LIFT:
            raised_m = RAISED * self._lift_height_m
            self._near_miss = NearMiss(self._world, script, self._scenario, seed, raised_m, self._scale_m)
        self._hand = Demonstrator(self._world, self._scale_m, self._hands, self._near_miss or script)
        self._hand.reset(seed)

    def read(self, state: ArmState) -> Operator:
        """The operator's action, and the button once the result has been shown long enough."""
        action = self._hand.read(state).action
        if self._near_miss is not None:
            return Operator(action, Event.FAILURE if self._near_miss.done else None)
        self._shown = self._shown + 1 if self._world.lifted(self._lift_height_m) else 0
        return Operator(action, Event.SUCCESS if self._shown >= HELD_STEPS else None)

    def stop_asked(self) -> bool:
        """Never."""
        return False

    def close(self) -> None:
        """Nothing to release."""


class NearMiss:
    """A Skill that fails on purpose, by moves one after the other. done: the result has been shown."""

    def __init__(
        self, world: World, script: Script, scenario: Scenario, seed: int, raised_m: float, scale_m: float
    ) -> None:
        self._world, self._script, self._scenario = world, script, scenario
        self._seed, self._raised_m, self._scale_m = seed, raised_m, scale_m
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.done = False
        self._gripper_rad = 0.0
        rng = np.random.default_rng((self._seed, 0x0EA2))
        match self._scenario:
            case Scenario.PUSHED:
                self._moves = self._push(rng)
            case Scenario.PINCHED:
                self._moves = self._grip(EDGE * float(rng.choice([-1.0, 1.0])), self._raised_m / 2)
            case Scenario.DROPPED:
                self._moves = self._drop()
            case Scenario.ABSENT:
                self._moves = self._grasp_nothing(rng)
            case Scenario.LIFT:
                raise ValueError("a lift is no near miss")

    def act(self, gripper_rad: float) -> F64:
        """(4,) action before the hands spoil it."""
        self._gripper_rad = gripper_rad
        move = next(self._moves, None)
        if move is None:
            self.done = True
            return np.zeros(4)
        goal, thumb = move
        off = 0.5 * (goal - self._world.hand_xyz_m()) / self._scale_m
        return np.array([*np.clip(off, -1.0, 1.0), thumb])

    def _go(self, xy: F64, z: float, thumb: float, *, within: float = THERE_M) -> Iterator[Move]:
        """Until the hand is there."""
        goal = np.array([*xy, z])
        while np.linalg.norm(goal - self._world.hand_xyz_m()) > within:
            yield goal, thumb

    def _stay(self, steps: int, thumb: float) -> Iterator[Move]:
        goal = self._world.hand_xyz_m()
        for _ in range(steps):
            yield goal, thumb

    def _descend(self, xy: F64) -> Iterator[Move]:
        """Open, above the place, and down to the height of the grasp."""
        yield from self._go(xy, HOVER_M, 1.0)
        while self._gripper_rad < OPEN_ENOUGH_RAD:
            yield np.array([*xy, HOVER_M]), 1.0
        yield from self._go(xy, GRASP_M, 0.0)

    def _grip(self, off_middle: float, raise_m: float) -> Iterator[Move]:
        """Grip the cube `off_middle` half edges from its middle, raise it a little, and show that."""
        across = self._world.hand_rotmat()[:2, 2]
        along = np.array([-across[1], across[0]]) / max(float(np.linalg.norm(across)), 1e-6)
        yield from self._descend(self._script.goal_xy() + along * off_middle * self._world.cube_size_m() / 2)
        yield from self._stay(CLOSE_STEPS, -1.0)
        yield from self._go(self._world.hand_xyz_m()[:2], GRASP_M + raise_m, -1.0)
        yield from self._stay(HELD_STEPS, -1.0)

    def _drop(self) -> Iterator[Move]:
        yield from self._grip(0.0, self._raised_m)
        yield from self._stay(6, 1.0)
        yield from self._go(self._world.hand_xyz_m()[:2], CARRY_M, 0.0, within=2 * THERE_M)
        yield from self._stay(HELD_STEPS, 0.0)

    def _push(self, rng: np.random.Generator) -> Iterator[Move]:
        """With the gripper closed, down beside the cube and through where it stands."""
        way = rng.uniform(-np.pi, np.pi)
        step = np.array([np.cos(way), np.sin(way)]) * (self._world.cube_size_m() / 2 + 0.03)
        start, stop = self._world.cube_xyz_m()[:2] - step, self._world.cube_xyz_m()[:2] + 0.5 * step
        while self._gripper_rad > CLOSED_RAD:
            yield np.array([*start, HOVER_M]), -1.0
        yield from self._go(start, HOVER_M, -1.0)
        yield from self._go(start, GRASP_M + 0.004, -1.0)
        goal = np.array([*stop, GRASP_M + 0.004])
        for _ in range(PUSH_STEPS):
            if np.linalg.norm(goal - self._world.hand_xyz_m()) < THERE_M:
                break
            yield goal, -1.0
        yield from self._stay(HELD_STEPS, 0.0)

    def _grasp_nothing(self, rng: np.random.Generator) -> Iterator[Move]:
        """The whole motion of a lift, at a place where nothing is."""
        xy = self._world.hand_xyz_m()[:2] + rng.uniform(-0.03, 0.03, 2)
        yield from self._descend(xy)
        yield from self._stay(CLOSE_STEPS, -1.0)
        yield from self._go(xy, CARRY_M, -1.0)
        yield from self._stay(HELD_STEPS, -1.0)
