"""Checks that move the arm: directions, distances, the gripper, resets, and the rate of the loop.

All of them play through the same `Env` as training does, so that what is measured is what will be learned
with.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np

from hilserl.doctor.context import Context, Missing
from hilserl.doctor.findings import Finding, Picture, Status, graded, judged
from hilserl.doctor.plots import misses_plot, periods_plot, ways_plot
from hilserl.env import RESET_TOLERANCE_M
from hilserl.types import ACTION_SIZE
from robot.errors import CameraError, KinematicsError
from robot.kinematics import F64, Kinematics
from robot.types import F32, GRIPPER, JOINT_NAMES

SEED = 80_000_000
"""Where the seeds of the pre-flight's resets start."""
SETTLE_STEPS = 8
STEP_OFF_M, ACROSS_M = 0.002, 0.002
MIN_SHARE = 0.7
"""Of the way of a unit action that must lie along its axis."""
GRIPPER_UNIT = 0.01
"""Share of the gripper's range that counts as one unit."""
HOLD_UNITS = 1.0
DRIFT_M, DRIFT_S = 0.002, 10.0
RESETS = 20
NUDGE_RAD, MIN_FOLLOWED = 0.12, 0.8
RATE_OFF, OVERRUN_SHARE = 0.02, 0.01
LATE_SHARE = 0.01
"""Of steps whose picture may come late; each costs an episode."""
TIMED_STEPS = 100
AXES = "xyz"


class _Arm:
    """The arm of a context, played through `Env`.

    What these checks measure are joints: a step or a reset whose picture came late has been made and read
    all the same. Such pictures are counted, and told under the camera.
    """

    def __init__(self, context: Context) -> None:
        self.env, self._context, self._kinematics = context.body().env, context, Kinematics()

    @property
    def hand(self) -> F64:
        """Measured position (3,) [m]."""
        return self._kinematics.fk(self.env.state.q_rad).xyz_m

    def reset(self, seed: int) -> None:
        """To the start of `seed`."""
        self._look(lambda: self.env.reset(seed))

    def act(self, action: F32 | None = None, steps: int = 1) -> None:
        """One action, or nothing, for so many steps."""
        asked = np.zeros(ACTION_SIZE, np.float32) if action is None else action
        for _ in range(steps):
            self._look(lambda: self.env.step(asked))

    def _look(self, play: Callable[[], object]) -> None:
        self._context.looks += 1
        try:
            play()
        except CameraError as error:  # it comes after the motion and the reading
            self._context.late.append(str(error))


def _unit(axis: int, sign: float) -> F32:
    action = np.zeros(ACTION_SIZE, np.float32)
    action[axis] = sign
    return action


def joints(context: Context) -> list[Finding]:
    """Each joint, asked to move a little, moves that way and that far."""
    body = context.body()
    with suppress(KinematicsError):  # a reset that misses has a reason, which is what is looked for here
        _Arm(context).reset(SEED)
    start, faults, worst = body.env.move_joints(body.arm.read().q_rad).q_rad, [], 1.0
    for joint, name in enumerate(JOINT_NAMES):
        room = body.arm.limits.upper_rad[joint] - start[joint]
        sign = 1.0 if room > 2 * NUDGE_RAD else -1.0
        goal = start.copy()
        goal[joint] += np.float32(sign * NUDGE_RAD)
        moved = float(body.env.move_joints(goal).q_rad[joint] - start[joint]) * sign / NUDGE_RAD
        start = body.env.move_joints(start).q_rad
        worst = min(worst, moved)
        if moved < MIN_FOLLOWED:
            faults.append(f"{name} moved {100 * moved:.0f} %")
    value = "; ".join(faults) or f"all follow, the least by {100 * worst:.0f} %"
    limit = f"at least {100 * MIN_FOLLOWED:.0f} % of {np.degrees(NUDGE_RAD):.0f} degrees, the same way"
    return [
        judged("joint_motion", not faults, value, limit, "calibrate again; look for a loose horn or load")
    ]


