"""The actor's loop: one policy version per episode, honest evaluation, faults that end in words."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilserl.actor import EVAL_SEED, MAX_FAULTS, Actor, Plan, training_seed
from hilserl.classifier.reward import ClassifierFault
from hilserl.env import Timing
from hilserl.types import End, Obs, Role, Weights
from robot.errors import BusError, CameraError, CommandRefused, ServoUnwell, TorqueLost, WatchdogLost
from robot.types import Event, Operator

PLAN = Plan(
    actor="a", task_hash="", seed=0, max_steps=4, max_episodes=3, wait_for_weights=True, eval_episodes=2
)
OBS = Obs({"cam": np.zeros((2, 2, 3), np.uint8)}, np.zeros(1, np.float32))
TAKEN = np.full(4, 0.5, np.float32)


class Bench:
    """An Actor among fakes that remember.

    publish: {steps played: version} that appear at the learner. faults: {step count: error} raised in step,
    reset_faults: errors of the first resets.
    """

    def __init__(
        self,
        plan: Plan = PLAN,
        *,
        publish=None,
        faults=None,
        reset_faults=(),
        says=lambda step: Operator(),
        reward=None,
    ) -> None:
        self.publish = {0: 1} if publish is None else publish
        self.faults, self.reset_faults, self.says = dict(faults or {}), list(reset_faults), says
        self.steps = 0
        self.stop_at = 10**9
        self.calls: list[tuple] = []
        self.ended: list[tuple] = []
        self.loaded: list[int] = []
        self.reports = []
        self.waited: list[int] = []
        self.state, self.clipped_steps, self.timing = None, 0, Timing()
        self.deterministic = False
        self.policy_acts: list[tuple[int, bool]] = []
        self.playing = None
        self.taken_in = (0, 0)
        self.updates_after = 0
        self.unsent = 0
        """Times it is asked before the learner has got everything."""
        self.actor = Actor(
            env=self,
            policy=FakePolicy(self),
            teleop=FakeTeleop(self),
            reward=reward or FakeReward(),
            link=self,
            plan=plan,
            report=self.reports.append,
            should_stop=lambda: self.steps >= self.stop_at,
        )

    # the environment
    spec = None

    def await_arm(self, should_stop):
        return True

    def reset(self, seed, should_stop):
        if self.reset_faults and (error := self.reset_faults.pop(0)):
            raise error
        self.calls.append(("reset", seed))
        return OBS, {"cube_x_m": 0.1}

    def step(self, item):
        """Both an Env's step(action) and a Link's step(Step)."""
        if not isinstance(item, np.ndarray):
            self.calls.append(("step", item))
            return None
        self.steps += 1
        if error := self.faults.get(self.steps):
            raise error
        return OBS

    # the link
    @property
    def next_episode_number(self):
        return len(self.ended) + 1

    def begin(self, header, obs):
        assert self.playing is None
        self.playing = header
        self.calls.append(("begin", header))

    def end(self, end, info=None):
        assert self.playing is not None
        self.ended.append((self.playing, end, info))
        self.playing = None

    def weights(self, newer_than=None):
        newest = max((v for step, v in self.publish.items() if step <= self.steps), default=None)
        self.calls.append(("weights", newest, self.playing))
        if newest is None or newest == newer_than:
            return None
        return Weights(newest, {"v": np.array(newest)})

    def wait_weights(self, timeout_s=None):
        self.steps += 1
        self.calls.append(("wait_weights", self.steps))
        return self.weights()

    def progress(self):
        return self.taken_in

    def wait_updates(self, updates, timeout_s=None):
        self.waited.append(updates)
        self.updates_after -= 1
        return self.updates_after < 0

    def wait_sent(self, but, timeout_s):
        assert but >= 1, "the newest may still be on its way"
        self.unsent -= 1
        return self.unsent < 0

    def run(self):
        self.actor.run()
        assert self.playing is None, "an episode was left open"
        return self

    def headers(self, role):
        return [header for header, _, _ in self.ended if header.role is role]

    def sent(self):
        return [item for kind, item in self.calls if kind == "step"] if self.calls else []


class FakePolicy:
    def __init__(self, bench):
        self.bench, self.deterministic, self.version = bench, False, 0

    def load(self, weights):
        assert self.bench.playing is None, "weights were changed within an episode"
        self.version = int(weights["v"])
        self.bench.loaded.append(self.version)

    def reset(self):
        pass

    def observe(self, obs):
        pass

    def act(self, obs):
        assert self.version == self.bench.playing.policy_version
        self.bench.policy_acts.append((self.bench.playing.role, self.deterministic))
        return np.full(4, 0.1, np.float32)


class FakeTeleop:
    def __init__(self, bench):
        self.bench, self.step = bench, -1

    def reset(self, seed):
        self.step = -1

    def read(self, state):
        self.step += 1
        return self.bench.says(self.step)

    def stop_asked(self):
        return False

    def close(self):
        pass


class FakeReward:
    judge, success_reward, overrule_steps = "", 10.0, 0

    def reset(self):
        pass

    def score(self, obs, helped):
        return 0.0, None

    def facts(self):
        return {}


def sent_steps(bench):
    return [call[1] for call in bench.calls if call[0] == "step"]


def test_weights_change_only_between_episodes_and_each_episode_has_one_version():
    bench = Bench(publish={0: 1, 2: 2, 3: 3, 6: 4}).run()
    assert [header.policy_version for header in bench.headers(Role.TRAIN)] == [1, 3, 4]
    assert bench.loaded == [1, 3, 4]
    assert all(playing is None for kind, _, playing in (c for c in bench.calls if c[0] == "weights"))


def test_a_learner_that_was_rolled_back_is_followed():
    bench = Bench(publish={0: 5})
    bench.publish = {0: 5}
    bench.actor.run()
    bench.publish = {0: 4}
    bench.actor.run()
    assert bench.loaded == [5, 4]


def test_it_waits_for_weights_and_an_interrupt_ends_the_wait():
    bench = Bench(publish={3: 1}).run()
    assert [call[0] for call in bench.calls].count("wait_weights") == 3
    assert all(header.policy_version == 1 for header in bench.headers(Role.TRAIN))
    never = Bench(publish={})
    never.stop_at = 5
    never.run()
    assert never.ended == []


def test_without_weights_it_holds_still_and_the_operator_demonstrates():
    says = lambda step: Operator(TAKEN) if step in (1, 2) else Operator()  # noqa: E731
    bench = Bench(replace(PLAN, wait_for_weights=False, max_episodes=1), publish={}, says=says).run()
    ((header, end, info),) = bench.ended
    assert (header.role, header.policy_version, end) == (Role.TRAIN, 0, End.TIMEOUT)
    assert info == {"cube_x_m": 0.1}
    steps = sent_steps(bench)
    assert [step.intervention for step in steps] == [False, True, True, False]
    np.testing.assert_array_equal([step.action for step in steps], [0 * TAKEN, TAKEN, TAKEN, 0 * TAKEN])
    assert bench.policy_acts == []


def test_a_button_pays_what_the_task_pays_for_a_success():
    """Once the actor left it to the rollout's default of 1, whatever task.success.reward said."""
    bench = Bench(says=lambda step: Operator(event=Event.SUCCESS if step == 2 else None)).run()
    assert [report.played.total_reward for report in bench.reports] == [10.0] * 3
    assert [(end, info["judge"]) for _, end, info in bench.ended] == [(End.SUCCESS, "operator")] * 3


