"""The collapse guard: finds a collapse, lets luck pass, says each thing once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilserl.alarms import (
    ACTIONS_SATURATED,
    ENTROPY_COLLAPSED,
    ENTROPY_UPDATES,
    INPUTS_OUT_OF_RANGE,
    SATURATED_UPDATES,
    SUCCESS_DROPPED,
    VALUE_ABOVE_BOUND,
    VALUE_UPDATES,
    Alarm,
    AlarmBoard,
    CollapseGuard,
    Switch,
)
from hilserl.config import PolicyConfig
from hilserl.success_record import DROP, MEMORY, SIGNIFICANCE, WINDOWS, Outcome, SuccessRecord
from hilserl.types import End, Role
from tests.fakes.episodes import short_episode

POLICY = PolicyConfig(target_entropy=-6.0, discount=0.95)
HEALTHY = {
    "train/critic_q_max": 1.01,
    "train/critic_q_bound": 1.0,
    "train/actor_entropy": -4.2,
    "train/actor_saturated_share": 0.08,
    "train/actor_temperature": 0.001,
    "train/data_state_max": 7.5,
}
"""The worst of the 152 rows of a run of the twin's demo."""


# -- success ----------------------------------------------------------------------------------------------


def brute_force(good: np.ndarray) -> dict[tuple[int, int], float]:
    """{(earlier, newest block's length): best earlier rate} of blocks that differ by more than luck."""
    found: dict[tuple[int, int], float] = {}
    t, loglik = len(good), lambda k, n: sum(c * np.log(c / n) for c in (k, n - k) if c)
    for now in WINDOWS:
        for over in WINDOWS:
            for start in range(t - now - over + 1):
                a, b = int(good[start : start + over].sum()), int(good[t - now :].sum())
                ratio = 2 * (loglik(a, over) + loglik(b, now) - loglik(a + b, over + now))
                if a / over - b / now > DROP and ratio > SIGNIFICANCE**2:
                    found[over, now] = max(a / over, found.get((over, now), 0.0))
    return found


def record_of(good: np.ndarray) -> SuccessRecord:
    record = SuccessRecord()
    for success in good:
        record.add(Outcome.SUCCEEDED if success else Outcome.FAILED)
    return record


def first_drop(good: np.ndarray) -> int | None:
    """Number of episodes after which a drop was seen first."""
    record = SuccessRecord()
    for index, success in enumerate(good, 1):
        record.add(Outcome.SUCCEEDED if success else Outcome.FAILED)
        if record.drop is not None:
            return index
    return None


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    before=st.floats(0.5, 1),
    after=st.floats(0, 0.8),
    n=st.integers(40, 160),
    m=st.integers(0, 160),
)
def test_a_drop_is_seen_exactly_when_two_blocks_differ_by_more_than_luck(seed, before, after, n, m):
    rng = np.random.default_rng(seed)
    good = np.concatenate([rng.random(n) < before, rng.random(m) < after])
    at = first_drop(good)
    if at is None:
        assert not brute_force(good)
    else:
        drop, found = record_of(good[:at]).drop, brute_force(good[:at])
        assert drop is not None and found[drop.best_over, drop.now_over] == drop.best
        assert drop.now == good[at - drop.now_over : at].mean()
        assert not brute_force(good[: at - 1])


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.55, 0.8, 0.97, 1.0])
def test_a_steady_policy_raises_nothing(rate):
    """Below 1 % for 500 episodes: of 60 runs four alarms would be one chance in 300."""
    rng = np.random.default_rng(round(rate * 100))
    assert sum(first_drop(rng.random(500) < rate) is not None for _ in range(60)) < 4


def test_a_policy_that_learns_raises_nothing():
    rng = np.random.default_rng(1)
    rising = np.clip(np.linspace(0.05, 0.95, 400), 0, 1)
    assert sum(first_drop(rng.random(400) < rising) is not None for _ in range(20)) == 0


