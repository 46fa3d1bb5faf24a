"""The composition root of learning: from a Config to encoder, replay, SAC and the acting policy."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from hilserl.checkpoint import load_pretrained
from hilserl.config import Config, ConfigError
from hilserl.dataset_schema import is_dataset
from hilserl.encoder import FeatureEncoder, principal_projection
from hilserl.episode import TASK_FILE, EpisodeInfo, load_episode, scan_episodes
from hilserl.group import Group
from hilserl.replay import Key, Replay
from hilserl.sac import SAC
from hilserl.sac_agent import Stopped
from hilserl.task_record import check_played, check_task
from hilserl.types import Episode, Role, Spec
from hilserl.vision import load_trunk
from robot.types import F32, U8

_PROJECTION_PICTURES = 512
"""Demonstrated pictures the projection is computed from: 16 positions of each, thousands of vectors."""


Known = Callable[[Key, Path], None]
"""Hears where each episode's file is."""


def build_encoder(config: Config) -> FeatureEncoder:
    """The image encoder of this configuration; one of principal channels still lacks its projection."""
    policy = config.policy
    return FeatureEncoder(
        load_trunk(policy.vision_encoder_name),
        policy.feature_channels,
        seed=None if policy.feature_projection == "pca" else 0,
        device=policy.device,
    )


def learner_encoder(config: Config, checkpoint: Path | None) -> FeatureEncoder:
    """The learner's image encoder: principal channels are those of `checkpoint`, or of the demonstrations."""
    encoder = build_encoder(config)
    if encoder.complete:
        return encoder
    if checkpoint is not None:
        projection = load_pretrained(checkpoint).tensors["encoder.projection"]
        encoder.project(torch.from_numpy(np.array(projection)))
        return encoder
    pictures = _demonstrated_pictures(config)
    encoder.project(principal_projection(encoder.trunk, pictures, encoder.channels))
    return encoder


def _demonstrated_pictures(config: Config) -> U8:
    """Evenly spread over all demonstrations, uint8 (N, H, W, 3), all cameras."""
    infos = [info for folder in config.demos for info in scan_episodes(Path(folder))]
    if not infos:
        raise ConfigError(
            'policy.feature_projection is "pca", which is computed from demonstrations: name some in demos, '
            'or use "random"'
        )
    each = -(-_PROJECTION_PICTURES // (len(infos) * len(config.task.camera_ids)))
    parts: list[U8] = []
    for info in infos:
        for images in load_episode(info.path).images.values():
            parts.append(images[:: max(1, len(images) // each)])
    return np.concatenate(parts)


def set_threads(config: Config) -> None:
    """Give torch the configured number of threads."""
    if config.run.num_threads:
        torch.set_num_threads(config.run.num_threads)


def build_replay(config: Config, spec: Spec, encoder: FeatureEncoder, folder: Path | None = None) -> Replay:
    """A replay as configured: empty and in memory, or what the files in `folder` hold.

    Raises LayoutChanged when these were made for something else.
    """
    policy = config.policy
    return Replay(
        spec,
        encoder.encode,
        feature_shape=encoder.feature_shape(spec.image_shape),
        capacity=policy.online_buffer_capacity,
        protected_capacity=policy.offline_buffer_capacity,
        copies=policy.feature_copies,
        pad=policy.augmentation_pad if policy.use_augmentation else 0,
        n_obs_steps=policy.n_obs_steps,
        n_step=policy.n_step,
        discount=policy.discount,
        seed=config.seed,
        cache_features=policy.cache_features,
        folder=folder,
        encoder_hash=encoder.hash(),
        fps=config.task.fps,
    )


def with_imported_demos(
    config: Config, message: Callable[[str], None], should_stop: Callable[[], bool] = lambda: False
) -> Config:
    """`config` with each LeRobotDataset that demos names replaced by the folder of episodes made of it."""
    from hilserl.dataset_import import import_for  # a video decoder: most learners need none

    def tick() -> None:
        if should_stop():
            raise Stopped

    folders = tuple(
        str(import_for(config, Path(named), message, tick).folder) if is_dataset(Path(named)) else named
        for named in config.demos
    )
    return dataclasses.replace(config, demos=folders)


def load_demos(
    config: Config,
    replay: Replay,
    message: Callable[[str], None],
    should_stop: Callable[[], bool] = lambda: False,
    known: Known = lambda _key, _path: None,
) -> None:
    """Fill the protected store from config.demos. Raises TaskMismatch naming a field that differs."""
    for folder in config.demos:
        episodes = scan_episodes(Path(folder))
        if not episodes:
            raise ConfigError(f"demos names {folder}, which holds no episode (*.npz); record some first")
        task_file = Path(folder) / TASK_FILE
        if not task_file.is_file():
            raise ConfigError(
                f"demos names {folder}, which has no {TASK_FILE} saying under which task it was recorded"
            )
        record = task_file.read_text()
        check_task(config.task, record, str(task_file), config.allow_task_difference)
        for info in episodes:
            if should_stop():
                raise Stopped
            _check_demo(take_in(info, replay, known)[0], record, info.path)
        steps = sum(info.length for info in episodes)
        message(f"{len(episodes)} demonstrations ({steps} transitions) from {folder}")


def _check_demo(episode: Episode, record: str, path: Path) -> None:
    """A demonstration of the task record beside it, which only demonstrations are protected by."""
    check_played(episode.task_hash, record, str(path))
    if episode.role is not Role.DEMO:
        raise ConfigError(
            f'demos: {path} has the role "{episode.role.value}" and would be overwritten like any other '
            "episode; name folders of demonstrations only"
        )


def take_in(info: EpisodeInfo, replay: Replay, known: Known) -> tuple[Episode, bool]:
    """Add a stored episode unless the replay holds it; the episode, without pictures, and whether it was."""
    episode = load_episode(info.path, pictures=False)
    key = Key.of(episode)
    known(key, info.path)
    if replay.holds(key):
        return episode, False
    replay.add(load_episode(info.path))
    return episode, True


def build_sac(
    config: Config, spec: Spec, replay: Replay, encoder: FeatureEncoder, group: Group | None = None
) -> SAC:
    """SAC with state statistics computed from the replay. group: the processes that share each batch."""
    mean, std = replay.state_statistics()
    return sac_of(config, spec, encoder, mean, std, group)


def sac_of(
    config: Config, spec: Spec, encoder: FeatureEncoder, mean: F32, std: F32, group: Group | None = None
) -> SAC:
    """SAC for states of this mean and spread (S,)."""
    return SAC(
        spec,
        config.policy,
        encoder.feature_shape(spec.image_shape),
        mean,
        std,
        config.seed,
        value_range(config),
        encoder=None if config.policy.cache_features else encoder,
        group=group,
    )


def value_range(config: Config) -> tuple[float, float]:
    """The least and the most a state can be worth: success is paid once, and every step may cost."""
    if config.policy.use_backup_entropy:
        return -math.inf, math.inf  # the entropy bonus has no such bounds
    success = config.task.success
    return -success.step_cost / (1 - config.policy.discount), success.reward - success.step_cost
