"""A classifier as the only reward: paid once, loud when it cannot judge, always overruled by the pad."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilserl.body import build_body, build_reward
from hilserl.classifier.decision import Decision, success_frame
from hilserl.classifier.model import ClassifierError, RewardClassifier
from hilserl.classifier.reward import OUTSIDE_FRAMES, ClassifierFault, ClassifierReward
from hilserl.config import Config, ConfigError, SuccessConfig
from hilserl.episode import save_episode
from hilserl.overrules import append_overrule, overrule_of
from hilserl.reward import ButtonReward
from hilserl.rollout import HoldStill, Played, rollout
from hilserl.task_record import TaskMismatch
from hilserl.types import End, Episode, Obs, Role
from robot.types import Event, Operator
from tests.fakes.body import LIFT, Body, Says, Tape, action, at
from tests.fakes.classifiers import ALWAYS, save_classifier
from tests.fakes.recordings import small_config

OBS = Obs({}, np.zeros(1, np.float32))
PAYS_ONE = SuccessConfig(kind="classifier")
BODY = Body(at(LIFT, 0.22, 0.0, 0.10))
DECISIONS = st.builds(
    Decision, st.sampled_from([0.5, 0.9]), st.integers(1, 4), st.integers(0, 8), st.integers(0, 3)
)
PROBABILITIES = st.one_of(
    st.lists(st.sampled_from(levels), min_size=1, max_size=30)
    for levels in ([0.0, 0.4, 0.5, 0.7, 0.9, 1.0], [0.0, 0.0, 0.4, 0.9])
)
SUCCESSES = st.builds(
    SuccessConfig,
    kind=st.just("classifier"),
    reward=st.sampled_from([1.0, 10.0]),
    step_cost=st.sampled_from([0.0, 0.01, 0.05]),
)


class Scripted:
    """A classifier that gives the listed probabilities, one per picture, and says which are out of range."""

    hash = "c0ffee"

    def __init__(self, probabilities, decision=None, outside=()) -> None:
        self.decision = decision or Decision(0.5, 1, 0)
        self._probabilities, self._outside = list(probabilities), set(outside)
        self.seen = -1

    def out_of_range(self, images) -> str:
        self.seen += 1
        return f"picture {self.seen} is dark" if self.seen in self._outside else ""

    def probability(self, images) -> float:
        return self._probabilities[self.seen]


def scores(probabilities, decision, success=PAYS_ONE, helped=None, outside=()):
    """Scores of the steps up to the end of the episode."""
    reward = ClassifierReward(Scripted(probabilities, decision, outside), success, 0)
    found = []
    for step in range(len(probabilities)):
        found.append(reward.score(OBS, bool(helped and helped[step])))
        if found[-1][1] is not None:
            break
    return found


@given(PROBABILITIES, DECISIONS, SUCCESSES, st.data())
def test_success_ends_the_episode_where_the_decision_says_and_is_paid_once(judged, decision, success, data):
    helped = data.draw(st.lists(st.booleans(), min_size=len(judged), max_size=len(judged)))
    frame = success_frame(decision, [0.0, *judged], helped)
    found = scores(judged, decision, success, helped)
    steps = len(judged) if frame is None else frame
    assert [end for _, end in found] == [None] * (steps - 1) + [None if frame is None else End.SUCCESS]
    total = (frame is not None) * success.reward - steps * success.step_cost
    assert sum(value for value, _ in found) == pytest.approx(total)
    assert all(value == -success.step_cost for value, _ in found[:-1])


@given(st.integers(0, 30), st.integers(1, 30), st.floats(0.01, 1.0), SUCCESSES, st.integers(1, 4))
def test_the_shortest_success_has_the_best_return_under_any_discount(idle, later, discount, success, hold):
    decision = Decision(0.9, hold, 0)

    def total(probabilities) -> float:
        values = [value for value, _ in scores(probabilities, decision, success)]
        return sum(value * discount**step for step, value in enumerate(values))

    soon = total([0.0] * idle + [1.0] * hold)
    late = total([0.0] * (idle + later) + [1.0] * hold)
    never = total([0.0] * (idle + later + hold))
    if success.step_cost > 0 or discount < 1:
        tiny = (1 - discount + success.step_cost) * discount**60  # what float64 cannot tell apart
        assert soon > late or tiny < 1e-12
    assert soon >= late - 1e-12 and soon >= never - 1e-12


@given(PROBABILITIES, DECISIONS, st.data())
def test_light_never_seen_in_training_is_an_error_when_it_stays_and_never_a_success(judged, decision, data):
    unlike = data.draw(st.lists(st.booleans(), min_size=len(judged), max_size=len(judged)))
    outside = {step for step, one in enumerate(unlike) if one}
    frame = success_frame(decision, [0.0, *judged])
    last = len(judged) if frame is None else frame
    staying = [n for n in range(last) if {*range(n - OUTSIDE_FRAMES + 1, n + 1)} <= outside]
    if staying or (frame is not None and frame - 1 in outside):
        with pytest.raises(ClassifierFault, match=r"light .* is dark.*train it again"):
            scores(judged, decision, outside=outside)
    else:
        assert len(scores(judged, decision, outside=outside)) == last


@pytest.mark.parametrize("broken", [math.nan, math.inf, -0.1, 1.1])
def test_what_is_no_probability_is_an_error_and_not_a_failure(broken):
    with pytest.raises(ClassifierFault, match="probability"):
        scores([0.1, broken, 0.1], Decision(0.5, 1, 0))


def test_nothing_of_an_episode_counts_in_the_next():
    classifier = Scripted([0.9] * 5, Decision(0.5, 3, 0), outside=(0, 1, 2, 3))
    reward = ClassifierReward(classifier, PAYS_ONE, 0)
    for _ in range(2):
        assert reward.score(OBS, False)[1] is None
    reward.reset()
    assert reward.facts() == {"classifier": "c0ffee"}, "no probability of the last episode either"
    assert [reward.score(OBS, False)[1] for _ in range(3)] == [None, None, End.SUCCESS]
    assert reward.facts() == {"classifier": "c0ffee", "success_probability": 0.9}


def play(reward, *says: Operator, steps: int = 8, **options) -> tuple[Played, Tape]:
    tape = Tape()
    played = rollout(
        env=BODY.env,
        policy=HoldStill(),
        teleop=Says(*says),
        reward=reward,
        seed=0,
        max_steps=steps,
        listeners=(tape,),
        **options,
    )
    return played, tape


@settings(max_examples=40, deadline=None)
@given(
    calls=st.integers(1, 6),
    press=st.tuples(st.integers(1, 6), st.sampled_from([Event.SUCCESS, Event.FAILURE, Event.DISCARD])),
    success=SUCCESSES,
)
def test_whoever_ends_it_a_success_is_paid_once_and_the_overruled_verdict_is_kept(calls, press, success):
    step, button = press
    reward = ClassifierReward(Scripted([0.0] * (calls - 1) + [1.0] * 9), success, 0)
    played, tape = play(reward, *[Operator()] * (step - 1), Operator(event=button))
    by_button = step <= calls
    end = End[{"DISCARD": "DISCARDED"}.get(button.name, button.name)] if by_button else End.SUCCESS
    assert (played.end, played.steps) == (end, min(step, calls))
    paid = (end is End.SUCCESS) * success.reward - played.steps * success.step_cost
    assert played.total_reward == pytest.approx(paid)
    assert sum(s.reward for s in tape.steps) == pytest.approx(paid)
    assert played.facts["judge"] == ("operator" if by_button else "classifier")
    said = "success" if step >= calls else "none"
    contradicted = by_button and (said == "success") != (button is Event.SUCCESS)
    assert played.facts.get("overruled") == (said if contradicted else None)
    assert played.facts["classifier"] == "c0ffee"
    assert played.facts["success_probability"] == (1.0 if played.steps == calls else 0.0)


def test_a_time_out_has_no_judge_and_a_button_without_a_reward_overrules_nobody():
    played, _ = play(ClassifierReward(Scripted([0.0] * 9), PAYS_ONE, 0), steps=3)
    assert played.end is End.TIMEOUT and not {"judge", "overruled"} & played.facts.keys()
    played, _ = play(ButtonReward(SuccessConfig(reward=3.0)), Operator(event=Event.SUCCESS))
    assert (played.facts["judge"], played.total_reward) == ("operator", 3.0)
    assert not {"overruled", "classifier"} & played.facts.keys()


def test_no_success_is_called_in_the_first_frames_of_a_take_over():
    decision = Decision(0.5, 1, 0, takeover_frames=2)
    helps = [Operator(action())] * 5
    played, _ = play(ClassifierReward(Scripted([1.0] * 9, decision), PAYS_ONE, 0), *helps)
    assert played.steps == 3
    without, _ = play(
        ClassifierReward(Scripted([1.0] * 9, decision), PAYS_ONE, 0), *helps, help_allowed=False
    )
    assert without.steps == 1, "where the operator's hand moves nothing there is no take-over"


@pytest.mark.parametrize(
    ("said", "end", "paid", "judge"),
    [
        (None, End.SUCCESS, 1.0, "classifier"),
        (Event.SUCCESS, End.SUCCESS, 1.0, "operator"),
        (Event.FAILURE, End.FAILURE, 0.0, "operator"),
        (Event.DISCARD, End.DISCARDED, 0.0, "operator"),
        (Event.STOP, End.DISCARDED, None, None),
    ],
)
def test_the_operator_has_the_last_word_while_the_arm_holds_still(said, end, paid, judge):
    """A false success is seen after it was called: the episode waits for the button that says so."""
    reward = ClassifierReward(Scripted([0.0, 1.0]), PAYS_ONE, overrule_steps=4)
    says = [
        Operator(),
        Operator(),
        Operator(action(1.0)),
        Operator(event=said),
        Operator(event=Event.FAILURE),
    ]
    BODY.arm.commands.clear()
    played, tape = play(reward, *(says if said else says[:3]))
    assert (played.end, played.steps, played.facts.get("judge")) == (end, 2, judge)
    assert played.stopped is (said is Event.STOP)
    assert paid is None or played.total_reward == paid == sum(step.reward for step in tape.steps)
    assert played.facts.get("overruled") == ("success" if said in (Event.FAILURE, Event.DISCARD) else None)
    periods = 4 if said is None else 2  # until he speaks
    last = np.array(BODY.arm.commands[-(2 + periods) * 5 :])
    assert len(last) == (2 + periods) * 5 and np.ptp(last, axis=0).max() == 0, (
        "it holds, also against his hand"
    )
    waited_s = BODY.twin.clock.now_s() - BODY.env.state.stamp_s
    assert waited_s == pytest.approx(periods / LIFT.fps), "listeners find what the last step led to"


def test_who_has_pressed_a_button_is_not_asked_again():
    reward = ClassifierReward(Scripted([1.0]), PAYS_ONE, overrule_steps=4)
    played, _ = play(reward, Operator(event=Event.FAILURE), Operator(event=Event.SUCCESS))
    assert (played.end, played.total_reward) == (End.FAILURE, 0.0)


def test_an_overrule_is_written_under_the_name_of_its_episodes_file(tmp_path):
    reward = ClassifierReward(Scripted([0.2, 0.3]), PAYS_ONE, 0)
    played, tape = play(reward, Operator(), Operator(event=Event.SUCCESS))
    overrule = overrule_of("left", 12, played)
    episode = Episode(
        actor="left",
        number=12,
        role=Role.TRAIN,
        policy_version=1,
        seed=0,
        task_hash="",
        images={"cam": np.zeros((3, 2, 2, 3), np.uint8)},
        state=np.stack([obs.state for obs in tape.obs]),
        action=np.stack([step.action for step in tape.steps]),
        reward=np.array([step.reward for step in tape.steps], np.float32),
        intervention=np.zeros(2, np.bool_),
        end=played.end,
        info=played.facts,
    )
    assert overrule.episode == save_episode(tmp_path, episode).stem
    path = tmp_path / "overrules.jsonl"
    append_overrule(path, overrule)
    path.write_bytes(path.read_bytes() + b'{"episode": "le')  # the power failed here
    append_overrule(path, replace(overrule, number=13))
    first, torn, second = path.read_text().splitlines()
    assert json.loads(first) == {
        "episode": "left_00000012_00002_success",
        "number": 12,
        "step": 2,
        "automatic": "none",
        "button": "success",
        "probability": 0.3,
        "classifier": "c0ffee",
    }
    assert torn == '{"episode": "le' and json.loads(second)["number"] == 13


def test_an_overrule_of_another_reward_has_no_probability():
    played = Played(End.FAILURE, 4, 0.0, 0, 0, False, {"overruled": "success"})
    overrule = overrule_of("left", 1, played)
    assert (overrule.probability, overrule.classifier) == (None, "")
    assert "probability" not in overrule.sentence() and "called a success" in overrule.sentence()


def test_a_line_is_durable_before_anybody_hears_of_it(tmp_path, monkeypatch):
    played, _ = play(ClassifierReward(Scripted([1.0]), PAYS_ONE, 0), Operator(event=Event.FAILURE))
    path, kept = tmp_path / "overrules.jsonl", []
    monkeypatch.setattr(os, "fsync", lambda _: kept.append(path.read_bytes()))
    append_overrule(path, overrule_of("left", 1, played))
    assert kept == [path.read_bytes()] and kept[0].endswith(b"\n")


def test_facts_that_were_given_away_do_not_change():
    reward = ClassifierReward(Scripted([0.1, 0.2]), PAYS_ONE, 0)
    reward.score(OBS, False)
    told = reward.facts()
    reward.score(OBS, False)
    assert told["success_probability"] == 0.1


def test_what_was_not_contradicted_or_not_stored_is_no_overrule():
    for event, called, overruled in [
        (Event.FAILURE, 0.0, False),
        (Event.SUCCESS, 1.0, False),
        (Event.DISCARD, 1.0, False),
        (Event.FAILURE, 1.0, True),
        (Event.SUCCESS, 0.0, True),
    ]:
        played, _ = play(ClassifierReward(Scripted([called]), PAYS_ONE, 0), Operator(event=event))
        assert (overrule_of("a", 1, played) is not None) is overruled, (event, called)


# --- the classifier in a configuration ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged(tmp_path_factory) -> Config:
    """A configuration in which a stored classifier judges, which calls each step that is no take-over's."""
    config = small_config()
    policy = replace(config.policy, vision_encoder_name="random:8:0")
    task = replace(config.task, success=SuccessConfig(kind="classifier", reward=2.0))
    folder = tmp_path_factory.mktemp("classifiers") / "best_model"
    config = replace(config, task=task, policy=policy)
    save_classifier(folder, config, replace(ALWAYS, takeover_frames=2), look=(40.0, 200.0))
    return with_model(config, folder)


