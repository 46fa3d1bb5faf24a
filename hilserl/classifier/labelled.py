"""The episodes a classifier is trained on: sources opened, labels checked, nothing left out unsaid."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hilserl.classifier.sources import Source, SourceEpisode, open_source
from hilserl.config import TaskConfig
from hilserl.labels import check_labels, labels_file, read_labels

_NAMED = 8
"""So many episodes are named one by one."""


class TrainingDataError(Exception):
    """Episodes no classifier can be trained or tested on; says what is missing and what would be right."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """One episode with its label. success: bool (frames,), every frame at full rate; by: who labelled it."""

    source: Source
    episode: SourceEpisode
    success: NDArray[np.bool_]
    by: str

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.source.root}: episode {self.episode.name}"


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Labelled episodes of all sources, in order. left_out: {(source, which of its episodes): why}."""

    episodes: tuple[Labelled, ...]
    left_out: dict[tuple[str, str], str]

    @property
    def frames(self) -> int:
        return sum(len(one.success) for one in self.episodes)

    @property
    def success_frames(self) -> int:
        return sum(int(one.success.sum()) for one in self.episodes)

    @property
    def with_success(self) -> int:
        """Episodes that show a success."""
        return sum(bool(one.success.any()) for one in self.episodes)

    def sentence(self) -> str:
        """In words."""
        return (
            f"{len(self.episodes)} labelled episodes, {self.with_success} with a success; "
            f"{self.frames} frames, {self.success_frames} of success"
        )


def read_training_data(
    datasets: Sequence[str], task: TaskConfig, allow: Collection[str] = ()
) -> TrainingData:
    """Open every source and read its labels. No picture is decoded but an archive folder's first ones.

    Raises TrainingDataError (nothing named, nothing labelled, named twice), LabelError (labels that are not
    of these episodes), and what `open_source` raises.
    """
    if not datasets:
        raise TrainingDataError(
            "classifier.datasets is empty: name labelled recordings, such as --classifier.datasets=FOLDER; "
            "record them with hilserl record --role reward, label them with hilserl label"
        )
    roots = [Path(name).expanduser() for name in datasets]
    twice = {str(root) for root in roots if [other.resolve() for other in roots].count(root.resolve()) > 1}
    if twice:
        raise TrainingDataError(f"classifier.datasets names {', '.join(sorted(twice))} more than once")
    episodes: list[Labelled] = []
    left_out: dict[tuple[str, str], str] = {}
    for root in roots:
        source = open_source(root, task, allow)
        episodes += _labelled(source, left_out)
    data = TrainingData(tuple(episodes), left_out)
    _check_classes(data)
    return data


def _labelled(source: Source, left_out: dict[tuple[str, str], str]) -> Iterator[Labelled]:
    labels, root = read_labels(source.root), source.root
    if not labels:
        raise TrainingDataError(
            f"{root} has no labels ({labels_file(root)} does not exist or is empty): label it with "
            f"hilserl label {root}, or leave it out of classifier.datasets"
        )
    frames = {episode.name: episode.frames for episode in source.episodes}
    check_labels(labels, frames, str(labels_file(root)))
    unlabelled = [episode.name for episode in source.episodes if episode.name not in labels]
    excluded = [name for name, label in labels.items() if label.exclude]
    if unlabelled:
        left_out[str(root), _names(unlabelled)] = "not labelled yet"
    if excluded:
        left_out[str(root), _names(excluded)] = "excluded by their labels"
    for episode in source.episodes:
        label = labels.get(episode.name)
        if label is not None and not label.exclude:
            yield Labelled(source, episode, label.success(), label.by)


def _names(episodes: Sequence[str]) -> str:
    shown = ", ".join(episodes[:_NAMED])
    more = f" and {len(episodes) - _NAMED} more" if len(episodes) > _NAMED else ""
    return f"{len(episodes)} episodes ({shown}{more})" if len(episodes) > 1 else f"episode {shown}"


def _check_classes(data: TrainingData) -> None:
    if not data.episodes:
        raise TrainingDataError(
            "all labelled episodes are excluded by their labels; none is left to train on"
        )
    if not data.with_success:
        raise TrainingDataError(
            f"none of the {len(data.episodes)} labelled episodes shows a success: there is nothing to tell "
            "apart. Record successes, and mark the frames that show them"
        )
    if data.with_success == len(data.episodes):
        raise TrainingDataError(
            f"each of the {len(data.episodes)} labelled episodes shows a success: how often success would be "
            "called in a failed one cannot be known. Record failures and near misses (hilserl record --role "
            "reward) and label them"
        )
    always = [one.name for one in data.episodes if one.success.all()]
    if data.success_frames == data.frames or len(always) == data.with_success:
        raise TrainingDataError(
            f"{always[0]} is labelled a success in every frame, as is every other that shows one: mark only "
            "the frames in which success is visible"
        )
