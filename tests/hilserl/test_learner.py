"""The learner's loop: a budget that holds, evaluation kept apart, versions that only grow."""

import queue
import threading
from collections import deque
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilserl.arrivals import Arrivals
from hilserl.counters import Counters
from hilserl.learner import ROLLING, Budget, Learner
from hilserl.metrics import check_metrics
from hilserl.pacing import Work
from hilserl.types import End, Episode, Role
from tests.fakes.episodes import short_episode

BUDGET = Budget(
    updates_per_transition=2,
    updates_per_call=2,
    push_every=10,
    log_every=8,
    checkpoint_every=20,
    max_transitions=10_000,
)


FEATURES = np.zeros((1, 1), np.float16)
PATIENCE_S = 20.0


class Bench:
    """A Learner among fakes that remember; `script` says what arrives at each look at should_stop."""

    def __init__(
        self, budget: Budget = BUDGET, counters: Counters | None = None, eval_group: int = 3
    ) -> None:
        self.ready: deque[Episode] = deque()
        self.calls: list[tuple] = []
        self.broken, self.idled, self.paused = "", 0, False
        self.frames, self.encode_s, self.sample_s = 0, 0.0, 0.0
        self.looks: list[tuple[Work, bool]] = []
        self.counters = counters or Counters()
        self.budget = budget
        self.learner = Learner(
            agent=self,
            store=self,
            arrivals=self,
            publisher=self,
            saver=self,
            watch=self,
            counters=self.counters,
            budget=budget,
            on_log=lambda values: self.calls.append(("log", dict(values))),
            on_episode=lambda episode: self.calls.append(("episode", episode.number)),
            eval_group=eval_group,
            idle=self.idle,
        )

    def update(self, critic_updates: int) -> None:
        self.calls.append(("update", critic_updates))
        done = sum(call[1] for call in self.of("update"))
        assert done <= self.budget.updates_per_transition * self.counters.transitions, "over budget"

    def weights(self) -> dict[str, np.ndarray]:
        return {"w": np.zeros(1, np.float32)}

    def metrics(self) -> dict[str, float]:
        return {"train/critic_loss": 1.0}

    def large_inputs(self) -> dict[str, int]:
        return {"x_m": 7}

    def actors(self) -> list[str]:
        return ["a"]

    def episode(self, episode: Episode) -> None:
        self.calls.append(("watched", episode.number))

    def look(self, work: Work, *, owing: bool, actors: list[str]) -> None:
        assert actors == ["a"]
        self.looks.append((work, owing))

    def row(self, values: dict[str, float], large_inputs: dict[str, int]) -> dict[str, float]:
        assert large_inputs == {"x_m": 7} and values["time/updates"] == self.counters.updates
        return {"train/alarms": 1.0}

    def get(self, timeout_s: float) -> tuple[Episode, np.ndarray | None] | None:
        if not self.ready:
            return None
        episode = self.ready.popleft()
        return episode, None if episode.role is Role.EVAL else FEATURES

    def write(self, episode: Episode, features: np.ndarray | None) -> int:
        assert features is FEATURES
        self.calls.append(("add", episode.role, episode.number))
        return len(episode)

    def save(self, best: bool) -> None:
        self.calls.append(("save", best, self.counters.transitions))

    def check(self) -> None:
        if self.broken:
            raise OSError(self.broken)

    def idle(self, updates: int) -> float:
        assert updates == self.counters.updates
        allowed = self.budget.updates_per_transition * self.counters.transitions
        assert self.paused or updates + self.budget.updates_per_call > allowed, "idle with something to do"
        self.idled += 1
        return 0.0

    def publish(self, weights) -> None:
        self.calls.append(("publish", weights.version))

    def progress(self, transitions: int, updates: int) -> None:
        self.calls.append(("progress", transitions, updates))

    def of(self, kind: str) -> list[tuple]:
        return [call for call in self.calls if call[0] == kind]

    def run(self, *arrivals: list[Episode], idle_looks: int = 1) -> "Bench":
        """Each element arrives at one look; it ends when all came and nothing is left to do."""
        waiting = list(arrivals)
        quiet = [0, -1]

        def should_stop() -> bool:
            if waiting:
                for episode in waiting.pop(0):
                    self.ready.append(episode)
                return False
            quiet[0] = quiet[0] + 1 if len(self.calls) == quiet[1] else 0
            quiet[1] = len(self.calls)
            return quiet[0] > idle_looks

        self.learner.run(should_stop)
        return self


