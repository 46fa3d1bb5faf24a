"""Idle time is spent where it pays, and comes to rest."""

import time

from hypothesis import given
from hypothesis import strategies as st

from hilserl.idle_refresh import REST_PER_WORK, IdleRefresh
from hilserl.learner import WAIT_S


class Frames:
    """A store of `stored` frames that refreshes `slice_` at a time."""

    def __init__(self, stored: int, slice_: int) -> None:
        self.stored, self.slice, self.done = stored, slice_, 0

    def refresh(self) -> int:
        self.done += self.slice
        return self.slice


@given(
    stored=st.integers(0, 300),
    slice_=st.integers(1, 8),
    wear=st.floats(0, 100),
    start=st.integers(0, 1000),
    bursts=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 60)), max_size=10),
)
def test_no_more_is_refreshed_than_was_worn_and_never_more_than_all(stored, slice_, wear, start, bursts):
    """bursts: (updates, idle calls) in turn."""
    frames, updates, worn = Frames(stored, slice_), start, 0.0
    idle = IdleRefresh(frames.refresh, lambda: frames.stored, wear, start)
    for more, calls in bursts:
        updates += more
        worn += wear * more
        before = frames.done
        for _ in range(calls):
            idle(updates)
        assert frames.done - before < stored + slice_, "more than one pass without an update"
        assert frames.done < worn + slice_
    for _ in range(stored + 1):
        last = idle(updates)
    assert last == WAIT_S, "at rest"
    before = frames.done
    idle(updates)
    assert frames.done == before
    assert frames.done >= min(worn, stored) - 1 or not stored


def test_it_rests_longer_than_it_works():
    def slow() -> int:
        time.sleep(0.01)
        return 1

    idle = IdleRefresh(slow, lambda: 10, 1.0, 0)
    assert idle(5) >= REST_PER_WORK * 0.01


def test_a_store_with_nothing_to_refresh_is_left_in_peace():
    idle = IdleRefresh(lambda: 0, lambda: 10, 1.0, 0)
    assert idle(5) == idle(5) == WAIT_S
