"""The report of a trained reward classifier: one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hilserl.classifier.metrics_summary import Summary
from robot.types import U8

Pictures = Callable[[str, str, Sequence[int]], U8]
"""(source, episode, frames) -> what the network sees at those frames, uint8 (K, H, W, 3)."""
Losses = Sequence[tuple[int, float, float]]
"""(epoch, training loss, held-out loss) of one fold, in order."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the page is made of.

    name: of the job. summary: of every labelled episode, each scored by a model that was not trained on it.
    false_success_rate: share of failed episodes the decision was chosen for. split: how episodes were held
    out, in words. losses: one per fold, in order. pictures: called once per episode with a frame to show.
    settings: shown as they are. left_out: {what was not used: why}, unlabelled and excluded episodes.
    """

    name: str
    summary: Summary
    false_success_rate: float
    split: str
    losses: Sequence[Losses]
    pictures: Pictures
    settings: Mapping[str, object] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)


def report_html(report: Report) -> str:
    """The page. It holds its own style, pictures and plots, and no script."""
    raise NotImplementedError
