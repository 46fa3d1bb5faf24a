"""What is known of a recorded episode beside its rows; it stands in its line of meta/episodes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from hilserl.config import TaskConfig
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
    called it a success, 0-based half-open; None where nobody knows.
    """

    role: str
    end: str
    seed: int
    task_hash: str
    trimmed: tuple[int, int] = (0, 0)
    facts: dict[str, float | str] = field(default_factory=dict)
    fault: str = ""
    success_ranges: list[list[int]] | None = None


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
    """The lines of meta/episodes, in order."""
    paths = sorted((root / "meta/episodes").glob("*/*.parquet"))
    lines = [line for path in paths for line in pq.read_table(path).to_pylist()]
    return sorted(lines, key=lambda line: int(line["episode_index"]))


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
