"""Where labels and a classifier disagree most: mistakes of the one or of the other, worth a second look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hilserl.labels import Label, LabelError, ranges_of
from robot.types import F32

DOUBT = 0.3
"""From this difference between label (0 or 1) and probability on, a frame is worth a look."""


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A run of frames [first, end) of one label that the classifier doubts.

    worst: its frame of the largest difference; probability: of success, there. success: what the label says.
    """

    episode: str
    first: int
    end: int
    worst: int
    probability: float
    success: bool

    @property
    def difference(self) -> float:
        """Between label and probability, 0..1, at the worst frame."""
        return 1.0 - self.probability if self.success else self.probability


def disagreements(labels: Mapping[str, Label], probabilities: Mapping[str, F32]) -> list[Disagreement]:
    """What to look at, the worst first: highest-scoring failures and lowest-scoring successes.

    One entry per run of frames of one label whose difference is at least DOUBT; the entries of an episode
    stand together, at the place of its worst. probabilities: {episode: (frames,)}; only episodes with both a
    label and probabilities count, excluded ones do not. Raises LabelError where their lengths differ.
    """
    groups = []
    for key, label in labels.items():
        if label.exclude or key not in probabilities:
            continue
        found = _in_episode(key, label, probabilities[key])
        if found:
            groups.append(sorted(found, key=lambda one: (-one.difference, one.first)))
    groups.sort(key=lambda group: -group[0].difference)  # equal ones stay in the labels' order
    return [one for group in groups for one in group]


def _in_episode(key: str, label: Label, probability: F32) -> list[Disagreement]:
    if probability.shape != (label.frames,):
        raise LabelError(
            f"episode {key} has {label.frames} labelled frames, its probabilities are {probability.shape}"
        )
    success = label.success()
    difference = np.where(success, 1.0 - probability, probability)
    found = []
    for said in (False, True):
        for first, end in ranges_of((difference >= DOUBT) & (success == said)):
            worst = first + int(np.argmax(difference[first:end]))
            found.append(Disagreement(key, first, end, worst, float(probability[worst]), said))
    return found
