"""What a recorded LeRobotDataset declares, and how its rows and pictures are encoded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hilserl.config import ConfigError, TaskConfig
from hilserl.dataset_schema import ACTION, IMAGES, INTERVENTION, JOINT_COLUMNS, MARKS, REWARD, STATE, Rows
from hilserl.env import STATE_NAMES
from hilserl.recording_take import JOINTS
from robot.types import ACTION_NAMES, U8

CHUNK = 1000
"""Files per folder."""
ROW_FILE = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_FILE = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODE_LINE = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
TASKS_FILE = Path("meta/tasks.parquet")
CODEC, PIXELS = "libx264", "yuv420p"
CRF = 14
"""Quality of the pictures, lower is better. Decoded values are 1 to 2.5 of 255 off, mostly by yuv420p."""
KEY_FRAME_EVERY = 2
"""Frames between two that stand alone, as lerobot does it: any frame is found quickly."""
_COUNTERS = {name: "int64" for name in ("frame_index", "episode_index", "index", "task_index")}


def dataset_info(task: TaskConfig) -> dict[str, Any]:
    """The content of meta/info.json without an episode. Raises ConfigError for what cannot be recorded."""
    if task.fps != round(task.fps):
        raise ConfigError(f"task.fps is {task.fps}; a LeRobotDataset counts whole frames per second")
    if task.camera_width % 2 or task.camera_height % 2:
        raise ConfigError(
            f"task.camera_width and camera_height are {task.camera_width}x{task.camera_height}; both must be "
            "even to be recorded"
        )
    shape = [task.camera_height, task.camera_width, 3]
    video = {"dtype": "video", "shape": shape, "names": ["height", "width", "channels"], "info": _video(task)}
    features = {
        ACTION: _feature("float32", ACTION_NAMES),
        STATE: _feature("float32", STATE_NAMES),
        JOINTS: _feature("float32", JOINT_COLUMNS),
        **{IMAGES + camera: video for camera in task.camera_ids},
        **{name: _feature("float32" if name == REWARD else "bool") for name in (*MARKS, INTERVENTION)},
        "timestamp": _feature("float32"),
        **{name: _feature(dtype) for name, dtype in _COUNTERS.items()},
    }
    return {
        "codebase_version": "v3.0",
        "robot_type": "so_follower",
        "fps": round(task.fps),
        "total_episodes": 0,
        "total_frames": 0,
        "total_tasks": 1,
        "chunks_size": CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "data_path": ROW_FILE,
        "video_path": VIDEO_FILE,
        "splits": {},
        "features": features,
    }


def _feature(dtype: str, names: Sequence[str] | None = None) -> dict[str, Any]:
    size = 1 if names is None else len(names)
    return {"dtype": dtype, "shape": [size], "names": None if names is None else list(names)}


def _video(task: TaskConfig) -> dict[str, Any]:
    return {
        "video.height": task.camera_height,
        "video.width": task.camera_width,
        "video.codec": "h264",
        "video.pix_fmt": PIXELS,
        "video.fps": round(task.fps),
        "video.channels": 3,
        "video.g": KEY_FRAME_EVERY,
        "video.crf": CRF,
        "has_audio": False,
        "is_depth_map": False,
    }


def place(pattern: str, index: int, key: str = "") -> Path:
    """Where a file of episode `index` lies, below the dataset. key: of the image, for a video."""
    chunk, file = divmod(index, CHUNK)
    return Path(pattern.format(chunk_index=chunk, file_index=file, video_key=key))


def file_numbers(prefix: str, index: int) -> dict[str, int]:
    """The columns of meta/episodes that say where a file of episode `index` lies."""
    chunk, file = divmod(index, CHUNK)
    return {f"{prefix}/chunk_index": chunk, f"{prefix}/file_index": file}


def counters(index: int, frames: range, fps: int) -> Rows:
    """The columns that count: of episode `index`, whose frames have these numbers in the whole dataset."""
    count = np.arange(len(frames), dtype=np.int64)
    return {
        "timestamp": (count / fps).astype(np.float32),
        "frame_index": count,
        "episode_index": np.full(len(frames), index, np.int64),
        "index": count + frames.start,
        "task_index": np.zeros(len(frames), np.int64),
    }


def with_totals(info: dict[str, Any], episodes: int, frames: int) -> dict[str, Any]:
    """What meta/info.json says of a dataset that holds so much."""
    return info | {
        "total_episodes": episodes,
        "total_frames": frames,
        "splits": {"train": f"0:{episodes}"},
    }


def table_of(rows: Rows) -> pa.Table:
    """{column: (N,) or (N, K)} -> a table with a list of K numbers per row where there are K."""
    return pa.table({name: _column(array) for name, array in rows.items()})


def _column(array: NDArray[Any]) -> pa.Array:
    if array.ndim == 1:
        return pa.array(array)
    return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])


def task_table(name: str) -> pa.Table:
    """meta/tasks.parquet: one task, found by its name (a pandas index, as lerobot reads it)."""
    table = pa.table({"task_index": pa.array([0], pa.int64()), "task": [name]})
    columns = [
        {"name": n, "field_name": n, "pandas_type": p, "numpy_type": t, "metadata": None}
        for n, p, t in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ]
    told = {"index_columns": ["task"], "column_indexes": [], "columns": columns, "pandas_version": "2.0.0"}
    return table.replace_schema_metadata({"pandas": json.dumps(told)})


def encode_video(path: Path, frames: Sequence[U8], fps: int) -> None:
    """Write pictures uint8 RGB (H, W, 3), H and W even, as an mp4 that starts at time 0."""
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream(CODEC, rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = width, height, PIXELS
        stream.codec_context.thread_count = 1  # the cores belong to the control loop and the cameras
        stream.options = {
            "crf": str(CRF),
            "preset": "veryfast",
            "g": str(KEY_FRAME_EVERY),
            "bf": "0",  # no frame waits for a later one: presentation times are decoding times
        }
        for number, rgb in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            picture.pts = number
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
