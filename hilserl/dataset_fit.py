"""Does a recorded dataset still fit the present task record? From its files alone; `dataset_fit_live` looks.

Every check gives findings: name, value, limit, what to do. A FAIL is something that does not fit; a WARN is
worth a look. Limits and what they rest on: see the constants.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from hilserl.config import TaskConfig
from hilserl.dataset_edit_video import read_video
from hilserl.dataset_fit_pictures import brightness, colour_distance, colour_quantiles
from hilserl.dataset_schema import ACTION, STATE, TASK_RECORD, DatasetError, RecordedDataset, open_dataset
from hilserl.doctor.findings import Finding, Status, judged
from hilserl.env import RESET_TOLERANCE_M, STATE_NAMES
from hilserl.recording_check import check_whole, stored_task
from hilserl.recording_record import EpisodeRecord, RecordingError, read_records
from hilserl.task_record import Difference, TaskMismatch, is_allowed, task_differences
from robot.kinematics import F64
from robot.types import U8

POSTURE_RAD = 0.05
"""Wrist and gripper after a reset: the twin's stand within 0.0001 rad of where they were sent."""
OUTLIER_SHARE = 0.25
"""First pictures of one room differ by up to 19 % on the twin, whose light is drawn anew for each episode."""
OUTLIER_COLOUR = 0.05
"""By up to 0.028 there."""
OUTLIER_SPREADS = 4.0
"""In a set of varied light, so many times its own spread is an outlier."""
_ACCEPT = "--allow_task_difference="
FIELDS = {
    "calibration": (
        ("calibration_id",),
        "its joints mean other angles: record again, or bring that calibration back",
    ),
    "camera": (
        ("camera_ids", "camera_width", "camera_height"),
        "its pictures come from another camera: bring that one back, or record again",
    ),
    "crop": (
        ("crop_params_dict", "resize_size"),
        "the set holds whole pictures, which are cropped when they are read: nothing needs recording, accept "
        f"it with {_ACCEPT}",
    ),
    "reset_pose": (
        (
            *("reset_xyz", "reset_gripper", "wrist_roll"),
            *("random_ee_reset", "random_ee_range_xy", "random_ee_range_z"),
        ),
        "its episodes start elsewhere: set the present record to its values, or record again",
    ),
    "box": (
        ("workspace_min", "workspace_max"),
        "where its hand went may be out of bounds now: keep its box, or record again",
    ),
    "scale": (
        ("action_scale", "gripper_scale", "leash", "gripper_leash", "fps", "command_hz"),
        "its actions mean other motions: keep its values, or record again",
    ),
    "success": (
        ("success", "control_time_s"),
        f"another judge or time limit does not change what is seen: accept it with {_ACCEPT}",
    ),
    "scene": (
        ("scene", "name"),
        f"it is of another scene or task: keep its values, or accept the difference with {_ACCEPT}",
    ),
}
"""{what is compared: (fields of the task record, what to do where they differ)}."""
_WRIST, _GRIPPER = (STATE_NAMES.index(f"joint_pos.{name}_rad") for name in ("wrist_roll", "gripper"))


def fit_of_set(root: Path, task: TaskConfig, allow: Collection[str] = ()) -> list[Finding]:
    """Every check that needs no camera. allow: task fields that may differ, which then only WARN.

    Where the set is not whole only that and the task record are told.
    """
    found, whole = _integrity(root)
    try:
        found += fields_that_differ(task, root, allow)
    except DatasetError:
        return found
    if not whole:
        return found
    dataset, records = open_dataset(root), read_records(root)
    found += [starts(records, task), posture(dataset, records, task), duplicates(dataset)]
    for key in dataset.images:
        found += evenness(key, first_pictures(dataset, records, key))
    return found


def _integrity(root: Path) -> tuple[list[Finding], bool]:
    try:
        value, whole = check_whole(root).sentence(), True
    except (DatasetError, RecordingError, TaskMismatch) as fault:
        value, whole = str(fault), False
    advice = "drop what cannot be read (hilserl dataset drop), or record again"
    return [judged("integrity", whole, value, "whole", advice)], whole


def fields_that_differ(task: TaskConfig, root: Path, allow: Collection[str] = ()) -> list[Finding]:
    """The present task record against that of the set. Raises DatasetError where it has none."""
    differences = task_differences(task, stored_task(root))
    found, named = [], set()
    for what, (fields, advice) in FIELDS.items():
        here = [d for d in differences if is_allowed(d.field, fields)]
        named |= {d.field for d in here}
        found.append(_difference(what, here, advice, allow))
    left = [d for d in differences if d.field not in named]
    if left:
        advice = f"what {root / TASK_RECORD} says is not known here: accept it with {_ACCEPT}"
        found.append(_difference("other_fields", left, advice, allow))
    return found


def _difference(what: str, here: Sequence[Difference], advice: str, allow: Collection[str]) -> Finding:
    value = "; ".join(f"{d.field} is {d.ours}, was {d.theirs}" for d in here) or "the same"
    if advice.endswith(_ACCEPT):
        advice += ",".join(d.field for d in here)
    refused = [d for d in here if not is_allowed(d.field, allow)]
    status = Status.FAIL if refused else Status.WARN if here else Status.OK
    return Finding(what, status, value, "as it was recorded", advice if here else "")


