"""Recorded episodes in the preview: decoded and scored by a thread of its own, played at the control rate."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

from hilserl.classifier.decision import Decision, Judge
from hilserl.classifier.model import RewardClassifier, brightness
from hilserl.classifier.model_files import ClassifierError
from hilserl.classifier.sources import Source, SourceEpisode, SourceError
from hilserl.config import TaskConfig
from hilserl.dataset_schema import IMAGES, DatasetError, is_dataset, open_dataset
from hilserl.dataset_video import native_frames
from hilserl.env import policy_image
from hilserl.episode import EpisodeFileError
from hilserl.pages.preview_decision import DecisionDesk
from hilserl.pages.preview_shown import Point, Shown, View, jpeg, png
from hilserl.pages.preview_times import SuccessTimes
from robot.errors import CameraError
from robot.types import F32, U8

UNREADABLE = (DatasetError, SourceError, EpisodeFileError, ClassifierError, CameraError)
"""What is wrong with one episode and leaves the others playable."""


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """An episode that can be played. native: {camera: JPEGs}, {} where none were kept.

    policy: {camera: uint8 (N, H, W, 3)}. probability: float32 (N,).
    """

    episode: SourceEpisode
    native: Mapping[str, list[bytes]]
    policy: Mapping[str, U8]
    probability: F32


class RecordedPlayer:
    """Plays the episodes of a source under the decision that is tried.

        with RecordedPlayer(...) as player:
            player.choose(3); player.toggle_playing(); shown = player.shown(time.monotonic())

    The thread of the page calls; only decoding and scoring happen in another.
    """

    def __init__(
        self, task: TaskConfig, model: RewardClassifier, source: Source, desk: DecisionDesk, first: int = 0
    ) -> None:
        """first: position in source.episodes. Raises LabelError for labels of other episodes."""
        self._task, self._model, self._source, self._desk = task, model, source, desk
        self.times = SuccessTimes(source, desk)
        self.index = first
        self.frame = 0
        self._playing_since: float | None = None
        self._played_from = 0
        self._loaded: Loaded | None = None
        self._table_wanted = False
        self._changed = threading.Condition()
        self._stopped = False
        self._number = 0
        self._last: tuple[tuple[Loaded, int, Decision], Shown] | None = None
        self._thread = threading.Thread(target=self._run, name="preview-player", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()

    @property
    def episode(self) -> SourceEpisode:
        """The chosen one."""
        return self._source.episodes[self.index]

    @property
    def count(self) -> int:
        """How many episodes there are."""
        return len(self._source.episodes)

    @property
    def playing(self) -> bool:
        return self._playing_since is not None

    def choose(self, index: int) -> None:
        """Show another episode from its start; beyond the first or last nothing happens."""
        if not 0 <= index < self.count:
            return
        with self._changed:
            self.index, self.frame, self._playing_since = index, 0, None
            self._changed.notify_all()

    def seek(self, frame: int) -> None:
        """Stand at a frame of the episode; beyond its ends at the nearest."""
        self.frame, self._playing_since = min(max(frame, 0), self.episode.frames - 1), None

    def toggle_playing(self, now_s: float) -> None:
        """Play on, from the start when it stands at the end; or stop."""
        if self.playing:
            self._playing_since = None
            return
        if self.frame >= self.episode.frames - 1:
            self.frame = 0
        self._playing_since, self._played_from = now_s, self.frame

    def want_table(self) -> None:
        """Score all episodes."""
        with self._changed:
            self._table_wanted = True
            self._changed.notify_all()

    def shown(self, now_s: float) -> Shown | None:
        """The present frame under the present decision; None while the episode is read."""
        loaded = self._loaded
        if loaded is None or loaded.episode.name != self.episode.name:
            fault = self.times.faults.get(self.episode.name)
            return None if fault is None else self._broken(fault)
        if self._playing_since is not None:
            last = self.episode.frames - 1
            played = round((now_s - self._playing_since) * self._task.fps)
            self.frame = min(self._played_from + played, last)
            if self.frame == last:
                self._playing_since = None
        key = (loaded, self.frame, self._desk.present)
        if self._last is None or self._last[0] != key:
            self._last = key, self._moment(*key)
        return self._last[1]

    # --- judging -------------------------------------------------------------------------------------------

    def _moment(self, loaded: Loaded, frame: int, decision: Decision) -> Shown:
        probability = loaded.probability
        judge = Judge(decision)
        fps, called = self._task.fps, False
        points = [Point(0.0, float(probability[0]), False)]
        held = 0
        for step in range(loaded.episode.frames - 1):
            says = judge.step(float(probability[step + 1]), bool(loaded.episode.helped[step]))
            points.append(Point((step + 1) / fps, float(probability[step + 1]), says))
            if step + 1 == frame:
                held, called = judge.held, says
        images = {name: frames[frame] for name, frames in loaded.policy.items()}
        views = {
            name: View(loaded.native[name][frame] if loaded.native else b"", png(image), brightness(image))
            for name, image in images.items()
        }
        self._number += 1
        return Shown(
            number=self._number,
            views=views,
            probability=float(probability[frame]),
            held=held,
            called=called,
            decision=decision,
            points=tuple(points),
            light=self._model.out_of_range(images),
        )

    def _broken(self, fault: str) -> Shown:
        self._number += 1
        views = {name: View(error="no picture") for name in sorted(self._task.camera_ids)}
        return Shown(self._number, views, None, 0, False, self._desk.present, (), trouble=fault)

    # --- the other thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                work = self._next()
                while work is None and not self._stopped:
                    self._changed.wait()
                    work = self._next()
                if self._stopped or work is None:
                    return
            work()

    def _next(self) -> Callable[[], None] | None:
        """What to do now: the chosen episode goes before those of the table."""
        chosen = self.episode
        if (self._loaded is None or self._loaded.episode.name != chosen.name) and not self._faulty(chosen):
            return lambda: self._try(chosen, self._load)
        if self._table_wanted:
            for episode in self._source.episodes:
                if episode.name not in self.times.scores and not self._faulty(episode):
                    return lambda: self._try(episode, self._score)  # noqa: B023 - called before the next
        return None

    def _faulty(self, episode: SourceEpisode) -> bool:
        return episode.name in self.times.faults

    def _try(self, episode: SourceEpisode, work: Callable[[SourceEpisode], None]) -> None:
        try:
            work(episode)
        except UNREADABLE as error:
            self.times.faults[episode.name] = str(error)

    def _score(self, episode: SourceEpisode) -> None:
        self.times.scores[episode.name] = self._probabilities(self._source.pictures(episode))

    def _probabilities(self, policy: Mapping[str, U8]) -> F32:
        scores = self._model.probabilities(policy)
        if not np.isfinite(scores).all():
            raise ClassifierError(
                f"the classifier gives {scores[~np.isfinite(scores)][0]} as a probability: it is broken"
            )
        return scores

    def _load(self, episode: SourceEpisode) -> None:
        native, policy = self._pictures(episode)
        if episode.name not in self.times.scores:
            self.times.scores[episode.name] = self._probabilities(policy)
        self._loaded = Loaded(episode, native, policy, self.times.scores[episode.name])

    def _pictures(self, episode: SourceEpisode) -> tuple[dict[str, list[bytes]], dict[str, U8]]:
        """Native frames as JPEGs, and the policy image made of each; archives hold policy images alone."""
        if not is_dataset(self._source.root):
            return {}, self._source.pictures(episode)
        task, dataset = self._task, open_dataset(self._source.root)
        recorded = dataset.episodes[int(episode.name)]
        native: dict[str, list[bytes]] = {}
        policy: dict[str, U8] = {}
        for camera in sorted(task.camera_ids):
            frames = native_frames(
                recorded,
                IMAGES + camera,
                dataset.fps,
                np.arange(episode.frames),
                (task.camera_height, task.camera_width, 3),
            )
            native[camera], images = [], []
            for _, rgb in frames:
                native[camera].append(jpeg(rgb))
                images.append(policy_image(rgb, task.crop_params_dict[camera], task.resize_size))
            policy[camera] = np.stack(images)
        return native, policy


def position_of(source: Source, episode: int | None) -> int:
    """Position in source.episodes of the episode `--episode` asks for. Raises SourceError."""
    if episode is None:
        return 0
    if not 0 <= episode < len(source.episodes):
        raise SourceError(
            f"--episode {episode}: {source.root} has the episodes 0 to {len(source.episodes) - 1}"
        )
    return episode
