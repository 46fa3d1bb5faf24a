"""Checks that move the arm: directions, distances, the gripper, resets, and the rate of the loop.

All of them play through the same `Env` as training does, so that what is measured is what will be learned
with.
"""

from __future__ import annotations

import numpy as np

from hilserl.doctor.context import Context
from hilserl.doctor.findings import Finding, Status, graded, judged
from hilserl.env import RESET_TOLERANCE_M, Env
from hilserl.types import ACTION_SIZE
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
TIMED_STEPS = 100
AXES = "xyz"


def _hand(env: Env, kinematics: Kinematics) -> F64:
    """Measured position (3,) [m]."""
    return kinematics.fk(env.state.q_rad).xyz_m


def _act(env: Env, action: F32 | None = None, steps: int = 1) -> None:
    """One action, or nothing, for so many steps."""
    for _ in range(steps):
        env.step(np.zeros(ACTION_SIZE, np.float32) if action is None else action)


def _unit(axis: int, sign: float) -> F32:
    action = np.zeros(ACTION_SIZE, np.float32)
    action[axis] = sign
    return action


def joints(context: Context) -> list[Finding]:
    """Each joint, asked to move a little, moves that way and that far."""
    body = context.body()
    body.env.reset(SEED)
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
    env, kinematics, scale = context.body().env, Kinematics(), context.config.task.action_scale
    lengths, across, shares, faults = [], [], [], []
    for axis in range(3):
        for sign in (1.0, -1.0):
            env.reset(SEED + 1)
            _act(env, steps=SETTLE_STEPS)
            start = _hand(env, kinematics)
            _act(env, _unit(axis, sign))
            _act(env, steps=SETTLE_STEPS)
            way = _hand(env, kinematics) - start
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
    return [judged("unit_actions", not faults, value, limit, advice)]


def gripper(context: Context) -> list[Finding]:
    """-1 closes, 0 holds within one unit, +1 opens."""
    env = context.body().env
    span = float(np.ptp([limit[GRIPPER] for limit in _limits(context)]))
    env.reset(SEED + 2)
    _act(env, steps=SETTLE_STEPS)
    marks = [float(env.state.q_rad[GRIPPER])]
    for thumb in (-1.0, 0.0, 1.0, 0.0):
        _act(env, _unit(3, thumb), steps=2)
        if thumb == 0.0:
            before = float(env.state.q_rad[GRIPPER])
            _act(env, steps=10)
            marks.append(abs(float(env.state.q_rad[GRIPPER]) - before) / (GRIPPER_UNIT * span))
        else:
            _act(env, steps=SETTLE_STEPS)
            marks.append(float(env.state.q_rad[GRIPPER]))
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
    env, kinematics = context.body().env, Kinematics()
    env.reset(SEED + 3)
    _act(env, steps=SETTLE_STEPS)
    start = _hand(env, kinematics)
    _act(env, steps=round(DRIFT_S * context.config.task.fps))
    drift = 1000 * float(np.linalg.norm(_hand(env, kinematics) - start))
    advice = "the arm sags: look for a loose joint, a weak supply, or servo gains that were changed"
    return [graded("zero_action_drift", drift, 500 * DRIFT_M, 1000 * DRIFT_M, "mm", advice)]


def resets(context: Context) -> list[Finding]:
    """Resets land where they should, again and again; each achieved start is remembered."""
    env = context.body().env
    misses, starts = [], []
    for index in range(RESETS):
        _, facts = env.reset(SEED + 10 + index)
        starts.append([float(facts[f"start_{axis}_m"]) for axis in AXES])
        misses.append(starts[-1] - env.reset_target(SEED + 10 + index))
        _act(env, np.random.default_rng(index).uniform(-1, 1, ACTION_SIZE).astype(np.float32), steps=5)
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
        )
    ]


def rate(context: Context) -> list[Finding]:
    """The loop keeps its rate, and steps are not late."""
    env, fps = context.body().env, context.config.task.fps
    env.reset(SEED + 4)
    _act(env, steps=TIMED_STEPS)
    periods = np.array(env.timing.period_s)
    achieved, late = 1 / float(periods.mean()), env.timing.overruns / len(periods)
    p99 = 1000 * float(np.quantile(periods, 0.99))
    status = Status.OK if late <= OVERRUN_SHARE else Status.WARN if late <= 5 * OVERRUN_SHARE else Status.FAIL
    if abs(achieved / fps - 1) > RATE_OFF:
        status = Status.FAIL
    return [
        Finding(
            "control_rate",
            status,
            f"{achieved:.2f} steps/s, 99 % within {p99:.0f} ms, {env.timing.overruns} of {len(periods)} late",
            f"{fps:g} +- {100 * RATE_OFF:.0f} %, at most {100 * OVERRUN_SHARE:.0f} % late",
            "close other programs; lower the camera's size; give the learner another computer",
        )
    ]
