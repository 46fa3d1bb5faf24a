"""Bytes per transition in memory and on the wire, counted on real objects and real messages of both sides."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hilserl.benchmark import lerobot_side as lerobot
from hilserl.benchmark import ours
from hilserl.benchmark.data import EPISODE_STEPS, SENSOR_NOISE, add_noise, episodes, make_spec
from hilserl.types import Episode
from robot.types import U8

NOISES = (0.0, 2.0, SENSOR_NOISE)
"""Grey levels of sensor noise with which compressed sizes are told."""
CHANNELS, COPIES = (512, 64), (1, 4, 8)


def one_episode(cameras: int, renders: U8, sigma: float) -> Episode:
    """A full episode of noisy renders."""
    return next(episodes(make_spec(cameras), add_noise(renders, sigma), EPISODE_STEPS))


def sizes(cameras: int, renders: U8, theirs: lerobot.LeRobot) -> dict[str, Any]:
    """All sizes [bytes per transition] with `cameras` cameras.

    memory.lerobot: their class as it comes, both observations of a transition. lerobot_optimised: what their
    learner chooses (it pairs an episode's last step with the next episode's first frame). ours: the ring's
    row without features, and the archive file that keeps each picture once, losslessly compressed.
    ours_raw: the ring with raw pictures in place of features. features: what the cache adds.
    """
    episode = one_episode(cameras, renders, SENSOR_NOISE)
    frames = (len(episode) + 1) / len(episode)
    spec = make_spec(cameras)
    encoder = ours.plain_encoder(CHANNELS[0])
    policy = ours.policy_config(CHANNELS[0], 1, "cpu")
    cached = ours.make_replay(spec, encoder, policy, (EPISODE_STEPS + 1, 1))
    raw = ours.make_replay(spec, encoder, replace(policy, cache_features=False), (EPISODE_STEPS + 1, 1))
    row = ours.row_bytes(cached) * frames
    positions = ours.feature_bytes(cached) * frames / CHANNELS[0]
    archives = {f"{sigma:g}": ours.archive_bytes(one_episode(cameras, renders, sigma)) for sigma in NOISES}
    memory = {
        "lerobot": lerobot.buffer_bytes(theirs.buffer([episode], optimize_memory=False)),
        "lerobot_optimised": lerobot.buffer_bytes(theirs.buffer([episode], optimize_memory=True)),
        "ours_row": row,
        "ours_archive_by_noise": archives,
        "ours": row + archives[f"{SENSOR_NOISE:g}"],
        "ours_raw": ours.row_bytes(raw) * frames,
        "features": {f"C={c} M={m}": positions * c * m for c in CHANNELS for m in COPIES},
    }
    wire = {
        "lerobot": lerobot.wire_bytes(episode, shared=False),
        "lerobot_cpu_policy": lerobot.wire_bytes(episode, shared=True),
        "ours": ours.wire_bytes(episode),
    }
    return {"cameras": cameras, "memory": memory, "wire": wire}
