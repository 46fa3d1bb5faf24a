"""Measured against commanded motion of recorded episodes: lag, correlation, step errors, speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hilserl.dataset_actions import TOO_FAST, Trajectory
from robot.kinematics import F64
from robot.types import GRIPPER

USED_M = 1e-3
"""An axis is used when its steps vary by more than this."""
STEP_ERROR_M = 0.005
GRIPPER_MOVES_RAD = 0.03
"""A step in which the gripper moves at least this far counts as a move."""
BLOCKED_SHARE = 0.1
"""Share of the moves in which the hand may be blocked without the set being refused for it."""
WINDOW_S = 0.3
"""Moves are correlated over this time: a hand held up for a step that then slips is still explained."""
LAG_STEPS = 3
"""Longest lag looked for, either way."""


@dataclass(frozen=True, slots=True)
class Motion:
    """How well actions and measured motion agree over a dataset.

    correlation: {axis: of moves over WINDOW_S, lag taken out}, used axes only. within: share of steps within
    5 mm. lag_s: how far the measured motion is behind. clipped: share of steps too fast for action_scale.
    held: share of steps in which box or leash held the commanded path back. turn_rad: largest turn of the
    hand away from how the environment holds it. needed_scale_m: action_scale that would hold every step.
    gripper_share: of the gripper's moves, those that were asked for. gripper_clipped: share of steps in which
    it was faster than gripper_scale allows.
    """

    correlation: dict[str, float]
    within: float
    lag_s: float
    clipped: float
    held: float
    turn_rad: float
    needed_scale_m: float
    gripper_share: float
    gripper_clipped: float

    def sentence(self) -> str:
        """One line for a person."""
        axes = ", ".join(f"{axis} {value:.3f}" for axis, value in self.correlation.items())
        return (
            f"commanded and measured motion correlate {axes}; {self.within:.1%} of the steps within "
            f"{STEP_ERROR_M * 1000:g} mm; the arm follows by {self.lag_s * 1000:.0f} ms; {self.clipped:.1%} "
            f"faster than action_scale, {self.held:.1%} held back by box or leash; hand turned by at most "
            f"{np.degrees(self.turn_rad):.0f} degrees; {self.gripper_share:.0%} of gripper moves explained, "
            f"{self.gripper_clipped:.1%} of its steps faster than gripper_scale"
        )


def motion_lag(pairs: Sequence[tuple[F64, F64]]) -> float:
    """Steps by which measured paths (T + 1, 3) follow commanded ones: where their steps correlate most."""
    scores = []
    for shift in range(-LAG_STEPS, LAG_STEPS + 1):
        product = power_a = power_b = 0.0
        for commanded, measured in pairs:
            a, b = np.diff(commanded, axis=0), np.diff(measured, axis=0)
            rows = np.arange(max(0, -shift), min(len(a), len(a) - shift))
            a, b = a[rows], b[rows + shift]
            product, power_a, power_b = (
                product + (a * b).sum(),
                power_a + (a * a).sum(),
                power_b + (b * b).sum(),
            )
        scores.append(product / max(np.sqrt(power_a * power_b), 1e-12))
    best = int(np.argmax(scores))
    if best in (0, 2 * LAG_STEPS):
        return float(best - LAG_STEPS)
    before, peak, after = scores[best - 1 : best + 2]
    return float(best - LAG_STEPS + 0.5 * (before - after) / min(before - 2 * peak + after, -1e-12))


def moves(trajectory: Trajectory, lag: float) -> tuple[F64, F64]:
    """Commanded and measured moves (n, 3) [m] of the steps, the measured ones taken `lag` steps later."""
    times = np.arange(len(trajectory.hand), dtype=np.float64)
    later = np.stack([np.interp(times + lag, times, axis) for axis in trajectory.hand.T], axis=1)
    count = len(trajectory) - int(np.ceil(lag))
    commanded = np.diff(trajectory.path.reference, axis=0)
    return commanded[:count], np.diff(later, axis=0)[:count]


def correlation(pairs: Sequence[tuple[F64, F64]], fps: float) -> dict[str, float]:
    """{axis: correlation of commanded and measured moves over WINDOW_S}, of the axes that are used.

    The BLOCKED_SHARE of moves that agree least is left out: a hand pressed against something stands still.
    """
    window = max(1, round(WINDOW_S * fps))
    steps = np.concatenate([commanded for commanded, _ in pairs])
    commanded, measured = (np.concatenate([_over(pair[side], window) for pair in pairs]) for side in (0, 1))
    off = np.linalg.norm(commanded - measured, axis=1)
    free = off <= np.quantile(off, 1 - BLOCKED_SHARE)
    commanded, measured = commanded[free], measured[free]
    return {
        "xyz"[axis]: float(np.corrcoef(commanded[:, axis], measured[:, axis])[0, 1])
        for axis in range(3)
        if steps[:, axis].std() > USED_M and measured[:, axis].std() > 0
    }


def _over(steps: F64, window: int) -> F64:
    """Moves (n - window + 1, 3) over `window` steps (n, 3) each."""
    path = np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)])
    over: F64 = path[window:] - path[:-window]
    return over


def within_error(commanded: F64, measured: F64) -> float:
    """Share of the moves that agree to within STEP_ERROR_M."""
    if not len(commanded):
        return 1.0
    return float((np.linalg.norm(commanded - measured, axis=1) < STEP_ERROR_M).mean())


def gripper_share(trajectories: Sequence[Trajectory], lag: float) -> float:
    """Of the steps in which the gripper moved, the share in which the action asked for that direction."""
    agreed: list[NDArray[np.bool_]] = []
    for trajectory in trajectories:
        times = np.arange(len(trajectory.q), dtype=np.float64)
        turns = np.diff(np.interp(times + lag, times, trajectory.q[:, GRIPPER]))
        moved = np.abs(turns) > GRIPPER_MOVES_RAD
        agreed.append(np.sign(turns[moved]) == np.sign(trajectory.path.action[moved, 3]))
    every = np.concatenate(agreed)
    return float(every.mean()) if len(every) else 1.0


def speed(trajectories: Sequence[Trajectory]) -> tuple[float, float, float]:
    """Shares of steps too fast for action_scale, for gripper_scale; the action_scale [m] that holds all."""
    asked = np.abs(np.concatenate([trajectory.path.asked for trajectory in trajectories])) > TOO_FAST
    steps = np.concatenate([np.abs(np.diff(t.path.wanted, axis=0)) for t in trajectories])
    return float(asked[:, :3].any(axis=1).mean()), float(asked[:, 3].mean()), float(steps.max())
