"""Do the recovered actions explain the motion that was measured? Each fault says where, what, and what helps.

The faults are those that cost weeks (field report, rows 9-14, 27): wrong units, zero actions, a shifted
column, a squashed gripper, a hand held as the environment never holds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from hilserl.config import TaskConfig
from hilserl.dataset_actions import Trajectory
from hilserl.dataset_columns import DatasetColumns
from hilserl.dataset_motion import (
    STEP_ERROR_M,
    USED_M,
    Motion,
    correlation,
    gripper_share,
    motion_lag,
    moves,
    speed,
    within_error,
)
from hilserl.dataset_schema import DatasetError
from hilserl.env import GRIPPER_MARGIN_RAD
from robot.kinematics import F64, Kinematics
from robot.types import F32, GRIPPER, JOINT_NAMES, WRIST_ROLL

LIMIT_MARGIN_RAD = 0.1
"""A joint pressed against its stop is measured a little beyond the limit."""
BOX_MARGIN_M = 0.01
CONSTANT = 1e-3
"""Actions whose components all vary less than this are no demonstration."""
MIN_CORRELATION = 0.9
STEP_SHARE = 0.8
"""This share of an episode's steps must move the hand as commanded to within STEP_ERROR_M."""
GRIPPER_SHARE = 0.8
"""Of the steps in which the gripper moves, this share must have been asked for."""
MIN_LAG_S = -0.03
SHOWN_FAULTS = 8


def check_motion(
    trajectories: Sequence[Trajectory], task: TaskConfig, columns: DatasetColumns, kinematics: Kinematics
) -> Motion:
    """Check every law, the basic ones first. Raises DatasetError listing the faults of the first to fail."""
    _raise_if([*_joint_faults(trajectories, kinematics), *_still_faults(trajectories, columns)])
    turn_rad, turned = _turn(trajectories, task, columns, kinematics)
    _raise_if(
        [*turned, *_box_faults(trajectories, task, columns), *_gripper_cap(trajectories, task, columns)]
    )
    clipped, gripper_clipped, needed_m = speed(trajectories)
    _raise_if(_speed_faults(trajectories, task, columns, clipped, needed_m))
    lag = motion_lag([(one.path.reference, one.hand) for one in trajectories])
    _raise_if(_lag_faults(lag / task.fps, columns))
    pairs = [moves(one, max(lag, 0.0)) for one in trajectories]
    axes, within = correlation(pairs, task.fps), [within_error(*pair) for pair in pairs]
    share = gripper_share(trajectories, max(lag, 0.0))
    _raise_if([*_motion_faults(trajectories, axes, within), *_gripper_faults(share)])
    return Motion(
        correlation=axes,
        within=float(np.average(within, weights=[len(one) for one in trajectories])),
        lag_s=lag / task.fps,
        clipped=clipped,
        held=float(np.concatenate([one.path.held for one in trajectories]).mean()),
        turn_rad=turn_rad,
        needed_scale_m=needed_m,
        gripper_share=share,
        gripper_clipped=gripper_clipped,
    )


def _raise_if(faults: Sequence[str]) -> None:
    if faults:
        more = f"\n  - and {len(faults) - SHOWN_FAULTS} more" if len(faults) > SHOWN_FAULTS else ""
        raise DatasetError("\n  - ".join(["the dataset cannot be used:", *faults[:SHOWN_FAULTS]]) + more)


def _at(trajectory: Trajectory, row: int) -> str:
    return f"episode {trajectory.episode}, frame {trajectory.frames[row]}"


def _joint_faults(trajectories: Sequence[Trajectory], kinematics: Kinematics) -> Iterator[str]:
    low, high = kinematics.limits.lower_rad, kinematics.limits.upper_rad
    for trajectory in trajectories:
        beyond = np.maximum(low - trajectory.q, trajectory.q - high)
        row, joint = np.unravel_index(int(beyond.argmax()), beyond.shape)
        if beyond[row, joint] > LIMIT_MARGIN_RAD:
            yield (
                f"{_at(trajectory, int(row))}: {JOINT_NAMES[joint]} is {trajectory.q[row, joint]:.4g} rad, "
                f"the arm reaches {low[joint]:.3f} .. {high[joint]:.3f} rad: is dataset.joint_unit right, "
                "and is the calibration that of the arm that recorded?"
            )


