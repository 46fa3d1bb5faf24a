from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilserl.dataset_actions import joint_trajectory, recover_actions, replay_actions
from hilserl.dataset_schema import ACTION, DONE, REWARD, STATE, SUCCESS, DatasetError, RecordedEpisode
from hilserl.env import STATE_NAMES, Env, gripper_range, hand_range
from hilserl.types import End
from robot.joint_units import JointUnits
from robot.kinematics import Kinematics
from robot.timing import SimClock
from robot.types import GRIPPER, ArmState
from tests.fakes.body import LIFT, MAX_JOINT_SPEED, BlankCamera

RAD = JointUnits("rad", None)
KINEMATICS = Kinematics()
TASK = replace(
    LIFT,
    random_ee_reset=False,
    camera_width=8,
    camera_height=6,
    resize_size=(4, 4),
    crop_params_dict={
        "gripper_cam": replace(LIFT.crop_params_dict["gripper_cam"], left=0, height=6, width=6)
    },
)
CORNERS = np.array(TASK.workspace_min), np.array(TASK.workspace_max)


class InstantArm:
    """Is where it was commanded to be; keeps every command with what was measured before it."""

    def __init__(self) -> None:
        self.limits = KINEMATICS.limits
        self.q = np.array([0, 0, 0, 0, TASK.wrist_roll, 0.5], np.float32)
        self.log: list[tuple[np.ndarray, np.ndarray]] = []

    def read(self) -> ArmState:
        return ArmState(self.q.copy(), np.zeros(6, np.float32), 0.0)

    def command(self, q_rad) -> None:
        self.log.append((self.q.copy(), q_rad.copy()))
        self.q = q_rad.copy()

    def park(self) -> None: ...

    def close(self) -> None: ...


class NoScene:
    def arrange(self, seed: int) -> dict[str, float]:
        return {}


def play(actions, seed: int):
    """The environment itself under `actions`: (commands (N, 2, 6), executed displacement (T, 4), clipped)."""
    arm = InstantArm()
    env = Env(
        task=TASK,
        arm=arm,
        cameras={"gripper_cam": BlankCamera(8, 6)},
        clock=SimClock(lambda seconds: None),
        kinematics=Kinematics(arm.limits),
        scene=NoScene(),
        max_joint_speed=MAX_JOINT_SPEED,
    )
    env.reset(seed)
    arm.log.clear()
    done, path = [], [np.append(env._reference_xyz, env._reference_q[GRIPPER])]
    for action in actions:
        before = env.clipped_steps
        env.step(action)
        path.append(np.append(env._reference_xyz, env._reference_q[GRIPPER]))
        done.append(env.clipped_steps > before or env._behind)
    return np.array(arm.log), np.diff(path, axis=0), np.array(done)


def rows(states, goals, **columns) -> RecordedEpisode:
    every = {STATE: np.asarray(states), ACTION: np.asarray(goals), **columns}
    return RecordedEpisode(0, every, {}, Path("none"))


@pytest.mark.parametrize("substeps", [1, 5])
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**31), smooth=st.booleans())
def test_actions_played_by_the_environment_are_recovered(substeps, seed, smooth):
    """Played by Env at 10 Hz with 5 commands a step; recorded at every command (50 fps) or every fifth."""
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1, 1, (24, 4))
    if smooth:
        actions = np.repeat(actions[::4], 4, axis=0)
    log, displacement, clipped = play(actions.astype(np.float32), seed)
    log = log.reshape(24, 5, 2, 6)
    states, goals = (log[:, :, 0], log[:, :, 1]) if substeps == 5 else (log[:, :1, 0], log[:, -1:, 1])
    last = log[-1:, -1, 1]
    states = np.concatenate([states.reshape(-1, 6), last])
    goals = np.concatenate([goals.reshape(-1, 6), last])
    found = joint_trajectory(rows(states, goals), TASK, substeps, RAD, "last", KINEMATICS)
    assert len(found) == 23 and found.end is End.SUCCESS
    done = displacement[1:] / [*[TASK.action_scale] * 3, TASK.gripper_scale]
    off = np.abs(found.path.action - done)
    assert off[:, 3].max() < 1e-3
    # Where box, reach or joint speed cut a step short, the recovered actions make up for it in the next ones.
    free = ~found.path.held & (np.abs(found.path.asked[:, :3]).max(axis=1) <= 1)
    exact = free & np.append(True, free[:-1]) & ~clipped[1:] & ~clipped[:-1]
    assert off[exact][:, :3].max(initial=0) < 0.11  # inverse kinematics may stop a millimetre short, twice
    assert not exact.any() or (off[exact][:, :3] < 0.02).mean() > 0.8
    assert np.abs(found.path.action[exact, :3] - actions[1:][exact, :3]).max(initial=0) < 0.11
    # Nothing drifts: whenever a step was long enough, the path is where the hand was (CLIPPED_M).
    assert np.abs(found.path.reference - found.hand)[1:][free].max(initial=0) < 1.01e-3
    assert np.abs(found.q - states[substeps::substeps]).max() == 0
    speed = (states[substeps::substeps] - states[:-substeps:substeps]) * TASK.fps
    joint_vel = [i for i, name in enumerate(STATE_NAMES) if name.startswith("joint_vel")]
    assert np.allclose(found.state[:, joint_vel], speed, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), speed=st.floats(0.1, 3.0), lag=st.integers(0, 2))
