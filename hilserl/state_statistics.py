"""Mean and spread of the state components, by which the networks normalise their inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hilserl.networks import DEGENERATE_STD
from hilserl.ring_journal import ReplayError
from robot.types import F32

MIN_SPREAD = {"rad": 0.05, "rad_s": 0.3, "m": 0.01}
"""Smallest spread a state component of a unit is divided by."""


def state_statistics(states: F32, names: Sequence[str]) -> tuple[F32, F32]:
    """Mean and spread (S,) of states (N, S) whose components are called `names`, units last.

    The spread is the standard deviation, but not below MIN_SPREAD of the component's unit: demonstrations
    that hardly move a component must not turn an ordinary motion into an input of 30. A component that never
    moves keeps its 0 and is dropped by the network.
    """
    exact = states.astype(np.float64)
    spread = exact.std(0)
    floor = np.array([MIN_SPREAD[_unit(name)] for name in names])
    spread = np.where(spread < DEGENERATE_STD, 0.0, np.maximum(spread, floor))
    return exact.mean(0).astype(np.float32), spread.astype(np.float32)


def _unit(state_name: str) -> str:
    """Unit at the end of a state component's name: `joint_vel.elbow_flex_rad_s` is in rad_s."""
    for unit in sorted(MIN_SPREAD, key=len, reverse=True):
        if state_name.endswith(f"_{unit}"):
            return unit
    raise ReplayError(f"state component {state_name!r} must end in one of the units {sorted(MIN_SPREAD)}")
