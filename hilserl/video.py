"""Videos for people: frames composed with what the policy did, and an mp4 that appears when it is whole."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import cv2
import numpy as np

from hilserl.rundir import whole_file
from hilserl.types import End
from robot.types import F32, U8

_CODECS = ("libx264", "libopenh264", "mpeg4")
"""Encoders in order of preference; h264 plays everywhere."""
_WIDTH = 640
_PANEL = 116
"""Height of the strip below the picture [px]."""
_INSET = 192
_MARGIN = 10
_INK = (235, 235, 235)
_FAINT = (120, 124, 130)
_GROUND = (28, 30, 34)
_POLICY = (86, 160, 255)
_OPERATOR = (255, 170, 40)
_GOOD = (60, 200, 110)
_BAD = (235, 80, 70)
_LABELS = ("x", "y", "z", "grip")
_LABEL = 0.45
"""Size of the views' names."""
_FONT = cv2.FONT_HERSHEY_SIMPLEX


class VideoError(Exception):
    """A video that cannot be written; says which and why."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """What is written on one frame.

    step counts from 1 of max_steps. reward: of this step; total: so far. action: (4,) in [-1, 1], what was
    executed. intervention: by the operator. end: how the episode ended, None while it runs.
    policy_version, seed: shown when not negative.
    """

    step: int
    max_steps: int
    reward: float
    total: float
    action: F32
    intervention: bool
    end: End | None = None
    policy_version: int = -1
    seed: int = -1


def compose_frame(views: Mapping[str, U8], overlay: Overlay) -> U8:
    """One frame for people, uint8 RGB (H, W, 3), H and W even, W = 640.

    views: {name: uint8 RGB (h, w, 3)}; the first fills the frame, the others (what the policy sees) are
    inset. Equal inputs give equal frames; the inputs are left as they are.
    """
    if not views:
        raise VideoError("a frame needs at least one view")
    (main_name, main), *insets = views.items()
    height = round(main.shape[0] * _WIDTH / main.shape[1] / 2) * 2
    frame = np.full((height + _PANEL, _WIDTH, 3), _GROUND, np.uint8)
    shrinks = main.shape[1] > _WIDTH
    frame[:height] = cv2.resize(
        main, (_WIDTH, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    picture = frame[:height]
    _label(picture, main_name, (_MARGIN, height - _MARGIN))
    right = _WIDTH - _MARGIN
    for name, view in insets:
        right = _draw_inset(picture, name, view, right) - _MARGIN
    _draw_badge(picture, overlay)
    _draw_end(picture, overlay)
    _draw_panel(frame[height:], overlay)
    return frame


class VideoWriter:
    """An mp4 at `path`, there only when it is whole: an error inside the block leaves nothing behind.

    with VideoWriter(path, fps=10) as video:
        video.add(frame)
    """

    def __init__(self, path: Path, fps: float) -> None:
        self._path, self._fps = path, Fraction(fps).limit_denominator(1000)
        self._shape: tuple[int, ...] = ()
        self._stack = ExitStack()
        self._container: Any = None
        self._stream: Any = None
        self._frames = 0

    def __enter__(self) -> Self:
        temporary = self._stack.enter_context(whole_file(self._path))
        self._container = self._stack.enter_context(av.open(str(temporary), "w", format="mp4"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            try:
                self._finish()
            except VideoError as empty:
                self._stack.__exit__(type(empty), empty, empty.__traceback__)
                raise
        self._stack.__exit__(kind, error, trace)

    def add(self, frame: U8) -> None:
        """Append one frame, uint8 RGB (H, W, 3), of the same even size as the first. Raises VideoError."""
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise VideoError(
                f"{self._path}: a frame must be uint8 (H, W, 3), got {frame.dtype} {frame.shape}"
            )
        if self._stream is None:
            self._shape = frame.shape
            self._stream = self._open_stream(*frame.shape[:2])
        if frame.shape != self._shape:
            raise VideoError(f"{self._path}: frame {self._frames} is {frame.shape}, the first {self._shape}")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture.pts = self._frames
        self._container.mux(self._stream.encode(picture))
        self._frames += 1

    def _open_stream(self, height: int, width: int) -> Any:  # noqa: ANN401
        if height % 2 or width % 2:
            raise VideoError(f"{self._path}: frames of {width}x{height} pixels; both must be even")
        codec = next((name for name in _CODECS if name in av.codecs_available), None)
        if codec is None:
            raise VideoError(f"{self._path}: the av package has none of the encoders {', '.join(_CODECS)}")
        stream = self._container.add_stream(codec, rate=self._fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1  # the cores belong to the learner
        if codec == "libx264":
            stream.options = {"crf": "21", "preset": "veryfast"}
        return stream

    def _finish(self) -> None:
        if self._stream is None:
            raise VideoError(f"{self._path}: no frame was added")
        self._container.mux(self._stream.encode())


def _text(
    picture: U8, text: str, at: tuple[int, int], colour: tuple[int, int, int], size: float = 0.45
) -> None:
    cv2.putText(picture, text, at, _FONT, size, colour, 1, cv2.LINE_AA)


def _label(picture: U8, text: str, at: tuple[int, int]) -> None:
    """Text that can be read on any picture, as small as it must be to fit."""
    (width, _), _ = cv2.getTextSize(text, _FONT, _LABEL, 3)
    size = _LABEL * min(1.0, (picture.shape[1] - 2 * at[0]) / width)
    cv2.putText(picture, text, at, _FONT, size, (0, 0, 0), 3, cv2.LINE_AA)
    _text(picture, text, at, _INK, size)


def _draw_inset(picture: U8, name: str, view: U8, right: int) -> int:
    """Draw `view` with its right edge at `right`; return its left edge. Pixels stay visible as pixels."""
    width = round(_INSET * view.shape[1] / view.shape[0])
    left, top = right - width, _MARGIN
    if left < 0 or top + _INSET > picture.shape[0]:
        raise VideoError(f"no room for the inset view {name!r}; show fewer views")
    shrinks = view.shape[0] > _INSET
    method = cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST
    small = cv2.resize(view, (width, _INSET), interpolation=method).astype(np.uint8)
    _label(small, name, (5, _INSET - 7))
    picture[top : top + _INSET, left:right] = small
    cv2.rectangle(picture, (left - 1, top - 1), (right, top + _INSET), _INK, 1)
    return left


def _draw_badge(picture: U8, overlay: Overlay) -> None:
    """Who acts: a border and a word."""
    colour = _OPERATOR if overlay.intervention else _POLICY
    version = f" v{overlay.policy_version}" if overlay.policy_version >= 0 else ""
    text = "OPERATOR" if overlay.intervention else f"policy{version}"
    (width, _), _ = cv2.getTextSize(text, _FONT, 0.5, 1)
    cv2.rectangle(picture, (_MARGIN, _MARGIN), (_MARGIN + width + 14, _MARGIN + 24), colour, -1)
    _text(picture, text, (_MARGIN + 7, _MARGIN + 17), (0, 0, 0), 0.5)
    if overlay.intervention:
        cv2.rectangle(picture, (1, 1), (picture.shape[1] - 2, picture.shape[0] - 2), colour, 3)


def _draw_end(picture: U8, overlay: Overlay) -> None:
    """How the episode ended, across the middle."""
    if overlay.end is None:
        return
    colour = _GOOD if overlay.end is End.SUCCESS else _BAD if overlay.end is End.FAILURE else _FAINT
    text = overlay.end.value.upper()
    (width, height), _ = cv2.getTextSize(text, _FONT, 1.1, 2)
    x, y = (picture.shape[1] - width) // 2, picture.shape[0] - 40
    cv2.rectangle(picture, (x - 16, y - height - 14), (x + width + 16, y + 14), colour, -1)
    cv2.putText(picture, text, (x, y), _FONT, 1.1, (255, 255, 255), 2, cv2.LINE_AA)


def _draw_panel(panel: U8, overlay: Overlay) -> None:
    """The strip below: numbers left, one bar per action component right."""
    seed = f"   seed {overlay.seed}" if overlay.seed >= 0 else ""
    _text(panel, f"step {overlay.step} / {overlay.max_steps}{seed}", (_MARGIN, 24), _INK, 0.5)
    _text(panel, f"reward {overlay.reward:+.2f}", (_MARGIN, 50), _GOOD if overlay.reward > 0 else _INK, 0.5)
    _text(panel, f"sum {overlay.total:+.2f}", (_MARGIN + 130, 50), _INK, 0.5)
    grip = float(overlay.action[3])
    word = "closing" if grip < -0.1 else "opening" if grip > 0.1 else "holding"
    _text(panel, f"gripper {word} {grip:+.2f}", (_MARGIN, 76), _INK, 0.5)
    done = round((_WIDTH // 2 - 3 * _MARGIN) * min(1.0, overlay.step / max(1, overlay.max_steps)))
    cv2.rectangle(panel, (_MARGIN, 94), (_WIDTH // 2 - 2 * _MARGIN, 100), (60, 63, 68), -1)
    cv2.rectangle(panel, (_MARGIN, 94), (_MARGIN + done, 100), _POLICY, -1)
    colour = _OPERATOR if overlay.intervention else _POLICY
    for row, (label, value) in enumerate(zip(_LABELS, overlay.action, strict=True)):
        _draw_bar(panel, 10 + 25 * row, label, float(value), colour)


def _draw_bar(panel: U8, top: int, label: str, value: float, colour: tuple[int, int, int]) -> None:
    left, right = _WIDTH // 2 + 50, _WIDTH - 70
    middle, half = (left + right) // 2, (right - left) // 2
    cv2.rectangle(panel, (left, top), (right, top + 15), (60, 63, 68), -1)
    tip = middle + round(half * value)
    cv2.rectangle(panel, (min(middle, tip), top), (max(middle, tip), top + 15), colour, -1)
    cv2.line(panel, (middle, top - 2), (middle, top + 17), _INK, 1)
    _text(panel, label, (left - 42, top + 12), _INK)
    _text(panel, f"{value:+.2f}", (right + 10, top + 12), _INK)
