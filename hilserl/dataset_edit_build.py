"""The episodes of a recorded dataset as pieces, and a dataset built of pieces: what every edit is made of.

A piece that is written where it was before is linked, not copied; so is every video that was not cut.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hilserl.config import TaskConfig
from hilserl.dataset_schema import IMAGES, TASK_RECORD, DatasetError, Rows, column_array
from hilserl.labels import Label, check_labels, labels_file, read_labels
from hilserl.recording_files import write_totals
from hilserl.recording_format import (
    EPISODE_LINE,
    ROW_FILE,
    TASKS_FILE,
    VIDEO_FILE,
    counters,
    dataset_info,
    file_numbers,
    place,
    table_of,
    task_table,
)
from hilserl.recording_record import EpisodeRecord, episode_line, episode_lines, record_in, stats_in
from hilserl.recording_stats import Stats, merge_stats, row_stats
from hilserl.rundir import fsync


class EditError(Exception):
    """A dataset that cannot be edited so: which, why, and what would be right."""


VideoWriter = Callable[[Path], None]
"""Writes one video to a path."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One episode: its rows (all columns), its record and label, where its videos are.

    videos: {image key: its file, or what writes it}. stats: of rows and pictures. origin: (file of rows, file
    of the line, its index, its first frame's number) as long as nothing about the episode has changed.
    """

    rows: Rows
    record: EpisodeRecord
    label: Label | None
    videos: dict[str, Path | VideoWriter]
    stats: Stats
    origin: tuple[Path, Path, int, int] | None

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.rows["index"])

    def changed(self, rows: Rows, record: EpisodeRecord) -> Piece:
        """The same videos with other rows of the same length."""
        stats = self.stats | row_stats(rows)
        return replace(self, rows=self.rows | rows, record=record, stats=stats, origin=None)


def read_pieces(root: Path, without: Collection[int] = ()) -> list[Piece | None]:
    """The episodes of a recorded dataset, None for those in `without`, which are not looked at.

    Raises EditError for a dataset not recorded by hilserl, DatasetError, RecordingError or LabelError.
    """
    lines, labels = episode_lines(root), read_labels(root)
    _refuse_foreign(root, lines)
    check_labels(
        labels,
        {str(index): int(line["length"]) for index, line in enumerate(lines)},
        str(labels_file(root)),
    )
    pieces: list[Piece | None] = []
    for index, line in enumerate(lines):
        if index in without:
            pieces.append(None)
            continue
        data = root / place(ROW_FILE, index)
        try:
            table = pq.read_table(data)
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(f"{data} (episode {index}) cannot be read: {error}") from error
        rows = {name: column_array(table[name]) for name in table.column_names}
        pieces.append(
            Piece(
                rows=rows,
                record=record_in(root, line),
                label=labels.get(str(index)),
                videos={key: root / place(VIDEO_FILE, index, key) for key in _videos(line)},
                stats=stats_in(line),
                origin=(data, root / place(EPISODE_LINE, index), index, int(line["dataset_from_index"])),
            )
        )
    return pieces


def task_text(root: Path) -> str:
    """The task of a recorded dataset in words."""
    return str(pq.read_table(root / TASKS_FILE)["task"][0])


def _videos(line: dict[str, Any]) -> list[str]:
    end = "/file_index"
    return [
        name.removeprefix("videos/").removesuffix(end)
        for name in line
        if name.startswith(f"videos/{IMAGES}") and name.endswith(end)
    ]


def _refuse_foreign(root: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Only hilserl's own layout, one file per episode, can be edited."""
    if not (root / TASK_RECORD).is_file():
        raise EditError(
            f"{root} was not recorded by hilserl (it has no {TASK_RECORD}); edit it with lerobot's own tool, "
            "lerobot-edit-dataset"
        )
    for index, line in enumerate(lines):
        expected: dict[str, float] = {"episode_index": index, **file_numbers("data", index)}
        for key in _videos(line):
            expected |= {**file_numbers(f"videos/{key}", index), f"videos/{key}/from_timestamp": 0.0}
        other = [name for name, value in expected.items() if line.get(name) != value]
        if other:
            raise EditError(
                f"{root}: {other[0]} of episode {index} is {line.get(other[0])}, not {expected[other[0]]}: "
                "its episodes have no files of their own, as in hilserl's recordings. Edit it with lerobot's "
                "own tool, lerobot-edit-dataset"
            )


def build_dataset(
    folder: Path, task: TaskConfig, record_text: str, text: str, pieces: Sequence[Piece]
) -> None:
    """Write a whole dataset into `folder`, which must not exist.

    record_text: the task record, as the recorder wrote it. text: the task in words.
    """
    info, first, stats = dataset_info(task), 0, []
    (folder / TASK_RECORD).parent.mkdir(parents=True)
    (folder / TASK_RECORD).write_text(record_text, encoding="utf-8")
    pq.write_table(task_table(text), folder / TASKS_FILE)
    for index, piece in enumerate(pieces):
        frames = range(first, first + len(piece))
        stats.append(_write_piece(folder, index, frames, info["fps"], text, piece))
        first += len(piece)
    write_totals(folder, info, merge_stats(stats), len(pieces), first)


def _write_piece(folder: Path, index: int, frames: range, fps: int, text: str, piece: Piece) -> Stats:
    for key, video in piece.videos.items():
        target = _free(folder / place(VIDEO_FILE, index, key))
        link(video, target) if isinstance(video, Path) else video(target)
    data, line_file = _free(folder / place(ROW_FILE, index)), _free(folder / place(EPISODE_LINE, index))
    if piece.origin is not None and piece.origin[2:] == (index, frames.start):
        link(piece.origin[0], data)
        link(piece.origin[1], line_file)
        return piece.stats
    rows = piece.rows | counters(index, frames, fps)
    pq.write_table(table_of(rows), data)
    stats = piece.stats | row_stats(rows)
    line = episode_line(index, frames, fps, text, list(piece.videos), stats, piece.record)
    pq.write_table(pa.Table.from_pylist([line]), line_file)
    return stats


def _free(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def link(source: Path, target: Path) -> None:
    """One more name for a file; a copy where the disk allows no second name."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        shutil.copyfile(source, target)


def link_tree(source: Path, target: Path) -> None:
    """The same files in a folder of its own, which must not exist; JSON, which may be written to, copied."""

    def again(old: str, new: str) -> None:
        if old.endswith(".json"):
            shutil.copyfile(old, new)
        else:
            link(Path(old), Path(new))

    shutil.copytree(source, target, copy_function=again)


def sync_tree(folder: Path) -> None:
    """Make everything in a folder survive a power cut."""
    for path in (*folder.rglob("*"), folder):
        fsync(path)
