"""Mistakes in demonstrations: archives of episodes rewritten as another program might have written them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hilserl.benchmark.sabotage import Mistake
from hilserl.benchmark.sabotage_setup import Setup, edit_json
from hilserl.benchmark.sabotage_trials import LEARNER, doctor
from hilserl.env import STATE_NAMES

Arrays = dict[str, NDArray[Any]]
Change = Callable[[Arrays], None]

XYZ = slice(STATE_NAMES.index("ee_xyz.x_m"), STATE_NAMES.index("ee_xyz.z_m") + 1)
EULER = slice(STATE_NAMES.index("ee_euler.x_rad"), STATE_NAMES.index("ee_euler.z_rad") + 1)
JOINTS = slice(0, 6)
DEMOS = doctor(
    "demo_task",
    "demo_actions",
    "demo_places",
    "demo_state",
    "demo_rewards",
    "demo_pictures",
    "normalised_inputs",
)


def in_demos(change: Change) -> Callable[[Setup], None]:
    """Rewrite the arrays of every archive, past every check a program of ours would make."""

    def plant(setup: Setup) -> None:
        for path in sorted(setup.demos.glob("*.npz")):
            rewrite(path, change)

    return plant


def rewrite(path: Path, change: Change) -> None:
    """Change the arrays of one archive."""
    with np.load(path) as data:
        arrays = {name: data[name] for name in data.files}
    change(arrays)
    np.savez(path, allow_pickle=False, **arrays)


def actions(change: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[Setup], None]:
    """Other actions (T, 4) are stored."""
    return in_demos(lambda arrays: arrays.update(action=change(arrays["action"]).astype(np.float32)))


def states(change: Callable[[NDArray[Any]], None]) -> Callable[[Setup], None]:
    """Other states (T + 1, 18) are stored; change works in place."""

    def one(arrays: Arrays) -> None:
        state = arrays["state"].copy()
        change(state)
        arrays["state"] = state

    return in_demos(one)


def pictures(change: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[Setup], None]:
    """Other pictures (H, W, 3) are stored."""

    def one(arrays: Arrays) -> None:
        cuts = np.cumsum(arrays["png_bytes_0"])[:-1]
        stored = [cv2.imdecode(png, cv2.IMREAD_COLOR) for png in np.split(arrays["png_0"], cuts)]
        pngs = [cv2.imencode(".png", change(np.asarray(picture)))[1].ravel() for picture in stored]
        arrays["png_0"] = np.concatenate(pngs)
        arrays["png_bytes_0"] = np.array([len(png) for png in pngs], np.int64)

    return in_demos(one)


def facts(**changes: object) -> Callable[[Setup], None]:
    """What the archives say of themselves is another thing."""

    def one(arrays: Arrays) -> None:
        arrays["meta"] = np.array(json.dumps(json.loads(str(arrays["meta"])) | changes))

    return in_demos(one)


def _thumb(one: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[Setup], None]:
    def change(action: NDArray[Any]) -> NDArray[Any]:
        other = action.copy()
        other[:, 3] = one(action[:, 3])
        return other

    return actions(change)


def _hand(one: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[Setup], None]:
    def change(action: NDArray[Any]) -> NDArray[Any]:
        other = action.copy()
        other[:, :3] = one(action[:, :3])
        return other

    return actions(change)


def _degrees(state: NDArray[Any]) -> None:
    state[:, JOINTS] = np.degrees(state[:, JOINTS])


def _typed_by_hand(setup: Setup) -> None:
    """A component that is always zero, but for one frame."""

    def zero(arrays: Arrays) -> None:
        arrays["state"][:, EULER.start] = 0

    def one(arrays: Arrays) -> None:
        arrays["state"][0, EULER.start] = 1.5

    in_demos(zero)(setup)
    rewrite(sorted(setup.demos.glob("*.npz"))[0], one)


def _gimbal(state: NDArray[Any]) -> None:
    state[::2, EULER.start] += np.pi


def _elsewhere(state: NDArray[Any]) -> None:
    state[:, XYZ.start + 2] -= 0.03


def _far(state: NDArray[Any]) -> None:
    state[:, XYZ.start] += 0.2


def _lagging(state: NDArray[Any]) -> None:
    """The hand's pose is that of the command before."""
    state[1:, XYZ] = state[:-1, XYZ].copy()


def _paid_often(arrays: Arrays) -> None:
    reward = arrays["reward"].copy()
    reward[-6:] = 1.0
    arrays["reward"] = reward


def _torn(setup: Setup) -> None:
    path = sorted(setup.demos.glob("*.npz"))[0]
    path.write_bytes(path.read_bytes()[:-3000])


def _renamed(setup: Setup) -> None:
    path = sorted(setup.demos.glob("*.npz"))[0]
    path.rename(path.with_name(path.name.replace("_00000001_", "_00000077_")))


