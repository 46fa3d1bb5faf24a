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
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hilserl.config import TaskConfig
from hilserl.dataset_schema import IMAGES, INFO_FILE, TASK_RECORD, undo_folder
from hilserl.labels import labels_file
from hilserl.recording_format import (
    EPISODE_LINE,
    ROW_FILE,
    TASKS_FILE,
    VIDEO_FILE,
    counters,
    dataset_info,
    encode_video,
    place,
    table_of,
    task_table,
    with_totals,
)
from hilserl.recording_record import (
    EpisodeRecord,
    RecordingError,
    episode_line,
    episode_lines,
    record_in,
    stats_in,
)
from hilserl.recording_stats import Stats, merge_stats, picture_stats, row_stats
from hilserl.recording_take import Take
from hilserl.rundir import TEMPORARY, fsync, write_whole
from hilserl.task_record import check_task, task_json

STATS_FILE = Path("meta/stats.json")
PARTIAL = ".partial"
"""Folder of files being written; it is there only while someone records, or was killed doing so."""
_FIRST = {"meta", PARTIAL}
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
        self._text = task.name  # an edit may have put it in other words
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
        """A new dataset; neither `root` nor what another of its name left beside it may exist."""
        dataset_info(task)  # what cannot be recorded shall leave no folder
        try:
            root.mkdir(parents=True)
        except FileExistsError:
            raise RecordingError(
                f"{root} exists, and a recording replaces nothing: choose another --root, or go on with it "
                "by --resume=true"
            ) from None
        except OSError as error:
            raise RecordingError(f"{root} cannot be made: {error}") from error
        for beside in (labels_file(root), undo_folder(root)):
            if beside.exists():
                root.rmdir()
                raise RecordingError(
                    f"{beside} belongs to an earlier recording called {root.name!r} and would be taken for "
                    "this one's: choose another --root, or move it away"
                )
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
        except (OSError, json.JSONDecodeError) as error:
            recording.close()
            raise RecordingError(f"{root} cannot be gone on with: {error}") from error
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
        shutil.rmtree(self.root / PARTIAL, ignore_errors=True)
        if not self.records and not any(self.root.iterdir()):
            self.root.rmdir()
        os.close(self._claim)
        self._claim = -1

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.records)

    def append(self, take: Take, record: EpisodeRecord) -> None:
        """Store one episode. When this returns it survives a power cut.

        Raises RecordingError for one that does not fit, and when the disk fails; earlier ones stay whole.
        """
        self._check_pictures(take.pictures())
        try:
            self._store(take, record)
        except (OSError, av.FFmpegError) as error:
            with suppress(OSError):  # where this fails too, going on with the recording sweeps
                self._sweep()
            raise RecordingError(
                f"writing to {self.root} failed: {error}. Its {len(self)} finished episodes are whole; when "
                "the disk is well again, go on with --resume=true"
            ) from error

    def _store(self, take: Take, record: EpisodeRecord) -> None:
        index, count, pictures = len(self), len(take) + 1, take.pictures()
        if not index:
            self._begin()
        frames, fps = range(self._frames, self._frames + count), self._info["fps"]
        rows = take.columns() | counters(index, frames, fps)
        stats = row_stats(rows) | picture_stats(pictures)
        for key, seen in pictures.items():
            with self._new(place(VIDEO_FILE, index, key)) as path:
                encode_video(path, seen, fps)
        with self._new(place(ROW_FILE, index)) as path:
            pq.write_table(table_of(rows), path)
        line = episode_line(index, frames, fps, self._text, list(pictures), stats, record)
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

    def _begin(self) -> None:
        """Before the first episode: what the whole dataset says."""
        write_whole(self.root / TASK_RECORD, task_json(self._task))
        if not (self.root / TASKS_FILE).exists():
            with self._new(TASKS_FILE) as path:
                pq.write_table(task_table(self._task.name), path)

    def _new(self, name: Path) -> _NewFile:
        return _NewFile(self.root / PARTIAL, self.root / name)

    def _count(self, frames: int, stats: Stats, record: EpisodeRecord) -> None:
        self._stats = stats if self._stats is None else merge_stats([self._stats, stats])
        self._frames += frames
        self.records.append(record)

    def _tell(self) -> None:
        """Bring stats.json and info.json up to the episodes."""
        write_totals(self.root, self._info, self._stats or {}, len(self), self._frames)

    def _take_stock(self, role: str) -> None:
        """Count the episodes that are whole, remove what a killed recorder left of the next one."""
        lines = episode_lines(self.root)
        for index, line in enumerate(lines):
            if line["episode_index"] != index:
                raise RecordingError(f"{self.root}: meta/episodes lacks episode {index}")
            record = record_in(self.root, line)
            if record.role != role:
                raise RecordingError(f"{self.root} holds episodes of role {record.role!r}, not {role!r}")
            self._count(int(line["length"]), stats_in(line), record)
            self._text = line["tasks"][0]
        if (self.root / INFO_FILE).is_file():
            self._check_features(json.loads((self.root / INFO_FILE).read_text()))
        self._sweep()
        if lines:
            self._tell()

    def _sweep(self) -> None:
        """Remove half-written files, and those of an episode that never got its line."""
        shutil.rmtree(self.root / PARTIAL, ignore_errors=True)
        for left in (self.root / "meta").glob(f".*{TEMPORARY}*"):
            left.unlink()
        index = len(self)
        if (self.root / place(EPISODE_LINE, index)).exists():
            return  # it is whole; who stored it failed before counting it
        keys = [key for key in self._info["features"] if key.startswith(IMAGES)]
        for name in (place(ROW_FILE, index), *(place(VIDEO_FILE, index, key) for key in keys)):
            (self.root / name).unlink(missing_ok=True)

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


def write_totals(root: Path, info: dict[str, Any], stats: Stats, episodes: int, frames: int) -> None:
    """Write meta/stats.json and meta/info.json. info: what the dataset declares."""
    told = {name: {k: v.tolist() for k, v in one.items()} for name, one in stats.items()}
    write_whole(root / STATS_FILE, json.dumps(told, indent=1))
    write_whole(root / INFO_FILE, json.dumps(with_totals(info, episodes, frames), indent=1))
