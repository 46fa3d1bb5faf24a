"""Counting successes honestly: help-free trials, an interval beside every rate, a map of where it works."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hilserl.rundir import write_whole
from hilserl.types import End

_Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""
_MAP_CELLS = 3
_CM = 100.0


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval (low, high) of a success rate; (0, 1) without a trial.

    Raises ValueError unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} trials")
    if n == 0:
        return 0.0, 1.0
    rate, z2 = successes / n, _Z95**2
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    # at the ends the formula is exact but for rounding
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


@dataclass(frozen=True, slots=True)
class TrialResult:
    """One help-free episode.

    reward: undiscounted sum. result: how it ended, by the task's own rule. human: what a person said of it,
    if asked. stopped: the operator asked to end the evaluation. facts: about the scene (units in the keys);
    cube_x_m and cube_y_m place it on the map. video: its file, "" without.
    """

    seed: int
    steps: int
    reward: float
    result: End
    human: End | None = None
    stopped: bool = False
    facts: Mapping[str, float | str] = field(default_factory=dict)
    video: str = ""

    @property
    def counted(self) -> bool:
        """False for an episode that was broken off or discarded: it says nothing about the policy."""
        return self.result is not End.DISCARDED

    @property
    def success(self) -> bool:
        return self.result is End.SUCCESS

    @property
    def disputed(self) -> bool:
        """A person saw it otherwise."""
        return self.human is not None and (self.human is End.SUCCESS) != self.success


@dataclass(frozen=True, slots=True)
class Summary:
    """What an evaluation found, also one that was broken off. settings: everything needed to repeat it."""

    trials: tuple[TrialResult, ...]
    planned: int
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return len(self.counted) == self.planned

    @property
    def counted(self) -> tuple[TrialResult, ...]:
        return tuple(trial for trial in self.trials if trial.counted)

    @property
    def successes(self) -> int:
        return sum(trial.success for trial in self.counted)

    @property
    def success_rate(self) -> float | None:
        """Share of successes, None without a counted trial."""
        return self.successes / len(self.counted) if self.counted else None

    @property
    def interval95(self) -> tuple[float, float]:
        return wilson_interval(self.successes, len(self.counted))

    def metrics(self) -> dict[str, float]:
        """The same as metrics of the glossary; empty without a counted trial."""
        if self.success_rate is None:
            return {}
        low, high = self.interval95
        return {
            "eval/success_rate": self.success_rate,
            "eval/low95": low,
            "eval/high95": high,
            "eval/episodes": len(self.counted),
            "eval/steps_mean": fmean(trial.steps for trial in self.counted),
        }

    def sentence(self) -> str:
        """The result in one line, never a rate without its interval."""
        n = len(self.counted)
        if not n:
            return f"no trial finished ({self.planned} planned)"
        low, high = self.interval95
        text = f"success {self.successes}/{n} = {100 * self.successes / n:.0f} %"
        text += f" (95 % interval {100 * low:.0f}-{100 * high:.0f} %)"
        text += f", {fmean(trial.steps for trial in self.counted):.1f} steps on average"
        if disputed := [str(trial.seed) for trial in self.counted if trial.disputed]:
            text += f"; a person disagrees on seed {', '.join(disputed)}"
        if not self.complete:
            text += f"; broken off, {self.planned} were planned"
        return text

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain JSON values."""
        low, high = self.interval95
        return {
            "success_rate": self.success_rate,
            "success_low95": low,
            "success_high95": high,
            "successes": self.successes,
            "episodes": len(self.counted),
            "planned": self.planned,
            "complete": self.complete,
            "disputed_seeds": [trial.seed for trial in self.counted if trial.disputed],
            "settings": dict(self.settings),
            "trials": [_trial_json(trial) for trial in self.trials],
        }


