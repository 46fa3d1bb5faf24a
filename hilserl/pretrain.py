"""Pretrain a trunk on randomised renders of the twin, for machines that cannot download one.

The network regresses what the gripper camera should make visible: where the cube is relative to the hand,
how it is turned, how big it is, and how far the gripper is open. Only the trunk is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hilserl.config import Config, PolicyConfig, TaskConfig
from hilserl.encoder import FeatureEncoder
from hilserl.env import policy_image
from hilserl.networks import ImageHead
from hilserl.vision import Trunk, random_shift, random_trunk, save_trunk
from robot.kinematics import Kinematics
from robot.twin.world import World, arrange_lift
from robot.types import F32, GRIPPER, U8, WRIST_ROLL

TARGETS = ("x", "y", "z", "sin4yaw", "cos4yaw", "size", "gripper", "height", "visible")
TARGET_SCALE = np.array([0.05, 0.05, 0.05, 1.0, 1.0, 0.004, 0.3, 0.02, 1.0], np.float32)
"""Typical spread of each target: metres, sines, radians; the network regresses target / scale."""
CUBE_TARGETS = 6
"""The first targets are about the cube and mean nothing where it is out of the picture."""
VISIBLE_PIXELS = 150
"""Of the native picture: fewer pixels of the cube than this count as not seen."""
GRASPED_SHARE = 0.4
"""Share of pictures with the cube between the fingers, where precision matters most."""
LIFTED_SHARE = 0.6
"""Of these, the share in which hand and cube are above the table."""


@dataclass(frozen=True, slots=True)
class PretrainConfig:
    """How long and on what. Pictures are drawn anew in rounds, so that none is seen often."""

    width: int = 16
    minutes: float = 6.0
    round_size: int = 2000
    epochs_per_round: int = 4
    batch_size: int = 64
    lr: float = 1e-3
    seed: int = 0
    held_out: int = 500
    """Pictures the errors are measured on."""


class RenderStudio:
    """Draws pictures and what they show. Poses, cube, looks and gripper are all independent."""

    def __init__(self, task: TaskConfig, seed: int) -> None:
        self._task = task
        self._world = World(task.camera_width, task.camera_height)
        self._kinematics = Kinematics()
        self._rng = np.random.default_rng(seed)
        self._scene = replace(task.scene, cube_range_xy=0.09, cube_yaw=float(np.pi / 4), looks=1.0)

    def draw(self) -> tuple[U8, F32]:
        """One policy image uint8 (h, w, 3) and its targets (9,), already divided by TARGET_SCALE."""
        rng, task, world = self._rng, self._task, self._world
        arrange_lift(world, self._scene, int(rng.integers(2**31)))
        near = np.array(world.cube_xyz_m()[:2])
        hand = np.array([*(near + rng.normal(0, 0.05, 2)), rng.uniform(0.0, 0.15)])
        grasp = rng.random() < GRASPED_SHARE
        if grasp:
            hand = np.array([*(near + rng.normal(0, 0.012, 2) + (0, -0.024)), rng.uniform(0.0, 0.05)])
            if rng.random() < LIFTED_SHARE:
                lift_m = rng.uniform(0.0, 0.12)
                world.raise_cube(lift_m)
                hand[2] = rng.uniform(0.0, 0.02) + lift_m
        start = np.zeros(6, np.float32)
        start[WRIST_ROLL] = task.wrist_roll + rng.normal(0, 0.03)
        q = self._kinematics.ik(np.clip(hand, (0.14, -0.15, 0.0), (0.35, 0.15, 0.2)), start)
        q[GRIPPER] = rng.uniform(-0.1, task.reset_gripper + 0.1)
        world.set_arm(q)
        crop = next(iter(task.crop_params_dict.values()))
        image = policy_image(world.render_gripper(), crop, task.resize_size)
        return image, self._targets(float(q[GRIPPER]))

    def _targets(self, gripper_rad: float) -> F32:
        world = self._world
        offset = world.hand_rotmat().T @ (world.cube_xyz_m() - world.hand_xyz_m())
        heading = float(np.arctan2(world.hand_rotmat()[1, 2], world.hand_rotmat()[0, 2]))
        turn = 4 * (world.cube_yaw_rad() - heading)
        visible = float(world.cube_pixels() >= VISIBLE_PIXELS)
        raw = [*offset, np.sin(turn), np.cos(turn), world.cube_size_m() - 0.03, gripper_rad - 0.35]
        raw += [float(world.hand_xyz_m()[2]) - 0.06, visible]
        return np.array(raw, np.float32) / TARGET_SCALE


class Regressor(nn.Module):
    """A trunk, the fixed projection and an image head as the policy has them, and a linear read-out.

    What the read-out finds is what a policy's head can find in the frozen features. Only the trunk is kept.
    """

    def __init__(self, trunk: Trunk, policy: PolicyConfig, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.trunk = trunk
        encoder = FeatureEncoder(trunk, min(policy.feature_channels, trunk.channels))
        self.projection = encoder.projection
        shape = encoder.feature_shape(image_shape)
        self.head = ImageHead(shape, policy.num_spatial_embeddings, policy.latent_dim, 0.0)
        self.out = nn.Linear(policy.latent_dim, len(TARGETS))
        trunk.train().requires_grad_(True)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 9) scaled targets of uint8 (B, H, W, 3)."""
        features = self.trunk(images)
        if self.projection is not None:
            features = nn.functional.conv2d(features, self.projection[:, :, None, None])
        out: Tensor = self.out(self.head(features, None))
        return out