def test_evaluation_is_deterministic_help_free_on_its_own_seeds_and_not_slowed():
    plan = replace(PLAN, max_episodes=4, eval_every=2, eval_episodes=3, pace=1)
    bench = Bench(plan, publish={step: step + 1 for step in range(100)}, says=lambda _: Operator(TAKEN)).run()
    judged = bench.headers(Role.EVAL)
    assert [header.seed - EVAL_SEED for header in judged] == [0, 1, 2, 0, 1, 2]
    assert len({header.policy_version for header in judged[:3]}) == 1, "one version per group"
    assert bench.policy_acts and all(act == (Role.EVAL, True) for act in bench.policy_acts)
    assert len(bench.waited) == len(bench.headers(Role.TRAIN)) == 4
    roles = [header.role for header, _, _ in bench.ended]
    assert roles == [*[Role.TRAIN] * 2, *[Role.EVAL] * 3] * 2
    trained = Bench(replace(PLAN, eval_every=3)).run()
    assert {act for act in trained.policy_acts} == {(Role.TRAIN, False), (Role.EVAL, True)}


def test_nothing_is_judged_before_there_is_a_policy():
    bench = Bench(replace(PLAN, wait_for_weights=False, eval_every=1), publish={}).run()
    assert bench.headers(Role.EVAL) == [] and len(bench.ended) == 3


