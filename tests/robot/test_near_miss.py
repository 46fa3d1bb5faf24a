"""Near misses on the real twin: each ends by the operator's failure button, and none is ever a success."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from hilserl.env import Env
from hilserl.reward import ButtonReward
from hilserl.rollout import HoldStill, Played, rollout
from hilserl.types import End
from robot.twin import model
from robot.twin.near_miss import NEAR_MISSES, SCENARIO, Rehearser, Scenario, scenario_of
from robot.twin.operator import Hands
from robot.types import GRIPPER
from tests.fakes.body import LIFT, MAX_JOINT_SPEED, BlankCamera, Body

MAX_STEPS = round(LIFT.control_time_s * LIFT.fps)
TASK = replace(LIFT, workspace_min=(0.16, -0.11, 0.006), workspace_max=(0.34, 0.09, 0.15))


class Watch:
    """Keeps what the world was like at every frame."""

    def __init__(self, body: Body) -> None:
        self._twin = body.twin
        self.lifted: list[bool] = []
        self.cube: list[np.ndarray] = []
        self.gripper: list[float] = []
        self.fingers: list[int] = []

    def begin(self, obs) -> None:
        world = self._twin.world
        touching = {contact.other for contact in world.cube_contacts()}
        self.lifted.append(self._twin.lifted())
        self.cube.append(world.cube_xyz_m())
        self.gripper.append(float(world.q_rad()[GRIPPER]))
        self.fingers.append(len(touching & {model.FIXED_FINGER, model.MOVING_FINGER}))

    def step(self, step) -> None:
        self.begin(step.obs)


def play(seed: int) -> tuple[Played, Watch]:
    body = Body(TASK)
    operator = Rehearser(body.twin.world, body.twin, TASK.scene.lift_height, TASK.action_scale, Hands())
    env = Env(
        task=TASK,
        arm=body.arm,
        cameras={"gripper_cam": BlankCamera()},
        clock=body.twin.clock,
        kinematics=body.kinematics,
        scene=operator,
        max_joint_speed=MAX_JOINT_SPEED,
    )
    watch = Watch(body)
    played = rollout(
        env=env,
        policy=HoldStill(),
        teleop=operator,
        reward=ButtonReward(TASK.success),
        seed=seed,
        max_steps=MAX_STEPS,
        listeners=(watch,),
    )
    return played, watch


def seeds_of(scenario: Scenario, count: int) -> list[int]:
    return [seed for seed in range(1000) if scenario_of(seed) is scenario][:count]


def test_half_are_lifts_and_every_near_miss_is_as_frequent():
    counts = Counter(scenario_of(seed) for seed in range(5, 45))
    assert counts == {Scenario.LIFT: 20} | {scenario: 5 for scenario in NEAR_MISSES}


@pytest.mark.parametrize("scenario", NEAR_MISSES)
def test_a_near_miss_is_never_a_success_and_is_ended_by_the_button(scenario):
    ends = []
    for seed in seeds_of(scenario, 4):
        played, watch = play(seed)
        assert played.facts[SCENARIO] == scenario.value
        assert not any(watch.lifted), f"seed {seed} was a success"
        ends.append(played.end)
    assert ends.count(End.FAILURE) >= 3, ends
    assert End.SUCCESS not in ends


def test_lifts_show_the_success_for_a_second_before_the_button():
    ends = []
    for seed in seeds_of(Scenario.LIFT, 4):
        played, watch = play(seed)
        ends.append(played.end)
        if played.end is End.SUCCESS:
            assert all(watch.lifted[-10:])
    assert ends.count(End.SUCCESS) >= 3


def shows(scenario: Scenario, seed: int) -> bool:
    _, watch = play(seed)
    cube, rest = np.array(watch.cube), watch.cube[0][2]
    raised = cube[:, 2] - rest
    moved = np.linalg.norm(cube[-1, :2] - cube[0, :2])
    if scenario is Scenario.PUSHED:
        return moved > 0.01 and raised.max() < 0.01
    if scenario is Scenario.PINCHED:
        return watch.fingers[-1] == 2 and watch.gripper[-1] > 0.05
    if scenario is Scenario.DROPPED:
        return raised.max() > 0.005 and abs(raised[-1]) < 0.003 and watch.fingers[-1] == 0
    return max(watch.fingers) == 0 and cube[0, 0] < 0


@pytest.mark.parametrize("scenario", NEAR_MISSES)
def test_each_near_miss_is_what_it_is_called(scenario):
    assert sum(shows(scenario, seed) for seed in seeds_of(scenario, 4)) >= 3
