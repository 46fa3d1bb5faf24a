"""Does what the camera sees after a reset now look like what a dataset's episodes begin with?

Limits grow with the spread of the set's own first pictures, so that a set recorded in varied light is not
refused for one more light of that kind, and shrink with the number of pictures. What they rest on was
measured on the twin, whose light and colours are drawn anew at each reset: see the constants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hilserl.body import build_body
from hilserl.classifier.sources import IMPORTED
from hilserl.config import Config, TaskConfig
from hilserl.dataset_actions import HAND
from hilserl.dataset_fit import first_pictures, start_of
from hilserl.dataset_fit_pictures import (
    LIKENESS,
    brightness,
    camera_moved,
    colour_distance,
    colour_quantiles,
    fixed_edges,
)
from hilserl.dataset_schema import IMAGES, TASK_RECORD, DatasetError, open_dataset
from hilserl.doctor.findings import Finding, Picture, Status, judged
from hilserl.env import Env, policy_image, reset_target
from hilserl.episode import TASK_FILE, load_episode, scan_episodes
from hilserl.pages.preview_shown import png
from hilserl.recording_check import stored_task
from hilserl.recording_record import read_records
from hilserl.reward import ButtonReward
from hilserl.task_record import task_from_json
from robot.kinematics import F64
from robot.types import U8

Say = Callable[[str], None]

SPREADS = 4.0
"""Limits in standard errors of what is compared."""
BRIGHTNESS_SHARE = 0.10
"""Least limit of the brightness: 8 resets of the twin differ from 8 episodes by up to 7 %."""
COLOUR = 0.02
"""Least limit of the colour histograms' distance; up to 0.017 there."""
TURN_DEG = 1.0
"""A single reset of the unmoved camera reads at most 0.16 degrees, eight together 0.01."""
SHIFT_SHARE = 0.01
"""Of the picture's height: 4.8 of 480 pixels. A single reset reads at most 0.8 pixels, eight together 0.1."""
START_M = 0.005
"""Field report, row 21. Resets of the twin differ by less than 1 mm."""
RESETS = 12
"""Of the twin; a real arm makes one."""
SHOWN_PX = 256
"""Height to which small pictures are enlarged for people."""
SEED = 70_000_000
EPISODES = 24
"""Archived episodes that are looked at: more tell hardly more."""


@dataclass(frozen=True, slots=True)
class Starts:
    """What was seen after resets.

    pictures: {camera: native pictures, uint8 RGB (H, W, 3)}. hand_m: (N, 3), where the hand was measured.
    target_m: (N, 3), where each reset should have led.
    """

    pictures: dict[str, list[U8]]
    hand_m: F64
    target_m: F64

    def off_m(self) -> F64:
        """(3,) how far from its target a reset ends, usually."""
        return np.asarray(np.median(self.hand_m - self.target_m, axis=0), np.float64)


def starts_of_set(root: Path) -> Starts:
    """What the episodes of a recorded dataset begin with, where they still hold it. Raises DatasetError."""
    dataset, records = open_dataset(root), read_records(root)
    task = task_from_json(stored_task(root), str(root / TASK_RECORD))
    pictures = {key.removeprefix(IMAGES): first_pictures(dataset, records, key) for key in dataset.images}
    begun = [(start, reset_target(task, one.seed)) for one in records if (start := start_of(one)) is not None]
    hand, target = (np.array([pair[side] for pair in begun]).reshape(-1, 3) for side in (0, 1))
    return Starts({name: list(found.values()) for name, found in pictures.items()}, hand, target)


