"""The cached features really are those of randomly shifted pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hilserl.replay import Replay
from hilserl.ring import ReplayError
from hilserl.types import Episode, Role, Spec
from hilserl.vision import FeatureEncoder, random_shift, random_trunk
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
    stored = replay.online.features[:6, 0]
    for i in range(6):
        np.testing.assert_array_equal(stored[i, 0], encoder.encode(images[i : i + 1])[0])
    rng = np.random.default_rng(3)
    for copy in (1, 2):
        np.testing.assert_array_equal(stored[:, copy], encoder.encode(random_shift(images, 4, rng)))
    assert not np.array_equal(stored[:, 1], stored[:, 0])
    assert not np.array_equal(stored[:, 1], stored[:, 2])


def test_batches_mix_the_copies(encoder: FeatureEncoder) -> None:
    replay = with_trunk(encoder)
    replay.add(film(1))
    stored = torch.from_numpy(replay.online.features)
    batch = replay.sample(300, 0.0)
    for frame, features in ((0, batch.seen), (1, batch.next_seen)):
        seen = [sum(torch.equal(f[0, 0], stored[frame, 0, copy]) for f in features) for copy in range(3)]
        assert sum(seen) == 300
        assert min(seen) > 60


def test_without_augmentation_every_picture_is_as_it_was(encoder: FeatureEncoder) -> None:
    replay = with_trunk(encoder, pad=0)
    replay.add(film(2))
    stored = torch.from_numpy(replay.online.features[0, 0, 0])
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
    assert replay.refresh() == 0
    replay.add(film(5, Role.DEMO))
    before = replay.protected.features.copy()
    assert replay.refresh() == 6
    np.testing.assert_array_equal(replay.protected.features[:6, 0, 0], before[:6, 0, 0])
    assert (replay.protected.features[:6, 0, 1:] != before[:6, 0, 1:]).any()
    with pytest.raises(ReplayError, match="store_images"):
        with_trunk(encoder, store_images=False).refresh()