def test_the_policy_explores_again_when_an_evaluation_ends_in_an_error():
    bench = Bench(replace(PLAN, eval_every=1), faults={5: BusError("silent")})
    bench.run()
    assert (Role.TRAIN, True) not in bench.policy_acts and (Role.EVAL, False) not in bench.policy_acts


@given(
    seed=st.integers(0, 2**31), actor=st.sampled_from(["actor", "left", "z9"]), first=st.integers(1, 10**6)
)
def test_training_seeds_differ_per_episode_and_never_meet_evaluation(seed, actor, first):
    plan = replace(PLAN, seed=seed, actor=actor)
    seeds = [training_seed(plan, number) for number in range(first, first + 200)]
    assert len(set(seeds)) == 200 and min(seeds) >= 0 and max(seeds) < EVAL_SEED


def test_two_actors_do_not_play_the_same_episodes():
    left, right = (
        {training_seed(replace(PLAN, actor=a), n) for n in range(1, 500)} for a in ("left", "right")
    )
    assert not left & right


@pytest.mark.parametrize("error", [BusError("silent servo"), CameraError("stale")])
def test_a_fault_of_the_body_discards_the_episode_and_goes_on(error):
    in_step = Bench(faults={2: error}).run()
    assert [end for _, end, _ in in_step.ended] == [End.DISCARDED, End.TIMEOUT, End.TIMEOUT]
    assert str(error) in in_step.reports[0].fault and in_step.reports[1].fault == ""
    in_reset = Bench(reset_faults=[error]).run()
    assert [end for _, end, _ in in_reset.ended] == [End.TIMEOUT, End.TIMEOUT], "nothing had begun"
    assert type(error).__name__ in in_reset.reports[0].fault


class Blind(FakeReward):
    """A reward that cannot judge the third picture of each of the first `episodes` episodes."""

    def __init__(self, episodes):
        self.episodes, self.episode, self.step = episodes, 0, 0

    def reset(self):
        self.episode, self.step = self.episode + 1, 0

    def score(self, obs, helped):
        self.step += 1
        if self.step == 3 and self.episode <= self.episodes:
            raise ClassifierFault("the lamp is off")
        return 0.0, None


def test_an_episode_the_classifier_cannot_judge_is_discarded_with_the_reason_and_after_three_it_gives_up():
    bench = Bench(reward=Blind(episodes=2)).run()
    assert [end for _, end, _ in bench.ended] == [End.DISCARDED, End.DISCARDED, End.TIMEOUT]
    assert bench.reports[0].fault == "ClassifierFault: the lamp is off"
    with pytest.raises(ClassifierFault):
        Bench(replace(PLAN, max_episodes=99), reward=Blind(episodes=MAX_FAULTS)).run()


def test_the_third_fault_in_a_row_ends_it_and_a_good_episode_forgives():
    with pytest.raises(BusError):
        Bench(replace(PLAN, max_episodes=99), reset_faults=[BusError("x")] * MAX_FAULTS).run()
    faults = [BusError("x"), BusError("x"), None, BusError("x"), BusError("x"), None]
    bench = Bench(replace(PLAN, max_episodes=6), reset_faults=faults).run()
    assert len(bench.ended) == 2
    third = Bench(faults={n: BusError("x") for n in range(1, 9)})
    with pytest.raises(BusError):
        third.run()
    assert [end for _, end, _ in third.ended] == [End.DISCARDED] * MAX_FAULTS, "closed on the way out"


