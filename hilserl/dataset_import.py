"""A recorded LeRobotDataset -> a folder of episodes that fills the demonstration store.

Rows first: every episode is recovered and checked before the first picture is decoded. Then the pictures,
whole episodes side by side. The result is kept (see `dataset_cache`): a second import reads it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from hilserl.config import Config, TaskConfig
from hilserl.dataset_actions import Trajectory, action_trajectory, has_marks, joint_trajectory
from hilserl.dataset_cache import code_hash, content_hash, entry_key, find_entry, locked, new_entry
from hilserl.dataset_checks import check_motion
from hilserl.dataset_columns import DatasetColumns
from hilserl.dataset_schema import (
    IMAGES,
    TASK_RECORD,
    DatasetError,
    RecordedDataset,
    RecordedEpisode,
    open_dataset,
)
from hilserl.dataset_video import policy_images
from hilserl.episode import TASK_FILE, save_episode
from hilserl.rundir import write_whole
from hilserl.task_record import check_task, task_hash, task_json
from hilserl.types import Episode, Role
from robot.errors import CalibrationError
from robot.joint_units import JointUnits, load_joint_units
from robot.kinematics import Kinematics

WORKERS = 2
"""Episodes decoded at a time; decoding and encoding pictures leave the interpreter's lock."""
CACHE_FOLDER = "datasets"
"""Below the output folder: the imported datasets."""