def unit_actions(context: Context) -> list[Finding]:
    """+-x, +-y, +-z: one unit action moves the hand by the scale, along its axis, and across by little."""
    arm, scale = _Arm(context), context.config.task.action_scale
    lengths, across, shares, faults = [], [], [], []
    ways: dict[str, F64] = {}
    for axis in range(3):
        for sign in (1.0, -1.0):
            arm.reset(SEED + 1)
            arm.act(steps=SETTLE_STEPS)
            start = arm.hand
            arm.act(_unit(axis, sign))
            arm.act(steps=SETTLE_STEPS)
            way = arm.hand - start
            ways[f"{'+' if sign > 0 else '-'}{AXES[axis]}"] = way
            along, off = sign * way[axis], np.delete(way, axis)
            lengths.append(along - scale)
            across.append(float(np.abs(off).max()))
            shares.append(max(0.0, float(along)) / max(float(np.abs(way).sum()), 1e-6))
            if abs(lengths[-1]) > STEP_OFF_M or across[-1] > ACROSS_M or shares[-1] <= MIN_SHARE:
                moved = ", ".join(f"{1000 * part:+.1f}" for part in way)
                faults.append(f"{'+' if sign > 0 else '-'}{AXES[axis]} moved ({moved}) mm")
    value = "; ".join(faults) or (
        f"{1000 * (scale + min(lengths)):.1f} to {1000 * (scale + max(lengths)):.1f} mm, across at most "
        f"{1000 * max(across):.1f} mm, {100 * min(shares):.0f} % along the axis"
    )
    limit = (
        f"{1000 * scale:.0f} +- {1000 * STEP_OFF_M:.0f} mm, across {1000 * ACROSS_M:.0f} mm, "
        f"{100 * MIN_SHARE:.0f} % along"
    )
    advice = "a wrong axis or sign is a wrong calibration or assembly; a short way, a load or a weak supply"
    plot = Picture("where each unit action led the hand, and how far it should", ways_plot(ways, scale))
    return [judged("unit_actions", not faults, value, limit, advice, pictures=(plot,))]


def gripper(context: Context) -> list[Finding]:
    """-1 closes, 0 holds within one unit, +1 opens."""
    arm = _Arm(context)
    span = float(np.ptp([limit[GRIPPER] for limit in _limits(context)]))
    arm.reset(SEED + 2)
    arm.act(steps=SETTLE_STEPS)
    marks = [float(arm.env.state.q_rad[GRIPPER])]
    for thumb in (-1.0, 0.0, 1.0, 0.0):
        arm.act(_unit(3, thumb), steps=2)
        if thumb == 0.0:
            before = float(arm.env.state.q_rad[GRIPPER])
            arm.act(steps=10)
            marks.append(abs(float(arm.env.state.q_rad[GRIPPER]) - before) / (GRIPPER_UNIT * span))
        else:
            arm.act(steps=SETTLE_STEPS)
            marks.append(float(arm.env.state.q_rad[GRIPPER]))
    start, closed, held, opened, held_open = marks
    hold = max(held, held_open)
    good = closed < start - 0.1 and opened > closed + 0.1 and hold <= HOLD_UNITS
    value = (
        f"-1: {np.degrees(closed - start):+.0f} degrees, 0: {hold:.2f} units, "
        f"+1: {np.degrees(opened - closed):+.0f} degrees"
    )
    limit = f"-1 closes, 0 holds within {HOLD_UNITS:g} unit, +1 opens"
    advice = "the gripper's range or direction is wrong: calibrate again; never recode its actions"
    return [judged("gripper_round_trip", good, value, limit, advice)]


def _limits(context: Context) -> tuple[F32, F32]:
    limits = context.body().arm.limits
    return limits.lower_rad, limits.upper_rad