def evaluate(
    play: Callable[[int], TrialResult],
    seeds: Iterable[int],
    *,
    on_trial: Callable[[TrialResult], None] = lambda _: None,
    settings: Mapping[str, Any] | None = None,
    json_path: Path | None = None,
) -> Summary:
    """Play one help-free episode per seed and sum up.

    play: plays the episode of one seed. on_trial: told of each trial as it ends. settings: written into the
    summary. json_path: the summary is written there after every trial. An interrupt, or a trial that says
    `stopped`, ends it early: what was done is summed up, and `complete` is false.
    """
    order = tuple(seeds)
    summary = Summary((), len(order), {**(settings or {}), "seeds": list(order)})
    try:
        for seed in order:
            trial = play(seed)
            summary = Summary((*summary.trials, trial), summary.planned, summary.settings)
            if json_path is not None:
                save_summary(json_path, summary)
            on_trial(trial)
            if trial.stopped:
                break
    except KeyboardInterrupt:
        pass  # wished for: the summary says that it is not complete
    if json_path is not None:
        save_summary(json_path, summary)
    return summary


def save_summary(path: Path, summary: Summary) -> None:
    """Write the summary as JSON, whole or not at all."""
    write_whole(path, json.dumps(summary.to_json(), indent=2, allow_nan=False) + "\n")


def report(summary: Summary) -> Group:
    """What a person reads at the end: the table, the map where positions are known, the sentence."""
    parts: list[RenderableType] = [trial_table(summary)]
    positions = success_map(summary.trials)
    if positions is not None:
        parts.append(positions)
    return Group(*parts, Text(summary.sentence(), style="bold"))


def trial_table(summary: Summary) -> Table:
    """One row per trial: seed, steps, reward, result, and the person's verdict where there is one."""
    table = Table()
    for name in ("episode", "seed", "steps", "reward"):
        table.add_column(name, justify="right")
    table.add_column("result")
    judged = any(trial.human is not None for trial in summary.trials)
    if judged:
        table.add_column("person says")
    for number, trial in enumerate(summary.trials, 1):
        cells = [str(number), str(trial.seed), str(trial.steps), f"{trial.reward:.2f}", trial.result.value]
        if judged:
            cells.append("-" if trial.human is None else trial.human.value + (" !" if trial.disputed else ""))
        table.add_row(*cells, style="green" if trial.success else "" if trial.counted else "dim")
    return table


def success_map(trials: Iterable[TrialResult], cells: int = _MAP_CELLS) -> Table | None:
    """Successes per cell of the object's position, None when no trial says where the object was.

    Seen from behind the arm: far on top (x), left on the left (y), over the range of positions played.
    """
    placed = [
        (float(t.facts["cube_x_m"]), float(t.facts["cube_y_m"]), t.success)
        for t in trials
        if t.counted and "cube_x_m" in t.facts and "cube_y_m" in t.facts
    ]
    if not placed:
        return None
    x_edges, y_edges = _edges([x for x, _, _ in placed], cells), _edges([y for _, y, _ in placed], cells)
    table = Table(
        title="successes / trials by object position, seen from behind the arm", title_justify="left"
    )
    table.add_column("x cm \\ y cm", justify="right")
    for column in reversed(range(cells)):
        table.add_column(_range_cm(y_edges, column), justify="center")
    for row in reversed(range(cells)):
        found: list[Text] = []
        for column in reversed(range(cells)):
            here = [s for x, y, s in placed if _cell(x, x_edges) == row and _cell(y, y_edges) == column]
            found.append(_shade(sum(here), len(here)))
        table.add_row(_range_cm(x_edges, row), *found)
    return table


def _trial_json(trial: TrialResult) -> dict[str, Any]:
    return {
        "seed": trial.seed,
        "steps": trial.steps,
        "reward": trial.reward,
        "result": trial.result.value,
        "success": trial.success,
        "human": None if trial.human is None else trial.human.value,
        "stopped": trial.stopped,
        "facts": dict(trial.facts),
        "video": trial.video,
    }


def _edges(values: list[float], cells: int) -> list[float]:
    low, high = min(values), max(values)
    return [low + (high - low) * i / cells for i in range(cells + 1)]


def _cell(value: float, edges: list[float]) -> int:
    return sum(value > edge for edge in edges[1:-1])


def _range_cm(edges: list[float], cell: int) -> str:
    return f"{_CM * edges[cell]:+.1f} to {_CM * edges[cell + 1]:+.1f}"


def _shade(successes: int, n: int) -> Text:
    if n == 0:
        return Text("-", style="dim")
    rate = successes / n
    return Text(f"{successes}/{n}", style="green" if rate >= 0.8 else "yellow" if rate >= 0.5 else "red")
