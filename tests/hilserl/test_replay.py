"""The replay never pairs unrelated frames, never forgets a demonstration, and really shifts pictures."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hilserl.replay import Batch, ProtectedFull, Replay
from hilserl.ring_journal import ReplayError
from hilserl.types import End, Episode, Role
from tests.fakes.frames import SPEC, Maker, colours, make

torch.set_num_threads(1)


@dataclass
class Kept:
    """One step as the brute-force model remembers it."""

    frame: int
    age: int
    bootstrap: float


def steps_of(episode: Episode, wanted: np.ndarray) -> list[Kept]:
    first, last = int(episode.state[0, 0]), len(episode) - 1
    dead = episode.end in (End.SUCCESS, End.FAILURE)
    return [Kept(first + t, t, 0.0 if dead and t == last else 1.0) for t in range(last + 1) if wanted[t]]


def check_batch(batch: Batch, known: dict[int, Kept], n_obs: int) -> None:
    """Every row of `batch` is one of the `known` steps, whole."""
    for row in range(len(batch.action)):
        frame = round(float(batch.reward[row]) / 2)
        step = known[frame]
        for prefix, now, age in (("", frame, step.age), ("next_", frame + 1, step.age + 1)):
            stack = [now - min(back, age) for back in range(n_obs - 1, -1, -1)]
            state = getattr(batch, prefix + "state")[row]
            assert state[:, 0].tolist() == stack
            assert state[:, 1].tolist() == [s - frame + step.age for s in stack]
            colour = getattr(batch, prefix + "seen")[row, :, :, :, 0, 0]
            for i, s in enumerate(stack):
                for camera in range(2):
                    assert colour[i, camera].tolist() == [s % 256, s // 256, camera]
        assert float(batch.action[row, 3]) == np.float32(frame / 1e4)
        assert float(batch.discount[row]) == np.float32(0.97 * step.bootstrap)


episodes = st.lists(
    st.tuples(
        st.integers(1, 12),
        st.sampled_from(list(End)),
        st.sampled_from([Role.TRAIN, Role.TRAIN, Role.DEMO]),
        st.integers(0, 2**12 - 1),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(plan=episodes, capacity=st.integers(13, 40), protected=st.integers(3, 60), n_obs=st.integers(1, 4))
def test_against_a_list(plan: list, capacity: int, protected: int, n_obs: int) -> None:
    maker, replay = Maker(), make(capacity, protected, n_obs)
    online: list[tuple[int, list[Kept]]] = []
    safe: list[tuple[int, list[Kept]]] = []
    for steps, end, role, mask in plan:
        helped = np.array([mask >> t & 1 for t in range(steps)], np.bool_)
        episode = maker(steps, end, role, helped)
        fits = sum(frames for frames, _ in safe) + steps + 1 <= protected
        everything = steps_of(episode, np.ones(steps, np.bool_))
        if end is End.DISCARDED:
            assert replay.add(episode) == 0
            continue
        if role is Role.DEMO:
            if not fits:
                with pytest.raises(ProtectedFull):
                    replay.add(episode)
                continue
            safe.append((steps + 1, everything))
        else:
            if helped.any() and fits:
                safe.append((steps + 1, steps_of(episode, helped)))
            while sum(frames for frames, _ in online) + steps + 1 > capacity:
                online.pop(0)
            online.append((steps + 1, everything))
        assert replay.add(episode) == steps
    for ring, kept, share in ((replay.online, online, 0.0), (replay.protected, safe, 1.0)):
        known = {step.frame: step for _, steps in kept for step in steps}
        assert len(ring.samplable) == len(known)
        frames = {int(ring.arrays["state"][slot, 0]) for slot in ring.samplable}
        assert frames == set(known)
        if known:
            check_batch(replay.sample(24, share), known, n_obs) if kept else None


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


def test_what_cannot_fit_is_refused_before_it_is_taken() -> None:
    with pytest.raises(ReplayError, match=r"needs .* GB .* lower online_buffer_capacity to \d+"):
        make(capacity=10**12)


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