arrivals = st.lists(st.lists(st.tuples(st.integers(1, 15), st.sampled_from(Role)), max_size=4), max_size=8)


@settings(deadline=None, max_examples=60)
@given(arrivals=arrivals, utd=st.integers(1, 5), per_call=st.integers(1, 5))
def test_the_update_budget_is_used_up_and_never_exceeded(arrivals, utd, per_call):
    bench = Bench(replace(BUDGET, updates_per_transition=utd, updates_per_call=per_call))
    numbered = iter(range(1, 100))
    episodes = [[short_episode(n, role, next(numbered)) for n, role in batch] for batch in arrivals]
    bench.run(*episodes)
    flat = [episode for batch in episodes for episode in batch]
    online = [episode for episode in flat if episode.role is Role.TRAIN]
    assert bench.counters.transitions == sum(map(len, online))
    assert bench.counters.episodes == len(online)
    learned = [episode.number for episode in flat if episode.role is not Role.EVAL]
    assert bench.counters.numbers == ({"a": max(learned)} if learned else {})
    assert 0 <= utd * bench.counters.transitions - bench.counters.updates < per_call
    stored = [(role, number) for _, role, number in bench.of("add")]
    assert stored == [(e.role, e.number) for e in flat if e.role is not Role.EVAL]
    assert len(bench.of("episode")) == len(flat)
    versions = [version for _, version in bench.of("publish")]
    assert versions == list(range(1, len(versions) + 1))
    assert bench.calls[-1][:2] == ("save", False), "a checkpoint at the end"
    if flat:
        # Actors that keep pace wait for the last update: they must hear of it.
        assert bench.of("progress")[-1][1:] == (bench.counters.transitions, bench.counters.updates)
    assert [number for _, number in bench.of("watched")] == [e.number for e in flat]
    before = Work()
    for work, owing in bench.looks:
        ahead = utd * work.transitions - work.updates
        assert owing == (ahead >= per_call)
        for field in fields(Work):
            assert getattr(work, field.name) >= getattr(before, field.name), "work only grows"
        before = work
    assert before.episodes == len(flat) and before.transitions == bench.counters.transitions
    for _, values in bench.of("log"):
        check_metrics(values)
        assert ("train/alarms" in values) == ("time/updates" in values)
        assert values.get("train/updates_per_transition", 0) <= utd


def test_it_waits_for_episodes_only_when_there_is_nothing_to_do():
    bench = Bench()
    waits: list[tuple[float, int]] = []
    get, wanted_s = bench.get, 0.125

    def watched(timeout_s: float):
        waits.append((timeout_s, len(bench.ready)))
        return get(timeout_s)

    bench.get = watched  # type: ignore[method-assign]
    bench.learner._arrivals = bench
    bench.learner._idle = lambda updates: wanted_s
    bench.run([], [short_episode(10)], [], [])
    assert {timeout for timeout, _ in waits} == {0.0, wanted_s}
    assert all(not ready for timeout, ready in waits if timeout), "it waited with an episode at the door"
    assert bench.counters.updates == 20


def test_while_paused_data_are_taken_in_and_nothing_is_learned():
    bench = Bench()
    bench.paused = True
    bench.run([short_episode(10)], [short_episode(10, number=2)])
    assert bench.counters.transitions == 20 and bench.counters.updates == 0 and bench.idled
    bench.paused = False
    bench.run()
    assert bench.counters.updates == 40


def test_a_checkpoint_that_could_not_be_written_ends_it():
    bench = Bench()
    bench.run([short_episode(5)])
    bench.broken = "disk full"
    with pytest.raises(OSError, match="disk full"):
        bench.run([short_episode(5)])
    assert bench.counters.updates == 10, "nothing is learned that could not be saved"


