"""Checks of the labels a reward classifier learns from: do they say what is known of their episodes?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hilserl.classifier.sources import SourceEpisode, open_source
from hilserl.doctor.context import Context, Missing
from hilserl.doctor.findings import Finding, judged
from hilserl.labels import Label, check_labels, labels_file, read_labels
from hilserl.types import End

GROUND_TRUTH = "ground truth"
MIN_EPISODES = 3
"""So many successes with the same shift are no accident: a person errs now this way, now that."""


def agreement(context: Context) -> list[Finding]:
    """Labels agree with the ground truth where there is one, and with how the episodes ended."""
    config = context.config
    if not config.classifier.datasets:
        raise Missing("classifier.datasets names no labelled recording")
    wrong, count = list[str](), 0
    for root in map(Path, config.classifier.datasets):
        source, labels = open_source(root, config.task, config.allow_task_difference), read_labels(root)
        check_labels(labels, {one.name: one.frames for one in source.episodes}, str(labels_file(root)))
        pairs = [(one, labels[one.name]) for one in source.episodes if one.name in labels]
        pairs = [(one, label) for one, label in pairs if not label.exclude]
        count += len(pairs)
        wrong += _shifted(root, pairs)
        wrong += [
            f"{root}: episode {one.name}: {fault}" for one, label in pairs for fault in _faults(one, label)
        ]
    if not count:
        raise Missing("no episode of classifier.datasets has a label yet: hilserl label")
    more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    value = "; ".join(wrong[:3]) + more or f"{count} labels say what is known of their episodes"
    advice = "frames count from 0, the end of a range not included; look at them: hilserl label"
    return [judged("label_agreement", not wrong, value, "no contradiction", advice)]


def _shifted(root: Path, pairs: list[tuple[SourceEpisode, Label]]) -> Iterator[str]:
    """All successes begin the same number of frames off."""
    off = [label.ranges[0][0] - one.truth[0][0] for one, label in pairs if label.ranges and one.truth]
    if len(off) >= MIN_EPISODES and len(set(off)) == 1 and off[0]:
        way = "late" if off[0] > 0 else "early"
        yield f"{root}: every success is labelled {abs(off[0])} frames too {way}"


def _faults(one: SourceEpisode, label: Label) -> Iterator[str]:
    """What a label says against what is known."""
    if one.truth is not None:
        if label.by == GROUND_TRUTH and label.ranges != one.truth:
            yield f"labelled {list(label.ranges)} by ground truth, which is {list(one.truth)}"
        elif bool(label.ranges) != bool(one.truth):
            yield f"labelled {list(label.ranges) or 'without success'}, in truth {list(one.truth) or 'none'}"
    elif one.end == End.SUCCESS.value and not label.success()[-1]:
        yield "it ended in success, but its last frame is labelled as none"