def starts_of_episodes(folder: Path) -> Starts:
    """What at most EPISODES archived episodes begin with. Their pictures are policy images.

    Raises EpisodeFileError, TaskRecordError for a damaged folder; DatasetError where it holds no episode.
    """
    infos = scan_episodes(folder)
    if not infos:
        raise DatasetError(f"{folder} holds no episode")
    task = recorded_task(folder)
    chosen = np.unique(np.linspace(0, len(infos) - 1, min(EPISODES, len(infos))).round().astype(int))
    episodes = [load_episode(infos[index].path) for index in chosen]
    pictures = {name: [one.images[name][0] for one in episodes] for name in episodes[0].images}
    played = [one for one in episodes if IMPORTED not in one.info]  # an import knows of no seed
    hand = np.array([one.state[0, HAND] for one in played], np.float64).reshape(-1, 3)
    return Starts(pictures, hand, np.array([reset_target(task, one.seed) for one in played]).reshape(-1, 3))


def recorded_task(folder: Path) -> TaskConfig:
    """The task record that archived episodes were played under. Raises DatasetError where it is missing."""
    file = folder / TASK_FILE
    if not file.is_file():
        raise DatasetError(f"{folder} has no {TASK_FILE}, which says under which task it was played")
    return task_from_json(file.read_text(), str(file))


def as_policy_images(starts: Starts, task: TaskConfig) -> Starts:
    """The same, as a policy of this task sees it. Raises CameraError where a crop does not fit."""
    pictures = {
        name: [policy_image(one, task.crop_params_dict[name], task.resize_size) for one in natives]
        for name, natives in starts.pictures.items()
        if name in task.crop_params_dict
    }
    return replace(starts, pictures=pictures)


def starts_now(env: Env, task: TaskConfig, count: int, first_seed: int = SEED) -> Starts:
    """Reset the body so often and look. Raises what the body raises."""
    pictures: dict[str, list[U8]] = {camera: [] for camera in task.camera_ids}
    hand, target = [], []
    for seed in range(first_seed, first_seed + count):
        _, facts = env.reset(seed)
        hand.append([float(facts[f"start_{axis}_m"]) for axis in "xyz"])
        target.append(env.reset_target(seed))
        for camera, frame in env.frames.items():
            pictures[camera].append(frame.rgb.copy())
    return Starts(pictures, np.array(hand), np.array(target))


def fit_live(config: Config, root: Path, say: Say, allow_motion: Callable[[], None]) -> list[Finding]:
    """Reset the configured body and compare. allow_motion: asks the person; raises where the arm must not."""
    then = starts_of_set(root)
    twin = config.robot.type == "twin"
    if not twin:
        allow_motion()
    quiet = replace(config, teleop=replace(config.teleop, type="none"))
    # nobody plays and nothing is judged: the reward configured need not even exist yet
    with build_body(quiet, say, judge=ButtonReward(config.task.success)) as body:
        now = starts_now(body.env, config.task, RESETS if twin else 1)
    return compare(then, now, config.task)


def compare(then: Starts, now: Starts, task: TaskConfig) -> list[Finding]:
    """Findings on everything seen after resets, then and now."""
    found = [_reset_pose(then, now)]
    for camera in task.camera_ids:
        old, new = then.pictures.get(camera, []), now.pictures[camera]
        if not old:
            value = "the set holds no picture of it right after a reset"
            found.append(Finding(f"{camera}_live", Status.SKIPPED, value))
        elif old[0].shape != new[0].shape:
            sizes = (f"{shape[1]}x{shape[0]}" for shape in (new[0].shape, old[0].shape))
            value = "pictures are {}, they were {}".format(*sizes)
            found.append(judged(f"{camera}_size", False, value, "the same", "set the camera's size back"))
        else:
            found += [_light(camera, old, new), _colour(camera, old, new), _camera(camera, old, new)]
    return found


def _reset_pose(then: Starts, now: Starts) -> Finding:
    """Achieved reset pose now and then, both without what was drawn at random."""
    limit = f"{START_M * 1000:.0f} mm"
    if not len(then.hand_m):
        return Finding("reset_pose_live", Status.SKIPPED, "no episode says where it began", limit)
    off = now.off_m() - then.off_m()
    return judged(
        "reset_pose_live",
        float(np.linalg.norm(off)) <= START_M,
        f"resets end {np.linalg.norm(off) * 1000:.1f} mm from where they did ({_axes(off)})",
        limit,
        "check the calibration and what hinders the arm, or record again",
    )


