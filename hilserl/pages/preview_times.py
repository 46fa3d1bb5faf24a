"""When success is true and when it is called, in every episode of a recording under the decision tried."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hilserl.classifier.decision import success_frame
from hilserl.classifier.metrics import Scored
from hilserl.classifier.metrics_calls import Call, call_of, episode_confusion
from hilserl.classifier.sources import Source, SourceEpisode
from hilserl.labels import Label, check_labels, labels_file, read_labels
from hilserl.pages.preview_decision import DecisionDesk
from robot.types import F32


@dataclass(frozen=True, slots=True)
class Row:
    """An episode in the table of success times. true, called: frames, None where there is none.

    verdict: in words. good: None where it is not known what is true, or not scored yet.
    """

    name: str
    about: str
    true: int | None
    called: int | None
    verdict: str
    good: bool | None


class SuccessTimes:
    """Scores come in from another thread, episode by episode; what is called is asked anew every time.

    scores: {episode: float32 (N,)}. faults: {episode: why it cannot be scored}. Raises LabelError where the
    labels beside the source are of other episodes.
    """

    def __init__(self, source: Source, desk: DecisionDesk) -> None:
        self._source, self._desk = source, desk
        self._labels = read_labels(source.root)
        frames = {episode.name: episode.frames for episode in source.episodes}
        check_labels(self._labels, frames, str(labels_file(source.root)))
        self.scores: dict[str, F32] = {}
        self.faults: dict[str, str] = {}

    @property
    def done(self) -> int:
        """How many episodes have been scored, or cannot be."""
        return len(self.scores) + len(self.faults)

    def called(self, episode: SourceEpisode) -> int | None:
        """The frame at which the actor would call success; None: never, or not scored yet."""
        scores = self.scores.get(episode.name)
        return None if scores is None else success_frame(self._desk.present, scores, episode.helped)

    def truth(self, episode: SourceEpisode) -> NDArray[np.bool_] | None:
        """(N,): success in each frame, by the label, else by ground truth; None where nobody said."""
        label = self._labels.get(episode.name)
        if label is None and episode.truth is not None:
            label = Label(episode.frames, episode.truth, "ground truth")
        return None if label is None else label.success()

    def rows(self) -> list[Row]:
        """Every episode, in the order of the recording."""
        return [self._row(episode) for episode in self._source.episodes]

    def summary(self) -> str:
        """What is called of the labelled episodes, in one sentence."""
        calls = [call for episode in self._source.episodes if (call := self._call(episode)) is not None]
        told = episode_confusion(calls)
        shows, fails = told.called + told.early + told.missed, told.false + told.quiet
        return (
            f"{told.called} of {shows} successes rightly called ({told.missed} missed, {told.early} called "
            f"at a wrong time), success called in {told.false} of {fails} failures"
        )

    def _call(self, episode: SourceEpisode) -> Call | None:
        """What the decision makes of an episode; None where it is not labelled, or not scored."""
        truth, scores = self.truth(episode), self.scores.get(episode.name)
        if truth is None or scores is None:
            return None
        root, helped = str(self._source.root), episode.helped
        one = Scored(root, episode.name, episode.facts, truth, scores, episode.end, helped=helped)
        return call_of(one, self._desk.present)

    def _row(self, episode: SourceEpisode) -> Row:
        about, truth = str(episode.facts.get("scenario", episode.end)), self.truth(episode)
        true = int(truth.argmax()) if truth is not None and truth.any() else None
        if episode.name not in self.scores:
            why = self.faults.get(episode.name, "not scored yet")
            return Row(episode.name, about, true, None, why, None)
        call = self._call(episode)
        if call is None:
            return Row(episode.name, about, None, self.called(episode), "not labelled", None)
        return Row(episode.name, about, true, call.frame, call.word, call.correct)