def _still_faults(trajectories: Sequence[Trajectory], columns: DatasetColumns) -> Iterator[str]:
    for trajectory in trajectories:
        spread = float(trajectory.path.action[:, :3].std(axis=0).max())
        if spread < CONSTANT or np.ptp(trajectory.path.wanted, axis=0).max() < USED_M:
            moved = float(np.ptp(trajectory.hand, axis=0).max())
            yield (
                f"episode {trajectory.episode}: the actions for the hand are constant "
                f"({trajectory.path.asked[0, :3]}, or their goals are) while it moved {moved * 1000:.1f} mm: "
                f"goals were not recorded; leave it out with --dataset.exclude={trajectory.episode}"
            )
    grips = np.concatenate([trajectory.q[:, GRIPPER] for trajectory in trajectories])
    if np.ptp(grips) < columns.min_gripper_rad:
        yield (
            f"the gripper moves only {np.ptp(grips):.4f} rad in the whole dataset ({grips.min():.4f} .. "
            f"{grips.max():.4f} rad), expected at least {columns.min_gripper_rad} rad: is dataset.joint_unit "
            "right, and the gripper stored in 0..100? (dataset.min_gripper_rad=0 for a task without it)"
        )


def _turn(
    trajectories: Sequence[Trajectory], task: TaskConfig, columns: DatasetColumns, kinematics: Kinematics
) -> tuple[float, list[str]]:
    worst, fault = 0.0, ""
    for trajectory in trajectories:
        for row, q in enumerate(trajectory.q):
            roll = abs(float(q[WRIST_ROLL]) - task.wrist_roll)
            turn = max(roll, _tilt(q, trajectory.hand[row], task, columns, kinematics))
            if turn > worst:
                worst = turn
                fault = (
                    f"{_at(trajectory, row)}: the hand is turned {np.degrees(turn):.0f} degrees (wrist roll "
                    f"{q[WRIST_ROLL]:.3f} rad, task.wrist_roll {task.wrist_roll:.3f} rad) away from how the "
                    f"environment holds it there; at most {np.degrees(columns.max_turn_rad):.0f} degrees can "
                    "be imitated by (dx, dy, dz, gripper): hold the gripper pointing down, or allow more "
                    "with dataset.max_turn_rad"
                )
    return worst, [fault] if worst > columns.max_turn_rad else []


def _tilt(q: F32, hand: F64, task: TaskConfig, columns: DatasetColumns, kinematics: Kinematics) -> float:
    """Angle [rad] between the hand's approach axis and the one the environment's posture has there."""
    axis = kinematics.fk(q).rotmat[:, 0]
    tilt = float(np.arccos(np.clip(-axis[2], -1, 1)))
    if tilt < columns.max_turn_rad / 2:
        return tilt  # the environment points down as far as it can, which is at least as far
    start = q.copy()
    start[WRIST_ROLL] = task.wrist_roll
    ours = kinematics.fk(kinematics.ik(hand, start)).rotmat[:, 0]
    return float(np.arccos(np.clip(axis @ ours, -1, 1)))


def _box_faults(
    trajectories: Sequence[Trajectory], task: TaskConfig, columns: DatasetColumns
) -> Iterator[str]:
    low, high = np.array(task.workspace_min), np.array(task.workspace_max)
    beyond = [np.maximum(low - t.hand, t.hand - high) for t in trajectories]
    outside = np.concatenate([one.max(axis=1) for one in beyond]) > BOX_MARGIN_M
    if outside.mean() > columns.max_clipped:
        which = int(np.argmax([one.max() for one in beyond]))
        row, axis = np.unravel_index(int(beyond[which].argmax()), beyond[which].shape)
        hands = np.concatenate([trajectory.hand for trajectory in trajectories])
        yield (
            f"{outside.mean():.1%} of the steps are outside the workspace box (at most "
            f"{columns.max_clipped:.1%}), furthest {_at(trajectories[which], int(row))}: {'xyz'[axis]} is "
            f"{trajectories[which].hand[row, axis]:.3f} m, the box is {low[axis]:g} .. {high[axis]:g} m; the "
            f"motion spans {hands.min(0).round(3)} .. {hands.max(0).round(3)} m"
        )


