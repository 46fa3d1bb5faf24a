"""What the cameras see now, scored at the control rate by a thread of its own; the page shows its newest."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from hilserl.classifier.decision import Decision, Judge
from hilserl.classifier.model import RewardClassifier, brightness
from hilserl.classifier.model_files import ClassifierError
from hilserl.config import TaskConfig
from hilserl.env import policy_image
from hilserl.pages.preview_decision import DecisionDesk
from hilserl.pages.preview_recorder import FrameRecorder
from hilserl.pages.preview_shown import Point, Shown, View, jpeg, png
from robot.errors import CameraError
from robot.timing import Latest
from robot.types import U8, Camera, Frame

HISTORY_S = 20.0
RATE_S = 2.0
"""The rate is measured over so long."""


class LiveScorer:
    """Looks, crops, scores and judges once per control period, always the newest frames.

        with LiveScorer(task, model, cameras, desk, folder) as scorer:
            shown = scorer.newest.get()

    A moment without a picture of every camera is not scored, and breaks what was held: the actor would
    discard the episode. Nothing here knows of a page.
    """

    def __init__(
        self,
        task: TaskConfig,
        model: RewardClassifier,
        cameras: Mapping[str, Camera],
        desk: DecisionDesk,
        recordings: Path,
    ) -> None:
        """recordings: folder below which each recording gets one of its own."""
        self._task, self._model, self._cameras, self._desk = task, model, cameras, desk
        self._recordings = recordings
        self.newest: Latest[Shown] = Latest()
        self._asked: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._judge = Judge(desk.present)
        self._called = False
        self._number = 0
        self._points: deque[Point] = deque(maxlen=round(HISTORY_S * task.fps))
        self._due: deque[float] = deque()
        self.recorder: FrameRecorder | None = None
        self.message = ""
        """What recording did last."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="preview-scorer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def reset(self) -> None:
        """From the next moment on it is a new episode."""
        self._asked.put(self._reset)

    def toggle_recording(self) -> None:
        """Begin a recording, or end the one that runs."""
        self._asked.put(self._toggle)

    def _run(self) -> None:
        period_s = 1.0 / self._task.fps
        due_s = time.monotonic()
        try:
            while not self._stop.is_set():
                while not self._asked.empty():
                    self._asked.get()()
                self.newest.put(self._look(due_s))
                due_s = max(due_s + period_s, time.monotonic())
                self._stop.wait(due_s - time.monotonic())
        finally:
            if self.recorder is not None:
                self._toggle()

    def _look(self, now_s: float) -> Shown:
        if self._judge.decision != self._desk.present:
            self._rejudge(self._desk.present)
        frames: dict[str, Frame] = {}
        images: dict[str, U8] = {}
        views: dict[str, View] = {}
        for name, camera in self._cameras.items():
            try:
                frame = camera.latest()
                image = policy_image(frame.rgb, self._task.crop_params_dict[name], self._task.resize_size)
            except CameraError as error:
                views[name] = View(error=str(error))
                continue
            age_s = max(0.0, time.monotonic() - frame.stamp_s)
            views[name] = View(jpeg(frame.rgb), png(image), brightness(image), age_s)
            frames[name], images[name] = frame, image
        probability, light = None, ""
        trouble = "; ".join(view.error for view in views.values() if view.error)
        began_s = time.monotonic()
        if not trouble:
            try:
                light = self._model.out_of_range(images)
                probability = self._model.probability(images)
                self._judged(now_s, probability)
            except (ClassifierError, ValueError) as error:
                probability, trouble = None, f"the classifier cannot judge this: {error}"
        score_ms = 1000 * (time.monotonic() - began_s)
        if trouble:
            self._gap(now_s)
        self._record(now_s, frames, probability)
        self._number += 1
        return Shown(
            number=self._number,
            views=views,
            probability=probability,
            held=self._judge.held,
            called=self._called,
            decision=self._judge.decision,
            points=tuple(self._points),
            light=light,
            trouble=trouble,
            rate_hz=self._rate(now_s),
            score_ms=None if trouble else score_ms,
        )

    def _judged(self, now_s: float, probability: float) -> None:
        self._called = self._judge.step(probability, helped=False)
        self._points.append(Point(now_s, probability, self._called))

    def _rejudge(self, decision: Decision) -> None:
        """As if the new decision had been in force since the last reset, as far as the history reaches."""
        points = list(self._points)
        self._reset()
        self._judge = Judge(decision)
        for point in points:
            if point.probability is None:
                self._gap(point.time_s)
            else:
                self._judged(point.time_s, point.probability)

    def _gap(self, now_s: float) -> None:
        self._judge.reset()
        self._called = False
        self._points.append(Point(now_s, None, False))

    def _reset(self) -> None:
        self._points.clear()
        self._judge.reset()
        self._called = False

    def _rate(self, now_s: float) -> float | None:
        self._due.append(now_s)
        while now_s - self._due[0] > RATE_S:
            self._due.popleft()
        if len(self._due) < 2:
            return None
        return (len(self._due) - 1) / (self._due[-1] - self._due[0])

    def _toggle(self) -> None:
        if self.recorder is not None:
            self.message = self.recorder.close()
            self.recorder = None
            return
        try:
            self.recorder = FrameRecorder.create(
                self._recordings, datetime.now(UTC), self._task, self._model.hash
            )
            self.message = f"recording into {self.recorder.folder}"
        except OSError as error:
            self.message = f"not recording: {error}"

    def _record(self, now_s: float, frames: Mapping[str, Frame], probability: float | None) -> None:
        """A moment without every camera's picture leaves no line."""
        if self.recorder is None or len(frames) < len(self._cameras):
            return
        try:
            self.recorder.add(frames, now_s, probability, self._called, self._judge.decision)
        except OSError as error:
            self.message = f"recording ended: {error}. {self.recorder.close()}"
            self.recorder = None
