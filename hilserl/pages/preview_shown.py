"""What the preview page shows at one moment: plain data, encoded once, whoever looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from hilserl.classifier.decision import Decision
from robot.types import U8

JPEG_QUALITY = 90


@dataclass(frozen=True, slots=True)
class View:
    """What one camera gives. policy: PNG of exactly the uint8 RGB the network receives; b"" without one.

    native: JPEG of the whole frame, b"" where there is none. brightness: of the policy image, mean of
    0..255. age_s: of the frame when it was scored, None for a recorded one. error: why there is no picture.
    """

    native: bytes = b""
    policy: bytes = b""
    brightness: float | None = None
    age_s: float | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Point:
    """One judged moment. time_s: seconds. probability: None where no picture could be scored."""

    time_s: float
    probability: float | None
    called: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """One moment. number: differs from every other moment's. held: frames in a row that count.

    called: success is called now. light: what is unlike training, or "". trouble: what keeps it from being
    judged, or "". rate_hz: judged frames per second, None for a recording. score_ms: duration of the scoring.
    """

    number: int
    views: Mapping[str, View]
    probability: float | None
    held: int
    called: bool
    decision: Decision
    points: tuple[Point, ...]
    light: str = ""
    trouble: str = ""
    rate_hz: float | None = None
    score_ms: float | None = None


def jpeg(rgb: U8) -> bytes:
    """A frame uint8 RGB (H, W, 3) for people."""
    return _encoded(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])


def png(rgb: U8) -> bytes:
    """A picture uint8 RGB (H, W, 3), bit by bit."""
    return _encoded(".png", rgb, [cv2.IMWRITE_PNG_COMPRESSION, 1])


def _encoded(kind: str, rgb: U8, options: list[int]) -> bytes:
    good, data = cv2.imencode(kind, np.ascontiguousarray(rgb[..., ::-1]), options)
    if not good:
        raise ValueError(f"a picture {rgb.dtype} {rgb.shape} cannot be encoded as {kind}")
    return bytes(data.tobytes())
