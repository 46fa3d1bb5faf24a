"""Which conditions the episodes cover, and how good the classifier is in each of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hilserl.classifier.metrics import Estimate, Scored, frame_accuracy, share_of
from hilserl.classifier.metrics_calls import Call

NUMERIC_CELLS = 3
"""Bins of equal width a numeric fact is cut into, over the range seen."""
THIN_EPISODES = 5
"""Fewer episodes than this in a cell say little about it."""
MOST_VALUES = 12
"""A fact with more different words than this names episodes, not conditions."""
OUTCOMES = ("scenario",)
"""Facts that say what was done rather than under which conditions: one without a success is no flaw."""
_NO_CONDITIONS = (*OUTCOMES, "judge")
"""Facts that need not vary: what was done, and who could say so."""
NOT_TOLD = "not told"


@dataclass(frozen=True, slots=True)
class Cell:
    """Episodes that share a condition. accuracy: of frames. correct: of episodes, by the decision."""

    fact: str
    value: str
    episodes: int
    success_episodes: int
    frames: int
    success_frames: int
    accuracy: Estimate
    correct: Estimate
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Coverage:
    """cells: by fact, in order. skipped: facts that are not conditions, with the reason."""

    cells: tuple[Cell, ...]
    skipped: tuple[tuple[str, str], ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence per condition that has warnings."""
        warned = [cell for cell in self.cells if cell.warnings]
        return tuple(f"{cell.fact} {cell.value}: {', '.join(cell.warnings)}" for cell in warned)


def coverage(episodes: Sequence[Scored], calls: Sequence[Call]) -> Coverage:
    """Count every fact's values: words as they are, numbers in bins (a few different ones as they are).

    calls: one per episode, in the same order. Episodes without the fact are a cell of their own.
    """
    cells: list[Cell] = []
    skipped: list[tuple[str, str]] = []
    overall = frame_accuracy(episodes).value
    for fact in sorted({name for one in episodes for name in one.facts}):
        values = _values([one.facts.get(fact) for one in episodes])
        if len(set(values)) > MOST_VALUES:
            skipped.append((fact, f"{len(set(values))} different values"))
            continue
        for cell in sorted(set(values)):
            here = [i for i, other in enumerate(values) if other == cell]
            parts = [episodes[i] for i in here], [calls[i] for i in here]
            cells.append(_cell(fact, cell[1], *parts, overall, len(here) == len(episodes)))
    return Coverage(tuple(cells), tuple(skipped))


def _cell(
    fact: str, value: str, episodes: list[Scored], calls: list[Call], overall: float | None, alone: bool
) -> Cell:
    success_episodes = sum(one.true_frame is not None for one in episodes)
    accuracy = frame_accuracy(episodes)
    warnings = []
    if len(episodes) < THIN_EPISODES and value != NOT_TOLD:
        warnings.append(f"only {len(episodes)} {'episode' if len(episodes) == 1 else 'episodes'}")
    if alone and fact not in _NO_CONDITIONS:
        warnings.append("the only one seen: nothing is known of others")
    elif value != NOT_TOLD and fact not in _NO_CONDITIONS and success_episodes in (0, len(episodes)):
        warnings.append(
            "no episode with a success" if not success_episodes else "no episode without a success"
        )
    if overall is not None and accuracy.high < overall:
        warnings.append(f"worse than the rest: {100 * (accuracy.value or 0.0):.1f} % of frames right")
    return Cell(
        fact=fact,
        value=value,
        episodes=len(episodes),
        success_episodes=success_episodes,
        frames=sum(one.frames for one in episodes),
        success_frames=sum(int(one.success.sum()) for one in episodes),
        accuracy=accuracy,
        correct=share_of(sum(call.correct for call in calls), len(calls)),
        warnings=tuple(warnings),
    )


def _values(raw: Sequence[float | str | None]) -> list[tuple[int, str]]:
    """Per episode the (order, name) of its cell."""
    few = sorted({one for one in raw if isinstance(one, float | int) and math.isfinite(one)})
    edges: list[float] = []
    if len(few) > NUMERIC_CELLS:
        edges = [float(edge) for edge in np.linspace(few[0], few[-1], NUMERIC_CELLS + 1)]
    found = []
    for one in raw:
        if isinstance(one, str):
            found.append((len(few), one))
        elif one is None or not math.isfinite(one):
            found.append((len(few) + 1, NOT_TOLD))
        else:
            found.append(_place(one, edges) if edges else (few.index(one), f"{one:g}"))
    return found


def _place(one: float, edges: Sequence[float]) -> tuple[int, str]:
    cell = sum(one > edge for edge in edges[1:-1])
    return cell, f"{edges[cell]:.3g} to {edges[cell + 1]:.3g}"
