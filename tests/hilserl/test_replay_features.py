"""The cached features really are those of randomly shifted pictures."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from hilserl.replay import Replay
from hilserl.types import Episode, Role, Spec
from hilserl.vision import FeatureEncoder, random_trunk, shift
from tests.fakes.frames import Maker

torch.set_num_threads(1)
PICTURES = Spec(("cam",), (64, 64, 3), ("x_m",))


def film(steps: int, role: Role = Role.TRAIN) -> Episode:
    episode = Maker(PICTURES)(steps, role=role)
    rng = np.random.default_rng(steps)
    images = {"cam": rng.integers(0, 256, (steps + 1, 64, 64, 3), dtype=np.uint8)}
    return replace(episode, images=images, state=episode.state[:, :1])


def with_trunk(encoder: FeatureEncoder, **more: object) -> Replay:
    settings: dict = {"capacity": 20, "protected_capacity": 20, "copies": 3, "pad": 4, "seed": 3} | more
    shape = encoder.feature_shape(PICTURES.image_shape)
    return Replay(PICTURES, encoder.encode, feature_shape=shape, **settings)


@pytest.fixture(scope="module")
def encoder() -> FeatureEncoder:
    return FeatureEncoder(random_trunk(4, 0), 32)


def test_copies_are_the_features_of_really_shifted_pictures(encoder: FeatureEncoder) -> None:
    episode, replay = film(5), with_trunk(encoder)
    replay.add(episode)
    images = episode.images["cam"]
    stored = replay.online.arrays["features"][:6, 0]
    for i in range(6):
        np.testing.assert_array_equal(stored[i, 0], encoder.encode(images[i : i + 1])[0])
    moved = {
        (dy, dx): encoder.encode(shift(images, np.tile([dy, dx], (6, 1))))
        for dy in range(-4, 5)
        for dx in range(-4, 5)
    }
    for i, copy in itertools.product(range(6), (1, 2)):
        assert any(np.array_equal(stored[i, copy], features[i]) for features in moved.values())
    assert not np.array_equal(stored[:, 1], stored[:, 0])
    assert not np.array_equal(stored[:, 1], stored[:, 2])


def test_batches_mix_the_copies(encoder: FeatureEncoder) -> None:
    replay = with_trunk(encoder)
    replay.add(film(1))
    stored = torch.from_numpy(replay.online.arrays["features"])
    batch = replay.sample(300, 0.0)
    for frame, features in ((0, batch.seen), (1, batch.next_seen)):
        seen = [sum(torch.equal(f[0, 0], stored[frame, 0, copy]) for f in features) for copy in range(3)]
        assert sum(seen) == 300
        assert min(seen) > 60


def test_without_augmentation_every_picture_is_as_it_was(encoder: FeatureEncoder) -> None:
    replay = with_trunk(encoder, pad=0)
    replay.add(film(2))
    stored = torch.from_numpy(replay.online.arrays["features"][0, 0, 0])
    batch = replay.sample(50, 0.0)
    first = batch.state[:, 0, 0] == 0
    assert all(torch.equal(f[0, 0], stored) for f in batch.seen[first])


def test_stacked_frames_are_shifted_alike(encoder: FeatureEncoder) -> None:
    replay = with_trunk(encoder, n_obs_steps=3)
    episode = film(6)
    still = np.repeat(episode.images["cam"][:1], 7, 0)
    replay.add(replace(episode, images={"cam": still}))
    for features in replay.sample(100, 0.0).seen:
        assert torch.equal(features[0], features[1])
        assert torch.equal(features[0], features[2])


def test_refresh_draws_new_shifts_and_keeps_the_rest(encoder: FeatureEncoder) -> None:
    replay = with_trunk(encoder)
    assert replay.refresh(lambda key: None) == 0
    episode = film(5, Role.DEMO)
    replay.add(episode)
    before = replay.protected.arrays["features"].copy()
    done = 0
    while done < 6:
        done += replay.refresh(lambda key: episode.images, 4)
    assert done == 6
    after = replay.protected.arrays["features"]
    np.testing.assert_array_equal(after[:6, 0, 0], before[:6, 0, 0])
    assert (after[:6, 0, 1:] != before[:6, 0, 1:]).any((2, 3, 4)).all()
