"""The files of a recorded LeRobotDataset (v3.0): an episode appears whole, durably, and replaces nothing.

Each episode is one parquet file of rows, one mp4 per camera and one line of meta/episodes, all of its own:

    data/chunk-000/file-007.parquet
    videos/KEY/chunk-000/file-007.mp4
    meta/episodes/chunk-000/file-007.parquet

They are written below .partial/, made durable, and linked into place in this order: videos, rows, line; then
meta/stats.json and meta/info.json are replaced. Whoever dies on the way leaves the earlier episodes as they
were; `Recording.reopen` counts an episode whose line is there, and removes what never got one.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hilserl.config import TaskConfig
from hilserl.dataset_schema import IMAGES, INFO_FILE, TASK_RECORD, Rows
from hilserl.recording_format import (
    CHUNK,
    EPISODE_LINE,
    ROW_FILE,
    TASKS_FILE,
    VIDEO_FILE,
    dataset_info,
    encode_video,
    place,
    table_of,
    task_table,
)
from hilserl.recording_record import RECORD, EpisodeRecord, RecordingError, episode_lines, record_in
from hilserl.recording_stats import Stats, merge_stats, picture_stats, row_stats
from hilserl.recording_take import Take
from hilserl.rundir import TEMPORARY, fsync, write_whole
from hilserl.task_record import check_task, task_json

STATS_FILE = Path("meta/stats.json")
_PARTIAL = ".partial"
_FIRST = {"meta", _PARTIAL}
"""What is in the folder of a recorder that was killed before it said what task it recorded."""


class Recording:
    """A dataset folder being recorded into, by this process alone until `close`.

        with Recording.create(root, task) as recording:
            recording.append(take, record)

    Raises RecordingError, and TaskMismatch for a folder of another task.
    """

    def __init__(self, root: Path, task: TaskConfig) -> None:
        self.root = root
        self._task, self._info = task, dataset_info(task)
        self._stats: Stats | None = None
        self.records: list[EpisodeRecord] = []
        self._frames = 0
        self._claim = os.open(root, os.O_RDONLY)
        try:
            fcntl.flock(self._claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._claim)
            raise RecordingError(f"{root} is being recorded into by another process") from None

    @classmethod
    def create(cls, root: Path, task: TaskConfig) -> Self:
        """A new dataset; `root` must not exist."""
        dataset_info(task)  # what cannot be recorded shall leave no folder
        try:
            root.mkdir(parents=True)
        except FileExistsError:
            raise RecordingError(
                f"{root} exists, and a recording replaces nothing: choose another --root, or go on with it "
                "by --resume=true"
            ) from None
        return cls(root, task)

    @classmethod
    def reopen(cls, root: Path, task: TaskConfig, role: str) -> Self:
        """Go on with a dataset of this task and role, whatever ended it."""
        known = (root / TASK_RECORD).is_file()
        if not known and (not root.is_dir() or {path.name for path in root.iterdir()} - _FIRST):
            raise RecordingError(f"{root} is no recording to go on with: it has no {TASK_RECORD}")
        if known:
            check_task(task, (root / TASK_RECORD).read_text(), str(root / TASK_RECORD))
        recording = cls(root, task)
        try:
            recording._take_stock(role)
        except BaseException:
            recording.close()
            raise
        return recording

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another process have the folder; one without any episode is removed. May be called twice."""
        if self._claim < 0:
            return
        shutil.rmtree(self.root / _PARTIAL, ignore_errors=True)
        if not self.records and not any(self.root.iterdir()):
            self.root.rmdir()
        os.close(self._claim)
        self._claim = -1

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.records)

    def append(self, take: Take, record: EpisodeRecord) -> None:
        """Store one episode. When this returns it survives a power cut. Raises RecordingError."""
        index, count, pictures = len(self), len(take) + 1, take.pictures()
        self._check_pictures(pictures)
        if not index:
            self._begin()
        rows = take.columns() | self._counters(count)
        stats = row_stats(rows) | picture_stats(pictures)
        line: dict[str, Any] = {"episode_index": index, "tasks": [self._task.name], "length": count}
        line |= {"dataset_from_index": self._frames, "dataset_to_index": self._frames + count}
        for key, frames in pictures.items():
            with self._new(place(VIDEO_FILE, index, key)) as path:
                encode_video(path, frames, self._info["fps"])
            line |= _where(f"videos/{key}", index)
            line |= {f"videos/{key}/from_timestamp": 0.0}
            line |= {f"videos/{key}/to_timestamp": count / self._info["fps"]}
        with self._new(place(ROW_FILE, index)) as path:
            pq.write_table(table_of(rows), path)
        line |= _where("data", index) | _where("meta/episodes", index)
        line |= {f"stats/{name}/{k}": v.tolist() for name, one in stats.items() for k, v in one.items()}
        line[RECORD] = json.dumps(asdict(record), sort_keys=True)
        with self._new(place(EPISODE_LINE, index)) as path:
            pq.write_table(pa.Table.from_pylist([line]), path)
        self._count(count, stats, record)
        self._tell()

    def _check_pictures(self, pictures: dict[str, list[NDArray[np.uint8]]]) -> None:
        declared = {
            key: tuple(f["shape"]) for key, f in self._info["features"].items() if key.startswith(IMAGES)
        }
        if pictures.keys() != declared.keys():
            raise RecordingError(f"{self.root} takes pictures of {sorted(declared)}, got {sorted(pictures)}")
        for key, frames in pictures.items():
            wrong = [i for i, rgb in enumerate(frames) if rgb.dtype != np.uint8 or rgb.shape != declared[key]]
            if wrong:
                rgb = frames[wrong[0]]
                raise RecordingError(
                    f"{key}, frame {wrong[0]}: {rgb.dtype} {rgb.shape}, it must be uint8 {declared[key]}"
                )

    def _counters(self, count: int) -> Rows:
        frames = np.arange(count, dtype=np.int64)
        return {
            "timestamp": (frames / self._info["fps"]).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full(count, len(self), np.int64),
            "index": frames + self._frames,
            "task_index": np.zeros(count, np.int64),
        }

    def _begin(self) -> None:
        """Before the first episode: what the whole dataset says."""
        write_whole(self.root / TASK_RECORD, task_json(self._task))
        if not (self.root / TASKS_FILE).exists():
            with self._new(TASKS_FILE) as path:
                pq.write_table(task_table(self._task.name), path)

    def _new(self, name: Path) -> _NewFile:
        return _NewFile(self.root / _PARTIAL, self.root / name)

    def _count(self, frames: int, stats: Stats, record: EpisodeRecord) -> None:
        self._stats = stats if self._stats is None else merge_stats([self._stats, stats])
        self._frames += frames
        self.records.append(record)

    def _tell(self) -> None:
        """Bring stats.json and info.json up to the episodes."""
        told = {name: {k: v.tolist() for k, v in one.items()} for name, one in (self._stats or {}).items()}
        write_whole(self.root / STATS_FILE, json.dumps(told, indent=1))
        self._info |= {
            "total_episodes": len(self),
            "total_frames": self._frames,
            "splits": {"train": f"0:{len(self)}"},
        }
        write_whole(self.root / INFO_FILE, json.dumps(self._info, indent=1))

    def _take_stock(self, role: str) -> None:
        """Count the episodes that are whole, remove what a killed recorder left of the next one."""
        lines = episode_lines(self.root)
        for index, line in enumerate(lines):
            if line["episode_index"] != index:
                raise RecordingError(f"{self.root}: meta/episodes lacks episode {index}")
            record = record_in(self.root, line)
            if record.role != role:
                raise RecordingError(f"{self.root} holds episodes of role {record.role!r}, not {role!r}")
            self._count(int(line["length"]), _stats_of(line), record)
        shutil.rmtree(self.root / _PARTIAL, ignore_errors=True)
        for left in (self.root / "meta").glob(f".*{TEMPORARY}*"):
            left.unlink()
        if (self.root / INFO_FILE).is_file():
            self._check_features(json.loads((self.root / INFO_FILE).read_text()))
        keys = [key for key in self._info["features"] if key.startswith(IMAGES)]
        for name in (place(ROW_FILE, len(self)), *(place(VIDEO_FILE, len(self), key) for key in keys)):
            (self.root / name).unlink(missing_ok=True)
        if lines:
            self._tell()

    def _check_features(self, info: dict[str, Any]) -> None:
        ours, theirs = (json.loads(json.dumps(one["features"])) for one in (self._info, info))
        if ours != theirs or info["fps"] != self._info["fps"]:
            names = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
            raise RecordingError(
                f"{self.root} cannot be gone on with: {INFO_FILE} declares other features "
                f"({', '.join(names)}) or another rate than {self._info['fps']} frames/s"
            )


class _NewFile:
    """A path to write to; when the block ends well the file stands, durably, at `path`, which was free."""

    def __init__(self, partial: Path, path: Path) -> None:
        self._path, self._temporary = path, partial / path.name

    def __enter__(self) -> Path:
        self._temporary.parent.mkdir(parents=True, exist_ok=True)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return self._temporary

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                fsync(self._temporary)
                os.link(self._temporary, self._path)  # unlike a rename, a link replaces nothing
                fsync(self._path.parent)
        except FileExistsError:
            raise RecordingError(f"{self._path} exists, and a recording replaces nothing") from None
        finally:
            self._temporary.unlink(missing_ok=True)


def _where(prefix: str, index: int) -> dict[str, int]:
    chunk, file = divmod(index, CHUNK)
    return {f"{prefix}/chunk_index": chunk, f"{prefix}/file_index": file}


def _stats_of(line: dict[str, Any]) -> Stats:
    stats: Stats = {}
    for column, value in line.items():
        if column.startswith("stats/"):
            name, _, what = column.removeprefix("stats/").rpartition("/")
            stats.setdefault(name, {})[what] = np.array(value)
    return stats