def with_model(config: Config, folder) -> Config:
    return replace(config, classifier=replace(config.classifier, model=str(folder)))


def picture(config: Config, brightness: int) -> Obs:
    shape = (*config.task.resize_size, 3)
    return Obs({"gripper_cam": np.full(shape, brightness, np.uint8)}, np.zeros(1, np.float32))


def test_the_stored_decision_judges_and_the_task_pays(judged):
    reward = build_reward(judged, None)
    helped = [True, True, False]
    assert [reward.score(picture(judged, 90), one) for one in helped] == [
        (0.0, None),
        (0.0, None),
        (2.0, End.SUCCESS),
    ]
    assert reward.facts()["classifier"] == RewardClassifier.load(judged.classifier.model, judged.task).hash


def test_a_lamp_that_was_switched_off_stops_the_judging(judged):
    reward = build_reward(judged, None)
    for _ in range(OUTSIDE_FRAMES - 1):
        reward.score(picture(judged, 5), True)
    with pytest.raises(ClassifierFault, match=r"gripper_cam.* brightness 5\.0"):
        reward.score(picture(judged, 5), True)


def test_a_classifier_of_another_task_is_refused_unless_the_difference_is_allowed(judged):
    other = replace(judged, task=replace(judged.task, fps=5.0, action_scale=0.03))
    with pytest.raises(TaskMismatch, match=r"(?s)action_scale.*") as refusal:
        build_reward(other, None)
    assert "fps: here 5.0, there 10.0" in str(refusal.value)
    build_reward(replace(other, allow_task_difference=("fps", "action_scale")), None)
    paying = replace(judged, task=replace(judged.task, success=SuccessConfig("classifier", step_cost=0.1)))
    assert build_reward(paying, None).score(picture(judged, 90), True) == (-0.1, None)


