"""The classifier's metrics against their definitions, written out the slow way."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilserl.classifier.decision import Decision
from hilserl.classifier.metrics import Scored, ScoreError, frame_accuracy, frame_confusion
from hilserl.classifier.metrics_calls import (
    call_of,
    episode_confusion,
    false_successes,
    poisson_interval,
)
from hilserl.classifier.metrics_coverage import NOT_TOLD, THIN_EPISODES, coverage
from hilserl.classifier.metrics_curves import calibration, precision_recall, suspects
from hilserl.classifier.metrics_summary import summarise
from hilserl.evaluate import wilson_interval

LEVELS = (0.0, 0.1, 0.25, 0.5, 0.7, 0.9, 1.0)
"""Few different probabilities, so that ties and the edges of bins are met."""
DECISION = Decision(0.7, 2, 3)


def scored(success, probability, episode="0", facts=None, **other):
    return Scored(
        other.pop("source", "data"),
        episode,
        facts or {},
        np.array(success, np.bool_),
        np.array(probability, np.float32),
        other.pop("end", "failure"),
        **other,
    )


@st.composite
def sets(draw, least=1):
    lines = draw(
        st.lists(
            st.lists(st.tuples(st.booleans(), st.sampled_from(LEVELS)), min_size=1, max_size=12),
            min_size=least,
            max_size=6,
        )
    )
    return [
        scored([s for s, _ in line], [p for _, p in line], str(index)) for index, line in enumerate(lines)
    ]


def pairs(episodes):
    """(label, probability) of every frame, as plain numbers."""
    return [
        (bool(s), float(p)) for one in episodes for s, p in zip(one.success, one.probability, strict=True)
    ]


@settings(max_examples=50, deadline=None)
@given(sets(), st.sampled_from(LEVELS[1:]))
def test_frame_counts_are_those_of_the_definition(episodes, threshold):
    counted = frame_confusion(episodes, threshold)
    frames = [(s, p >= threshold) for s, p in pairs(episodes)]
    expected = [frames.count(kind) for kind in ((True, True), (False, True), (True, False), (False, False))]
    found = [counted.true_success, counted.false_success, counted.missed, counted.true_failure]
    assert found == expected
    accuracy = frame_accuracy(episodes, threshold)
    assert (accuracy.count, accuracy.total) == (expected[0] + expected[3], len(frames))
    assert accuracy.low <= accuracy.value <= accuracy.high


def test_a_probability_is_compared_as_the_decision_compares_it():
    # float32(0.7) is below 0.7: numpy, left to itself, would round 0.7 to float32 and call it reached
    one = scored([True, True, True], [0.7, 0.7, 0.7])
    assert frame_confusion([one], 0.7).true_success == 0
    assert call_of(one, Decision(0.7, 1, 1)).frame is None


@settings(max_examples=50, deadline=None)
@given(sets())
def test_precision_and_recall_at_every_threshold(episodes):
    frames = pairs(episodes)
    curve = precision_recall(episodes)
    positives = sum(s for s, _ in frames)
    if not positives:
        assert curve is None
        return
    thresholds = sorted({p for _, p in frames}, reverse=True)
    assert curve.threshold.tolist() == thresholds
    before, average = 0.0, 0.0
    for place, threshold in enumerate(thresholds):
        called = [s for s, p in frames if p >= threshold]
        assert curve.precision[place] == pytest.approx(sum(called) / len(called))
        assert curve.recall[place] == pytest.approx(sum(called) / positives)
        average += (sum(called) / positives - before) * sum(called) / len(called)
        before = sum(called) / positives
    assert curve.average_precision == pytest.approx(average)


@settings(max_examples=50, deadline=None)
@given(sets(), st.integers(1, 11))
def test_calibration_by_its_definition(episodes, bins):
    frames = pairs(episodes)
    found = calibration(episodes, bins)
    error = 0.0
    for place in range(bins):
        # b / bins is in bin b, and 1 is in the last
        here = [
            (s, p) for s, p in frames if place <= p * bins and (p * bins < place + 1 or place == bins - 1)
        ]
        assert found.count[place] == len(here)
        if not here:
            assert math.isnan(found.said[place]) and math.isnan(found.true[place])
            continue
        said, true = sum(p for _, p in here) / len(here), sum(s for s, _ in here) / len(here)
        assert (found.said[place], found.true[place]) == pytest.approx((said, true))
        error += len(here) / len(frames) * abs(said - true)
    assert found.error == pytest.approx(error)


def slow_call(one, decision):
    """(frame of the call, right, frames of failed play before it), by the words of the decision."""
    p = [float(value) for value in one.probability]
    for frame in range(1, len(p)):
        window = range(frame - decision.hold_frames + 1, frame + 1)
        if window[0] < 1 or frame < decision.min_frames:
            continue
        if all(p[i] >= decision.threshold for i in window):
            return (
                frame,
                any(one.success[i] for i in window),
                sum(not one.success[i] for i in range(1, frame + 1)),
            )
    return None, False, sum(not s for s in one.success[1:])


@settings(max_examples=50, deadline=None)
@given(sets(), st.integers(1, 4), st.integers(0, 6), st.sampled_from(LEVELS[2:]))
def test_calls_and_their_verdicts(episodes, hold, least, threshold):
    decision = Decision(threshold, hold, least)
    calls = [call_of(one, decision) for one in episodes]
    kinds = {"called": 0, "early": 0, "missed": 0, "false": 0, "quiet": 0}
    for one, call in zip(episodes, calls, strict=True):
        frame, right, failed = slow_call(one, decision)
        assert (call.frame, call.right, call.failed_frames) == (frame, right, failed)
        has = any(one.success)
        if has:
            kinds["called" if right else "missed" if frame is None else "early"] += 1
            first = list(one.success).index(True)
            assert call.true_frame == first
            assert call.delay == (frame - first if right else None)
            # a call before the success came is never right
            assert not right or frame >= first
        else:
            kinds["quiet" if frame is None else "false"] += 1
        assert call.correct == (right if frame is not None else not has)
    confusion = episode_confusion(calls)
    assert {name: getattr(confusion, name) for name in kinds} == kinds
    right_ones = kinds["called"] + kinds["quiet"]
    assert (confusion.correct.low, confusion.correct.high) == wilson_interval(right_ones, len(episodes))
    assert confusion.false_rate.total == sum(not one.success.any() for one in episodes)
    assert confusion.called_rate.total == sum(bool(one.success.any()) for one in episodes)
    per_hour = false_successes(calls, 10.0)
    played = sum(slow_call(one, decision)[2] for one in episodes)
    assert per_hour.count == kinds["false"] + kinds["early"]
    if played:
        assert per_hour.per_hour == pytest.approx(per_hour.count / (played / 10.0 / 3600.0))
        assert per_hour.low <= per_hour.per_hour <= per_hour.high
    else:
        assert per_hour.per_hour is None


def test_a_call_after_the_success_was_lost_is_false():
    one = scored([0, 0, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0.9, 0.9])
    call = call_of(one, DECISION)
    assert (call.frame, call.right, call.false, call.word) == (7, False, True, "false success")


def test_help_is_passed_on():
    success, said = [False] * 2 + [True] * 6, [0.9] * 8
    helped = np.array([False, True, True, True, True, False, False])
    decision = replace(DECISION, min_frames=1, takeover_frames=3)
    free, taken = scored(success, said), scored(success, said, helped=helped)
    assert call_of(free, decision).frame == 2
    assert call_of(taken, decision).frame == 6  # steps 2 to 4 do not count, 5 and 6 hold


@pytest.mark.parametrize("count", [0, 1, 2, 7, 60])
def test_poisson_interval_leaves_the_tails(count):
    low, high = poisson_interval(count)

    def chance(mean, counts):
        return sum(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in counts)

    assert chance(high, range(count + 1)) == pytest.approx(0.025, rel=1e-6)
    assert low == 0.0 if not count else 1 - chance(low, range(count)) == pytest.approx(0.025, rel=1e-6)


def test_the_accuracy_interval_covers_what_it_should():
    """Episodes that differ: 95 % of the intervals hold the truth; those for independent frames do not."""
    rng = np.random.default_rng(5)
    held, naive, trials = 0, 0, 200
    for _ in range(trials):
        episodes = []
        for index in range(30):
            share = rng.beta(9.0, 1.0)  # of this episode's frames, 0.9 on average
            right = rng.random(40) < share
            episodes.append(scored(right, np.ones(40), str(index)))
        found = frame_accuracy(episodes)
        held += found.low <= 0.9 <= found.high
        low, high = wilson_interval(found.count, found.total)
        naive += low <= 0.9 <= high
    assert 0.9 <= held / trials <= 0.99
    assert naive / trials < 0.8


@settings(max_examples=20, deadline=None)
@given(sets(least=2), st.randoms(use_true_random=False))
def test_nothing_depends_on_the_order_of_episodes(episodes, random):
    episodes = [replace(one, facts={"light": float(index % 3)}) for index, one in enumerate(episodes)]
    shuffled = list(episodes)
    random.shuffle(shuffled)
    first, second = (summarise(order, DECISION, 10.0) for order in (episodes, shuffled))
    assert rounded(first.to_json()) == rounded(second.to_json())
    assert first.coverage == second.coverage
    for success in (True, False):
        assert suspects(episodes, success, 5) == suspects(shuffled, success, 5)


def rounded(value):
    """Sums of floats differ in the last place by their order."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, 9) if isinstance(value, float) else value


