"""Recorded pictures, native or as policy images: whole episodes, decoded in order, cropped as `env` does."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hilserl.config import CropConfig
from hilserl.dataset_schema import TIMESTAMP_TOLERANCE, DatasetError, RecordedEpisode
from hilserl.env import policy_image
from robot.types import U8

I64 = NDArray[np.int64]


def policy_images(
    episode: RecordedEpisode,
    key: str,
    fps: int,
    frames: I64,
    crop: CropConfig,
    resize_size: tuple[int, int],
    frame_shape: tuple[int, ...],
) -> U8:
    """Policy images uint8 (len(frames), H, W, 3) of the given frames of an episode, ascending.

    frame_shape: (H, W, 3) that every native frame must have. Raises DatasetError naming a missing frame.
    """
    rows = {int(frame): row for row, frame in enumerate(frames)}
    images = np.empty((len(frames), *resize_size, 3), np.uint8)
    for frame, rgb in native_frames(episode, key, fps, frames, frame_shape):
        images[rows[frame]] = policy_image(rgb, crop, resize_size)
    return images


def native_frames(
    episode: RecordedEpisode, key: str, fps: int, frames: I64, frame_shape: tuple[int, ...]
) -> Iterator[tuple[int, U8]]:
    """(frame, its picture uint8 RGB of frame_shape (H, W, 3)) of the given frames of an episode, ascending.

    Raises DatasetError naming a missing frame, or one of another shape.
    """
    missing = {int(frame) for frame in frames}
    source = _video_frames(episode, key, fps, missing) if key in episode.videos else _pictures(episode, key)
    for frame, rgb in source:
        if frame not in missing:
            continue
        if rgb.shape != frame_shape:
            raise DatasetError(
                f"episode {episode.index}, frame {frame}: {key} is {rgb.shape}, it must be {frame_shape}"
            )
        yield frame, rgb
        missing.discard(frame)
        if not missing:
            return
    where = episode.videos[key][0] if key in episode.videos else episode.data_file
    raise DatasetError(f"{where}: frame {min(missing)} of episode {episode.index} is not in it")


def _video_frames(
    episode: RecordedEpisode, key: str, fps: int, wanted: Collection[int]
) -> Iterator[tuple[int, U8]]:
    """(frame, picture) from the episode's start on, one seek and then in order; only wanted ones are RGB."""
    path, start_s = episode.videos[key]
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            # One thread: whole episodes run in parallel, which costs less than threads within a frame.
            stream.codec_context.thread_count = 1
            if stream.time_base is None:
                raise DatasetError(f"{path} is no video: its stream has no time base")
            unit_s = float(stream.time_base)
            container.seek(max(0, round(start_s / unit_s) - 1), stream=stream, backward=True)
            for picture in container.decode(stream):
                if picture.pts is None:
                    continue
                place = (picture.pts * unit_s - start_s) * fps
                frame = round(place)
                if frame in wanted and abs(place - frame) < TIMESTAMP_TOLERANCE:
                    yield frame, np.asarray(picture.to_ndarray(format="rgb24"), np.uint8)
    except (av.FFmpegError, OSError, IndexError) as error:
        raise DatasetError(f"{path} cannot be decoded (episode {episode.index}): {error}") from error


def _pictures(episode: RecordedEpisode, key: str) -> Iterator[tuple[int, U8]]:
    """(frame, picture) of an episode whose frames are single pictures within the data file."""
    path: Path = episode.data_file
    try:
        table = pq.read_table(path, columns=[key], filters=[("episode_index", "=", episode.index)])
    except (OSError, KeyError, ValueError) as error:
        raise DatasetError(f"{path}: {key} cannot be read: {error}") from error
    for frame, cell in enumerate(table[key].to_pylist()):
        data = np.frombuffer((cell or {}).get("bytes") or b"", np.uint8)
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
        if picture is None:
            raise DatasetError(f"{path}: frame {frame} of episode {episode.index}: {key} is no picture")
        yield frame, np.asarray(picture[..., ::-1], np.uint8)