def test_a_classifier_that_is_not_trusted_or_of_another_trunk_gives_no_rewards(judged, tmp_path):
    doubtful = save_classifier(tmp_path / "doubtful", judged, trusted=False)
    with pytest.raises(ClassifierError, match="1 false success in 3"):
        build_reward(with_model(judged, doubtful), None)
    trunk = replace(judged.policy, vision_encoder_name="random:8:1")
    with pytest.raises(ClassifierError, match="random:8:0"):
        build_reward(replace(judged, policy=trunk), None)


@pytest.mark.parametrize(
    ("teleop", "periods"), [("gamepad", 10), ("keyboard", 10), ("scripted", 0), ("none", 0)]
)
def test_only_a_person_is_waited_for(judged, teleop, periods):
    reward = build_reward(replace(judged, teleop=replace(judged.teleop, type=teleop)), None)
    assert reward.overrule_steps == periods


def test_the_body_is_judged_by_the_classifier_from_its_own_camera(judged):
    with build_body(judged, print) as body:
        played = rollout(
            env=body.env, policy=HoldStill(), teleop=Says(), reward=body.reward, seed=0, max_steps=5
        )
    assert (played.end, played.steps, played.facts["judge"]) == (End.SUCCESS, 1, "classifier")
    assert played.total_reward == 2.0


def test_where_a_classifier_judges_one_must_be_named_and_where_none_judges_none_is_asked_for():
    config = small_config()
    config = replace(config, task=replace(config.task, success=PAYS_ONE))
    with pytest.raises(ConfigError, match=r"classifier\.model is \"\""), build_body(config, print):
        pass
    judge = ButtonReward(config.task.success)
    with build_body(config, print, judge=judge) as body:
        assert body.reward is judge
