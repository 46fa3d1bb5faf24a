"""The cached features really are those of randomly shifted pictures."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from hilserl.encoder import FeatureEncoder
from hilserl.replay import Key, Replay, ReplayError
from hilserl.types import Episode, Role, Spec
from hilserl.vision import random_trunk, shift
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


def test_features_are_the_same_bits_whoever_encodes_them_and_whenever(encoder: FeatureEncoder) -> None:
    episodes = [replace(film(steps), number=steps) for steps in (3, 4, 5, 6)]
    expected = [with_trunk(encoder).features_of(episode) for episode in episodes]
    replay = with_trunk(encoder)
    replay.add(episodes[1])
    replay.sample(10, 0.0)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(replay.features_of, reversed(episodes * 2)))
    for features, again in zip([*reversed(expected * 2)], found, strict=True):
        np.testing.assert_array_equal(features, again)
    other = replace(episodes[0], number=9)
    for changed in (replay.features_of(other), with_trunk(encoder, seed=4).features_of(episodes[0])):
        np.testing.assert_array_equal(changed[:, :, 0], expected[0][:, :, 0])
        assert not np.array_equal(changed[:, :, 1:], expected[0][:, :, 1:])


def test_features_that_do_not_fit_are_refused(encoder: FeatureEncoder) -> None:
    replay, episode = with_trunk(encoder), film(3)
    features = replay.features_of(episode)
    for wrong in (None, features[:3], features.astype(np.float32), features[:, :, :2]):
        with pytest.raises(ReplayError, match="must be float16 .4, 1, 3, 32, 2, 2."):
            replay.write(episode, wrong)
    assert replay.write(episode, features) == 3


class Pictures:
    """Gives the pictures of episodes, and notes who was asked for."""

    def __init__(self, *episodes: Episode) -> None:
        self.known = {Key.of(episode): episode.images for episode in episodes}
        self.asked: list[Key] = []

    def __call__(self, key: Key) -> dict | None:
        self.asked.append(key)
        return self.known.get(key)


def test_refresh_draws_new_shifts_and_keeps_the_rest(encoder: FeatureEncoder) -> None:
    replay = with_trunk(encoder)
    assert replay.refresh(Pictures()) == 0
    episode = film(5, Role.DEMO)
    replay.add(episode)
    pictures, features = Pictures(episode), replay.protected.arrays["features"]
    seen = [features[:6].copy()]
    for _ in range(3):
        assert [replay.refresh(pictures, 4) for _ in range(3)] == [2, 2, 2]  # two shifted copies a frame
        seen.append(features[:6].copy())
    assert len(pictures.asked) == 3
    for one, other in itertools.combinations(seen, 2):
        np.testing.assert_array_equal(one[:, 0, 0], other[:, 0, 0])
        # a shift drawn twice is a coincidence, not a rule
        assert (one[:, 0, 1:] != other[:, 0, 1:]).any((2, 3, 4)).mean() > 0.7


def test_refreshed_frames_are_shifted_pictures_of_themselves(encoder: FeatureEncoder) -> None:
    episode, replay = film(4), with_trunk(encoder)
    replay.add(episode)
    for _ in range(3):
        replay.refresh(Pictures(episode), 4)
    images = episode.images["cam"]
    places = [(dy, dx) for dy in range(-4, 5) for dx in range(-4, 5)]
    moved = [encoder.encode(shift(images, np.tile(place, (5, 1)))) for place in places]
    for i, copy in itertools.product(range(5), (1, 2)):
        stored = replay.online.arrays["features"][i, 0, copy]
        assert any(np.allclose(stored, features[i], rtol=0.02, atol=0.01) for features in moved)


def test_refreshing_takes_turns_and_skips_what_is_not_at_hand(encoder: FeatureEncoder) -> None:
    one, two, lost = (replace(film(3), number=number) for number in (1, 2, 3))
    demo = replace(film(3, Role.DEMO), number=4)
    replay, pictures = with_trunk(encoder), Pictures(one, two, demo)
    for episode in (lost, one, two, demo):
        replay.add(episode)
    for _ in range(60):
        replay.refresh(pictures, 100)
    online = [key.number for key in pictures.asked if key.role is Role.TRAIN]
    assert len(pictures.asked) - len(online) == 30  # every other turn is the protected ring's
    assert online.count(1) >= 9
    assert online.count(2) >= 9
    pictures.known[Key.of(lost)] = lost.images
    before = replay.online.arrays["features"][:4].copy()
    for _ in range(20):
        replay.refresh(pictures, 100)
    assert (replay.online.arrays["features"][:4] != before).any()
    replay.exclude([Key.of(one)])
    pictures.asked.clear()
    for _ in range(20):
        replay.refresh(pictures, 100)
    assert Key.of(one) not in pictures.asked


def test_an_episode_evicted_while_it_is_refreshed_leaves_the_new_one_alone(encoder: FeatureEncoder) -> None:
    replay, old = with_trunk(encoder), film(9)
    replay.add(old)
    assert replay.refresh(Pictures(old), 4) == 2
    new = replace(film(14), number=2)
    replay.add(new)
    expected = replay.online.arrays["features"].copy()
    assert replay.refresh(lambda key: None) == 0
    np.testing.assert_array_equal(replay.online.arrays["features"], expected)


def test_pictures_of_another_length_are_refused(encoder: FeatureEncoder) -> None:
    replay = with_trunk(encoder)
    replay.add(film(3))
    with pytest.raises(ReplayError, match="have not 4 frames of .'cam'"):
        replay.refresh(lambda key: film(4).images)


@pytest.mark.parametrize("n_obs", [1, 3])
def test_kept_pictures_are_shifted_when_they_are_sampled(n_obs: int) -> None:
    spec = Spec(("left", "right"), (9, 7, 3), ("frame_m",))
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (6, 9, 7, 3), dtype=np.uint8) for name in spec.cameras}
    episode = replace(Maker(spec)(5), images=images, state=np.arange(6, dtype=np.float32)[:, None])

    def never(_: np.ndarray) -> np.ndarray:
        raise AssertionError("pictures are kept as they are")

    replay = Replay(
        spec, never, feature_shape=(1, 1, 1), capacity=20, protected_capacity=20, pad=2, n_obs_steps=n_obs,
        cache_features=False,
    )  # fmt: skip
    assert replay.features_of(episode) is None
    replay.write(episode, None)
    places = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)]
    shifted = {
        (name, place): shift(pictures, np.tile(place, (6, 1)))
        for name, pictures in images.items()
        for place in places
    }
    batch = replay.sample(150, 0.0)
    drawn = []
    for seen, state in ((batch.seen, batch.state), (batch.next_seen, batch.next_state)):
        assert seen.dtype == torch.uint8
        assert seen.shape == (150, n_obs, 2, 9, 7, 3)
        for row in range(150):
            frames = state[row, :, 0].int().tolist()
            for camera, name in enumerate(spec.cameras):
                stack = seen[row, :, camera].numpy()
                fitting = [p for p in places if np.array_equal(stack, shifted[name, p][frames])]
                assert len(fitting) == 1
                drawn += fitting
    # Each of 25 shifts about 24 times, and no two of a transition's four pictures tied to each other.
    assert np.unique(drawn, axis=0, return_counts=True)[1].min() > 8
    table = np.array(drawn).reshape(2, 150, 2, 2)  # now or next, row, camera, (dy, dx)
    for one, other in itertools.combinations(table.transpose(0, 2, 1, 3).reshape(4, 150, 2), 2):
        assert (one == other).all(1).mean() < 0.2
    assert replay.refresh(Pictures(episode)) == 0