def _gripper_cap(
    trajectories: Sequence[Trajectory], task: TaskConfig, columns: DatasetColumns
) -> Iterator[str]:
    cap = task.reset_gripper + GRIPPER_MARGIN_RAD
    grips = np.concatenate([trajectory.q[:, GRIPPER] for trajectory in trajectories])
    share = float((grips > cap + LIMIT_MARGIN_RAD).mean())
    if share > columns.max_clipped:
        yield (
            f"the gripper is open beyond {cap:.2f} rad (task.reset_gripper + {GRIPPER_MARGIN_RAD}) in "
            f"{share:.1%} of the steps, up to {grips.max():.2f} rad: with task.reset_gripper="
            f"{grips.max() - GRIPPER_MARGIN_RAD:.2f} the environment could do that"
        )


def _speed_faults(
    trajectories: Sequence[Trajectory], task: TaskConfig, columns: DatasetColumns, share: float, needed: float
) -> list[str]:
    if share <= columns.max_clipped:
        return []
    steps = np.concatenate([np.abs(np.diff(t.path.wanted, axis=0)).max(axis=1) for t in trajectories])
    most = float(np.quantile(steps, 1 - columns.max_clipped))
    which = int(np.argmax([np.abs(t.path.asked[:, :3]).max() for t in trajectories]))
    worst = trajectories[which]
    longest = np.abs(worst.path.asked[:, :3]).max(axis=1)
    row = int(longest.argmax())
    return [
        f"{share:.1%} of the steps are faster than task.action_scale {task.action_scale} m allows (at most "
        f"{columns.max_clipped:.1%}), most at {_at(worst, row)}: {longest[row]:.1f} times it. "
        f"An action_scale of {needed:.3f} m would hold all of them, {most:.3f} m all but "
        f"{columns.max_clipped:.1%}; or record more slowly"
    ]


def _lag_faults(lag_s: float, columns: DatasetColumns) -> list[str]:
    told = f"the measured motion follows the commanded one by {lag_s * 1000:.0f} ms"
    if lag_s < MIN_LAG_S:
        return [f"{told}: it comes before its cause, so {_SHIFTED} late"]
    if lag_s > columns.max_lag_s:
        return [
            f"{told}, more than {columns.max_lag_s * 1000:.0f} ms: {_SHIFTED} early, or the arm is slow "
            "(if you know it is, say dataset.max_lag_s)"
        ]
    return []


_SHIFTED = "the columns action and observation.state are shifted against each other, the actions too"


def _motion_faults(
    trajectories: Sequence[Trajectory], axes: dict[str, float], within: Sequence[float]
) -> Iterator[str]:
    if not axes:
        yield f"no axis of the hand is moved by more than {USED_M * 1000:g} mm per step: nothing to check"
    for axis, value in axes.items():
        if not value > MIN_CORRELATION:
            yield (
                f"commanded and measured motion in {axis} correlate by {value:.3f}, they must by more than "
                f"{MIN_CORRELATION}: the actions do not explain the motion"
            )
    for trajectory, share in zip(trajectories, within, strict=True):
        if share < STEP_SHARE:
            yield (
                f"episode {trajectory.episode}: only {share:.0%} of the steps move the hand as commanded to "
                f"within {STEP_ERROR_M * 1000:g} mm (at least {STEP_SHARE:.0%}): was it blocked? Leave it "
                f"out with --dataset.exclude={trajectory.episode}"
            )


def _gripper_faults(share: float) -> list[str]:
    if share >= GRIPPER_SHARE:
        return []
    return [
        f"only {share:.0%} of the gripper's moves were asked for by its action (at least {GRIPPER_SHARE:.0%}"
        "): the encoding must be -1 close, 0 hold, +1 open"
    ]