@pytest.mark.parametrize(
    ("before", "after", "steady", "half_within", "most_within"),
    [(0.549, 0.279, 200, 90, 250), (0.9, 0.3, 100, 40, 50)],
)
def test_a_collapse_is_found(before, after, steady, half_within, most_within):
    """The field report's collapse (row 94) and a worse one: in half and in 85 % of 60 runs, so soon."""
    rng = np.random.default_rng(2)
    found = []
    for _ in range(60):
        good = np.concatenate([rng.random(steady) < before, rng.random(300) < after])
        at = first_drop(good)
        found.append(np.inf if at is None else at - steady)
    assert np.median(found) <= half_within and np.quantile(found, 0.85) <= most_within


def test_a_drop_stays_until_success_is_back_and_names_its_help():
    record = record_of(np.repeat([True], 100))
    for _ in range(60):
        record.add(Outcome.HELPED)
    assert record.drop is not None
    assert (record.drop.best, record.drop.now_helped) == (1.0, 1.0)
    for _ in range(MEMORY + 100):  # the good days fall out of memory, not out of the alarm
        record.add(Outcome.FAILED)
        assert record.drop is not None
    for _ in range(44):
        record.add(Outcome.SUCCEEDED)
    assert record.drop is not None
    record.add(Outcome.SUCCEEDED)
    assert record.drop is None


@given(st.text(alphabet="sfh", max_size=MEMORY + 50))
@settings(max_examples=20, deadline=None)
def test_a_record_goes_on_from_its_text(text):
    record = SuccessRecord(text)
    assert record.text == text[-MEMORY:]
    assert SuccessRecord(record.text).text == record.text


# -- the guard --------------------------------------------------------------------------------------------


def names(guard: CollapseGuard) -> list[str]:
    return [alarm.name for alarm in guard.alarms]


def feed(
    guard: CollapseGuard, start: int, updates: int, large: dict[str, int] | None = None, **changes: float
):
    """Rows every 100 updates for `updates`, healthy but for `changes`; where it ends."""
    for at in range(start, start + updates + 1, 100):
        guard.row(HEALTHY | {"time/updates": at} | {f"train/{k}": v for k, v in changes.items()}, large or {})
    return start + updates + 100


CASES = [
    (VALUE_ABOVE_BOUND, {"critic_q_max": 1.6}, {"critic_q_max": 1.3}, VALUE_UPDATES),
    (ACTIONS_SATURATED, {"actor_saturated_share": 0.95}, {"actor_saturated_share": 0.8}, SATURATED_UPDATES),
    (ENTROPY_COLLAPSED, {"actor_entropy": -13.0}, {"actor_entropy": -11.0}, ENTROPY_UPDATES),
]


@pytest.mark.parametrize(("name", "bad", "between", "updates"), CASES, ids=[c[0] for c in CASES])
def test_an_alarm_needs_time_to_rise_and_does_not_tremble(name, bad, between, updates):
    guard = CollapseGuard(POLICY)
    at = feed(guard, 0, updates - 100, **bad)
    assert not names(guard)
    at = feed(guard, at, 0, **between)  # an interruption: the time begins again
    at = feed(guard, at, updates - 100, **bad)
    assert not names(guard)
    at = feed(guard, at, 0, **bad)
    assert names(guard) == [name]
    (alarm,) = guard.alarms
    assert alarm.value == next(iter(bad.values()))
    at = feed(guard, at, 3 * updates, **between)  # back at the limit, not well inside
    assert names(guard) == [name]
    at = feed(guard, at, updates - 100)
    assert names(guard) == [name]
    feed(guard, at, 0)
    assert not names(guard)


def test_healthy_rows_raise_nothing_and_missing_numbers_are_not_judged():
    guard = CollapseGuard(POLICY)
    feed(guard, 0, 20_000)
    guard.row({"time/updates": 20_200}, {})
    assert not guard.alarms


def test_without_a_reward_there_is_no_bound_to_pass():
    guard = CollapseGuard(POLICY)
    feed(guard, 0, 2000, critic_q_max=0.05, critic_q_bound=0.0)
    assert not guard.alarms


