"""Mistakes in a recorded dataset and its labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hilserl.benchmark.sabotage import Mistake
from hilserl.benchmark.sabotage_demos import XYZ
from hilserl.benchmark.sabotage_setup import Setup, edit_json
from hilserl.benchmark.sabotage_trials import CLASSIFIER_DATA, DATASET, IMPORT, doctor
from hilserl.dataset_schema import ACTION, INFO_FILE, STATE, TASK_RECORD, column_array
from hilserl.labels import labels_file
from hilserl.recording_record import RECORD

Labels = dict[str, dict[str, Any]]


def rows(column: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[Setup], None]:
    """A column (N, K) of every data file holds something else."""

    def plant(setup: Setup) -> None:
        for path in sorted(setup.recording.glob("data/*/*.parquet")):
            table = pq.read_table(path)
            values = change(column_array(table[column]).copy())
            index = table.column_names.index(column)
            new = pa.array(values.astype(np.float32).tolist(), table.schema.field(column).type)
            pq.write_table(table.set_column(index, table.schema.field(column), new), path)

    return plant


def thumbs(change: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[Setup], None]:
    """Other gripper actions."""

    def one(values: NDArray[Any]) -> NDArray[Any]:
        values[:, 3] = change(values[:, 3])
        return values

    return rows(ACTION, one)


def hands(change: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[Setup], None]:
    """Other actions of the hand."""

    def one(values: NDArray[Any]) -> NDArray[Any]:
        values[:, :3] = change(values[:, :3])
        return values

    return rows(ACTION, one)


def records(change: Callable[[dict[str, Any]], None]) -> Callable[[Setup], None]:
    """What is known of each episode is something else."""

    def plant(setup: Setup) -> None:
        for path in sorted(setup.recording.glob("meta/episodes/*/*.parquet")):
            table = pq.read_table(path)
            told = [json.loads(text) for text in table[RECORD].to_pylist()]
            for one in told:
                change(one)
            index = table.column_names.index(RECORD)
            pq.write_table(table.set_column(index, RECORD, pa.array([json.dumps(one) for one in told])), path)

    return plant


def info(**changes: object) -> Callable[[Setup], None]:
    """The dataset declares something else."""
    return lambda setup: edit_json(setup.recording / INFO_FILE, changes)


def record(**changes: object) -> Callable[[Setup], None]:
    """It was recorded under another task record."""
    return lambda setup: edit_json(setup.recording / TASK_RECORD, changes)


def labels(change: Callable[[Labels], None]) -> Callable[[Setup], None]:
    """The label file says something else."""

    def plant(setup: Setup) -> None:
        path = labels_file(setup.recording)
        told = json.loads(path.read_text())
        change(told["episodes"])
        path.write_text(json.dumps(told))

    return plant


def _moved(frames: int) -> Callable[[Setup], None]:
    def change(told: Labels) -> None:
        for one in told.values():
            one["ranges"] = [[first + frames, end + frames] for first, end in one["ranges"]]

    return labels(change)


def _of_a_person(told: Labels) -> None:
    for one in told.values():
        one["by"] = "operator"
        one["ranges"] = [[first - 1, end] for first, end in one["ranges"]]


def _unnoticed_success(told: Labels) -> None:
    """An accidental success in what is called a failure."""
    one = next(one for one in told.values() if one["ranges"])
    one["ranges"], one["by"] = [], "operator"


def _whole_episodes(told: Labels) -> None:
    for one in told.values():
        if one["ranges"]:
            one["ranges"] = [[0, one["frames"]]]


def _shorter(told: Labels) -> None:
    for one in told.values():
        one["frames"] += 3


def _no_success(told: Labels) -> None:
    for one in told.values():
        one["ranges"] = []


def _overlapping(told: Labels) -> None:
    one = next(one for one in told.values() if one["ranges"])
    one["ranges"] += one["ranges"]


def _unlabelled(setup: Setup) -> None:
    labels_file(setup.recording).unlink()


def _degrees(state: NDArray[Any]) -> NDArray[Any]:
    state[:, :6] = np.degrees(state[:, :6])
    return state


def _lower(one: dict[str, Any]) -> None:
    one["facts"]["start_z_m"] -= 0.03


def _other_verdict(one: dict[str, Any]) -> None:
    one["end"] = "failure" if one["end"] == "success" else "success"


def _other_hash(one: dict[str, Any]) -> None:
    one["task_hash"] = "0123456789abcdef"


def _turned_names(setup: Setup) -> None:
    path = setup.recording / INFO_FILE
    told = json.loads(path.read_text())
    names = told["features"][STATE]["names"]
    names[XYZ] = names[XYZ][::-1]
    path.write_text(json.dumps(told))


def _cut_video(setup: Setup) -> None:
    path: Path = sorted(setup.recording.glob("videos/**/*.mp4"))[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _lost_row(setup: Setup) -> None:
    path = sorted(setup.recording.glob("data/*/*.parquet"))[0]
    pq.write_table(pq.read_table(path)[:-1], path)


def _fits(name: str, row: str, plant: Callable[[Setup], None], catcher: str, word: str) -> Mistake:
    return Mistake(name, row, plant, DATASET, catcher, word)


def _taken(name: str, row: str, plant: Callable[[Setup], None], word: str) -> Mistake:
    return Mistake(name, row, plant, IMPORT, "DatasetError", word)


def _labelled(name: str, row: str, plant: Callable[[Setup], None], catcher: str, word: str) -> Mistake:
    return Mistake(name, row, plant, CLASSIFIER_DATA, catcher, word)


AGREEMENT = doctor("label_agreement")
MISTAKES = (
    _fits("set_in_degrees", "A 9, A 11", rows(STATE, _degrees), "integrity", "joints must be rad"),
    _fits("set_with_gripper_0_to_2", "A 5", thumbs(lambda thumb: thumb + 1), "integrity", "[-1, 1]"),
    _fits("set_row_lost", "L 112", _lost_row, "integrity", "meta/episodes says"),
    _fits("set_at_another_frame_rate", "G 80", info(fps=30), "integrity", "timestamp"),
    _fits("set_of_an_older_format", "L 112", info(codebase_version="v2.1"), "integrity", "v2.1"),
    _fits("set_columns_in_another_order", "G 80", _turned_names, "integrity", "neither known schema"),
    _fits("set_video_cut", "C 52, L 112", _cut_video, "integrity", "mp4"),
    _fits("set_verdict_changed_once", "L 112", records(_other_verdict), "integrity", "its record says"),
    _fits("set_of_another_task_hash", "M 116", records(_other_hash), "integrity", "0123456789abcdef"),
    _fits("set_began_3_cm_low", "B 21", records(_lower), "starts", "mm beyond"),
    _fits("set_of_another_calibration", "E 64", record(calibration_id="old"), "calibration", "old"),
    _fits("set_of_another_camera", "C 49", record(camera_ids={"gripper_cam": "old"}), "camera", "old"),
    _fits("set_with_another_reset", "B 20", record(reset_xyz=[0.2, 0.0, 0.12]), "reset_pose", "0.12"),
    _fits("set_at_another_scale", "A 8", record(action_scale=0.1), "scale", "0.1"),
    _taken("set_of_zero_actions", "A 13", hands(np.zeros_like), "constant"),
    _taken(
        "set_moved_by_two_rows", "A 15", rows(ACTION, lambda a: np.roll(a, 2, axis=0)), "before its cause"
    ),
    _taken("set_at_half_the_scale", "A 7", hands(lambda hand: hand / 2), "episode"),
    _taken("set_with_axes_turned", "N 122", hands(lambda hand: hand[:, [1, 0, 2]]), "episode"),
    _taken("set_with_gripper_turned_about", "A 3", thumbs(np.negative), "gripper"),
    _labelled("labels_counted_from_one", "F 75, P H12", _moved(1), "LabelError", "counted from 0"),
    Mistake("label_off_by_one", "F 75, P H12", _moved(-1), AGREEMENT, "label_agreement", "too early"),
    Mistake(
        "a_persons_labels_off_by_one", "F 75", labels(_of_a_person), AGREEMENT, "label_agreement", "1 frames"
    ),
    Mistake(
        "success_in_a_negative_episode", "F 76", labels(_unnoticed_success), AGREEMENT, "label_agreement",
        "labelled without success",
    ),
    Mistake(
        "labels_for_whole_episodes", "F 76", labels(_whole_episodes), AGREEMENT, "label_agreement",
        "by ground truth",
    ),
    _labelled("labels_of_longer_episodes", "F 75", labels(_shorter), "LabelError", "was labelled when"),
    _labelled("labels_that_overlap", "F 76", labels(_overlapping), "LabelError", "does not come after"),
    _labelled("no_success_labelled", "F 72", labels(_no_success), "TrainingDataError", "none of the"),
    _labelled("not_labelled", "F 74", _unlabelled, "TrainingDataError", "has no labels"),
    _labelled(
        "frames_split_for_the_test", "F 69, F 70",
        lambda setup: edit_json(setup.twin_file, {"classifier": {"holdout": "frames"}}),
        "TrainingDataError", "never split between training and test",
    ),
)  # fmt: skip
"""In the recorded dataset and its labels."""
