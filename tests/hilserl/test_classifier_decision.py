"""When success is called, against the sentence that defines it; and the decision chosen for a false rate."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilserl.classifier.choosing import FREE_DELAY_S, LEAST_CALLED, THRESHOLDS, choose, least_frames
from hilserl.classifier.decision import Decision, Judge, success_frame
from hilserl.classifier.metrics import Scored
from hilserl.classifier.metrics_calls import call_of, episode_confusion

LEVELS = st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.9, 1.0])
DECISIONS = st.builds(
    Decision, st.sampled_from([0.3, 0.5, 0.9, 1.0]), st.integers(1, 4), st.integers(0, 9), st.integers(0, 4)
)


@st.composite
def played(draw):
    probabilities = draw(st.lists(LEVELS, min_size=1, max_size=25))
    steps = len(probabilities) - 1
    return probabilities, draw(st.lists(st.booleans(), min_size=steps, max_size=steps))


def by_definition(decision, probabilities, helped):
    """The first frame that ends a long enough row of frames that count."""

    def fresh(step):
        starts = [s for s in range(1, step + 1) if helped[s - 1] and (s == 1 or not helped[s - 2])]
        return helped[step - 1] and step - starts[-1] < decision.takeover_frames

    for frame in range(max(1, decision.min_frames), len(probabilities)):
        row = range(frame - decision.hold_frames + 1, frame + 1)
        if row[0] >= 1 and all(probabilities[i] >= decision.threshold and not fresh(i) for i in row):
            return frame
    return None


@given(DECISIONS, played())
def test_success_is_called_where_the_definition_says(decision, episode):
    probabilities, helped = episode
    assert success_frame(decision, probabilities, helped) == by_definition(decision, probabilities, helped)


@given(DECISIONS, played())
def test_a_judge_forgets_the_episode_before(decision, episode):
    probabilities, helped = episode
    judge = Judge(decision)
    for _ in range(2):
        judge.reset()
        steps = zip(probabilities[1:], helped, strict=True)
        called = [i + 1 for i, (p, h) in enumerate(steps) if judge.step(p, h)]
        assert (called[0] if called else None) == success_frame(decision, probabilities, helped)


@given(DECISIONS, played())
def test_nobody_helped_is_the_same_as_no_word_of_help(decision, episode):
    probabilities, helped = episode
    assert success_frame(decision, probabilities) == success_frame(
        decision, probabilities, [False] * len(helped)
    )


@pytest.mark.parametrize("broken", [math.nan, math.inf, -0.1, 1.1])
def test_what_is_no_probability_is_never_taken_for_a_failure(broken):
    with pytest.raises(ValueError, match="must lie in"):
        success_frame(Decision(0.5, 1, 0), [0.0, broken])


@pytest.mark.parametrize(
    ("values", "named"),
    [((0.0, 1, 0), "threshold"), ((1.1, 1, 0), "threshold"), ((math.nan, 1, 0), "threshold"),
     ((0.5, 0, 0), "hold_frames"), ((0.5, 1, -1), "min_frames"), ((0.5, 1, 0, -1), "takeover_frames")],
)  # fmt: skip
def test_a_decision_that_cannot_be_is_refused_by_name(values, named):
    with pytest.raises(ValueError, match=named):
        Decision(*values)


def test_help_of_another_length_is_refused():
    with pytest.raises(ValueError, match="3 probabilities belong to 2 steps, got 3"):
        success_frame(Decision(0.5, 1, 0), [0.0, 0.0, 0.0], [False] * 3)


# the choice


@st.composite
def held_out(draw):
    """Episodes with and without a success, judged well or badly."""
    episodes = []
    for index in range(draw(st.integers(2, 7))):
        frames = draw(st.integers(6, 20))
        start = draw(st.integers(2, frames - 1)) if index % 2 else frames
        success = np.arange(frames) >= start
        noise = draw(st.lists(st.floats(0, 1), min_size=frames, max_size=frames))
        level = draw(st.floats(0, 1))
        said = np.clip(level * success + (1 - level) * np.array(noise), 0, 1).astype(np.float32)
        episodes.append(Scored("data", str(index), {}, success, said, "success" if index % 2 else "failure"))
    return episodes


@settings(max_examples=30, deadline=None)
@given(held_out(), st.sampled_from([0.05, 0.3, 0.6]))
def test_no_decision_of_the_search_keeps_to_the_rate_and_calls_more(episodes, rate):
    chosen = choose(episodes, rate, 10, 0)
    best = None
    for hold in range(1, 11):
        for threshold in THRESHOLDS:
            calls = [call_of(one, Decision(threshold, hold, least_frames(episodes))) for one in episodes]
            found = episode_confusion(calls)
            shares = (
                found.false / max(1, found.false + found.quiet),
                found.early / max(1, found.called + found.early + found.missed),
            )
            if max(shares) <= rate and found.called >= LEAST_CALLED * (
                found.called + found.early + found.missed
            ):
                delay = np.median([call.delay for call in calls if call.delay is not None])
                worth = (-found.called, max(0, delay - FREE_DELAY_S * 10), -hold)
                best = worth if best is None else min(best, worth)
                if (threshold, hold) == (chosen.decision.threshold, chosen.decision.hold_frames):
                    ours = worth
    assert chosen.met == (best is not None)
    if best is not None:
        assert ours == best


def scored(name, probability, start=None):
    said = np.array(probability, np.float32)
    success = np.arange(len(said)) >= (len(said) if start is None else start)
    return Scored("data", name, {}, success, said, "failure" if start is None else "success")


def test_the_threshold_lies_amid_those_that_do_as_well():
    clear = [scored("0", [0.2] * 20), scored("1", [0.2] * 10 + [0.8] * 10, start=10)]
    chosen = choose(clear, 0.05, 10, 3)
    assert chosen.met
    assert 0.4 < chosen.decision.threshold < 0.6
    assert chosen.decision.takeover_frames == 3
    assert chosen.decision.min_frames == 5, "half of the quickest success"
    assert chosen.decision.hold_frames == 4, "as long as costs 0.3 s"


def test_the_flicker_of_a_failure_is_held_out():
    failed = scored("0", [0.1] * 8 + [0.99] * 5 + [0.1] * 7)
    chosen = choose([failed, scored("1", [0.1] * 10 + [0.99] * 10, start=10)], 0.05, 10, 0)
    assert chosen.met
    assert chosen.decision.hold_frames == 6, "longer than the flicker, and no longer"


def test_a_call_before_the_success_is_a_false_one_too():
    hasty = scored("1", [0.1] * 8 + [0.99] * 5 + [0.1] * 7 + [0.99] * 10, start=20)
    chosen = choose([scored("0", [0.1] * 20), hasty], 0.05, 10, 0)
    assert chosen.met
    assert chosen.decision.hold_frames == 6, "longer than the flicker, and no longer"


def test_what_cannot_be_told_apart_is_not_trusted_and_says_how_far_off():
    blind = [scored("0", [0.1] * 5 + [0.9] * 15), scored("1", [0.1] * 10 + [0.9] * 10, start=10)]
    chosen = choose(blind, 0.05, 10, 0)
    assert not chosen.met
    assert "classifier.false_success_rate" in chosen.sentence
    assert "of 1" in chosen.sentence


@pytest.mark.parametrize("heard", [0, 1, 2])
def test_calling_next_to_nothing_is_no_way_to_keep_to_the_rate(heard):
    quiet = [0.01] * 20
    failed = [scored("0", quiet), scored("1", quiet)]
    good = [scored(f"good {i}", [0.01] * 10 + [0.9] * 10 if i < heard else quiet, start=10) for i in range(4)]
    assert choose(failed + good, 0.05, 10, 0).met == (heard >= 2)