def starts(records: Sequence[EpisodeRecord], task: TaskConfig) -> Finding:
    """Where each episode began, as measured, against where resets of this task lead."""
    reach = np.array([task.random_ee_range_xy, task.random_ee_range_xy, task.random_ee_range_z])
    reach = reach * task.random_ee_reset + RESET_TOLERANCE_M
    limit = f"{RESET_TOLERANCE_M * 1000:.0f} mm beyond the random range"
    begun = {index: start for index, one in enumerate(records) if (start := start_of(one)) is not None}
    if not begun:
        return Finding("starts", Status.SKIPPED, "no episode says where it began", limit)
    beyond = {
        index: float((np.abs(start - task.reset_xyz) - reach).max()) + RESET_TOLERANCE_M
        for index, start in begun.items()
    }
    wrong = sorted(index for index, off in beyond.items() if off > RESET_TOLERANCE_M)
    worst = max(beyond, key=lambda index: beyond[index])
    value = f"at most {max(0.0, beyond[worst]) * 1000:.1f} mm beyond it (episode {worst}"
    value += f", at {np.round(begun[worst], 3)} m; reset {task.reset_xyz} m)"
    advice = f"episodes {wrong} do not start where resets lead now: drop them, or set the reset pose back"
    return judged("starts", not wrong, value, limit, advice)


def start_of(record: EpisodeRecord) -> F64 | None:
    """The hand's measured position (3,) [m] after the reset, None where the record does not say."""
    told = [record.facts.get(f"start_{axis}_m") for axis in "xyz"]
    if not all(isinstance(one, float | int) for one in told):
        return None
    return np.array(told, np.float64)


def posture(dataset: RecordedDataset, records: Sequence[EpisodeRecord], task: TaskConfig) -> Finding:
    """Wrist roll and gripper in the first frame, against where resets put them."""
    limit = f"{POSTURE_RAD} rad"
    off = {
        index: max(abs(float(row[_WRIST]) - task.wrist_roll), abs(float(row[_GRIPPER]) - task.reset_gripper))
        for index in uncut(dataset, records)
        for row in (dataset.episodes[index].rows[STATE][0],)
    }
    if not off:
        return Finding("posture", Status.SKIPPED, "no episode holds the frame after its reset", limit)
    wrong = sorted(index for index, amount in off.items() if amount > POSTURE_RAD)
    value = f"wrist roll and gripper at most {max(off.values()):.3f} rad away from the reset's"
    advice = f"episodes {wrong} start with another wrist or gripper: drop them, or set the reset pose back"
    return judged("posture", not wrong, value, limit, advice)


def uncut(dataset: RecordedDataset, records: Sequence[EpisodeRecord]) -> list[int]:
    """Episodes whose first frame still shows the reset: no step with motion was cut off before it."""
    hand = [STATE_NAMES.index(f"ee_xyz.{axis}_m") for axis in "xyz"]
    found = []
    for index, (episode, record) in enumerate(zip(dataset.episodes, records, strict=True)):
        start = start_of(record)
        at = episode.rows[STATE][0][hand]
        if start is not None and float(np.linalg.norm(at - start)) <= RESET_TOLERANCE_M:
            found.append(index)
    return found


def duplicates(dataset: RecordedDataset) -> Finding:
    """Episodes that hold the same steps."""
    seen: dict[str, list[int]] = {}
    for episode in dataset.episodes:
        data = b"".join(np.ascontiguousarray(episode.rows[name]).tobytes() for name in (ACTION, STATE))
        seen.setdefault(hashlib.sha256(data).hexdigest(), []).append(episode.index)
    twice = [indices for indices in seen.values() if len(indices) > 1]
    value = "; ".join(f"episodes {indices} are the same" for indices in twice) or "every episode once"
    gone = " ".join(str(index) for indices in twice for index in indices[1:])
    return judged("duplicates", not twice, value, "none", f"hilserl dataset drop {dataset.root} {gone}")


def first_pictures(dataset: RecordedDataset, records: Sequence[EpisodeRecord], key: str) -> dict[int, U8]:
    """{episode: its native picture right after the reset} of the episodes that still hold it."""
    return {
        index: read_video(dataset.episodes[index].videos[key][0], 0, 1, dataset.fps)[0]
        for index in uncut(dataset, records)
    }


def evenness(key: str, pictures: dict[int, U8]) -> Iterator[Finding]:
    """Episodes whose first picture is lit or coloured unlike the others'."""
    name = key.rpartition(".")[2]
    if len(pictures) < 3:
        yield Finding(
            f"{name}_even", Status.SKIPPED, f"{len(pictures)} first pictures are too few to compare"
        )
        return
    light = np.log(brightness(list(pictures.values())))
    off = np.abs(light - np.median(light))
    limit = max(float(np.log1p(OUTLIER_SHARE)), OUTLIER_SPREADS * _spread(off))
    yield _outliers(
        f"{name}_brightness_even", np.expm1(off) * 100, np.expm1(limit) * 100, "%", list(pictures)
    )
    quantiles = np.array([colour_quantiles(picture) for picture in pictures.values()])
    middle = np.median(quantiles, axis=0)
    off = np.array([colour_distance(one, middle) for one in quantiles])
    yield _outliers(
        f"{name}_colour_even",
        off,
        max(OUTLIER_COLOUR, OUTLIER_SPREADS * float(np.median(off))),
        "",
        list(pictures),
    )


def _spread(off: F64) -> float:
    """Standard deviation from absolute differences to the median, whatever a few outliers are."""
    return 1.4826 * float(np.median(off))


def _outliers(what: str, off: F64, limit: float, unit: str, episodes: Sequence[int]) -> Finding:
    odd = [episode for episode, amount in zip(episodes, off, strict=True) if amount > limit]
    value = f"at most {off.max():.3g}{unit} from the middle one (episode {episodes[int(off.argmax())]})"
    advice = f"look at episodes {odd}: was the light or the camera another one? Drop what is wrong"
    return Finding(
        what, Status.WARN if odd else Status.OK, value, f"{limit:.3g}{unit}", advice if odd else ""
    )