def _unsaid(setup: Setup) -> None:
    (setup.demos / "task.json").unlink()


def record(**changes: object) -> Callable[[Setup], None]:
    """The demonstrations were made under another task record."""
    return lambda setup: edit_json(setup.demos / "task.json", changes)


def _demo(name: str, row: str, plant: Callable[[Setup], None], catcher: str, word: str) -> Mistake:
    return Mistake(name, row, plant, DEMOS, catcher, word)


def _load(name: str, row: str, plant: Callable[[Setup], None], catcher: str, word: str) -> Mistake:
    return Mistake(name, row, plant, LEARNER, catcher, word)


MISTAKES = (
    _load(
        "gripper_actions_0_to_2", "A 3, A 5", _thumb(lambda thumb: thumb + 1), "EpisodeFileError", "[-1, 1]"
    ),
    _demo(
        "gripper_actions_0_to_1", "A 5", _thumb(lambda thumb: (thumb + 1) / 2), "demo_gripper", "asked for"
    ),
    _demo("gripper_actions_turned_about", "A 3", _thumb(np.negative), "demo_gripper", "asked for"),
    _demo(
        "gripper_still_means_close", "P H5", _thumb(lambda t: np.where(t == 0, -1, t)), "demo_gripper",
        "asked for",
    ),
    _demo("demos_of_zero_actions", "A 13, A 14", _hand(np.zeros_like), "demo_actions", "constant in"),
    _demo(
        "demos_of_a_tenth_of_the_scale", "A 7, A 8", _hand(lambda hand: hand / 10), "demo_scale", "times"
    ),
    _demo("forward_is_backward", "B 28", _hand(np.negative), "demo_motion", "correlate x -"),
    _demo(
        "axes_of_the_simulator", "N 122", _hand(lambda hand: hand[:, [1, 0, 2]]), "demo_motion", "correlate"
    ),
    _demo(
        "actions_three_steps_late", "A 15, F 75", actions(lambda a: np.roll(a, 3, axis=0)), "demo_motion",
        "correlate",
    ),
    _demo("state_in_degrees", "A 11", states(_degrees), "demo_state", "rad, the arm reaches"),
    _demo("pose_of_the_last_command", "B 35", states(_lagging), "demo_state", "ee_xyz"),
    _demo("euler_angles_that_jump", "P H2, B 30", states(_gimbal), "demo_state", "ee_euler"),
    _demo("degenerate_statistics", "P H1", _typed_by_hand, "normalised_inputs", "ee_euler.x_rad"),
    _demo("demos_begin_3_cm_low", "B 21", states(_elsewhere), "demo_start", "mm from where resets end"),
    _demo(
        "demos_outside_the_box", "B 24", states(_far),
        "demo_box", "outside",
    ),
    _demo(
        "pictures_0_to_1_kept_as_bytes", "C 41, C 43", pictures(lambda p: p // 255), "demo_pictures", "flat"
    ),
    _demo(
        "pictures_clamped_to_white", "C 41", pictures(lambda p: np.full_like(p, 255)), "demo_pictures", "flat"
    ),
    _demo("rewards_for_every_good_frame", "P H6", in_demos(_paid_often), "demo_rewards", "more than once"),
    _load("demos_at_another_scale", "A 8", record(action_scale=0.1), "TaskMismatch", "action_scale"),
    _load(
        "demos_with_another_reset", "B 20, B 21", record(reset_xyz=[0.25, 0.0, 0.04]), "TaskMismatch",
        "reset_xyz",
    ),
    _load(
        "demos_of_squashed_pictures", "C 44",
        record(crop_params_dict={"gripper_cam": {"top": 0, "left": 0, "height": 480, "width": 640}}),
        "TaskMismatch", "crop_params_dict.gripper_cam",
    ),
    _load("demos_at_another_rate", "M 116", record(fps=30.0), "TaskMismatch", "fps"),
    _load(
        "demos_of_another_camera", "C 49, P H16", record(camera_ids={"gripper_cam": "old"}), "TaskMismatch",
        "camera_ids",
    ),
    _load(
        "wrong_task_hash", "M 116", facts(task_hash="0123456789abcdef"), "TaskMismatch", "0123456789abcdef"
    ),
    _load("demos_without_a_task_record", "M 116", _unsaid, "ConfigError", "task.json"),
    _load("demo_file_torn", "D 134", _torn, "EpisodeFileError", "cannot be read"),
    _load("demo_file_renamed", "L 112", _renamed, "EpisodeFileError", "not what its name says"),
    _load("demos_that_are_no_demos", "H 92", facts(role="train"), "ConfigError", "train"),
)  # fmt: skip
"""In the demonstrations of the lock-step twin."""