def test_a_bus_that_fails_within_episodes_is_no_reason_to_give_up():
    bench = Bench(replace(PLAN, max_episodes=5), faults={n: BusError("cable") for n in range(2, 11, 2)}).run()
    assert [end for _, end, _ in bench.ended] == [End.DISCARDED] * 5


def test_without_its_watchdog_an_arm_is_driven_no_further():
    bench = Bench(faults={2: WatchdogLost("gone")})
    with pytest.raises(WatchdogLost):
        bench.run()
    assert [end for _, end, _ in bench.ended] == [End.DISCARDED]


@pytest.mark.parametrize("error", [ServoUnwell("hot"), TorqueLost("limp")])
def test_an_arm_that_holds_for_its_servos_ends_the_episode_as_a_fault_and_keeps_it(error):
    bench = Bench(faults={3: error}).run()
    assert bench.ended[0][1] is End.FAULT
    assert bench.reports[0].played.steps and str(error) in bench.reports[0].fault


def test_a_refused_command_within_an_episode_ends_it_as_a_fault_that_is_stored():
    bench = Bench(
        replace(PLAN, max_episodes=5), faults={n: CommandRefused("no further") for n in (3, 6, 9)}
    ).run()
    assert [end for _, end, _ in bench.ended][:3] == [End.FAULT] * 3
    assert End.FAULT.stored and "no further" in bench.reports[0].fault


def test_an_arm_that_refuses_every_first_step_is_given_up():
    bench = Bench(replace(PLAN, max_episodes=99), faults={n: CommandRefused("stuck") for n in range(1, 99)})
    with pytest.raises(CommandRefused, match="stuck"):
        bench.run()
    assert [end for _, end, _ in bench.ended] == [End.DISCARDED] * MAX_FAULTS


@pytest.mark.parametrize("how", ["interrupt", "button"])
def test_a_wish_to_stop_discards_the_episode_being_played(how):
    says = lambda step: Operator(event=Event.STOP if how == "button" and step == 2 else None)  # noqa: E731
    bench = Bench(says=says)
    if how == "interrupt":
        bench.stop_at = 2
    bench.run()
    assert [end for _, end, _ in bench.ended] == [End.DISCARDED]


def test_a_stop_within_an_evaluation_ends_everything():
    bench = Bench(replace(PLAN, eval_every=1, max_episodes=9))
    bench.stop_at = 6
    bench.run()
    assert [header.role for header, _, _ in bench.ended] == [Role.TRAIN, Role.EVAL]
    assert bench.ended[-1][1] is End.DISCARDED


def test_pace_waits_until_the_learner_is_one_episode_behind():
    bench = Bench(replace(PLAN, pace=2, max_episodes=2))
    bench.taken_in, bench.updates_after = (10, 0), 3
    bench.run()
    assert bench.waited == [2 * (10 - PLAN.max_steps)] * (3 + 1 + 1), "asks again until it is so"
    assert Bench(replace(PLAN, pace=0)).run().waited == [], "a real arm is never slowed"


def test_pace_waits_for_a_learner_that_is_away():
    bench = Bench(replace(PLAN, pace=2, max_episodes=2))
    bench.unsent = 5
    bench.run()
    assert bench.unsent == -2 and len(bench.waited) == 2
    away = Bench(replace(PLAN, pace=2))
    away.unsent = 10**9
    away.actor._should_stop = lambda: away.unsent < 10**9 - 7
    away.run()
    assert len(away.ended) == 1, "nothing is played meanwhile, and an interrupt ends the wait"


def test_every_report_names_its_episode():
    bench = Bench(replace(PLAN, eval_every=2)).run()
    assert [(r.number, r.role, r.policy_version) for r in bench.reports] == [
        (header.number, header.role, header.policy_version) for header, _, _ in bench.ended
    ]
