"""What is known of a recorded episode beside its rows; it stands in its line of meta/episodes."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hilserl.config import TaskConfig
from hilserl.recording_format import file_numbers
from hilserl.recording_stats import Stats
from hilserl.recording_take import Take
from hilserl.task_record import task_hash

RECORD = "hilserl/record"
"""Column of meta/episodes that holds an EpisodeRecord as JSON."""


class RecordingError(Exception):
    """A folder that cannot be recorded into, or an episode that cannot be stored; says which and why."""


@dataclass(frozen=True, slots=True)
class EpisodeRecord:
    """What is known of a recorded episode beside its rows.

    role: "demo" or "reward". end: value of `End`. trimmed: idle steps cut off at head and tail. facts: about
    the scene. fault: why the arm refused to go on. success_ranges: frames in which the scene's ground truth
    called it a success, 0-based half-open; None where nobody knows. preflight: what the last one said.
    """

    role: str
    end: str
    seed: int
    task_hash: str
    trimmed: tuple[int, int] = (0, 0)
    facts: dict[str, float | str] = field(default_factory=dict)
    fault: str = ""
    success_ranges: list[list[int]] | None = None
    preflight: str = ""


def read_records(root: Path) -> list[EpisodeRecord]:
    """The records of a recorded dataset, by episode. Raises RecordingError where it holds none."""
    return [record_in(root, line) for line in episode_lines(root)]


def record_in(root: Path, line: dict[str, Any]) -> EpisodeRecord:
    """The record in a line of meta/episodes. Raises RecordingError where it has none."""
    if RECORD not in line:
        raise RecordingError(
            f"{root}: meta/episodes has no column {RECORD!r}: it was not recorded by hilserl"
        )
    told = json.loads(line[RECORD])
    return EpisodeRecord(**told | {"trimmed": tuple(told["trimmed"])})


def episode_lines(root: Path) -> list[dict[str, Any]]:
    """The lines of meta/episodes, in order. Raises RecordingError where one cannot be read."""
    lines: list[dict[str, Any]] = []
    for path in sorted((root / "meta/episodes").glob("*/*.parquet")):
        try:
            lines += pq.read_table(path).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise RecordingError(f"{path} cannot be read: {error}") from error
    return sorted(lines, key=lambda line: int(line["episode_index"]))


def episode_line(
    index: int,
    frames: range,
    fps: int,
    text: str,
    videos: Collection[str],
    stats: Stats,
    record: EpisodeRecord,
) -> dict[str, Any]:
    """The line in meta/episodes of an episode whose files lie where its index says.

    frames: numbers of its frames in the whole dataset. text: the task in words. videos: image keys.
    """
    line: dict[str, Any] = {"episode_index": index, "tasks": [text], "length": len(frames)}
    line |= {"dataset_from_index": frames.start, "dataset_to_index": frames.stop}
    for key in videos:
        line |= file_numbers(f"videos/{key}", index)
        line |= {f"videos/{key}/from_timestamp": 0.0, f"videos/{key}/to_timestamp": len(frames) / fps}
    line |= file_numbers("data", index) | file_numbers("meta/episodes", index)
    line |= {f"stats/{name}/{k}": v.tolist() for name, one in stats.items() for k, v in one.items()}
    return line | {RECORD: json.dumps(asdict(record), sort_keys=True)}


def stats_in(line: dict[str, Any]) -> Stats:
    """The statistics in a line of meta/episodes."""
    stats: Stats = {}
    for column, value in line.items():
        if column.startswith("stats/"):
            name, _, what = column.removeprefix("stats/").rpartition("/")
            stats.setdefault(name, {})[what] = np.array(value)
    return stats


def record_of(
    take: Take, task: TaskConfig, role: str, seed: int, facts: dict[str, float | str], fault: str
) -> EpisodeRecord:
    """The record of a take."""
    return EpisodeRecord(
        role=role,
        end=take.end.value,
        seed=seed,
        task_hash=task_hash(task),
        trimmed=take.trimmed,
        facts=facts,
        fault=fault,
        success_ranges=take.success_ranges(),
    )
