"""The numbers of `benchmark.py reward` against laws written down in another way."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hilserl.benchmark.reward import Judged, poisson_interval, rollout_numbers, true_frame, with_judge
from hilserl.benchmark.reward_drift import DRIFTS, with_scene
from hilserl.benchmark.reward_learning import learning_table, training_calls
from hilserl.config import Config, SuccessConfig
from hilserl.evaluate import wilson_interval
from hilserl.reward import OracleReward
from hilserl.task_record import task_json
from hilserl.types import End


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(1, 6))
def test_a_success_is_true_once_it_held_and_the_reset_does_not_count(truth, held):
    ends = [i for i in range(held, len(truth)) if all(truth[i - held + 1 : i + 1])]
    assert true_frame(truth, held) == min(ends, default=None)


def test_truth_is_counted_as_the_oracle_counts_it():
    rng, seen = np.random.default_rng(0), set()
    for _ in range(200):
        held = int(rng.integers(1, 6))
        truth = (rng.random(20) < 0.7).tolist()
        now = iter(truth[1:])
        oracle = OracleReward(lambda now=now: next(now), SuccessConfig(hold_s=held / 10), 10)
        oracle.reset()
        ends = (i for i in range(1, len(truth)) if oracle.score(None, False)[1] is End.SUCCESS)
        first = next(ends, None)
        assert true_frame(truth, held) == first
        seen.add(first is None)
    assert seen == {True, False}


@pytest.mark.parametrize("count", [0, 1, 2, 3, 8, 29, 100, 400])
def test_the_interval_of_a_count_is_garwoods(count):
    low, high = poisson_interval(count)
    assert low == pytest.approx(stats.chi2.ppf(0.025, 2 * count) / 2 if count else 0.0, abs=1e-9)
    assert high == pytest.approx(stats.chi2.ppf(0.975, 2 * count + 2) / 2, rel=1e-9)


def test_the_interval_holds_the_mean_at_least_as_often_as_it_says():
    for mean in (0.2, 1.0, 3.7, 12.0):
        counts = range(80)
        held = [low <= mean <= high for low, high in map(poisson_interval, counts)]
        assert stats.poisson.pmf(counts, mean)[held].sum() >= 0.95


CALLS = st.builds(
    lambda frames, call, true, at_call: Judged(
        "some", frames, None if call is None else frames - 1, true, at_call
    ),
    st.integers(2, 100),
    st.none() | st.just(0),
    st.none() | st.integers(1, 100),
    st.booleans(),
)


@given(st.lists(CALLS, min_size=1, max_size=12), st.sampled_from([5.0, 10.0, 30.0]))
def test_only_calls_the_scene_denies_are_false(judged, fps):
    told = rollout_numbers(judged, fps)
    called = [one for one in judged if one.called is not None]
    wrong = [one for one in called if not one.at_call]
    assert (told["rollouts"], told["calls"], told["false_calls"]) == (len(judged), len(called), len(wrong))
    assert told["hours"] * 3600 * fps == pytest.approx(sum(one.frames for one in judged))
    assert told["false_successes_per_hour"] * told["hours"] == pytest.approx(len(wrong))
    low, high = told["false_successes_per_hour_95"]
    assert low <= told["false_successes_per_hour"] < high
    assert [low * told["hours"], high * told["hours"]] == pytest.approx(poisson_interval(len(wrong)))
    missed = sum(one.called is None and one.true is not None for one in judged)
    assert told["true_but_not_called"] == missed
    assert json.loads(json.dumps(told)) == told


def test_numbers_of_parts_add_up():
    rng = np.random.default_rng(1)
    judged = [
        Judged("ab"[i % 2], int(rng.integers(2, 99)), 5 if i % 3 else None, None, bool(i % 5))
        for i in range(40)
    ]
    parts = [rollout_numbers([one for one in judged if one.policy == name], 10.0) for name in "ab"]
    for key in ("rollouts", "hours", "calls", "false_calls", "true_but_not_called"):
        assert rollout_numbers(judged, 10.0)[key] == pytest.approx(sum(part[key] for part in parts))


class Heard:
    """A training episode: what `training_calls` reads of it."""

    def __init__(self, end: End, steps: int, true: bool) -> None:
        self.played, self.true_success = self, true
        self.end, self.steps = end, steps


@given(
    st.lists(st.builds(Heard, st.sampled_from([*End]), st.integers(1, 100), st.booleans()), max_size=20),
    st.sampled_from([5.0, 10.0]),
)
def test_calls_in_training_are_the_episodes_that_ended_in_success(heard, fps):
    told = training_calls(heard, fps)
    called = [one for one in heard if one.end is End.SUCCESS]
    assert told["training_calls"] == len(called)
    assert told["training_false_calls"] == len([one for one in called if not one.true_success])
    assert told["training_hours"] * 3600 == pytest.approx(sum(one.steps for one in heard) / fps)


def test_the_table_sums_its_seeds():
    def run(reward, seed, wins, calls, false):
        points = [{"successes": 0, "trials": 50}, {"successes": wins, "trials": 50}]
        more = {"training_calls": calls, "training_false_calls": false}
        return {"reward": reward, "seed": seed, "episodes": 80, "points": points, **more}

    runs = [run("classifier", 1, 38, 73, 2), run("oracle", 0, 46, 68, 0), run("classifier", 0, 49, 75, 1)]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in learning_table(runs).splitlines()]
    low, high = (math.floor(100 * bound + 0.5) for bound in wilson_interval(87, 100))
    assert [row[:2] for row in rows[2:]] == [
        ["oracle", "0"], ["oracle", "all"], ["classifier", "0"], ["classifier", "1"], ["classifier", "all"],
    ]  # fmt: skip
    assert rows[-1] == ["classifier", "all", "80", "87/100", f"{low}-{high} %", "3 of 148"]


@pytest.mark.parametrize("changes", DRIFTS.values(), ids=list(DRIFTS))
def test_a_drift_changes_the_scene_and_nothing_else_of_the_task(changes):
    config = with_judge(Config(), "button")
    other = with_scene(config, changes)
    before, after = (json.loads(task_json(one.task)) for one in (config, other))
    assert {key for key in before if before[key] != after[key]} == ({"scene"} if changes else set())
    scene, drifted = before["scene"], after["scene"]
    assert {key: drifted[key] for key in scene if drifted[key] != scene[key]} == changes
    assert set(other.allow_task_difference) == {"success", "scene"}
