"""From recorded rows to steps: actions in [-1, 1], the 18-number state, and where an episode ends.

Joint-space datasets hold goals (`action`) and measured joints (`observation.state`). Forward kinematics of
the goals is the path of the commanded hand; `recover_actions` finds the actions that make the environment's
own law (`hand_range`, `gripper_range`) follow that path. The measured joints are not used for it: they are
what the result is checked against (`dataset_checks`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilserl.config import TaskConfig
from hilserl.dataset_schema import (
    ACTION,
    DONE,
    INTERVENTION,
    REWARD,
    STATE,
    SUCCESS,
    TRUNCATED,
    DatasetError,
    RecordedEpisode,
)
from hilserl.env import CLIPPED_M, STATE_NAMES, gripper_range, hand_range, state_vector
from hilserl.types import End
from robot.joint_units import JointUnits
from robot.kinematics import F64, Kinematics
from robot.types import F32, GRIPPER, NUM_JOINTS, ArmState

HAND = slice(STATE_NAMES.index("ee_xyz.x_m"), STATE_NAMES.index("ee_xyz.z_m") + 1)
TOO_FAST = 1.05
"""An action beyond this, before it is limited, counts as faster than action_scale allows."""
SAME_HAND_M = 1e-3
"""How far a recorded hand position may be from the kinematics of the joints recorded with it."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """Actions that follow a commanded path, step by step.

    action: float32 (T, 4). reference: (T + 1, 3) [m] and gripper: (T + 1,) [rad], the commanded path under
    the environment's law. asked: (T, 4), the actions before they were limited to [-1, 1]. held: bool (T,),
    the path led out of the box or beyond the leash and the law held it back. wanted: (T + 1, 3) [m], the
    path that was to be followed, within the box.
    """

    action: F32
    reference: F64
    gripper: F64
    asked: F64
    held: NDArray[np.bool_]
    wanted: F64


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One episode without pictures: T steps. frames: (T + 1,) the dataset's frames that are seen.

    q: float32 (T + 1, 6) [rad] and hand: (T + 1, 3) [m], measured. state: float32 (T + 1, 18).
    path: how the environment's law moves under the actions. unused: frames after the end.
    """

    episode: int
    frames: NDArray[np.int64]
    q: F32
    hand: F64
    state: F32
    path: Recovered
    reward: F32
    intervention: NDArray[np.bool_]
    end: End
    unused: int

    def __len__(self) -> int:
        """Number of steps, T."""
        return len(self.path.action)


def recover_actions(task: TaskConfig, goal_xyz: F64, goal_gripper: F64, q: F32, hand: F64) -> Recovered:
    """Actions whose commanded path follows goals: goal_xyz (T + 1, 3) [m], goal_gripper (T + 1,) [rad].

    goal[t + 1] is what was commanded in step t, goal[0] what was commanded before it. q (T + 1, 6) [rad] and
    hand (T + 1, 3) [m] were measured at the steps. A step that is too long goes as far as an action may, and
    the next ones make up for it, so that nothing drifts.
    """
    steps = len(goal_xyz) - 1
    asked, held = np.zeros((steps, 4)), np.zeros(steps, np.bool_)
    action = np.zeros((steps, 4), np.float32)
    reference, gripper = goal_xyz.astype(np.float64).copy(), goal_gripper.astype(np.float64).copy()
    for t in range(steps):
        limits = hand_range(task, reference[t], hand[t])
        wish = np.clip(goal_xyz[t + 1], *limits)
        held[t] = bool(np.abs(wish - goal_xyz[t + 1]).max() > CLIPPED_M)
        thumb_limits = gripper_range(task, -np.inf, gripper[t], float(q[t, GRIPPER]))
        thumb = np.clip(goal_gripper[t + 1], *thumb_limits)
        asked[t, :3] = (wish - reference[t]) / task.action_scale
        asked[t, 3] = (thumb - gripper[t]) / task.gripper_scale
        action[t] = np.clip(asked[t], -1.0, 1.0)
        reference[t + 1] = np.clip(reference[t] + task.action_scale * action[t, :3], *limits)
        gripper[t + 1] = np.clip(gripper[t] + task.gripper_scale * action[t, 3], *thumb_limits)
    wanted = np.clip(goal_xyz, task.workspace_min, task.workspace_max)
    return Recovered(action, reference, gripper, asked, held, wanted)


def replay_actions(task: TaskConfig, action: F32, q: F32, hand: F64) -> Recovered:
    """How the environment's law moves under recorded actions (T, 4), from where the hand was measured."""
    steps = len(action)
    reference, gripper = np.repeat(hand[:1], steps + 1, 0), np.repeat(q[:1, GRIPPER].astype(float), steps + 1)
    held = np.zeros(steps, np.bool_)
    for t in range(steps):
        asked = reference[t] + task.action_scale * action[t, :3].astype(np.float64)
        reference[t + 1] = np.clip(asked, *hand_range(task, reference[t], hand[t]))
        held[t] = bool(np.abs(reference[t + 1] - asked).max() > CLIPPED_M)
        thumb = gripper[t] + task.gripper_scale * float(action[t, 3])
        gripper[t + 1] = np.clip(thumb, *gripper_range(task, -np.inf, gripper[t], float(q[t, GRIPPER])))
    return Recovered(action, reference, gripper, action.astype(np.float64), held, reference)