def pretrain(
    task: TaskConfig,
    policy: PolicyConfig,
    config: PretrainConfig,
    folder: Path,
    report: Callable[[str], None],
) -> dict[str, float]:
    """Train a trunk for config.minutes and save it to `folder`; returns held-out mean absolute errors."""
    torch.manual_seed(config.seed)
    studio = RenderStudio(task, config.seed + 1)
    held_out = [studio.draw() for _ in range(config.held_out)]
    trunk = random_trunk(config.width, config.seed)
    network = Regressor(trunk, policy, (*task.resize_size, 3))
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=1e-4)
    rng = np.random.default_rng(config.seed)
    start = time.monotonic()
    errors: dict[str, float] = {}
    seen = 0
    while (share := (time.monotonic() - start) / (60 * config.minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = config.lr * max(0.02, 0.5 * (1 + np.cos(np.pi * share)))
        pictures = [studio.draw() for _ in range(config.round_size)]
        images, targets = np.stack([p[0] for p in pictures]), np.stack([p[1] for p in pictures])
        for _ in range(config.epochs_per_round):
            order = rng.permutation(len(images))
            for at in range(0, len(order), config.batch_size):
                chosen = order[at : at + config.batch_size]
                _train(network, optimiser, random_shift(images[chosen], 4, rng), targets[chosen])
                seen += len(chosen)
        errors = _errors(network, held_out)
        report(f"{seen} pictures, {(time.monotonic() - start) / 60:.1f} min: " + _words(errors))
    save_trunk(trunk, folder)
    return errors


def _train(network: nn.Module, optimiser: torch.optim.Optimizer, images: U8, targets: F32) -> None:
    goal = torch.from_numpy(targets)
    miss = nn.functional.smooth_l1_loss(network(torch.from_numpy(images)), goal, reduction="none", beta=0.3)
    # Where the cube is out of the picture its pose cannot be known: only the gripper and `visible` count.
    weight = torch.ones_like(miss)
    weight[:, :CUBE_TARGETS] = goal[:, -1:]
    loss = (weight * miss).mean()
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    optimiser.step()


@torch.no_grad()
def _errors(network: nn.Module, held_out: list[tuple[U8, F32]]) -> dict[str, float]:
    images = torch.from_numpy(np.stack([image for image, _ in held_out]))
    found = torch.cat([network(part) for part in torch.split(images, 100)]).numpy()
    targets = np.stack([target for _, target in held_out])
    miss = np.abs(found - targets) * TARGET_SCALE
    seen = targets[:, -1] > 0
    mean = [*miss[seen, :CUBE_TARGETS].mean(0), *miss[:, CUBE_TARGETS:].mean(0)]
    return {name: float(value) for name, value in zip(TARGETS, mean, strict=True)}


def _words(errors: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in errors.items())


def main(
    config: Config, folder: Path, pretrain_config: PretrainConfig, report: Callable[[str], None]
) -> None:
    """Entry of `hilserl pretrain-encoder`: train on the task's twin and say where the trunk was saved."""
    errors = pretrain(config.task, config.policy, pretrain_config, folder, report)
    report(f"saved {folder}; held-out mean absolute errors: {_words(errors)} (metres, radians)")
