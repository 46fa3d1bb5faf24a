"""Where a classifier's pictures come from: recorded LeRobotDatasets, and folders of episode archives.

Both give the policy images the actor's camera would give: cropped and shrunk by the present task record
(datasets, which hold native frames), or by the record they were played under (archives).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hilserl.config import TaskConfig
from hilserl.dataset_schema import (
    IMAGES,
    TASK_RECORD,
    RecordedDataset,
    RecordedEpisode,
    is_dataset,
    open_dataset,
)
from hilserl.dataset_video import policy_images
from hilserl.episode import TASK_FILE, EpisodeInfo, load_episode, scan_episodes
from hilserl.recording_record import EpisodeRecord, read_records
from hilserl.rollout import JUDGE
from hilserl.task_record import check_task
from robot.types import U8

ALWAYS_ALLOWED = ("success",)
"""Who judged an episode, and what it paid, does not change what its pictures show."""

IMPORTED = "dataset_episode"
"""Fact of an episode made from a dataset of joint values, which knows of no seed."""


class SourceError(Exception):
    """A folder no pictures can be taken from; says which, why, and what would be right."""


@dataclass(frozen=True, slots=True)
class SourceEpisode:
    """One episode of a source, without pictures.

    name: its key in a label file. frames: T + 1. end: value of `End`. facts: about the scene. truth: frames
    in which the scene's ground truth called it a success, 0-based half-open; None where nobody knows.
    judge: who said how it ended, or could have: "operator", or a kind of `task.success`. seed: of the scene
    it was played in, None where nobody knows. helped: bool (T,), steps in which the operator had taken over
    from a policy; in a recording nobody else plays, so none.
    """

    name: str
    frames: int
    end: str
    facts: dict[str, float | str]
    truth: tuple[tuple[int, int], ...] | None
    judge: str
    seed: int | None
    helped: NDArray[np.bool_] = field(compare=False)


class Source(Protocol):
    """Recorded episodes with pictures."""

    @property
    def root(self) -> Path: ...

    @property
    def episodes(self) -> tuple[SourceEpisode, ...]: ...

    def pictures(self, episode: SourceEpisode) -> dict[str, U8]:
        """{camera: policy images uint8 (frames, H, W, 3)} in the order of their names. Not kept."""
        ...


def open_source(root: Path, task: TaskConfig, allow: Collection[str] = ()) -> Source:
    """A LeRobotDataset or a folder of episode archives, as a source of pictures for `task`.

    allow: task fields that may differ from the record beside the pictures; `success` always may. Raises
    SourceError, TaskMismatch, DatasetError or EpisodeFileError naming what is wrong. Decodes no picture.
    """
    if is_dataset(root):
        return _DatasetSource(root, task, allow)
    if not root.is_dir():
        raise SourceError(f"{root} is no folder; name a recorded dataset or a folder of episodes (*.npz)")
    return _ArchiveSource(root, task, allow)


def _record_beside(path: Path, root: Path, task: TaskConfig, allow: Collection[str]) -> Mapping[str, object]:
    """The checked task record of a source."""
    if not path.is_file():
        raise SourceError(
            f"{root} has no {path.relative_to(root)}, which says under which task it was played"
        )
    text = path.read_text()
    check_task(task, text, str(path), (*allow, *ALWAYS_ALLOWED))
    record: Mapping[str, object] = json.loads(text)
    return record


def _judge_of(record: Mapping[str, object]) -> str:
    success = record.get("success")
    return str(success.get("kind", "")) if isinstance(success, Mapping) else ""


def _said(facts: Mapping[str, object], judge: str) -> str:
    """Who judged an episode of these facts. judge: where they do not say it."""
    return str(facts.get(JUDGE) or judge)


class _DatasetSource:
    """A LeRobotDataset as `hilserl record` writes it."""

    def __init__(self, root: Path, task: TaskConfig, allow: Collection[str]) -> None:
        self.root, self._task = root, task
        self._dataset: RecordedDataset = open_dataset(root)
        if self._dataset.schema != "actions":
            raise SourceError(
                f"{root} was recorded by another program (its actions are joint goals) and holds no task "
                "record that says what its pictures show; record with hilserl record"
            )
        record = _record_beside(root / TASK_RECORD, root, task, allow)
        self._check_pictures()
        records = read_records(root)
        if len(records) != len(self._dataset.episodes):
            raise SourceError(
                f"{root} holds {len(self._dataset.episodes)} episodes but {len(records)} records of them"
            )
        judge = _judge_of(record)
        self.episodes = tuple(
            _recorded(episode, told, judge)
            for episode, told in zip(self._dataset.episodes, records, strict=True)
        )
        self._recorded = {str(episode.index): episode for episode in self._dataset.episodes}

    def _check_pictures(self) -> None:
        task, dataset = self._task, self._dataset
        expected = (task.camera_height, task.camera_width, 3)
        for camera in sorted(task.camera_ids):
            shape = dataset.images.get(IMAGES + camera)
            if shape is None:
                known = sorted(key.removeprefix(IMAGES) for key in dataset.images)
                raise SourceError(f"{self.root} has no camera {camera!r}, which the task has; it has {known}")
            if shape != expected:
                raise SourceError(
                    f"{self.root}: pictures of {camera!r} are {shape}, the task record says {expected}"
                )
        if dataset.fps != task.fps:
            raise SourceError(f"{self.root} has {dataset.fps} frames/s, the task record says {task.fps:g}")

    def pictures(self, episode: SourceEpisode) -> dict[str, U8]:
        recorded, task = self._recorded[episode.name], self._task
        frames: NDArray[np.int64] = np.arange(episode.frames)
        return {
            camera: policy_images(
                recorded,
                IMAGES + camera,
                self._dataset.fps,
                frames,
                task.crop_params_dict[camera],
                task.resize_size,
                (task.camera_height, task.camera_width, 3),
            )
            for camera in sorted(task.camera_ids)
        }


def _recorded(episode: RecordedEpisode, told: EpisodeRecord, judge: str) -> SourceEpisode:
    truth = told.success_ranges
    return SourceEpisode(
        name=str(episode.index),
        frames=len(episode),
        end=told.end,
        facts=told.facts,
        truth=None if truth is None else tuple((start, stop) for start, stop in truth),
        judge=_said(told.facts, "button" if told.role == "reward" else judge),
        seed=told.seed,
        helped=np.zeros(len(episode) - 1, np.bool_),
    )


class _ArchiveSource:
    """A folder of episode archives, as the learner, the actor and the demonstrations leave them."""

    def __init__(self, root: Path, task: TaskConfig, allow: Collection[str]) -> None:
        self.root, self._task = root, task
        infos = scan_episodes(root)
        if not infos:
            raise SourceError(f"{root} holds no episode: neither a LeRobotDataset nor files (*.npz)")
        judge = _judge_of(_record_beside(root / TASK_FILE, root, task, allow))
        self._paths = {info.path.stem: info.path for info in infos}
        self.episodes = tuple(_archived(info, judge) for info in infos)
        self.pictures(self.episodes[0])  # the wrong cameras or sizes are found now, not after the first hour

    def pictures(self, episode: SourceEpisode) -> dict[str, U8]:
        path, task = self._paths[episode.name], self._task
        images = load_episode(path).images
        expected = (episode.frames, *task.resize_size, 3)
        for camera in sorted(task.camera_ids):
            if camera not in images:
                raise SourceError(
                    f"{path} has no camera {camera!r}, which the task has; it has {sorted(images)}"
                )
            shape = images[camera].shape
            if shape != expected:
                raise SourceError(f"{path}: pictures of {camera!r} are {shape}, the task needs {expected}")
        return {camera: images[camera] for camera in sorted(task.camera_ids)}


def _archived(info: EpisodeInfo, judge: str) -> SourceEpisode:
    episode = load_episode(info.path, pictures=False)
    return SourceEpisode(
        name=info.path.stem,
        frames=len(episode) + 1,
        end=info.end.value,
        facts=episode.info,
        truth=None,
        judge=_said(episode.info, judge),
        seed=None if IMPORTED in episode.info else episode.seed,
        helped=episode.intervention,
    )
