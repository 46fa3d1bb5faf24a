import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilserl.episode import (
    EpisodeBuilder,
    EpisodeFileError,
    EpisodeHeader,
    durable_numbers,
    load_episode,
    save_episode,
    scan_episodes,
)
from hilserl.types import End, Episode, Obs, Role, Spec, Step

SPEC = Spec(cameras=("wrist", "side"), image_shape=(9, 7, 3), state_names=("a_rad", "b_rad"))
STORED = [end for end in End if end.stored]


def random_obs(rng: np.random.Generator, spec: Spec = SPEC) -> Obs:
    images = {c: rng.integers(0, 256, spec.image_shape).astype(np.uint8) for c in spec.cameras}
    return Obs(images, rng.normal(size=spec.state_size).astype(np.float32))


def random_step(rng: np.random.Generator, spec: Spec = SPEC, end: End | None = None) -> Step:
    action = rng.uniform(-1, 1, 4).astype(np.float32)
    return Step(action, float(np.float32(rng.normal())), bool(rng.integers(2)), random_obs(rng, spec), end)


def build(seed: int, steps: int, end: End, number: int = 1, actor: str = "robot_1") -> Episode:
    rng = np.random.default_rng(seed)
    header = EpisodeHeader(actor, number, Role.TRAIN, 3, seed, "hash", {"cube_m": 0.03, "who": "Ä"})
    builder = EpisodeBuilder(SPEC, header)
    builder.start(random_obs(rng))
    for _ in range(steps):
        builder.add(random_step(rng))
    return builder.finish(end, {"minutes": 2.5})


def assert_equal(a: Episode, b: Episode):
    for key in Episode.__slots__:
        x, y = getattr(a, key), getattr(b, key)
        if key == "images":
            assert list(x) == list(y)
            for camera in x:
                np.testing.assert_array_equal(x[camera], y[camera])
        elif isinstance(x, np.ndarray):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)
        else:
            assert x == y, key


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 6), end=st.sampled_from(STORED))
def test_what_is_saved_is_what_is_loaded(tmp_path_factory: pytest.TempPathFactory, seed, steps, end):
    folder = tmp_path_factory.mktemp("episodes")
    episode = build(seed, steps, end)
    path = save_episode(folder, episode)
    assert_equal(load_episode(path), episode)
    (info,) = scan_episodes(folder)
    assert (info.actor, info.number, info.length, info.end, info.path) == ("robot_1", 1, steps, end, path)


def test_nothing_is_ever_overwritten(tmp_path: Path):
    path = save_episode(tmp_path, build(0, 3, End.SUCCESS))
    before = path.read_bytes()
    for other in (build(1, 3, End.SUCCESS), build(1, 4, End.FAILURE)):
        with pytest.raises(FileExistsError, match="robot_1"):
            save_episode(tmp_path, other)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_actors_whose_names_look_alike_do_not_collide(tmp_path: Path):
    save_episode(tmp_path, build(0, 1, End.SUCCESS, actor="a_00000001"))
    save_episode(tmp_path, build(0, 1, End.SUCCESS, actor="a"))
    save_episode(tmp_path, build(0, 2, End.SUCCESS, actor="a", number=12))
    assert durable_numbers(scan_episodes(tmp_path)) == {"a": 12, "a_00000001": 1}


def test_a_discarded_episode_cannot_be_stored(tmp_path: Path):
    with pytest.raises(ValueError, match="discarded"):
        save_episode(tmp_path, build(0, 2, End.DISCARDED))
    assert not list(tmp_path.iterdir())