Say = Callable[[str], None]
Tick = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import gave. folder: the episodes, with task.json; cached: nothing had to be done."""

    folder: Path
    episodes: int
    transitions: int
    cached: bool


def import_for(config: Config, root: Path, say: Say, tick: Tick = lambda: None) -> Imported:
    """Import the dataset at `root` as `config` says (task, dataset, calibration, output folder)."""
    columns, robot = config.dataset, config.robot
    units = None
    if columns.joint_unit:
        expected = config.task.calibration_id
        units = load_joint_units(columns.joint_unit, robot.calibration_dir, robot.id, expected)
    cache = Path(config.output_dir) / CACHE_FOLDER
    allow = config.allow_task_difference
    return import_dataset(root, config.task, columns, units, cache, say, allow=allow, tick=tick)


def import_dataset(
    root: Path,
    task: TaskConfig,
    columns: DatasetColumns,
    units: JointUnits | None,
    cache: Path,
    say: Say,
    *,
    allow: Collection[str] = (),
    tick: Tick = lambda: None,
) -> Imported:
    """Turn the LeRobotDataset at `root` into a folder of demonstrations below `cache`.

    units: of a joint-space dataset (None where columns.joint_unit is ""). allow: task fields that may
    differ from the record in the dataset. tick: called now and then; what it raises ends the import and
    leaves nothing. Raises DatasetError, TaskMismatch or CalibrationError naming each fault.
    """
    began = perf_counter()
    content = content_hash(root)
    key = entry_key(
        content=content,
        code=code_hash(),
        task=task_hash(task),
        choices=json.dumps([dataclasses.asdict(columns), sorted(allow)], sort_keys=True),
        units="" if units is None else units.identity,
    )
    with locked(cache, key):
        told, torn = find_entry(cache, key)
        if told is not None:
            say(f"{root} was imported before ({perf_counter() - began:.1f} s to check): {told['summary']}")
            return Imported(cache / key, told["episodes"], told["transitions"], cached=True)
        if torn:
            say(f"the stored import of {root} is torn ({torn}); it is made anew")
        dataset = open_dataset(root)
        trajectories = _trajectories(dataset, task, columns, units, allow)
        motion = check_motion(trajectories, task, columns, Kinematics())
        rows_s = perf_counter() - began
        transitions = sum(len(trajectory) for trajectory in trajectories)
        told = {"episodes": len(trajectories), "transitions": transitions}
        with new_entry(cache, key, told) as folder:
            actor = f"dataset-{content[:16]}"
            _convert(dataset, trajectories, task, columns, folder, actor, tick)
            write_whole(folder / TASK_FILE, task_json(task))
            told["summary"] = (
                f"{len(trajectories)} episodes, {transitions} transitions{_left_out(dataset, trajectories)}; "
                + motion.sentence()
            )
    frames, total_s = sum(map(len, dataset.episodes)), perf_counter() - began
    say(f"{root}: {told['summary']}")
    say(f"{frames} frames in {total_s:.1f} s, {frames / total_s:.0f} frames/s ({rows_s:.1f} s for the rows)")
    return Imported(cache / key, len(trajectories), transitions, cached=False)


def _trajectories(
    dataset: RecordedDataset,
    task: TaskConfig,
    columns: DatasetColumns,
    units: JointUnits | None,
    allow: Collection[str],
) -> list[Trajectory]:
    """Every episode but the excluded ones, without pictures."""
    unknown = sorted(set(columns.exclude) - {episode.index for episode in dataset.episodes})
    if unknown:
        raise DatasetError(f"dataset.exclude names {unknown}; {dataset.root} has no such episodes")
    kept = [episode for episode in dataset.episodes if episode.index not in columns.exclude]
    if not kept:
        raise DatasetError(f"dataset.exclude leaves no episode of {dataset.root}")
    _check_cameras(dataset, task, columns)
    stride, kinematics = _stride(dataset, task), Kinematics()
    if dataset.schema == "actions":
        _check_said(dataset, task, columns, stride, allow)
        return [action_trajectory(episode, task, kinematics) for episode in kept]
    if units is None:
        raise DatasetError(
            f"{dataset.root} holds joint values, and no file says in which unit: say --dataset.joint_unit="
            "degrees (lerobot's default), normalized (use_degrees=false) or rad"
        )
    _check_success(dataset.root, kept[0], columns)
    found = []
    for episode in kept:
        try:
            trajectory = joint_trajectory(episode, task, stride, units, columns.success, kinematics)
        except CalibrationError as error:
            raise DatasetError(f"{dataset.root}: episode {episode.index}, {error}") from error
        found.append(trajectory)
    return found


def _stride(dataset: RecordedDataset, task: TaskConfig) -> int:
    """Frames of the dataset per control step."""
    stride = round(dataset.fps / task.fps)
    if stride < 1 or abs(stride * task.fps - dataset.fps) > 1e-6:
        raise DatasetError(
            f"{dataset.root} was recorded at {dataset.fps} frames/s, which is no whole multiple of task.fps "
            f"{task.fps:g}: record at {task.fps:g}, {2 * task.fps:g} or {3 * task.fps:g}"
        )
    return stride


def _check_cameras(dataset: RecordedDataset, task: TaskConfig, columns: DatasetColumns) -> None:
    known = sorted(key.removeprefix(IMAGES) for key in dataset.images)
    strangers = sorted(set(columns.cameras) - set(task.camera_ids))
    if strangers:
        raise DatasetError(
            f"dataset.cameras names {strangers}; the task's cameras are {sorted(task.camera_ids)}"
        )
    expected = (task.camera_height, task.camera_width, 3)
    for camera in task.camera_ids:
        name = columns.cameras.get(camera, camera)
        if name not in known:
            raise DatasetError(
                f"{dataset.root} has no camera {name!r}, it has {known}; say which one is the task's "
                f"{camera!r}: --dataset.cameras.{camera}=NAME"
            )
        shape = dataset.images[IMAGES + name]
        if shape != expected:
            raise DatasetError(
                f"{dataset.root}: pictures of {name!r} are {shape}, the task record says {expected} (H, W, 3)"
            )
        crop = task.crop_params_dict[camera]
        if crop.top + crop.height > expected[0] or crop.left + crop.width > expected[1]:
            raise DatasetError(
                f"task.crop_params_dict.{camera} is {crop}, which does not fit the pictures {expected}"
            )


def _check_said(
    dataset: RecordedDataset, task: TaskConfig, columns: DatasetColumns, stride: int, allow: Collection[str]
) -> None:
    """A dataset of our own says everything itself."""
    record = dataset.root / TASK_RECORD
    if not record.is_file():
        raise DatasetError(
            f"{dataset.root} has no {TASK_RECORD}, which says under which task it was recorded"
        )
    check_task(task, record.read_text(), str(record), allow)
    for name, said in (("joint_unit", columns.joint_unit), ("success", columns.success)):
        if said:
            raise DatasetError(f"{dataset.root} holds actions and verdicts; leave dataset.{name} empty")
    if stride != 1:
        raise DatasetError(
            f"{dataset.root} holds actions at {dataset.fps} steps/s, but task.fps is {task.fps:g}: an action "
            "means a distance per step and cannot be merged"
        )


def _check_success(root: Path, first: RecordedEpisode, columns: DatasetColumns) -> None:
    if has_marks(first) and columns.success:
        raise DatasetError(f"{root} says itself how its episodes end; leave dataset.success empty")
    if not has_marks(first) and not columns.success:
        raise DatasetError(
            f"{root} does not say how its episodes end (no next.reward, next.success or next.done): say "
            "--dataset.success=last (each succeeds at its last step) or none"
        )


def _left_out(dataset: RecordedDataset, trajectories: Sequence[Trajectory]) -> str:
    """What did not become a transition, in words."""
    parts = []
    excluded = len(dataset.episodes) - len(trajectories)
    if excluded:
        parts.append(f"{excluded} episodes excluded")
    unused = sum(trajectory.unused for trajectory in trajectories)
    if unused:
        parts.append(f"{unused} frames after the last step")
    if dataset.schema == "joints":
        parts.append("the first control step of each episode (it gives the first velocity and goal)")
    return f" (not used: {', '.join(parts)})" if parts else ""


def _convert(
    dataset: RecordedDataset,
    trajectories: Sequence[Trajectory],
    task: TaskConfig,
    columns: DatasetColumns,
    folder: Path,
    actor: str,
    tick: Tick,
) -> None:
    """Decode, crop, shrink and save; the first error ends it."""
    recorded = {episode.index: episode for episode in dataset.episodes}
    one = partial(_save, dataset, task, columns, folder, actor)
    with ThreadPoolExecutor(WORKERS) as pool:
        jobs: list[Future[Any]] = [pool.submit(one, recorded[t.episode], t) for t in trajectories]
        try:
            for job in jobs:
                job.result()
                tick()
        finally:
            for job in jobs:
                job.cancel()


def _save(
    dataset: RecordedDataset,
    task: TaskConfig,
    columns: DatasetColumns,
    folder: Path,
    actor: str,
    recorded: RecordedEpisode,
    trajectory: Trajectory,
) -> None:
    shape = (task.camera_height, task.camera_width, 3)
    images = {}
    for camera in task.camera_ids:
        key, crop = IMAGES + columns.cameras.get(camera, camera), task.crop_params_dict[camera]
        images[camera] = policy_images(
            recorded, key, dataset.fps, trajectory.frames, crop, task.resize_size, shape
        )
    episode = Episode(
        images=images,
        state=trajectory.state,
        action=trajectory.path.action,
        reward=trajectory.reward,
        intervention=trajectory.intervention,
        end=trajectory.end,
        role=Role.DEMO,
        actor=actor,
        number=trajectory.episode + 1,
        policy_version=0,
        seed=0,
        task_hash=task_hash(task),
        info={"dataset": dataset.root.name, "dataset_episode": float(trajectory.episode)},
    )
    save_episode(folder, episode)
