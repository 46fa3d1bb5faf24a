"""The encoder thread: in order, nothing lost, never waited for, and an error that stops loudly."""

import queue
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilserl.arrivals import Arrivals, EncodingFailed
from hilserl.types import Episode, Role
from tests.fakes.episodes import short_episode

PATIENCE_S = 20.0


def features(episode: Episode) -> np.ndarray:
    return np.full((len(episode) + 1, 1), episode.number, np.float16)


def take(arrivals: Arrivals, count: int) -> list:
    found = []
    for _ in range(count):
        arrival = arrivals.get(PATIENCE_S)
        assert arrival is not None, f"only {len(found)} of {count} arrived"
        found.append(arrival)
    return found


def encoders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "encoder"]


@settings(max_examples=15, deadline=None)
@given(
    plan=st.lists(st.tuples(st.integers(1, 5), st.sampled_from(Role)), max_size=20), ready=st.integers(1, 3)
)
def test_each_comes_once_in_order_with_its_features(plan, ready):
    inbox: queue.Queue[Episode] = queue.Queue()
    episodes = [short_episode(steps, role, number) for number, (steps, role) in enumerate(plan)]
    with Arrivals(inbox, features, ready) as arrivals:
        for episode in episodes:
            inbox.put(episode)
        found = take(arrivals, len(episodes))
        assert arrivals.get(0.0) is None
    assert [episode.number for episode, _ in found] == list(range(len(plan)))
    for episode, encoded in found:
        if episode.role is Role.EVAL:
            assert encoded is None, "evaluation is never learned from"
        else:
            np.testing.assert_array_equal(encoded, features(episode))
    assert not encoders()


def test_asking_never_waits_for_an_encode():
    inbox: queue.Queue[Episode] = queue.Queue()
    begun, go_on = threading.Event(), threading.Event()

    def slow(episode: Episode) -> np.ndarray:
        begun.set()
        assert go_on.wait(PATIENCE_S)
        return features(episode)

    with Arrivals(inbox, slow) as arrivals:
        inbox.put(short_episode(3, number=1))
        inbox.put(short_episode(3, Role.EVAL, number=2))
        assert begun.wait(PATIENCE_S)
        assert [arrivals.get(0.0) for _ in range(100)] == [None] * 100
        go_on.set()
        assert [episode.number for episode, _ in take(arrivals, 2)] == [1, 2]


def test_both_ends_are_bounded():
    inbox: queue.Queue[Episode] = queue.Queue()
    encoded: list[int] = []

    def counted(episode: Episode) -> np.ndarray:
        encoded.append(episode.number)
        return features(episode)

    with Arrivals(inbox, counted, ready=2) as arrivals:
        for number in range(8):
            inbox.put(short_episode(1, number=number))
        while len(encoded) < 3:
            time.sleep(0.001)
        time.sleep(0.05)
        assert encoded == [0, 1, 2], "two wait, a third is encoded and has no room"
        assert len(take(arrivals, 8)) == 8


def test_an_error_reaches_the_loop_with_its_cause_and_after_what_came_before():
    inbox: queue.Queue[Episode] = queue.Queue()

    def broken(episode: Episode) -> np.ndarray:
        if episode.number == 2:
            raise ValueError("a hole in the picture")
        return features(episode)

    with Arrivals(inbox, broken) as arrivals:
        for number in (1, 2, 3):
            inbox.put(short_episode(2, number=number))
        assert take(arrivals, 1)[0].episode.number == 1
        for _ in range(2):
            with pytest.raises(EncodingFailed, match="a/2.*a hole in the picture") as told:
                arrivals.get(PATIENCE_S)
            assert isinstance(told.value.__cause__, ValueError)
    assert not encoders() and inbox.qsize() == 1


@pytest.mark.parametrize("waiting", [0, 1, 30])
def test_closing_leaves_no_thread_whatever_waits(waiting):
    inbox: queue.Queue[Episode] = queue.Queue()
    arrivals = Arrivals(inbox, features, ready=2)
    for number in range(waiting):
        inbox.put(short_episode(1, number=number))
    arrivals.close()
    arrivals.close()
    assert not encoders()