def test_any_damage_is_a_named_error_or_harmless(tmp_path: Path):
    episode = build(0, 2, End.TIMEOUT)
    path = save_episode(tmp_path, episode)
    raw = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for at in rng.choice(len(raw), 400, replace=False):
        damaged = bytearray(raw)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            assert_equal(load_episode(path), episode)
        except EpisodeFileError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 200
    for size in (0, 1, len(raw) // 2, len(raw) - 1):
        path.write_bytes(raw[:size])
        with pytest.raises(EpisodeFileError, match=path.name):
            load_episode(path)


@pytest.mark.parametrize("method", [8, 9, 12, 14, 93, 99])
@pytest.mark.parametrize("encrypted", [0, 1])
def test_an_archive_that_claims_to_be_packed_otherwise_is_a_named_error(tmp_path: Path, method, encrypted):
    path = save_episode(tmp_path, build(0, 2, End.TIMEOUT))
    raw = bytearray(path.read_bytes())
    at = raw.index(b"PK\1\2")
    raw[at + 8] |= encrypted
    raw[at + 10] = method
    path.write_bytes(raw)
    with pytest.raises(EpisodeFileError, match=path.name):
        load_episode(path)


def test_a_pickle_is_not_read(tmp_path: Path):
    path = tmp_path / "robot_00000001_00001_success.npz"
    np.savez(path, meta=np.array([{"a": 1}], dtype=object))
    with pytest.raises(EpisodeFileError, match="allow_pickle"):
        load_episode(path)


def test_names_that_lie_and_leftovers(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = save_episode(tmp_path, build(0, 2, End.TIMEOUT))
    lie = tmp_path / "robot_1_00000001_00002_success.npz"
    shutil.copy(path, lie)
    with pytest.raises(EpisodeFileError, match="name"):
        load_episode(lie)
    with pytest.raises(EpisodeFileError, match="same episode"):
        scan_episodes(tmp_path)
    lie.unlink()
    (tmp_path / ".robot_1_00000002_00002_success-x.tmp").write_bytes(b"half")
    with caplog.at_level(logging.WARNING):
        assert [e.path for e in scan_episodes(tmp_path)] == [path]
    assert "leftover" in caplog.text


def test_the_builder_refuses_what_does_not_fit():
    rng = np.random.default_rng(0)
    header = EpisodeHeader("robot", 1, Role.TRAIN, 0, 0, "hash")
    builder = EpisodeBuilder(SPEC, header)
    with pytest.raises(ValueError, match="not started"):
        builder.add(random_step(rng))
    other = Spec(cameras=("wrist", "side"), image_shape=(8, 8, 3), state_names=("a_rad", "b_rad"))
    with pytest.raises(ValueError, match=r"\(9, 7, 3\)"):
        builder.start(random_obs(rng, other))
    with pytest.raises(ValueError, match="cameras"):
        builder.start(Obs({}, np.zeros(2, np.float32)))
    builder.start(random_obs(rng))
    with pytest.raises(ValueError, match="finite"):
        builder.add(Step(np.zeros(4, np.float32), float("nan"), False, random_obs(rng), None))
    builder.add(random_step(rng, end=End.SUCCESS))
    with pytest.raises(ValueError, match="ended"):
        builder.add(random_step(rng))
    with pytest.raises(ValueError, match="SUCCESS"):
        builder.finish(End.FAILURE)
    assert builder.finish(End.DISCARDED).end is End.DISCARDED


@pytest.mark.parametrize("info", [{"x": float("nan")}, {"x": None}, {"x": [1]}])
def test_facts_are_numbers_or_strings(info):
    with pytest.raises(ValueError, match="'x'"):
        EpisodeHeader("robot", 1, Role.TRAIN, 0, 0, "hash", info)


@pytest.mark.parametrize("actor", ["", "a/b", "../x", "a b", "x" * 65, ".hidden"])
def test_actor_names_fit_into_file_names(actor):
    with pytest.raises(ValueError, match="actor name"):
        EpisodeHeader(actor, 1, Role.TRAIN, 0, 0, "hash")


def test_without_pictures_the_rest_is_the_same(tmp_path):
    path = save_episode(tmp_path, build(1, 5, End.SUCCESS))
    whole, bare = load_episode(path), load_episode(path, pictures=False)
    assert bare.images == {} and whole.images
    assert_equal(replace(whole, images={}), bare)
