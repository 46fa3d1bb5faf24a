"""Cameras: a capture thread keeps the newest picture; stale, flat, stuck, torn, wrong-sized ones are errors.

This file is the one place where BGR becomes RGB. The sources are in camera_sources.py.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from robot.errors import CameraError
from robot.tearing import TearWatch
from robot.timing import Latest, RealClock
from robot.types import U8, Clock, Frame

BAD_BEFORE_REOPEN = 10
"""This many bad pictures in a row, and the camera is opened anew; each of them is an error at once."""


class Source(Protocol):
    """Where pictures come from. Used by one thread only.

    order: colour order of what `read` returns.
    """

    @property
    def order(self) -> Literal["rgb", "bgr"]: ...

    def open(self) -> None:
        """Connect. Raises CameraError."""
        ...

    def read(self) -> U8:
        """Wait for the next picture: a fresh uint8 (H, W, 3). Raises CameraError when none comes."""
        ...

    def close(self) -> None:
        """Disconnect; safe in any state."""
        ...


@dataclass(frozen=True, slots=True)
class CameraOptions:
    """What counts as a good picture, and how hard to try for one.

    max_age_s: oldest picture `latest` may return. start_timeout_s: longest wait for the first good picture.
    flat_std: a picture whose grey levels (0..255) deviate less than this is flat (black, white, covered).
    stuck_frames: this many byte-identical pictures in a row mean a stuck camera, and each is as old as the
    first; 0 allows any number, for a rendered still scene. A real sensor has noise. attempts: connections
    tried in a row without one good picture before giving up; the pause between them doubles from backoff_s to
    at most max_backoff_s.
    """

    max_age_s: float = 0.2
    start_timeout_s: float = 5.0
    flat_std: float = 2.0
    stuck_frames: int = 30
    attempts: int = 10
    backoff_s: float = 0.2
    max_backoff_s: float = 5.0


@dataclass(frozen=True, slots=True)
class _Capture:
    frame: Frame
    fault: str
    """Why the picture must not be used, or ""."""


class CameraThread:
    """A Camera: a thread captures, `latest` returns the newest good picture or raises CameraError.

    size: (width, height) every picture must have [px]; name: the camera's name in the configuration.
    Construction waits for the first good picture and raises CameraError when none comes.
    """

    def __init__(
        self,
        source: Source,
        *,
        name: str,
        size: tuple[int, int],
        clock: Clock | None = None,
        options: CameraOptions | None = None,
    ) -> None:
        self._source = source
        self._name = name
        self._size = size
        self._clock = clock or RealClock()
        self._options = options or CameraOptions()
        self._newest: Latest[_Capture] = Latest()
        self._trouble = ""
        self._stop = threading.Event()
        self._index = 0
        self._repeats = 0
        self._bad_in_a_row = 0
        self._previous: U8 | None = None
        self._tears = TearWatch()
        self._changed_s = 0.0
        self._thread = threading.Thread(target=self._run, name=f"camera-{name}", daemon=True)
        self._thread.start()
        try:
            self._await_good_picture()
        except BaseException:
            self.close()
            raise

    def latest(self) -> Frame:
        """The newest picture. Raises CameraError when it is stale, flat, torn, wrong-sized or missing."""
        newest = self._newest.get()
        trouble = f"; last trouble: {self._trouble}" if self._trouble else ""
        if newest is None:
            raise CameraError(
                f"camera {self._name!r} gave no picture in {self._options.start_timeout_s:g} s{trouble}"
            )
        capture = newest[1]
        if capture.fault:
            raise CameraError(f"camera {self._name!r}: {capture.fault}")
        age_s = self._clock.now_s() - capture.frame.stamp_s
        if age_s > self._options.max_age_s:
            raise CameraError(
                f"camera {self._name!r}: the newest picture is {age_s:.3f} s old, "
                f"allowed {self._options.max_age_s:g} s (cameras.{self._name}.max_age_s){trouble}"
            )
        return capture.frame

    def close(self) -> None:
        """End the thread and release the camera. More than once is allowed."""
        self._stop.set()
        # a driver that blocks keeps its (daemon) thread; the caller must not wait for it for ever
        self._thread.join(timeout=3.0)

    def _await_good_picture(self) -> None:
        deadline_s = time.monotonic() + self._options.start_timeout_s
        seen = 0
        while True:
            left_s = deadline_s - time.monotonic()
            newest = self._newest.get(newer_than=seen, timeout_s=max(0.0, left_s))
            if newest is None:
                self.latest()  # says what is wrong, or that a good picture came after all
                return
            seen, capture = newest
            if not capture.fault:
                return
            if self._wrong_shape(capture.frame.rgb):  # will not get better; black first pictures do
                self.latest()

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            try:
                self._bad_in_a_row = 0
                self._source.open()
                while not self._stop.is_set():
                    if self._capture():
                        failures = 0
                        self._trouble = ""
            except CameraError as error:
                failures += 1
                if failures >= self._options.attempts:
                    self._trouble = f"{error}; gave up after {failures} attempts in a row"
                    break
                self._trouble = f"{error} (attempt {failures} of {self._options.attempts})"
            finally:
                self._source.close()
            self._stop.wait(min(self._options.backoff_s * 2.0**failures, self._options.max_backoff_s))

    def _capture(self) -> bool:
        """Take one picture and publish it; True when it is good.

        Raises CameraError when the camera should be opened anew.
        """
        picture = self._source.read()
        stamp_s = self._clock.now_s()
        fault = self._wrong_shape(picture)
        if not fault:
            same = self._previous is not None and np.array_equal(picture, self._previous)
            self._repeats = self._repeats + 1 if same else 0
            self._previous = picture
            torn = self._tears.update(picture, stamp_s)
            fault = self._flat_or_stuck(picture) or ("the picture is torn: a line was lost" if torn else "")
            if same and self._options.stuck_frames:
                stamp_s = self._changed_s  # nothing new was seen since
            self._changed_s = stamp_s
        rgb = picture if fault or self._source.order == "rgb" else _swapped(picture)
        rgb.flags.writeable = False
        self._newest.put(_Capture(Frame(rgb, stamp_s, self._index), fault))
        self._index += 1
        self._bad_in_a_row = self._bad_in_a_row + 1 if fault else 0
        if self._bad_in_a_row >= BAD_BEFORE_REOPEN:
            raise CameraError(fault)
        return not fault

    def _wrong_shape(self, picture: U8) -> str:
        width, height = self._size
        if picture.dtype == np.uint8 and picture.shape == (height, width, 3):
            return ""
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            return f"a picture must be uint8 (H, W, 3), got {picture.dtype} {picture.shape}"
        return (
            f"got {picture.shape[1]}x{picture.shape[0]}, the task record says {width}x{height}: set the "
            "camera to that size, or change task.camera_width and task.camera_height (and the crop with them)"
        )

    def _flat_or_stuck(self, picture: U8) -> str:
        spread = float(picture[::4, ::4].std())
        if spread < self._options.flat_std:
            return (
                f"the picture is flat (deviation {spread:.2f} of 255, at least {self._options.flat_std:g} "
                "expected): covered, dark, or not delivering"
            )
        if 0 < self._options.stuck_frames <= self._repeats + 1:
            return f"stuck: {self._repeats + 1} identical pictures in a row"
        return ""


def _swapped(bgr: U8) -> U8:
    return np.ascontiguousarray(bgr[..., ::-1])
