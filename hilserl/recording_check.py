"""The integrity of a recorded dataset: every row, every picture, and what they say of each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq

from hilserl.config import TaskConfig
from hilserl.dataset_actions import action_trajectory
from hilserl.dataset_schema import TASK_RECORD, DatasetError, RecordedEpisode, open_dataset
from hilserl.recording_record import read_records
from hilserl.recording_take import JOINTS
from hilserl.task_record import check_task, hash_of, task_from_json
from robot.kinematics import Kinematics
from robot.types import F32, NUM_JOINTS


@dataclass(frozen=True, slots=True)
class Checked:
    """What a whole dataset holds."""

    episodes: int
    frames: int
    successes: int

    def sentence(self) -> str:
        """In words."""
        return f"{self.episodes} episodes ({self.successes} successes), {self.frames} frames, all whole"


def check_recording(root: Path, task: TaskConfig) -> Checked:
    """Read everything a recorded dataset holds. Raises DatasetError or TaskMismatch naming the fault."""
    check_task(task, stored_task(root), str(root / TASK_RECORD))
    return check_whole(root)


def stored_task(root: Path) -> str:
    """The task record a dataset was recorded under, as JSON. Raises DatasetError where it has none."""
    record_file = root / TASK_RECORD
    if not record_file.is_file():
        raise DatasetError(f"{root} was not recorded by hilserl: it has no {TASK_RECORD}")
    return record_file.read_text()


def check_whole(root: Path) -> Checked:
    """`check_recording` by the task record in the dataset itself, whether or not it is the present one."""
    dataset, kinematics, stored = open_dataset(root), Kinematics(), stored_task(root)
    if dataset.schema != "actions":
        raise DatasetError(f"{root} was not recorded by hilserl: it has no actions")
    task, task_hash = task_from_json(stored, str(root / TASK_RECORD)), hash_of(stored)
    records, first = read_records(root), 0
    for episode, record in zip(dataset.episodes, records, strict=True):
        name = f"{root}: episode {episode.index}"
        trajectory = action_trajectory(episode, task, kinematics)
        if (record.end, record.task_hash) != (trajectory.end.value, task_hash) and record.end != "fault":
            raise DatasetError(
                f"{name} ends in {trajectory.end.value}, its record says {record.end} of task "
                f"{record.task_hash}"
            )
        _check_rows(episode, trajectory.state[:, :NUM_JOINTS], first, name)
        for path, _ in episode.videos.values():
            _check_video(path, len(episode), (task.camera_width, task.camera_height))
        first += len(episode)
    return Checked(len(records), first, sum(record.end == "success" for record in records))


def _check_rows(episode: RecordedEpisode, joint_pos: F32, first: int, name: str) -> None:
    table = pq.read_table(episode.data_file, columns=[JOINTS, "index"])
    index = np.asarray(table["index"])
    if not np.array_equal(index, np.arange(first, first + len(episode))):
        raise DatasetError(f"{name} counts its frames {index[0]} ... {index[-1]}, it must be from {first} on")
    joints = np.stack(table[JOINTS].to_numpy())
    if not np.array_equal(joints, joint_pos):
        raise DatasetError(f"{name}: {JOINTS} is not the joints in the state")


def _check_video(path: Path, count: int, size: tuple[int, int]) -> None:
    """Decode every picture."""
    try:
        with av.open(str(path)) as container:
            sizes = [(picture.width, picture.height) for picture in container.decode(video=0)]
    except (av.FFmpegError, OSError, IndexError) as error:
        raise DatasetError(f"{path} cannot be decoded: {error}") from error
    if sizes != [size] * count:
        raise DatasetError(f"{path} holds {len(sizes)} pictures {sorted(set(sizes))}, not {count} of {size}")
