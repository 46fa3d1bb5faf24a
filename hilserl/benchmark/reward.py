"""How far can a learned reward be trusted? Recorded, labelled, trained, judged by the twin's ground truth.

Episodes are recorded by the scripted operator, half of them near misses, labelled by ground truth through the
label file, and trained on with whole episodes held out. Then policies play with the classifier as the only
judge, and the scene says what was true.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hilserl.body import Body, build_body
from hilserl.build import set_threads
from hilserl.config import Config, ConfigError
from hilserl.demo import Random, cloning_player, no_help, record_demonstrations
from hilserl.env import max_steps
from hilserl.recording import record_episodes
from hilserl.rollout import Policy, rollout
from hilserl.types import End, Obs, Step

Say = Callable[[str], None]
ROLLOUT_SEED = 70_000_000
"""Where the seeds of the judged rollouts start."""
NOISE = 1.0
"""Scale of the cloned policy's noise: it shall come near success in many ways."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured. recorded: episodes; rollouts: of each policy; drift: episodes per condition."""

    recorded: int
    demos: int
    cloning_steps: int
    rollouts: int
    drift: int


QUICK = Size(recorded=16, demos=5, cloning_steps=200, rollouts=12, drift=0)
FULL = Size(recorded=40, demos=10, cloning_steps=600, rollouts=300, drift=16)


@dataclass(frozen=True, slots=True)
class Judged:
    """One rollout judged by the classifier. called, true: the frame at which each saw the success, or None.

    A success is true once it held as long as task.success.hold_s asks. at_call: the truth at the call.
    """

    policy: str
    frames: int
    called: int | None
    true: int | None
    at_call: bool


class TruthLog:
    """A rollout listener that asks the scene at every frame."""

    def __init__(self, truth: Callable[[], bool]) -> None:
        self._truth = truth
        self.frames: list[bool] = []

    def begin(self, obs: Obs) -> None:
        """The first observation."""
        self.frames = [self._truth()]

    def step(self, step: Step) -> None:
        """One more."""
        self.frames.append(self._truth())


def with_judge(config: Config, kind: str, model: Path | None = None) -> Config:
    """`config` with another judge of success; data judged by others may then be used."""
    task = dataclasses.replace(config.task, success=dataclasses.replace(config.task.success, kind=kind))
    classifier = dataclasses.replace(config.classifier, model="" if model is None else str(model))
    allow = tuple({*config.allow_task_difference, "success"})
    return dataclasses.replace(config, task=task, classifier=classifier, allow_task_difference=allow)


def recorded(config: Config, root: Path, count: int, say: Say) -> Path:
    """A recording of `count` reward episodes labelled by ground truth; made unless it is there."""
    from hilserl.classifier.sources import open_source
    from hilserl.labels import change_labels, read_labels
    from hilserl.labels_proposals import fill

    if not (root / "meta/info.json").exists():
        record_episodes(with_judge(config, "button"), count, "reward", root, say)
    episodes = open_source(root, config.task, config.allow_task_difference).episodes
    new, unknown = fill(episodes, read_labels(root), "truth")
    if unknown:
        raise ConfigError(f"{root}: nobody knows what was true in the episodes {', '.join(unknown)}")
    change_labels(root, new)
    return root


def trained(config: Config, root: Path, folder: Path, say: Say) -> tuple[Path, dict[str, Any], float]:
    """The classifier trained on `root`: its folder, its metrics, and how long it took [s]."""
    from hilserl.classifier.training import run_train

    classifier = dataclasses.replace(config.classifier, datasets=(str(root),))
    judged = with_judge(config, "button")
    asked = dataclasses.replace(judged, classifier=classifier, output_dir=str(folder), job_name="classifier")
    begun = time.monotonic()
    model = run_train(asked, say)
    seconds = time.monotonic() - begun
    return model, json.loads((model.parent / "metrics.json").read_text()), seconds


