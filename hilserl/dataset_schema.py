"""A LeRobotDataset (v3.0) on disk: what it declares, and the rows of each episode. No pixels.

Two schemas are known, told apart by the declared features alone:

actions  ours, as recorded at the control rate. An episode of T steps is T + 1 frames: frame t holds the
         observation t, the action t, and what followed it: `next.reward`, `next.success`, `next.done`
         (terminal), `next.truncated` (time-out or fault), `intervention`. The last frame holds the last
         observation; its action is zero and its other columns are 0. `meta/hilserl_task.json` holds the
         task record.
joints   as `lerobot-record` writes for an SO-101: `action` (goals) and `observation.state` (measured), six
         joints each, named shoulder_pan.pos ... gripper.pos, in a unit the files do not name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hilserl.env import STATE_NAMES
from robot.types import ACTION_NAMES, JOINT_NAMES

INFO_FILE, TASK_RECORD = Path("meta/info.json"), Path("meta/hilserl_task.json")
ACTION, STATE, IMAGES = "action", "observation.state", "observation.images."
REWARD, SUCCESS, DONE, TRUNCATED = "next.reward", "next.success", "next.done", "next.truncated"
INTERVENTION = "intervention"
MARKS = (REWARD, SUCCESS, DONE, TRUNCATED)
JOINT_COLUMNS = tuple(f"{name}.pos" for name in JOINT_NAMES)
SCHEMAS = {"actions": (ACTION_NAMES, STATE_NAMES), "joints": (JOINT_COLUMNS, JOINT_COLUMNS)}
"""{schema: (names of `action`, names of `observation.state`)}."""
TIMESTAMP_TOLERANCE = 0.25
"""Share of a frame period by which a time stamp may be off."""
_VERSION = "v3."
_INDEX, _FRAME, _TIME = "episode_index", "frame_index", "timestamp"

Rows = dict[str, NDArray[Any]]


class DatasetError(Exception):
    """A dataset that cannot be imported: which one, each fault with episode, frame and value."""


@dataclass(frozen=True, slots=True)
class RecordedEpisode:
    """One episode. rows: {column: (N, ...)}; videos: {image key: (file, time of its first frame [s])}."""

    index: int
    rows: Rows
    videos: dict[str, tuple[Path, float]]
    data_file: Path

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.rows[STATE])


@dataclass(frozen=True, slots=True)
class RecordedDataset:
    """What a dataset folder holds. images: {image key: its declared (H, W, 3)}, video or single pictures."""

    root: Path
    schema: str
    fps: int
    images: dict[str, tuple[int, ...]]
    episodes: list[RecordedEpisode]


def is_dataset(folder: Path) -> bool:
    """Whether `folder` is a LeRobotDataset: it has meta/info.json."""
    return (folder / INFO_FILE).is_file()


def undo_folder(root: Path) -> Path:
    """Where the versions before each edit of a dataset are kept; see `dataset_edit_swap`."""
    return root.with_name(f"{root.name}.undo")


def open_dataset(root: Path) -> RecordedDataset:
    """Read what a dataset declares and its rows. Raises DatasetError naming what is missing or wrong."""
    info = _info(root)
    features: Mapping[str, Any] = info["features"]
    schema = _schema(root, features)
    wanted = [ACTION, STATE, *(name for name in (*MARKS, INTERVENTION) if name in features)]
    images = {
        key: tuple(feature["shape"])
        for key, feature in features.items()
        if key.startswith(IMAGES) and feature["dtype"] in ("video", "image")
    }
    videos = [key for key in images if features[key]["dtype"] == "video"]
    parts = ("chunk_index", "file_index")
    columns = [_INDEX, "length", *(f"data/{part}" for part in parts)]
    columns += [f"videos/{key}/{part}" for key in videos for part in (*parts, "from_timestamp")]
    told = _read(sorted((root / "meta/episodes").glob("*/*.parquet")), root, "meta/episodes", columns)
    fps = int(info["fps"])
    episodes = []
    files: dict[Path, dict[int, Rows]] = {}
    for entry in sorted(told.to_pylist(), key=lambda entry: int(entry[_INDEX])):
        index = int(entry[_INDEX])
        data = root / _place(info["data_path"], entry, "data")
        if data not in files:
            files[data] = _rows_by_episode(data, root, wanted)
        if index not in files[data]:
            raise DatasetError(f"{data}: episode {index} is not in it, though meta/episodes says so")
        places = {key: root / _place(info["video_path"], entry, f"videos/{key}", key) for key in videos}
        starts = {key: (places[key], float(entry[f"videos/{key}/from_timestamp"])) for key in videos}
        episode = RecordedEpisode(index, files[data][index], starts, data)
        _check_episode(root, episode, int(entry["length"]), fps)
        episodes.append(episode)
    if [episode.index for episode in episodes] != list(range(int(info["total_episodes"]))) or not episodes:
        raise DatasetError(
            f"{root}: {INFO_FILE} counts {info['total_episodes']} episodes, meta/episodes lists "
            f"{[episode.index for episode in episodes]}: was it recorded to the end "
            "(finalize)? hilserl record --resume=true completes one of its own"
        )
    return RecordedDataset(root, schema, fps, images, episodes)


def _info(root: Path) -> dict[str, Any]:
    path = root / INFO_FILE
    if not path.is_file():
        edited = (undo_folder(root) / "new").exists()
        hint = "; an edit of it was cut short: hilserl dataset repair completes it" if edited else ""
        raise DatasetError(f"{root} is not a LeRobotDataset: it has no {INFO_FILE}{hint}")
    try:
        info: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise DatasetError(f"{path} is not JSON: {error}") from error
    needed = ("codebase_version", "fps", "features", "total_episodes", "data_path", "video_path")
    missing = [name for name in needed if name not in info]
    if missing:
        raise DatasetError(f"{path} lacks {', '.join(missing)}")
    if not str(info["codebase_version"]).startswith(_VERSION):
        raise DatasetError(
            f"{path} says codebase_version {info['codebase_version']!r}; this program reads v3.0. Convert it "
            "with lerobot's convert_dataset_v21_to_v30"
        )
    return info


def _schema(root: Path, features: Mapping[str, Any]) -> str:
    """The schema whose names the features declare. Raises DatasetError saying what was declared."""
    for column in (ACTION, STATE):
        if column not in features:
            raise DatasetError(f"{root}: no feature {column!r}; it declares {sorted(features)}")
    declared = tuple(_names(features[column]) for column in (ACTION, STATE))
    for schema, names in SCHEMAS.items():
        if declared == names:
            return schema
    expected = "; ".join(f"{schema}: {ACTION} {a}, {STATE} {s}" for schema, (a, s) in SCHEMAS.items())
    raise DatasetError(
        f"{root}: {ACTION} is named {declared[0]} and {STATE} {declared[1]}, which is neither known schema "
        f"({expected}). Nothing is guessed from values or order"
    )


def _names(feature: Mapping[str, Any]) -> tuple[str, ...]:
    names = feature.get("names")
    return tuple(names) if isinstance(names, list) else ()


def _place(pattern: str, entry: Mapping[str, Any], prefix: str, key: str = "") -> str:
    chunk, file = entry.get(f"{prefix}/chunk_index"), entry.get(f"{prefix}/file_index")
    if chunk is None or file is None:
        raise DatasetError(f"meta/episodes says of episode {entry[_INDEX]} not in which file its {prefix} is")
    return pattern.format(chunk_index=int(chunk), file_index=int(file), video_key=key)


def _read(paths: list[Path], root: Path, what: str, columns: list[str]) -> pa.Table:
    if not paths or not all(path.is_file() for path in paths):
        raise DatasetError(f"{root}: {what} is missing (was the recording finalized?)")
    try:
        return pa.concat_tables([pq.read_table(path, columns=columns) for path in paths])
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DatasetError(f"{root}: {what} cannot be read: {error}") from error


def _rows_by_episode(path: Path, root: Path, wanted: list[str]) -> dict[int, Rows]:
    columns = [*wanted, _INDEX, _FRAME, _TIME]
    table = _read([path], root, str(path.relative_to(root)), columns)
    absent = [name for name in columns if name not in table.column_names]
    if absent:
        raise DatasetError(f"{path} lacks the columns {absent} that {INFO_FILE} declares")
    arrays = {name: column_array(table[name]) for name in columns}
    index = arrays[_INDEX].astype(np.int64)
    return {int(i): {name: array[index == i] for name, array in arrays.items()} for i in np.unique(index)}


def column_array(column: pa.ChunkedArray) -> NDArray[Any]:
    """(N,) or (N, K) of a column of numbers or of lists of numbers."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # empty, or too large for one chunk
        array = pa.concat_arrays(array.chunks)
    if not pa.types.is_nested(array.type):
        return np.asarray(array.to_numpy(zero_copy_only=False))
    values = array.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(values.reshape(len(array), -1))


def _check_episode(root: Path, episode: RecordedEpisode, length: int, fps: int) -> None:
    rows, name = episode.rows, f"{root}: episode {episode.index}"
    if len(episode) != length:
        raise DatasetError(f"{name} has {len(episode)} frames, meta/episodes says {length}")
    frames = np.arange(length)
    wrong = np.flatnonzero(rows[_FRAME] != frames)
    if len(wrong):
        raise DatasetError(f"{name}: frame {wrong[0]} is numbered {rows[_FRAME][wrong[0]]}")
    late = np.flatnonzero(np.abs(rows[_TIME] - frames / fps) > TIMESTAMP_TOLERANCE / fps)
    if len(late):
        raise DatasetError(
            f"{name}, frame {late[0]}: timestamp {rows[_TIME][late[0]]:.4f} s, at {fps} frames/s it must be "
            f"{late[0] / fps:.4f} s"
        )
    for column in (ACTION, STATE):
        bad = np.flatnonzero(~np.isfinite(rows[column]).all(axis=1))
        if len(bad):
            raise DatasetError(f"{name}, frame {bad[0]}: {column} is not finite: {rows[column][bad[0]]}")