@settings(max_examples=50, deadline=None)
@given(sets(), st.booleans(), st.integers(1, 8), st.integers(1, 3), st.integers(1, 4))
def test_suspects_are_the_worst_and_keep_apart(episodes, success, most, per_episode, apart):
    found = suspects(episodes, success, most, per_episode=per_episode, apart=apart)
    assert len(found) <= most
    badness = [-one.probability if success else one.probability for one in found]
    assert badness == sorted(badness, reverse=True)
    expected = []
    for one in episodes:
        kept = []
        frames = [i for i in range(one.frames) if one.success[i] == success]
        for i in sorted(frames, key=lambda i: one.probability[i] if success else -one.probability[i]):
            if len(kept) < per_episode and all(abs(i - j) >= apart for j in kept):
                kept.append(i)
        expected += [(float(one.probability[i]), one.episode, i) for i in kept]
    expected.sort(key=lambda e: (e[0] if success else -e[0], *e[1:]))
    assert [(one.probability, one.episode, one.frame) for one in found] == expected[:most]
    assert all(one.success == success for one in found)


facts = st.dictionaries(
    st.sampled_from(["light", "place_m", "scenario"]),
    st.one_of(st.sampled_from(["a", "b"]), st.floats(-1, 1), st.just(math.nan)),
)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_every_condition_counts_every_episode_once(data):
    episodes = [replace(one, facts=data.draw(facts)) for one in data.draw(sets())]
    calls = [call_of(one, DECISION) for one in episodes]
    found = coverage(episodes, calls)
    names = {name for one in episodes for name in one.facts}
    assert {cell.fact for cell in found.cells} | {fact for fact, _ in found.skipped} == names
    for name in {cell.fact for cell in found.cells}:
        cells = [cell for cell in found.cells if cell.fact == name]
        assert len({cell.value for cell in cells}) == len(cells)
        assert sum(cell.episodes for cell in cells) == len(episodes)
        assert sum(cell.frames for cell in cells) == sum(one.frames for one in episodes)
        assert sum(cell.success_frames for cell in cells) == sum(int(one.success.sum()) for one in episodes)
        assert sum(cell.accuracy.count for cell in cells) == frame_accuracy(episodes).count
        assert sum(cell.correct.count for cell in cells) == sum(call.correct for call in calls)
        for cell in cells:
            thin = cell.episodes < THIN_EPISODES and cell.value != NOT_TOLD
            assert any(text.startswith("only") for text in cell.warnings) == thin
        untold = sum(1 for one in episodes if not told(one.facts.get(name)))
        assert sum(cell.episodes for cell in cells if cell.value == NOT_TOLD) == untold