def rollouts(config: Config, policies: dict[str, Policy], count: int) -> Iterator[Judged]:
    """`count` help-free episodes of each policy, ended by the classifier of `config` or the time."""
    with build_body(no_help(config), lambda _: None) as body:
        for name, policy in policies.items():
            for index in range(count):
                yield _judged(config, body, name, policy, ROLLOUT_SEED + index)


def _judged(config: Config, body: Body, name: str, policy: Policy, seed: int) -> Judged:
    assert body.truth is not None
    log = TruthLog(body.truth)
    played = rollout(
        env=body.env,
        policy=policy,
        teleop=body.teleop,
        reward=body.reward,
        seed=seed,
        max_steps=max_steps(config.task),
        listeners=(log,),
        help_allowed=False,
    )
    called = played.steps if played.end is End.SUCCESS else None
    held = max(1, round(config.task.success.hold_s * config.task.fps))
    return Judged(name, len(log.frames), called, true_frame(log.frames, held), log.frames[-1])


def true_frame(truth: list[bool], held: int) -> int | None:
    """The first frame at which the truth has held for `held` frames, as the oracle counts."""
    count = 0
    for frame, now in enumerate(truth[1:], 1):
        count = count + 1 if now else 0
        if count >= held:
            return frame
    return None


def rollout_numbers(judged: list[Judged], fps: float) -> dict[str, Any]:
    """False successes per hour of play, with the 95 % interval of a count, and what was missed.

    A call is false when the scene says no at its frame.
    """
    hours = sum(one.frames for one in judged) / fps / 3600
    calls = [one for one in judged if one.called is not None]
    false = sum(not one.at_call for one in calls)
    low, high = poisson_interval(false)
    return {
        "rollouts": len(judged),
        "hours": hours,
        "calls": len(calls),
        "false_calls": false,
        "false_successes_per_hour": false / hours,
        "false_successes_per_hour_95": [low / hours, high / hours],
        "true_but_not_called": sum(one.true is not None and one.called is None for one in judged),
    }


def poisson_interval(count: int) -> tuple[float, float]:
    """The exact 95 % interval of a mean of which `count` was seen (Garwood), by bisection."""

    def below(mean: float, k: int) -> float:
        """Probability of at most k."""
        term = total = float(np.exp(-mean))
        for i in range(1, k + 1):
            term *= mean / i
            total += term
        return total

    def solve(k: int, probability: float) -> float:
        low, high = 0.0, 10.0 * (k + 5)
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if below(middle, k) > probability else (low, middle)
        return low

    return (0.0 if count == 0 else solve(count - 1, 0.975)), solve(count, 0.025)


def measure_reward(config: Config, folder: Path, quick: bool, say: Say) -> dict[str, Any]:
    """Record, label, train, judge rollouts, and unless `quick` let light and camera drift."""
    set_threads(config)
    size = QUICK if quick else FULL
    folder.mkdir(parents=True, exist_ok=True)
    root = recorded(config, folder / "recording", size.recorded, say)
    model, metrics, seconds = trained(config, root, folder, say)
    demos = folder / "demos"
    if not (demos / "task.json").exists():
        record_demonstrations(with_judge(config, "oracle"), demos, size.demos)
    judged = with_judge(config, "classifier", model)
    cloned = cloning_player(with_judge(config, "oracle"), demos, size.cloning_steps)
    cloned.noise_scale, cloned.deterministic = NOISE, False
    policies: dict[str, Policy] = {"cloned": cloned, "random": Random(config.seed)}
    played = list(rollouts(judged, policies, size.rollouts))
    result = {
        "model": str(model),
        "recorded_episodes": size.recorded,
        "episode_split_accuracy": metrics["episode_split_accuracy"],
        "accuracy_low95": metrics["accuracy_low95"],
        "train_seconds": seconds,
        **rollout_numbers(played, config.task.fps),
    }
    for name in policies:
        result[name] = rollout_numbers([one for one in played if one.policy == name], config.task.fps)
    if size.drift:
        from hilserl.benchmark.reward_drift import drift

        result["drift"] = drift(config, model, root, folder, size.drift, say)
    return result
