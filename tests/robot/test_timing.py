from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot.timing import Latest, RealClock, SimClock


def test_latest_gives_the_newest_value_and_only_once_when_asked_for_newer():
    slot: Latest[str | None] = Latest()
    assert slot.get() is None
    slot.put("a")
    number = slot.put("b")
    assert slot.get() == (number, "b")
    assert slot.get(newer_than=number) is None
    slot.put(None)  # None is a value like any other
    assert slot.get(newer_than=number) == (number + 1, None)


def test_latest_wakes_a_waiting_reader_and_loses_no_final_value():
    slot: Latest[int] = Latest()
    seen: list[int] = []

    def reader():
        number = 0
        while not seen or seen[-1] != 999:
            got = slot.get(newer_than=number, timeout_s=60.0)
            assert got is not None, "the reader was not woken"
            number = got[0]
            seen.append(got[1])

    thread = threading.Thread(target=reader)
    thread.start()
    for value in range(1000):
        slot.put(value)
    thread.join(10.0)
    assert not thread.is_alive() and seen[-1] == 999
    assert seen == sorted(set(seen))


def test_real_clock_never_wakes_early_and_does_not_wait_for_the_past():
    clock = RealClock()
    until = clock.now_s() + 0.02
    clock.sleep_until(until)
    assert clock.now_s() >= until
    clock.sleep_until(clock.now_s() - 1000.0)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="cannot sleep"):
            clock.sleep_until(bad)


@settings(deadline=None)
@given(st.lists(st.floats(0.0, 10.0), max_size=20))
def test_sim_clock_advances_the_world_by_exactly_the_time_that_passes(steps):
    moved: list[float] = []
    clock = SimClock(moved.append)
    t = 0.0
    for dt in steps:
        t += dt
        clock.sleep_until(t)
        assert clock.now_s() == t
    assert all(dt > 0.0 for dt in moved)
    assert sum(moved) == pytest.approx(t)


def test_sim_clock_refuses_to_go_back_and_stands_still_when_the_world_fails():
    def broken(dt_s: float) -> None:
        raise RuntimeError("physics")

    clock = SimClock(broken, start_s=5.0)
    with pytest.raises(ValueError, match=r"5\.0.* s and cannot go back to 4\.9"):
        clock.sleep_until(4.9)
    with pytest.raises(ValueError, match="cannot go back"):
        clock.sleep_until(float("nan"))
    with pytest.raises(RuntimeError):
        clock.sleep_until(6.0)
    assert clock.now_s() == 5.0
