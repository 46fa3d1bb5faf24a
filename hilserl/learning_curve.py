"""The learning curve of a run as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hilserl.rundir import whole_file

WINDOW = 20
"""Episodes the rolling curves average over."""
Row = Mapping[str, float]
_HELPED, _HELP, _EVAL = "#7f8fa6", "#e08e1b", "#1a7f4b"
_BASELINES = ("#c0392b", "#8e44ad", "#2c3e50", "#16a085")


def learning_curve_png(
    path: Path, rows: Sequence[Row], baselines: Mapping[str, float] | None = None, title: str = ""
) -> None:
    """Draw success and intervention share against episodes and against minutes.

    rows: of the metric log, in order of time. One with "episode/success" is a training episode (with
    "episode/intervention_share" and "time/minutes"); one with "eval/success_rate" is an evaluation after the
    episodes before it (with "eval/low95", "eval/high95", "time/minutes"). baselines: {name: success rate}.
    Raises ValueError without a single such row.
    """
    episodes = [row for row in rows if "episode/success" in row]
    evaluations = [(sum("episode/success" in r for r in rows[:i]), row) for i, row in _evaluations(rows)]
    if not episodes and not evaluations:
        raise ValueError(f"nothing to draw in {path}: no row has episode/success or eval/success_rate")
    figure = Figure(figsize=(12.0, 4.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    numbers = np.arange(1, len(episodes) + 1, dtype=np.float64)
    minutes = np.array([row["time/minutes"] for row in episodes], np.float64)
    _draw(left, numbers, episodes, [float(count) for count, _ in evaluations], evaluations, baselines or {})
    _draw(right, minutes, episodes, [r["time/minutes"] for _, r in evaluations], evaluations, baselines or {})
    left.set_xlabel("training episodes")
    right.set_xlabel("minutes")
    left.set_ylabel("share [%]")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)
    if title:
        figure.suptitle(title, fontsize=11)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")


def rolling_mean(values: Sequence[float], window: int = WINDOW) -> NDArray[np.float64]:
    """Mean of each value and up to window - 1 before it."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    means: NDArray[np.float64] = (sums[ends] - sums[starts]) / (ends - starts)
    return means


def _evaluations(rows: Sequence[Row]) -> list[tuple[int, Row]]:
    return [(index, row) for index, row in enumerate(rows) if "eval/success_rate" in row]


def _draw(
    axes: Axes,
    x: NDArray[np.float64],
    episodes: Sequence[Row],
    eval_x: Sequence[float],
    evaluations: Sequence[tuple[int, Row]],
    baselines: Mapping[str, float],
) -> None:
    if episodes:
        success = [row["episode/success"] for row in episodes]
        help_share = [row["episode/intervention_share"] for row in episodes]
        axes.plot(
            x, 100 * rolling_mean(help_share), color=_HELP, lw=2, label=f"intervention share (last {WINDOW})"
        )
        axes.plot(
            x,
            100 * rolling_mean(success),
            color=_HELPED,
            lw=2,
            label=f"training success, helped (last {WINDOW})",
        )
        marks = np.where(np.array(success) > 0, 103.0, -3.0)
        axes.plot(x, marks, "|", color=_HELPED, ms=5, alpha=0.6, label="single episodes")
    if evaluations:
        rate = np.array([row["eval/success_rate"] for _, row in evaluations])
        low = np.array([row["eval/low95"] for _, row in evaluations])
        high = np.array([row["eval/high95"] for _, row in evaluations])
        axes.errorbar(
            eval_x,
            100 * rate,
            yerr=100 * np.maximum(0.0, np.array([rate - low, high - rate])),
            color=_EVAL,
            marker="o",
            lw=2,
            capsize=4,
            label="success without help, 95 % interval",
        )
    for (name, value), colour in zip(baselines.items(), _cycle(len(baselines)), strict=True):
        label = f"{name}: {100 * value:.0f} %"
        axes.axhline(100 * value, color=colour, ls="--", lw=1.2, alpha=0.8, label=label)
    axes.set_ylim(-6, 106)
    axes.set_xlim(left=0)
    axes.set_yticks(range(0, 101, 20))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _cycle(count: int) -> list[str]:
    return [_BASELINES[i % len(_BASELINES)] for i in range(count)]
