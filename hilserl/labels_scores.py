"""A classifier's probabilities of every frame of a source, computed in a thread while a person labels."""

from __future__ import annotations

import threading
from collections.abc import Collection

from hilserl.classifier.sources import Source
from hilserl.config import TaskConfig
from robot.types import F32


class Scores:
    """probabilities: {episode: (frames,)}, episode by episode. done: how many there are.

    Loads the classifier at once, so that a wrong one is refused before the page opens.
    """

    def __init__(self, model: str, source: Source, task: TaskConfig, allow: Collection[str]) -> None:
        """model: a folder or a hub id. allow: task fields that may differ. Raises what loading raises."""
        from hilserl.classifier.model import RewardClassifier

        # one that must not give rewards may still find mistakes in labels
        self._model = RewardClassifier.load(model, task, allow, allow_untrusted=True)
        self._source = source
        self.name = model
        self.threshold = self._model.decision.threshold
        self.probabilities: dict[str, F32] = {}
        self.error = ""
        """Why it stopped, where it did."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="scores", daemon=True)

    @property
    def done(self) -> int:
        return len(self.probabilities)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End after the episode at hand."""
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        try:
            for episode in self._source.episodes:
                if self._stop.is_set():
                    return
                pictures = self._source.pictures(episode)
                self.probabilities[episode.name] = self._model.probabilities(pictures)
        except Exception as error:  # noqa: BLE001  # whatever it is, the person reads it in the page
            self.error = f"{type(error).__name__}: {error}"
