"""Does speed cost learning? Success against transitions with kept features and with encoding in the update.

One process plays and learns in turn on the lock-step twin, so that a run repeats to the last bit and no arm
waits for a slower learner: what differs between runs of a seed is only how the update sees the pictures.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hilserl.actor import EVAL_SEED
from hilserl.body import build_body
from hilserl.build import build_encoder, build_replay, build_sac, learner_encoder, load_demos
from hilserl.config import Config
from hilserl.demo import FINAL_SEED, no_help, record_demonstrations
from hilserl.env import max_steps, task_spec
from hilserl.episode import EpisodeHeader
from hilserl.episode_builder import EpisodeBuilder, Recorder
from hilserl.evaluate import wilson_interval
from hilserl.inference import measure
from hilserl.player import Player
from hilserl.rollout import Played, rollout
from hilserl.rundir import write_whole
from hilserl.sac_agent import SacAgent
from hilserl.task_record import task_hash
from hilserl.types import Role

EVAL_EPISODES, FINAL_EPISODES = 30, 50
EVALUATE_EVERY = 250
"""Transitions between two evaluations."""
_M4: dict[str, Any] = {"feature_copies": 4, "precision": "float32"}
ARMS: dict[str, dict[str, Any]] = {
    "M=1": {**_M4, "feature_copies": 1},
    "M=4": _M4,
    "in the update": {"cache_features": False, "precision": "float32"},
    "M=4, bfloat16": {**_M4, "precision": "bfloat16"},
    "M=4, principal channels": {**_M4, "feature_projection": "pca"},
    "M=4, all 128 channels": {**_M4, "feature_channels": 128},
}
"""What each run changes in the policy's section; the names are the curves' labels."""
SMALL: dict[str, Any] = {"utd_ratio": 2, "policy_update_freq": 2, "batch_size": 64}
"""So that encoding in the update takes minutes and not hours."""
_COLOURS = ("#e08e1b", "#1a7f4b", "#2c3e50", "#8e44ad", "#c0392b", "#16a085")


@dataclass(frozen=True, slots=True)
class Point:
    """Help-free deterministic success after so many transitions. minutes: spent learning and playing."""

    transitions: int
    episodes: int
    successes: int
    trials: int
    minutes: float


@dataclass(frozen=True, slots=True)
class Trained:
    """What one played training episode was. true_success: the scene's ground truth when it ended."""

    played: Played
    true_success: bool


