"""HIL-SERL with a classifier as its only reward, beside the oracle's."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from hilserl.benchmark.learning import EVALUATE_EVERY, Trained, learn
from hilserl.benchmark.reward import Say, with_judge
from hilserl.config import Config
from hilserl.evaluate import wilson_interval
from hilserl.rundir import write_whole
from hilserl.types import End


def learn_both(
    config: Config, model: Path, folder: Path, seeds: list[int], episodes: int, say: Say
) -> list[dict[str, Any]]:
    """HIL-SERL with the classifier as the only reward against the oracle, each evaluated by ground truth.

    Results stand in folder/learning.json; what is there is not run again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "learning.json"
    runs: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    oracle = with_judge(config, "oracle")
    for seed in seeds:
        for name, judge in (("classifier", with_judge(config, "classifier", model)), ("oracle", oracle)):
            if any(run["reward"] == name and run["seed"] == seed for run in runs):
                continue
            say(f"{name}, seed {seed}")
            heard: list[Trained] = []
            points = learn(
                dataclasses.replace(judge, seed=seed),
                folder,
                10**9,
                say,
                judge=dataclasses.replace(oracle, seed=seed),
                episodes=episodes,
                evaluate_every=2 * EVALUATE_EVERY,
                heard=heard.append,
            )
            runs = json.loads(path.read_text()) if path.exists() else []  # another process may have added
            runs.append(
                {
                    "reward": name,
                    "seed": seed,
                    "episodes": episodes,
                    "points": [dataclasses.asdict(point) for point in points],
                    **training_calls(heard, config.task.fps),
                }
            )
            write_whole(path, json.dumps(runs, indent=1) + "\n")
    return runs


def training_calls(heard: list[Trained], fps: float) -> dict[str, Any]:
    """How often a success was called while the policy trained, and how often the scene said no to it."""
    calls = [one for one in heard if one.played.end is End.SUCCESS]
    return {
        "training_hours": sum(one.played.steps for one in heard) / fps / 3600,
        "training_calls": len(calls),
        "training_false_calls": sum(not one.true_success for one in calls),
    }


def learning_table(runs: list[dict[str, Any]]) -> str:
    """Markdown: one row for each run, and the sum over the seeds of each reward."""
    lines = [
        "| reward | seed | episodes | success | 95 % | false calls in training |",
        "|---|---|---|---|---|---|",
    ]
    for reward in ("oracle", "classifier"):
        rows = sorted((run for run in runs if run["reward"] == reward), key=lambda run: run["seed"])
        wins = trials = 0
        for run in rows:
            last = run["points"][-1]
            wins, trials = wins + last["successes"], trials + last["trials"]
            lines.append(_learning_row(run, str(run["seed"]), last["successes"], last["trials"]))
        if rows:
            total = {key: sum(run[key] for run in rows) for key in ("training_calls", "training_false_calls")}
            lines.append(_learning_row({**rows[0], **total}, "all", wins, trials))
    return "\n".join(lines)


def _learning_row(run: dict[str, Any], seed: str, wins: int, trials: int) -> str:
    low, high = wilson_interval(wins, trials)
    calls = f"{run['training_false_calls']} of {run['training_calls']}"
    return (
        f"| {run['reward']} | {seed} | {run['episodes']} | {wins}/{trials} | "
        f"{100 * low:.0f}-{100 * high:.0f} % | {calls} |"
    )
