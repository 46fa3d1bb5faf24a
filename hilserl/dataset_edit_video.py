"""Cutting a recorded video without changing one kept picture."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.frame import PictureType

from hilserl.dataset_schema import DatasetError
from hilserl.recording_format import CODEC, KEY_FRAME_EVERY, PIXELS
from robot.types import U8


def cut_video(source: Path, target: Path, start: int, stop: int, fps: int) -> None:
    """Write the pictures [start, stop) of a recorded video (one picture per frame, first at time 0).

    From a key frame on the coded pictures are copied as they are. Elsewhere they are coded anew without
    loss, which takes more room. Either way each decodes to the very values it had. Raises DatasetError.
    """
    try:
        with av.open(str(source)) as old, av.open(str(target), "w", format="mp4") as new:
            if start in _key_frames(source, fps):
                _copy(old, new, start, stop, fps)
            else:
                _code_anew(old, new, start, stop, fps)
    except (av.FFmpegError, OSError, IndexError) as error:
        raise DatasetError(f"{source} cannot be cut to frames {start} ... {stop - 1}: {error}") from error


def _key_frames(source: Path, fps: int) -> set[int]:
    found: set[int] = set()
    with av.open(str(source)) as video:
        for packet in video.demux(video=0):
            if packet.pts is not None and packet.is_keyframe:
                found.add(_frame(packet, fps))
    return found


def _frame(timed: Any, fps: int) -> int:  # noqa: ANN401  # a packet or a picture
    return round(float(timed.pts * timed.time_base) * fps)


def _copy(old: Any, new: Any, start: int, stop: int, fps: int) -> None:  # noqa: ANN401  # av has no types
    stream = new.add_stream_from_template(old.streams.video[0])
    shift = None
    for packet in old.demux(video=0):
        if packet.pts is None or not start <= _frame(packet, fps) < stop:
            continue
        shift = packet.pts if shift is None else shift
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        packet.stream = stream
        new.mux(packet)


def _code_anew(old: Any, new: Any, start: int, stop: int, fps: int) -> None:  # noqa: ANN401
    like = old.streams.video[0]
    stream = new.add_stream(CODEC, rate=Fraction(fps))
    stream.width, stream.height, stream.pix_fmt = like.width, like.height, PIXELS
    stream.codec_context.thread_count = 1
    stream.options = {"qp": "0", "preset": "veryfast", "g": str(KEY_FRAME_EVERY), "bf": "0"}
    for picture in old.decode(video=0):
        frame = _frame(picture, fps)
        if start <= frame < stop:
            picture.pts, picture.time_base = frame - start, Fraction(1, fps)
            picture.pict_type = PictureType.NONE  # the coder chooses anew which stand alone
            new.mux(stream.encode(picture))
    new.mux(stream.encode())


def read_video(source: Path, start: int, stop: int, fps: int) -> list[U8]:
    """The pictures [start, stop) of a recorded video, uint8 RGB (H, W, 3). Raises DatasetError."""
    try:
        found: dict[int, U8] = {}
        with av.open(str(source)) as video:
            for picture in video.decode(video=0):
                if start <= (frame := _frame(picture, fps)) < stop:
                    found[frame] = np.asarray(picture.to_ndarray(format="rgb24"), np.uint8)
                if frame >= stop - 1:
                    break
        return [found[frame] for frame in range(start, stop)]
    except (av.FFmpegError, OSError, IndexError, KeyError) as error:
        raise DatasetError(f"{source}: frames {start} ... {stop - 1} cannot be read: {error}") from error