def holding(context: Context) -> list[Finding]:
    """Zero actions for ten seconds leave the hand where it is."""
    arm = _Arm(context)
    arm.reset(SEED + 3)
    arm.act(steps=SETTLE_STEPS)
    start = arm.hand
    arm.act(steps=round(DRIFT_S * context.config.task.fps))
    drift = 1000 * float(np.linalg.norm(arm.hand - start))
    advice = "the arm sags: look for a loose joint, a weak supply, or servo gains that were changed"
    return [graded("zero_action_drift", drift, 500 * DRIFT_M, 1000 * DRIFT_M, "mm", advice)]


def resets(context: Context) -> list[Finding]:
    """Resets land where they should, again and again; each achieved start is remembered."""
    arm = _Arm(context)
    misses, starts = [], []
    for index in range(RESETS):
        arm.reset(SEED + 10 + index)
        starts.append(arm.hand)
        misses.append(starts[-1] - arm.env.reset_target(SEED + 10 + index))
        arm.act(np.random.default_rng(index).uniform(-1, 1, ACTION_SIZE).astype(np.float32), steps=5)
    context.starts_m = np.array(starts)
    off = np.array(misses)
    sigma = 1000 * float(np.sqrt((off**2).sum(axis=1).mean() / 3))
    mean = ", ".join(f"{1000 * part:+.1f}" for part in off.mean(axis=0))
    return [
        judged(
            "reset_repeatability",
            sigma <= 1000 * RESET_TOLERANCE_M,
            f"{sigma:.2f} mm at one sigma over {RESETS} resets (mean {mean} mm; worst "
            f"{1000 * float(np.linalg.norm(off, axis=1).max()):.1f} mm)",
            f"{1000 * RESET_TOLERANCE_M:.0f} mm at one sigma",
            "calibrate again; look for play in the joints",
            pictures=(
                Picture(
                    f"where {RESETS} resets ended, seen from where they should have, and the limit",
                    misses_plot(off, RESET_TOLERANCE_M),
                ),
            ),
        )
    ]


def rate(context: Context) -> list[Finding]:
    """The loop keeps its rate, and steps are not late."""
    arm, fps = _Arm(context), context.config.task.fps
    arm.reset(SEED + 4)
    arm.act(steps=TIMED_STEPS)
    timing = arm.env.timing
    periods = np.array(timing.period_s)
    achieved, late = 1 / float(periods.mean()), timing.overruns / len(periods)
    p99 = 1000 * float(np.quantile(periods, 0.99))
    status = Status.OK if late <= OVERRUN_SHARE else Status.WARN if late <= 5 * OVERRUN_SHARE else Status.FAIL
    if abs(achieved / fps - 1) > RATE_OFF:
        status = Status.FAIL
    return [
        Finding(
            "control_rate",
            status,
            f"{achieved:.2f} steps/s, 99 % within {p99:.0f} ms, {timing.overruns} of {len(periods)} late",
            f"{fps:g} +- {100 * RATE_OFF:.0f} %, at most {100 * OVERRUN_SHARE:.0f} % late",
            "close other programs; lower the camera's size; give the learner another computer",
            (Picture("how long each step took, and what is late", periods_plot(timing.period_s, 1 / fps)),),
        )
    ]


def pictures(context: Context) -> list[Finding]:
    """While the arm moved, a good new picture came in time for each step."""
    if not context.looks:
        raise Missing("the arm did not move")
    late, limit = len(context.late), f"at most {100 * LATE_SHARE:.0f} %"
    status = Status.OK if not late else Status.WARN if late <= LATE_SHARE * context.looks else Status.FAIL
    value = f"{late} of {context.looks} steps without one" + (f", last: {context.late[-1]}" if late else "")
    advice = "each costs an episode: another USB port or cable, a smaller picture, fewer programs beside it"
    return [Finding("pictures_in_motion", status, value, limit, advice)]
