"""The replay never pairs unrelated frames, never forgets a demonstration, and really shifts pictures."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import types
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hilserl import replay_size
from hilserl.replay import Batch, ProtectedFull, Replay
from hilserl.ring_journal import Key, ReplayError
from hilserl.types import End, Episode, Role
from tests.fakes.frames import SPEC, Maker, colours, make

torch.set_num_threads(1)
FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where files cost nothing; what a disk may lose is the subject of test_ring_files.py."""


DISCOUNT = 0.97


@dataclass
class Kept:
    """One step as the brute-force model remembers it. left: steps until the episode's last frame."""

    frame: int
    age: int
    left: int
    terminal: bool


def steps_of(episode: Episode, wanted: np.ndarray) -> list[Kept]:
    first, steps = int(episode.state[0, 0]), len(episode)
    dead = episode.end in (End.SUCCESS, End.FAILURE)
    return [Kept(first + t, t, steps - t, dead) for t in range(steps) if wanted[t]]


def check_batch(batch: Batch, known: dict[int, Kept], n_obs: int, n_step: int = 1) -> None:
    """Every row of `batch` is one of the `known` steps, whole."""
    for row in range(len(batch.action)):
        frame = round(float(batch.action[row, 3]) * 1e4)
        step = known[frame]
        ahead = min(n_step, step.left)
        for prefix, later in (("", 0), ("next_", ahead)):
            now, age = frame + later, step.age + later
            stack = [now - min(back, age) for back in range(n_obs - 1, -1, -1)]
            state = getattr(batch, prefix + "state")[row]
            assert state[:, 0].tolist() == stack
            assert state[:, 1].tolist() == [s - frame + step.age for s in stack]
            seen = getattr(batch, prefix + "seen")[row]
            colour = seen[:, :, 1, 2] if seen.dtype == torch.uint8 else seen[:, :, :, 0, 0]
            for i, s in enumerate(stack):
                for camera in range(2):
                    assert colour[i, camera].tolist() == [s % 256, s // 256, camera]
        reward = sum(DISCOUNT**j * 2 * (frame + j) for j in range(ahead))
        assert float(batch.reward[row]) == pytest.approx(reward, rel=1e-6)
        over = step.terminal and ahead == step.left
        assert float(batch.discount[row]) == np.float32(0.0 if over else DISCOUNT**ahead)


class Model:
    """The two rings as lists of episodes: (key, frames, steps that may be sampled)."""

    def __init__(self, capacity: int, protected: int) -> None:
        self.capacity, self.free = capacity, protected
        self.online: list[tuple[Key, int, list[Kept]]] = []
        self.safe: list[tuple[Key, int, list[Kept]]] = []

    def add(self, episode: Episode) -> bool:
        """False for a demonstration that must be refused."""
        key, steps = Key.of(episode), len(episode)
        everything = steps_of(episode, np.ones(steps, np.bool_))
        fits = self.free >= steps + 1
        if episode.role is Role.DEMO:
            if not fits:
                return False
            self.safe.append((key, steps + 1, everything))
            self.free -= steps + 1
            return True
        if episode.intervention.any() and fits:
            self.safe.append((key, steps + 1, steps_of(episode, episode.intervention)))
            self.free -= steps + 1
        while sum(frames for _, frames, _ in self.online) + steps + 1 > self.capacity:
            self.online.pop(0)
        self.online.append((key, steps + 1, everything))
        return True

    def exclude(self, gone: Key) -> None:
        for kept in (self.online, self.safe):
            kept[:] = [(key, frames, [] if key == gone else steps) for key, frames, steps in kept]

    def check(self, replay: Replay, n_obs: int, n_step: int) -> None:
        for ring, kept, share in ((replay.online, self.online, 0.0), (replay.protected, self.safe, 1.0)):
            known = {step.frame: step for *_, steps in kept for step in steps}
            assert [entry.key for entry in ring.entries] == [key for key, *_ in kept]
            assert sorted(ring.arrays["state"][ring.samplable, 0].tolist()) == sorted(known)
            assert ring.used == sum(frames for _, frames, _ in kept)
            if known:
                check_batch(replay.sample(12, share), known, n_obs, n_step)


additions = st.tuples(
    st.integers(1, 12),
    st.sampled_from(list(End)),
    st.sampled_from([Role.TRAIN, Role.TRAIN, Role.DEMO]),
    st.integers(0, 2**12 - 1),
)
plans = st.lists(
    additions
    | additions
    | additions
    | st.sampled_from(["close", "kill", "refresh", "sync", "again"])
    | st.integers(0, 30),
    min_size=1,
    max_size=25,
)
"""Episodes to add, things to do, and the number of an episode to exclude."""


@settings(max_examples=100, deadline=None)
@given(
    plan=plans,
    capacity=st.integers(13, 40),
    protected=st.integers(3, 60),
    n_obs=st.integers(1, 4),
    n_step=st.sampled_from([1, 1, 2, 3, 20]),
    on_disk=st.booleans(),
    cache_features=st.booleans(),
)
def test_against_a_list(
    plan: list,
    capacity: int,
    protected: int,
    n_obs: int,
    n_step: int,
    on_disk: bool,
    cache_features: bool,
) -> None:
    with tempfile.TemporaryDirectory(dir=FAST) as name:
        folder = Path(name) / "0" if on_disk else None

        def opened() -> Replay:
            more = {"folder": folder, "encoder_hash": "e", "cache_features": cache_features}
            return make(capacity, protected, n_obs, n_step=n_step, **more)

        maker, replay, model = Maker(), opened(), Model(capacity, protected)
        episodes: dict[Key, Episode] = {}
        for what in plan:
            if isinstance(what, int):
                gone = Key(Role.TRAIN, "a", what)
                if gone in episodes:
                    replay.exclude([gone])
                    model.exclude(gone)
            elif what in ("close", "kill") and folder is not None:
                before = replay
                if what == "close":
                    replay.close()
                else:  # what another process would find if this one were gone
                    folder = Path(shutil.copytree(folder, Path(name) / str(len(os.listdir(name)))))
                replay = opened()
                check_same(before, replay)
                before.close()
            elif what == "refresh":
                replay.refresh(lambda key: episodes[key].images, 4)
            elif what == "sync":
                replay.sync()
            elif what == "again":
                for episode in episodes.values():
                    assert replay.add(episode) == 0
            elif not isinstance(what, str):
                steps, end, role, mask = what
                helped = np.array([mask >> t & 1 for t in range(steps)], np.bool_)
                episode = maker(steps, end, role, helped)
                if end is End.DISCARDED:
                    assert replay.add(episode) == 0
                elif model.add(episode):
                    episodes[Key.of(episode)] = episode
                    assert replay.add(episode) == steps
                else:
                    with pytest.raises(ProtectedFull):
                        replay.add(episode)
        model.check(replay, n_obs, n_step)
        replay.close()


def check_same(before: Replay, after: Replay) -> None:
    """A reopened replay is the one that was left, to the last bit."""
    after.rng.bit_generator.state = before.rng.bit_generator.state
    for ring, again in ((before.online, after.online), (before.protected, after.protected)):
        np.testing.assert_array_equal(ring.samplable, again.samplable)
        assert (ring.used, ring.refused_steps) == (again.used, again.refused_steps)
        one, other = ring.storage.contents, again.storage.contents
        assert (one.head, one.taken, one.excluded) == (other.head, other.taken, other.excluded)
        assert list(one.encoded) == list(other.encoded)
        for entry in ring.entries:
            slots = ring.slots(entry.first, entry.frames)
            for name, column in ring.arrays.items():
                np.testing.assert_array_equal(column[slots], again.arrays[name][slots])


@pytest.mark.parametrize(("end", "bootstrap"), [
    (End.SUCCESS, 0.0), (End.FAILURE, 0.0), (End.TIMEOUT, 1.0), (End.FAULT, 1.0),
])  # fmt: skip
def test_only_success_and_failure_end_the_future(end: End, bootstrap: float) -> None:
    replay = make()
    replay.add(Maker()(3, end))
    batch = replay.sample(200, 0.0)
    last = batch.state[:, 0, 1] == 2
    assert set(batch.discount[last].tolist()) == {np.float32(0.97 * bootstrap)}
    assert set(batch.discount[~last].tolist()) == {np.float32(0.97)}


def test_the_share_of_demonstrations_and_who_fills_in() -> None:
    maker, replay = Maker(), make()
    with pytest.raises(ReplayError, match="nothing to sample"):
        replay.sample(4, 0.5)
    replay.add(maker(4, role=Role.DEMO))
    assert replay.sample(8, 0.25).is_demo.all()
    replay.add(maker(4))
    batch = replay.sample(8, 0.25)
    assert batch.is_demo.sum() == 2
    assert (batch.is_demo == (batch.state[:, 0, 0] < 5)).all()
    fresh = make()
    fresh.add(maker(4))
    assert not fresh.sample(8, 0.5).is_demo.any()


def test_interventions_are_protected_and_nothing_else_of_their_episode() -> None:
    maker, replay = Maker(), make(capacity=12, protected=30)
    helped = np.array([False, True, True, False, False])
    replay.add(maker(5, End.SUCCESS, helped=helped))
    for _ in range(3):
        replay.add(maker(11))  # the online ring forgets the episode
    batch = replay.sample(100, 1.0)
    assert set(batch.state[:, 0, 0].tolist()) == {1.0, 2.0}
    assert batch.is_demo.all()


def test_interventions_that_do_not_fit_are_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    maker, replay = Maker(), make(protected=8)
    helped = np.array([True, True, False, False])
    replay.add(maker(4, helped=helped))
    with caplog.at_level(logging.WARNING):
        assert replay.add(maker(4, helped=helped)) == 4
    assert "protected store is full (5 of 8 frames): 2 interventions" in caplog.text
    assert replay.metrics()["replay/protected_refused_steps"] == 2
    assert len(replay.online.samplable) == 8


def test_a_refused_demonstration_leaves_no_trace() -> None:
    maker, replay = Maker(), make(protected=8)
    replay.add(maker(4, role=Role.DEMO))
    before = replay.protected.arrays["state"].copy()
    with pytest.raises(ProtectedFull, match="offline_buffer_capacity"):
        replay.add(maker(4, role=Role.DEMO))
    np.testing.assert_array_equal(replay.protected.arrays["state"][:5], before[:5])
    assert len(replay.protected.samplable) == 4


def test_evaluations_and_strangers_are_refused() -> None:
    maker, replay = Maker(), make()
    with pytest.raises(ValueError, match="never be trained on"):
        replay.add(maker(3, role=Role.EVAL))
    episode = maker(3)
    with pytest.raises(ValueError, match="cameras must be"):
        replay.add(replace(episode, images={"left": episode.images["left"]}))
    with pytest.raises(ValueError, match="components"):
        replay.add(replace(episode, state=episode.state[:, :1]))
    with pytest.raises(ReplayError, match="does not fit a store of 40"):
        replay.add(maker(40))


def test_an_encoder_of_another_shape_is_refused() -> None:
    replay = Replay(SPEC, colours, feature_shape=(3, 2, 2), capacity=9, protected_capacity=9)
    with pytest.raises(ReplayError, match="made for float16 .3, 2, 2."):
        replay.add(Maker()(3))


def test_what_cannot_fit_is_refused_before_it_is_taken(tmp_path: Path) -> None:
    for folder, places in ((None, "memory"), (tmp_path / "replay", "memory|disk")):
        with pytest.raises(
            ReplayError, match=rf"needs .* GB of ({places}).* lower online_buffer_cap"
        ) as refused:
            make(capacity=10**12, folder=folder, encoder_hash="e")
        found = re.search(r"online_buffer_capacity to (\d+)", str(refused.value))
        assert found
        make(capacity=min(int(found[1]), 10**6), folder=folder, encoder_hash="e").close()
        assert 0 < int(found[1]) < 10**12


def test_a_full_disk_is_foreseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = 2 * 4 + 4 * 4 + 4 + 2 * 2 * 3 * 2  # state, action, reward, features
    disk = types.SimpleNamespace(f_bavail=100 * frame + 10, f_frsize=1)
    monkeypatch.setattr(replay_size.os, "statvfs", lambda path: disk)
    make(60, 40, folder=tmp_path / "fits", encoder_hash="e").close()
    with pytest.raises(ReplayError, match="of disk in .* are free: lower online_buffer_capacity to 50,"):
        make(61, 40, folder=tmp_path / "not", encoder_hash="e")
    assert not (tmp_path / "not").exists()


def test_the_size_is_announced_in_frames_hours_and_bytes(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        make(capacity=720_000, protected=36_000, fps=10.0)
    assert "720000 online + 36000 protected frames (20.0 + 1.0 h) x 0.1 kB = 0.04 GB when full" in caplog.text


def test_statistics_come_from_the_protected_frames() -> None:
    maker, replay = Maker(), make()
    with pytest.raises(ReplayError, match="no episode yet"):
        replay.state_statistics()
    replay.add(maker(9))
    assert replay.state_statistics()[0][1] == 4.5
    replay.add(maker(4, role=Role.DEMO))
    mean, std = replay.state_statistics()
    np.testing.assert_allclose(mean, [12.0, 2.0])
    np.testing.assert_allclose(std, np.std(np.arange(5)), rtol=1e-6)


def test_a_spread_has_a_floor_but_a_still_component_keeps_none() -> None:
    maker, replay = Maker(), make()
    episode = maker(4, role=Role.DEMO)
    state = np.stack([np.full(5, 0.2), 0.2 + 0.001 * np.arange(5)], 1).astype(np.float32)
    replay.add(replace(episode, state=state))
    np.testing.assert_allclose(replay.state_statistics()[1], [0.0, 0.01])