def told(value):
    return isinstance(value, str) or (value is not None and math.isfinite(value))


def test_numbers_fall_into_the_bin_that_says_so():
    values = np.linspace(-0.3, 0.6, 31).tolist()
    episodes = [scored([i % 2], [0.2], str(i), {"x_m": value}) for i, value in enumerate(values)]
    found = coverage(episodes, [call_of(one, DECISION) for one in episodes])
    edges = [[float(part) for part in cell.value.split(" to ")] for cell in found.cells]
    assert [low for low, _ in edges[1:]] == [high for _, high in edges[:-1]]
    for (low, high), cell in zip(edges, found.cells, strict=True):
        inside = sum(low < value <= high or value == low == values[0] for value in np.round(values, 9))
        assert cell.episodes == inside


def test_coverage_warns_of_what_is_thin_one_sided_or_worse():
    def make(name, light, good, success):
        said = np.where(success, 0.9, 0.1) if good else np.where(success, 0.1, 0.9)
        return scored([success] * 20, [said] * 20, name, {"light": light, "camera": "wrist"})

    episodes = [make(f"d{i}", "day", True, i % 2 == 0) for i in range(30)]
    episodes += [make(f"n{i}", "night", i > 3, i % 2 == 0) for i in range(6)]
    episodes += [make("e", "evening", True, False)]
    found = coverage(episodes, [call_of(one, DECISION) for one in episodes])
    by_value = {cell.value: " | ".join(cell.warnings) for cell in found.cells}
    assert by_value["day"] == ""
    assert "worse than the rest" in by_value["night"] and "only" not in by_value["night"]
    assert "only 1 episode" in by_value["evening"] and "no episode with a success" in by_value["evening"]
    assert "nothing is known of others" in by_value["wrist"]
    assert len(found.warnings) == 3