def test_slow_encoding_holds_no_update_back():
    """The real encoder thread, stuck: the loop learns on, and takes the episode in when it is done."""
    bench = Bench()
    inbox: queue.Queue[Episode] = queue.Queue()
    go_on = threading.Event()

    def stuck(episode: Episode) -> np.ndarray:
        assert go_on.wait(PATIENCE_S)
        return FEATURES

    bench.counters.transitions = 1000
    with Arrivals(inbox, stuck) as arrivals:
        bench.learner._arrivals = arrivals
        inbox.put(short_episode(7))
        bench.learner.run(lambda: bench.counters.updates >= 500)
        assert bench.counters.transitions == 1000
        go_on.set()
        bench.learner.run(lambda: bench.counters.transitions > 1000)
    assert bench.of("add") == [("add", Role.TRAIN, 1)]


def test_a_resumed_budget_continues_from_its_counters():
    bench = Bench(counters=Counters(transitions=50, updates=90, version=7))
    bench.update = lambda n: bench.calls.append(("update", n))  # type: ignore[method-assign]
    bench.run()
    assert bench.counters.updates == 100
    assert bench.of("publish")[0] == ("publish", 8)


def test_it_ends_by_itself_at_max_transitions():
    bench = Bench(replace(BUDGET, max_transitions=12))
    bench.ready.append(short_episode(12))
    bench.learner.run(lambda: False)
    assert bench.counters.transitions == 12 and bench.calls[-1] == ("save", False, 12)


def test_pushes_logs_and_saves_at_their_intervals():
    bench = Bench().run([short_episode(10, number=n) for n in range(1, 7)])
    assert bench.counters.updates == 120
    assert len(bench.of("publish")) == 1 + 120 // 10
    assert len(bench.of("log")) == 120 // 8
    trickle = Bench().run(*[[short_episode(10, number=n)] for n in range(1, 7)])
    saved = [transitions for _, _, transitions in trickle.of("save")[:-1]]
    assert saved and all(b - a >= 20 for a, b in zip(saved, saved[1:], strict=False))


def evaluation(good: bool, version: int) -> Episode:
    return short_episode(2, Role.EVAL, end=End.SUCCESS if good else End.TIMEOUT, version=version)


def bests(bench: Bench) -> int:
    return sum(best for _, best, _ in bench.of("save"))


@settings(deadline=None, max_examples=40)
@given(groups=st.lists(st.tuples(st.lists(st.booleans(), min_size=1, max_size=3)), max_size=6))
def test_best_only_after_a_full_group_and_only_if_as_good(groups):
    bench = Bench()
    best, expected, rates = -1.0, 0, []
    for version, (results,) in enumerate(groups, 1):
        bench.run([evaluation(good, version) for good in results])
        if len(results) == 3:
            rates.append(sum(results) / 3)
            expected += rates[-1] >= best
            best = max(best, rates[-1])
    assert bests(bench) == expected
    assert bench.counters.best_success == best
    assert [v["eval/success_rate"] for _, v in bench.of("log")] == rates
    assert not bench.of("add") and bench.counters.transitions == 0


def test_a_group_is_of_one_version():
    bench = Bench().run([evaluation(True, 1), evaluation(True, 1), evaluation(False, 2), evaluation(True, 2)])
    assert bests(bench) == 0
    bench.run([evaluation(True, 2)])
    assert bests(bench) == 1 and bench.counters.best_success == pytest.approx(2 / 3)


def test_best_so_far_survives_a_restart():
    bench = Bench(counters=Counters(best_success=0.5)).run([evaluation(g, 1) for g in (True, False, False)])
    assert bests(bench) == 0


def test_rolling_success_counts_only_what_nobody_helped():
    helped = short_episode(8, intervention=np.arange(8) < 2)
    alone, failed = short_episode(8), short_episode(8, end=End.TIMEOUT)
    bench = Bench().run([helped, alone, failed, failed])
    values = bench.of("log")[-1][1]
    assert values["rollout/unaided_success"] == 0.25
    assert values["rollout/intervention_share"] == pytest.approx(0.25 / 4)
    assert values["rollout/episodes"] == 4
    bench.run([alone] * ROLLING)
    assert bench.of("log")[-1][1]["rollout/unaided_success"] == 1.0


def test_minutes_go_on_over_a_resume():
    bench = Bench(counters=Counters(minutes=30.0)).run([short_episode(10)])
    assert bench.of("log")[-1][1]["time/minutes"] >= 30.0
    assert bench.counters.minutes >= 30.0