def test_recovered_actions_replayed_by_the_law_give_the_path_they_were_recovered_from(seed, speed, lag):
    """Also where a path is too fast, leaves the box, or runs away from the hand: as far as the law goes."""
    rng = np.random.default_rng(seed)
    goal = np.array([0.25, 0, 0.08]) + np.cumsum(rng.normal(0, speed * TASK.action_scale, (30, 3)), axis=0)
    thumb = np.cumsum(rng.normal(0, speed * TASK.gripper_scale, 30))
    hand, q = np.roll(goal, lag, axis=0), np.zeros((30, 6), np.float32)
    q[:, GRIPPER] = np.roll(thumb, lag)
    found = recover_actions(TASK, goal, thumb, q, hand)
    assert (np.abs(found.action) <= 1).all() and found.action.dtype == np.float32
    xyz, grip = goal[0].copy(), thumb[0]
    for t, action in enumerate(found.action):  # the law, written out once more
        low, high = hand_range(TASK, xyz, hand[t])
        wish, asked = np.clip(goal[t + 1], low, high), xyz + TASK.action_scale * action[:3].astype(float)
        reached = np.clip(asked, low, high)
        slow = np.abs(wish - xyz) <= TASK.action_scale
        assert np.abs(reached - wish)[slow].max(initial=0) < 1e-6, "what can be reached in a step is"
        assert (np.abs(reached - wish) <= np.maximum(np.abs(xyz - wish) - TASK.action_scale, 0) + 1e-6).all()
        closed, opened = gripper_range(TASK, -np.inf, grip, float(q[t, GRIPPER]))
        grip = np.clip(grip + TASK.gripper_scale * float(action[3]), closed, opened)
        xyz = reached
        assert np.abs(found.reference[t + 1] - xyz).max() < 1e-6 and abs(found.gripper[t + 1] - grip) < 1e-6
        assert found.held[t] == (np.abs(goal[t + 1] - wish).max() > 1e-3)


def test_replay_is_the_law_of_the_environment():
    rng = np.random.default_rng(3)
    actions = np.repeat(np.sign(rng.uniform(-1, 1, (8, 4))), 5, axis=0).astype(np.float32)
    log, displacement, _ = play(actions, 3)
    q = np.concatenate([log.reshape(40, 5, 2, 6)[:, 0, 0], log[-1:, 1]])
    hand = np.array([KINEMATICS.fk(one).xyz_m for one in q])
    path = replay_actions(TASK, actions, q, hand)
    assert np.allclose(np.diff(path.gripper), displacement[:, 3], atol=1e-5)
    assert path.held.any() and (path.reference <= CORNERS[1] + 1e-9).all()


@settings(max_examples=100, deadline=None)
@given(
    marks=st.lists(st.sampled_from(["", "", "", "good", "bad"]), min_size=4, max_size=24),
    stride=st.integers(1, 4),
    columns=st.sampled_from(
        [(REWARD,), (SUCCESS,), (REWARD, DONE), (SUCCESS, DONE), (REWARD, SUCCESS, DONE)]
    ),
)
def test_the_first_mark_ends_the_episode_in_the_step_it_fell_in(marks, stride, columns):
    count = len(marks)
    good, done = np.array([m == "good" for m in marks]), np.array([m != "" for m in marks])
    told = {REWARD: good.astype(np.float32), SUCCESS: good, DONE: done}
    states = np.tile(np.array([0, 0, 0, 0, 1.57, 0.5], np.float32), (count, 1))
    recorded = rows(states, states, **{name: told[name][:, None] for name in columns})
    seen = done if DONE in columns else good
    first = int(seen.argmax()) if seen.any() else None
    # Steps that exist: from frame s * stride to (s + 1) * stride, the first left out.
    steps = [s for s in range(1, (count - 1) // stride)]
    if first is not None:
        steps = [s for s in steps if s * stride <= first]
    if not steps:
        with pytest.raises(DatasetError, match="not one step"):
            joint_trajectory(recorded, TASK, stride, RAD, "", KINEMATICS)
        return
    found = joint_trajectory(recorded, TASK, stride, RAD, "", KINEMATICS)
    assert len(found) == len(steps)
    assert found.frames.tolist() == [s * stride for s in [*steps, steps[-1] + 1]]
    expected = End.TIMEOUT if first is None else End.SUCCESS if good[first] else End.FAILURE
    assert found.end is expected
    assert found.reward.sum() == (1.0 if expected is End.SUCCESS else 0.0) and (found.reward[:-1] == 0).all()
    assert found.unused == count - 1 - found.frames[-1]