def test_what_is_not_known_is_said_so():
    quiet = scored([False] * 4, [0.1] * 4)
    summary = summarise([quiet], DECISION, 10.0)
    told = json.loads(json.dumps(summary.to_json(), allow_nan=False))
    assert told["average_precision"] is None and told["median_delay_s"] is None
    assert told["called_rate"]["value"] is None
    assert (told["accuracy_low95"], told["accuracy_high95"]) == (
        0.0,
        1.0,
    )  # one episode says nothing of others
    alone = summarise([scored([True], [0.9])], DECISION, 10.0).to_json()
    assert alone["false_successes_per_hour"] is None and alone["false_successes_per_hour_high95"] is None
    assert frame_accuracy([]).value is None


def test_all_right_is_not_certain():
    episodes = [scored([False, True] * 10, [0.1, 0.9] * 10, str(i)) for i in range(10)]
    found = frame_accuracy(episodes)
    assert found.value == 1.0 and found.low < 0.99


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"probability": np.array([0.1, math.nan], np.float32)}, "frame 1 is nan"),
        ({"probability": np.array([0.1, 1.5], np.float32)}, "frame 1 is 1.5"),
        ({"probability": np.array([0.1], np.float32)}, "float32 (2,)"),
        ({"probability": np.array([0.1, 0.2])}, "float64"),
        ({"success": np.array([0, 1])}, "int64"),
        ({"success": np.zeros(0, np.bool_), "probability": np.zeros(0, np.float32)}, "N >= 1"),
        ({"helped": np.zeros(2, np.bool_)}, "helped must be bool (1,)"),
    ],
)
def test_scores_that_cannot_be_are_refused_by_name(change, word):
    good = scored([False, True], [0.1, 0.9], "7")
    with pytest.raises(ScoreError) as error:
        replace(good, **change)
    assert word in str(error.value) and "episode 7 of data" in str(error.value)


def test_no_episode_and_an_episode_twice_are_refused():
    with pytest.raises(ScoreError, match="no held-out episode"):
        summarise([], DECISION, 10.0)
    one = scored([False, True], [0.1, 0.9], "7")
    with pytest.raises(ScoreError, match="episode 7 of data was scored 2 times"):
        summarise([one, one], DECISION, 10.0)
