"""The encoder's pretraining: targets are what the picture shows, and what is saved loads."""

import numpy as np
import pytest
import torch

from hilserl.config import PolicyConfig, TaskConfig
from hilserl.pretrain import TARGET_SCALE, TARGETS, PretrainConfig, RenderStudio, pretrain
from hilserl.vision import load_trunk, random_trunk
from robot.kinematics import Kinematics
from robot.types import GRIPPER, WRIST_ROLL


class Stage:
    """Hand over the table, and the cube where a test wants it, both beside what the studio says of them."""

    def __init__(self) -> None:
        self.studio = RenderStudio(TaskConfig(), 0)
        self.world = self.studio._world
        start = np.zeros(6, np.float32)
        start[WRIST_ROLL] = TaskConfig().wrist_roll
        self.q = Kinematics().ik(np.array([0.24, 0.0, 0.08]), start)

    def targets(self, across=0.0, along=0.0, yaw=0.0, size=0.03, gripper=0.4) -> dict[str, float]:
        """Targets in their units. across, along: cube's place from the hand in the table plane [m]:
        along the hand's own x and z axes, as far as they are level.
        """
        self.q[GRIPPER] = gripper
        self.world.set_arm(self.q)
        turn = self.world.hand_rotmat()
        level = [axis[:2] / np.linalg.norm(axis[:2]) for axis in (turn[:, 1], turn[:, 2])]
        x, y = self.world.hand_xyz_m()[:2] + across * level[0] + along * level[1]
        self.world.place_cube(float(x), float(y), yaw, size)
        return dict(zip(TARGETS, (self.studio._targets(gripper) * TARGET_SCALE).tolist(), strict=True))


@pytest.fixture(scope="module")
def stage():
    stage = Stage()
    yield stage
    stage.world.close()


def moved(stage: Stage, **change: float) -> dict[str, float]:
    """How the targets change when the cube does."""
    before, after = stage.targets(), stage.targets(**change)
    return {name: after[name] - before[name] for name in TARGETS}


@pytest.mark.parametrize("direction", [-1, 1])
def test_the_cube_moved_in_the_hand_frame_moves_its_target_the_same_way(stage, direction):
    change = moved(stage, across=direction * 0.02)
    assert direction * change["y"] > 0.01
    assert abs(change["size"]) < 1e-6 and abs(change["gripper"]) < 1e-6
    offset = np.array([change[name] for name in "xyz"])
    assert np.linalg.norm(offset) == pytest.approx(0.02, abs=1e-4), "metres, whatever the hand's frame is"


def test_the_distance_is_that_between_hand_and_cube(stage):
    targets = stage.targets(across=0.01, along=0.02)
    between = stage.world.cube_xyz_m() - stage.world.hand_xyz_m()
    assert np.linalg.norm([targets[name] for name in "xyz"]) == pytest.approx(
        np.linalg.norm(between), abs=1e-5
    )


def test_a_cube_turned_by_a_quarter_looks_the_same(stage):
    straight, quarter, eighth = (stage.targets(yaw=yaw) for yaw in (0.1, 0.1 + np.pi / 2, 0.1 + np.pi / 4))
    for name in ("sin4yaw", "cos4yaw"):
        assert quarter[name] == pytest.approx(straight[name], abs=1e-4)
        assert eighth[name] == pytest.approx(-straight[name], abs=1e-4)


def test_size_and_gripper_are_what_they_are(stage):
    assert moved(stage, size=0.034)["size"] == pytest.approx(0.004, abs=1e-6)
    assert moved(stage, gripper=0.7)["gripper"] == pytest.approx(0.3, abs=1e-6)


def test_a_cube_out_of_the_picture_is_not_visible(stage):
    assert stage.targets(along=0.01)["visible"] == 1.0
    assert stage.targets(along=-0.5)["visible"] == 0.0


def test_what_is_drawn_is_a_policy_image_with_finite_targets(stage):
    draws = [stage.studio.draw() for _ in range(3)]
    for image, targets in draws:
        assert image.shape == (128, 128, 3) and image.dtype == np.uint8 and image.std() > 5
        assert targets.shape == (len(TARGETS),) and np.isfinite(targets).all()
    assert not np.array_equal(draws[0][0], draws[1][0])


def test_a_short_training_saves_a_trunk_that_loads(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    config = PretrainConfig(width=8, minutes=1e-4, round_size=6, epochs_per_round=1, batch_size=3, held_out=6)
    said: list[str] = []
    try:
        errors = pretrain(TaskConfig(), PolicyConfig(feature_channels=8), config, tmp_path, said.append)
    finally:
        torch.set_num_threads(threads)
    assert set(errors) == set(TARGETS) and len(said) == 1
    trunk, untrained = load_trunk(str(tmp_path)), random_trunk(8, config.seed)
    assert trunk.channels == untrained.channels
    name = "embedder.0.weight"
    assert not torch.equal(trunk.state_dict()[name], untrained.state_dict()[name]), "it has learned something"