def _axes(off_m: F64) -> str:
    return ", ".join(f"{axis} {value * 1000:+.1f} mm" for axis, value in zip("xyz", off_m, strict=True))


def _share(old: Sequence[object], new: Sequence[object]) -> float:
    """Standard error of the difference of two means, in spreads of one picture."""
    return float(np.sqrt(1 / len(old) + 1 / len(new)))


def _light(camera: str, old: Sequence[U8], new: Sequence[U8]) -> Finding:
    before, after = np.log(brightness(old)), np.log(brightness(new))
    spread = float(before.std(ddof=1)) if len(before) > 1 else 0.0
    limit = max(float(np.log1p(BRIGHTNESS_SHARE)), SPREADS * spread * _share(old, new))
    change = float(after.mean() - before.mean())
    way = "darker" if change < 0 else "brighter"
    return judged(
        f"{camera}_brightness",
        abs(change) <= limit,
        f"{np.exp(change):.2f} times as bright as the set ({abs(np.expm1(change)):.0%} {way})",
        f"{np.exp(-limit):.2f} .. {np.exp(limit):.2f} times",
        f"it is {way} now: set lamp, blinds and the camera's exposure back, or record in this light too",
    )


def _colour(camera: str, old: Sequence[U8], new: Sequence[U8]) -> Finding:
    before, after = (np.array([colour_quantiles(one) for one in pictures]) for pictures in (old, new))
    middle = before.mean(axis=0)
    spread = float(np.mean([colour_distance(one, middle) for one in before]))
    limit = max(COLOUR, SPREADS * spread * _share(old, new))
    distance = colour_distance(after.mean(axis=0), middle)
    return judged(
        f"{camera}_colour",
        distance <= limit,
        f"colour histograms are {distance:.3f} apart",
        f"{limit:.3f}",
        "colours are others: check the lamp's colour, the camera's white balance and what lies on the table",
    )


def _camera(camera: str, old: Sequence[U8], new: Sequence[U8]) -> Finding:
    height = old[0].shape[0]
    moved = camera_moved(fixed_edges(old), fixed_edges(new), height)
    shift, limit = float(np.hypot(*moved.shift_px)), SHIFT_SHARE * height
    name, bounds = f"{camera}_place", f"{TURN_DEG:g} degrees, {limit:.1f} pixels"
    pictures = (_side_by_side(old, new),)
    if moved.likeness < LIKENESS:
        value = f"the gripper is not where it was in the picture (likeness {moved.likeness:.2f})"
        advice = (
            "is it the same camera, the same way up, and is the gripper in view? Put it back, or record again"
        )
        return judged(name, False, value, f"likeness {LIKENESS}", advice, pictures=pictures)
    right, down = moved.shift_px
    value = f"turned {moved.turn_deg:+.2f} degrees (clockwise in the picture), shifted {shift:.1f} pixels"
    value += f" ({right:+.1f} right, {down:+.1f} down), likeness {moved.likeness:.2f}"
    back = "clockwise" if moved.turn_deg < 0 else "counter-clockwise"
    return judged(
        name,
        abs(moved.turn_deg) <= TURN_DEG and shift <= limit,
        value,
        bounds,
        "put the camera back until the gripper is where it was: its picture must turn by "
        f"{abs(moved.turn_deg):.1f} degrees {back} and move by {-right:+.0f} pixels to the right and "
        f"{-down:+.0f} down; or record again",
        pictures=pictures,
    )


def _side_by_side(old: Sequence[U8], new: Sequence[U8]) -> Picture:
    usual = [np.median(pictures, axis=0).astype(np.uint8) for pictures in (old, new)]
    times = max(1, SHOWN_PX // len(usual[0]))
    both = np.concatenate([one.repeat(times, axis=0).repeat(times, axis=1) for one in usual], axis=1)
    return Picture("left: the set's usual first picture; right: that of now", png(both))