def learn(
    config: Config,
    folder: Path,
    transitions: int,
    say: Callable[[str], None] = lambda _: None,
    *,
    judge: Config | None = None,
    episodes: int | None = None,
    evaluate_every: int = EVALUATE_EVERY,
    heard: Callable[[Trained], None] = lambda _: None,
) -> list[Point]:
    """Train one policy; its evaluations, the last on other seeds and with more episodes.

    folder: where demonstrations are recorded (those of the seed are reused when there). judge: says what a
    success is where policies are evaluated and demonstrations are made; that of `config` unless given.
    episodes: train on so many, where `transitions` do not end it before. heard: is told of each of them.
    """
    judge = judge or config
    demos = folder / f"demos_seed{config.seed}"
    if not (demos / "task.json").exists():
        record_demonstrations(judge, demos, config.run.demo_episodes)
    config = dataclasses.replace(config, demos=(str(demos),))
    spec, encoder = task_spec(config.task), learner_encoder(config, None)
    replay = build_replay(config, spec, encoder)
    load_demos(config, replay, say)
    agent = SacAgent(build_sac(config, spec, replay, encoder), replay, encoder)
    agent.sac.pretrain_bc(agent.demonstrations, config.policy.bc_pretrain_steps)
    agent.sac.pretrain_critic(agent.demonstrations, config.policy.critic_pretrain_steps)
    player = Player(spec, config, build_encoder(config), deterministic=False)
    points: list[Point] = []
    played, count, worked_s = 0, 0, 0.0

    def evaluate(first: int, trials: int) -> None:
        player.load(agent.weights())
        player.deterministic = True
        with build_body(no_help(judge), say) as quiet:
            summary = measure(quiet, player, judge, range(first, first + trials))
        player.deterministic = False
        wins = sum(trial.success for trial in summary.trials)
        points.append(Point(played, count, wins, trials, worked_s / 60))
        say(f"{played} transitions, {count} episodes, {worked_s / 60:.1f} min: {wins} of {trials}")

    with build_body(config, say) as body:
        while played < transitions and (episodes is None or count < episodes):
            if played >= len(points) * evaluate_every:
                evaluate(EVAL_SEED, EVAL_EPISODES)
            start = time.monotonic()
            player.load(agent.weights())
            header = EpisodeHeader("actor", count + 1, Role.TRAIN, 1, 0, task_hash(config.task))
            recorder = Recorder(EpisodeBuilder(spec, header))
            done = rollout(
                env=body.env,
                policy=player,
                teleop=body.teleop,
                reward=body.reward,
                seed=config.seed * 100_000 + count,
                max_steps=max_steps(config.task),
                listeners=(recorder,),
            )
            if done.end.stored:
                episode = recorder.builder.finish(done.end, done.facts)
                replay.add(episode)
                for _ in range(len(episode) * config.policy.utd_ratio // config.policy.policy_update_freq):
                    agent.update(config.policy.policy_update_freq)
                played += len(episode)
            count += 1
            heard(Trained(done, body.truth is not None and body.truth()))
            worked_s += time.monotonic() - start
    evaluate(FINAL_SEED, FINAL_EPISODES)
    return points


def learning_benchmark(
    config: Config,
    folder: Path,
    arms: list[str],
    seeds: list[int],
    transitions: int,
    say: Callable[[str], None],
) -> None:
    """Run each arm with each seed that folder/learning.json lacks, and draw what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "learning.json"
    runs = json.loads(path.read_text()) if path.exists() else []
    for seed in seeds:
        for arm in arms:
            if any(run["arm"] == arm and run["seed"] == seed for run in runs):
                continue
            policy = dataclasses.replace(config.policy, **{**SMALL, **ARMS[arm]})
            one = dataclasses.replace(config, seed=seed, policy=policy)
            say(f"{arm}, seed {seed}")
            points = learn(one, folder, transitions, say)
            runs = json.loads(path.read_text()) if path.exists() else []  # another process may have added
            runs.append({"arm": arm, "seed": seed, "points": [dataclasses.asdict(p) for p in points]})
            write_whole(path, json.dumps(runs, indent=1) + "\n")
    draw(runs, folder / "learning.png")
    say(table(runs))


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown: one row for each run, the last number with its 95 % interval."""
    lines = ["| features | seed | cloned | success at transitions | final | 95 % | min |"]
    lines.append("|---|---|---|---|---|---|---|")
    for run in sorted(runs, key=lambda r: (r["arm"], r["seed"])):
        first, *middle, last = run["points"]
        low, high = wilson_interval(last["successes"], last["trials"])
        course = ", ".join(f"{p['transitions']}: {100 * p['successes'] / p['trials']:.0f} %" for p in middle)
        cloned = f"{100 * first['successes'] / first['trials']:.0f} %"
        final = f"{last['successes']}/{last['trials']} | {100 * low:.0f}-{100 * high:.0f} %"
        row = (run["arm"], run["seed"], cloned, course, final, f"{last['minutes']:.1f}")
        lines.append("| " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines)


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Success against transitions: thin lines are seeds, thick ones their mean at each evaluation."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.8), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for arm, colour in zip(ARMS, _COLOURS, strict=True):
        curves = [
            [(p["transitions"], 100 * p["successes"] / p["trials"]) for p in run["points"]]
            for run in runs
            if run["arm"] == arm
        ]
        for curve in curves:
            axes.plot(*zip(*curve, strict=True), color=colour, lw=0.8, alpha=0.45)
        if curves:
            count = min(len(curve) for curve in curves)
            x = [sum(c[i][0] for c in curves) / len(curves) for i in range(count)]
            y = [sum(c[i][1] for c in curves) / len(curves) for i in range(count)]
            label = f"{arm} ({len(curves)} seeds)"
            axes.plot(x, y, color=colour, lw=2.4, marker="o", label=label)
    axes.set_xlabel("transitions")
    axes.set_ylabel("success without help [%]")
    axes.set_ylim(-3, 103)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, title="trunk features kept, or encoded in the update")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="png")
