"""What an edit does to one episode: cut it, say how it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from hilserl.config import TaskConfig
from hilserl.dataset_edit_build import EditError, Piece
from hilserl.dataset_edit_video import cut_video, read_video
from hilserl.dataset_schema import ACTION, DONE, INTERVENTION, MARKS, REWARD, SUCCESS, TRUNCATED, Rows
from hilserl.labels import Label, Ranges, ranges_of
from hilserl.recording_format import dataset_info
from hilserl.recording_stats import picture_stats, row_stats
from hilserl.reward import scored
from hilserl.types import End


def concluded(piece: Piece, end: End, task: TaskConfig) -> Piece:
    """The episode with another end, paid as the task record says."""
    rows = _with_end(piece.rows, end, scored(task.success, end is End.SUCCESS)[0])
    return piece.changed(rows, replace(piece.record, end=end.value, fault=""))


def cut(piece: Piece, start: int, stop: int, task: TaskConfig) -> Piece:
    """The frames [start, stop) of an episode, at least a step; see `dataset_edit.trim`. Raises EditError."""
    count = len(piece)
    if not 0 <= start < stop <= count or stop - start < 2:
        raise EditError(
            f"frames [{start}, {stop}) of an episode of {count} frames: it must be 0 <= first < end <= "
            f"{count}, counted from 0, the end not belonging to it, and at least two frames (one step)"
        )
    record, seen = piece.record, slice(start, stop)
    rows = {name: column[seen].copy() for name, column in piece.rows.items()}
    if stop < count:
        for name in (ACTION, *MARKS, INTERVENTION):
            rows[name][-1] = 0
        end = (
            End.SUCCESS
            if record.end == End.SUCCESS.value and _shows_success(piece, stop - 1)
            else End.TIMEOUT
        )
        paid = piece.rows[REWARD][count - 2] if end is End.SUCCESS else rows[REWARD][-2]
        rows |= _with_end(rows, end, float(np.ravel(paid)[0]))
        record = replace(record, end=end.value, fault="")
    truth = record.success_ranges
    if truth is not None:
        truth = [list(one) for one in _cut_ranges(tuple((a, b) for a, b in truth), count, seen)]
    head, tail = record.trimmed
    record = replace(record, success_ranges=truth, trimmed=(head + start, tail + count - stop))
    label = piece.label and _cut_label(piece.label, seen)
    fps = int(dataset_info(task)["fps"])
    sources = {key: video for key, video in piece.videos.items() if isinstance(video, Path)}
    pictures = {key: read_video(path, start, stop, fps) for key, path in sources.items()}
    return replace(
        piece,
        rows=rows,
        record=record,
        label=label,
        videos={key: _cutter(path, start, stop, fps) for key, path in sources.items()},
        stats=row_stats(rows) | picture_stats(pictures),
        origin=None,
    )


def _with_end(rows: Rows, end: End, reward: float) -> Rows:
    """The columns that say how an episode ended, and what its last step paid."""
    reward_column = rows[REWARD].copy()
    last = np.arange(len(reward_column)) == len(reward_column) - 2
    reward_column[-2] = reward
    marks = {
        SUCCESS: last & (end is End.SUCCESS),
        DONE: last & end.terminal,
        TRUNCATED: last & (not end.terminal),
    }
    return {REWARD: reward_column} | {name: mark.reshape(rows[name].shape) for name, mark in marks.items()}


def _shows_success(piece: Piece, frame: int) -> bool:
    """Whether a frame is known to show success: by its label, else by the scene's ground truth."""
    truth = piece.record.success_ranges or []
    ranges = truth if piece.label is None else piece.label.ranges
    return any(first <= frame < end for first, end in ranges)


def _cut_label(label: Label, seen: slice) -> Label:
    ranges = ranges_of(label.success()[seen])
    return replace(label, frames=seen.stop - seen.start, ranges=ranges)


def _cut_ranges(ranges: Ranges, count: int, seen: slice) -> Ranges:
    return ranges_of([any(a <= frame < b for a, b in ranges) for frame in range(count)[seen]])


def _cutter(path: Path, start: int, stop: int, fps: int) -> Callable[[Path], None]:
    return lambda target: cut_video(path, target, start, stop, fps)