def test_entropy_paid_as_reward_belongs_to_the_bound():
    paid = PolicyConfig(discount=0.95, use_backup_entropy=True, target_entropy=-6.0)
    for policy, expected in ((paid, []), (POLICY, [VALUE_ABOVE_BOUND])):
        guard = CollapseGuard(policy)
        feed(guard, 0, 2000, critic_q_max=6.0, actor_temperature=0.1)
        assert names(guard) == expected


def test_an_input_out_of_range_is_named_with_its_size():
    guard = CollapseGuard(POLICY)
    at = feed(guard, 0, 1000, {"joint_pos.pan_rad": 49})
    assert not guard.alarms
    at = feed(guard, at, 0, {"joint_pos.pan_rad": 50, "ee.x_m": 3}, data_state_max=57.3)
    (alarm,) = guard.alarms
    assert alarm.name == INPUTS_OUT_OF_RANGE and alarm.value == 50
    assert "joint_pos.pan_rad (50 updates)" in alarm.message and "57.3" in alarm.message
    assert "ee.x_m" not in alarm.message
    at = feed(guard, at, 900)
    assert names(guard) == [INPUTS_OUT_OF_RANGE]
    feed(guard, at, 100)
    assert not guard.alarms


def test_demonstrations_do_not_count_and_evaluation_counts_apart():
    guard = CollapseGuard(POLICY)
    for number in range(120):
        guard.episode(short_episode(2, Role.TRAIN, number, end=End.SUCCESS))
    for number in range(120):
        guard.episode(short_episode(2, Role.DEMO, number, end=End.FAILURE))
    assert not guard.alarms
    for number in range(120):
        guard.episode(short_episode(2, Role.EVAL, number, end=End.TIMEOUT))
    assert not guard.alarms, "evaluation never was better"
    kept = CollapseGuard(POLICY)
    kept.load_state(guard.state())
    for known in (guard, kept):
        for number in range(60):
            known.episode(short_episode(2, Role.TRAIN, number, end=End.FAILURE))
        assert names(known) == [SUCCESS_DROPPED]


def test_success_with_help_is_no_success():
    guard = CollapseGuard(POLICY)
    for number in range(120):
        guard.episode(short_episode(2, Role.TRAIN, number, end=End.SUCCESS))
    for number in range(60):
        helped = short_episode(2, Role.TRAIN, number, end=End.SUCCESS, intervention=np.array([True, False]))
        guard.episode(helped)
    (alarm,) = guard.alarms
    assert alarm.name == SUCCESS_DROPPED and "100 % of them helped" in alarm.message


# -- raising and clearing -------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["bad", "good", "between"])), max_size=60))
def test_a_switch_needs_an_unbroken_span(steps):
    switch, at, history = Switch(4, 7), 0, []
    for step, seen in steps:
        at += step
        before = switch.on
        switch.turn(at, bad=seen == "bad", good=seen == "good")
        history.append((at, seen))
        if switch.on != before:
            wanted, span = ("bad", 4) if switch.on else ("good", 7)
            run = [t for t, s in history if s == wanted]
            assert history[-1][1] == wanted and run[-1] - run[0] >= span
            history.clear()
        elif seen == ("good" if switch.on else "bad"):
            unbroken = [t for i, (t, _) in enumerate(history) if all(s == seen for _, s in history[i:])]
            assert at - unbroken[0] < (7 if switch.on else 4)


@given(st.lists(st.sets(st.sampled_from("abcd")), max_size=20))
def test_each_raise_and_each_clear_is_told_once(standing):
    board, told = AlarmBoard(), set()
    for names_now in standing:
        alarms = [Alarm(name, "", 0.0, 0.0) for name in sorted(names_now)]
        raised, cleared = board.update(alarms)
        assert {a.name for a in raised} == names_now - told
        assert {a.name for a in cleared} == told - names_now
        told = names_now
        assert board.standing == tuple(alarms)