def joint_trajectory(
    recorded: RecordedEpisode,
    task: TaskConfig,
    stride: int,
    units: JointUnits,
    success: str,
    kinematics: Kinematics,
) -> Trajectory:
    """The steps of a joint-space episode; stride: frames per control step; success: "last", "none", "".

    The first control period gives the first velocity and the first commanded position, and is no step:
    neither can be known of a first frame. Velocities are those of the last control period. Raises
    DatasetError when the episode is too short, CalibrationError when a value cannot be of the unit.
    """
    goals, measured = (units.rad(recorded.rows[name].astype(np.float64)) for name in (ACTION, STATE))
    end, end_frame = _end(recorded, success)
    frames: NDArray[np.int64] = np.arange(stride, len(recorded), stride)
    if end_frame is not None:
        # The step in which the mark fell is the last one; a mark after the last control frame belongs to it.
        frames = frames[: max(0, end_frame // stride) + 1]
    if len(frames) < 2:
        raise DatasetError(
            f"episode {recorded.index} has {len(recorded)} frames and ends at frame {end_frame}: not one "
            f"step of {stride} frames is left after the first"
        )
    q = measured[frames]
    qd = (q - measured[frames - stride]) * np.float32(task.fps)
    hand = np.array([kinematics.fk(joints).xyz_m for joints in q])
    commanded = goals[frames - 1]  # the last goal before each control frame
    goal_xyz = np.array([kinematics.fk(joints).xyz_m for joints in commanded])
    path = recover_actions(task, goal_xyz, commanded[:, GRIPPER].astype(np.float64), q, hand)
    steps = len(frames) - 1
    reward = np.full(steps, -task.success.step_cost, np.float32)
    if end is End.SUCCESS:
        reward[-1] += np.float32(task.success.reward)
    return Trajectory(
        episode=recorded.index,
        frames=frames,
        q=q,
        hand=hand,
        state=_states(q, qd, task, kinematics),
        path=path,
        reward=reward,
        intervention=np.ones(steps, np.bool_),
        end=end,
        unused=len(recorded) - 1 - int(frames[-1]),
    )


def action_trajectory(recorded: RecordedEpisode, task: TaskConfig, kinematics: Kinematics) -> Trajectory:
    """The steps of an episode in our own schema, as they were recorded. Raises DatasetError."""
    rows, name = recorded.rows, f"episode {recorded.index}"
    absent = [column for column in (REWARD, SUCCESS, DONE, TRUNCATED, INTERVENTION) if column not in rows]
    if absent:
        raise DatasetError(f"{name} lacks {', '.join(absent)}")
    steps = len(recorded) - 1
    ends = np.flatnonzero(_flags(rows[DONE]) | _flags(rows[TRUNCATED]))
    if steps < 1 or ends.tolist() != [steps - 1]:
        raise DatasetError(
            f"{name} has {len(recorded)} frames and ends (next.done or next.truncated) at {ends.tolist()}; "
            f"it must end once, at the frame before the last: {steps - 1}"
        )
    state = rows[STATE].astype(np.float32)
    q, hand = state[:, :NUM_JOINTS], np.array([kinematics.fk(one[:NUM_JOINTS]).xyz_m for one in state])
    off = np.abs(hand - state[:, HAND]).max(axis=1)
    if off.max() > SAME_HAND_M:
        frame = int(off.argmax())
        raise DatasetError(
            f"{name}, frame {frame}: {STATE} puts the hand at {state[frame, HAND]} m, its joints put it at "
            f"{hand[frame].round(4)} m: joints must be rad, and the arm model the one of the recording"
        )
    action = rows[ACTION][:steps].astype(np.float32)
    outside = np.abs(action).max(axis=1) > 1.0
    if outside.any():
        frame = int(outside.argmax())
        raise DatasetError(
            f"{name}, frame {frame}: {ACTION} is {action[frame]}; every component must lie in [-1, 1]"
            " (gripper: -1 closes, 0 holds, +1 opens)"
        )
    end = End.TIMEOUT if _flags(rows[TRUNCATED])[steps - 1] else End.FAILURE
    return Trajectory(
        episode=recorded.index,
        frames=np.arange(steps + 1),
        q=q,
        hand=hand,
        state=state,
        path=replay_actions(task, action, q, hand),
        reward=rows[REWARD][:steps].astype(np.float32).reshape(steps),
        intervention=_flags(rows[INTERVENTION])[:steps],
        end=End.SUCCESS if _flags(rows[SUCCESS])[steps - 1] else end,
        unused=0,
    )


def has_marks(recorded: RecordedEpisode) -> bool:
    """Whether the dataset itself says how an episode ended."""
    return any(column in recorded.rows for column in (REWARD, SUCCESS, DONE))


def _end(recorded: RecordedEpisode, success: str) -> tuple[End, int | None]:
    """How a joint-space episode ends, and the frame of the mark (None: the last step)."""
    if not has_marks(recorded):
        return (End.SUCCESS if success == "last" else End.TIMEOUT), None
    none = np.zeros(len(recorded), np.bool_)
    paid = np.asarray(recorded.rows[REWARD].reshape(-1) > 0) if REWARD in recorded.rows else none
    good = _flags(recorded.rows[SUCCESS]) if SUCCESS in recorded.rows else paid
    done = _flags(recorded.rows[DONE]) if DONE in recorded.rows else good
    marked = np.flatnonzero(good | done)
    if len(marked) == 0:
        return End.TIMEOUT, None
    return (End.SUCCESS if good[marked[0]] else End.FAILURE), int(marked[0])


def _flags(column: NDArray[Any]) -> NDArray[np.bool_]:
    return np.asarray(column.reshape(-1) != 0)


def _states(q: F32, qd: F32, task: TaskConfig, kinematics: Kinematics) -> F32:
    rows = [
        state_vector(ArmState(joints, speed, 0.0), kinematics, task.wrist_roll)
        for joints, speed in zip(q, qd, strict=True)
    ]
    return np.stack(rows)
