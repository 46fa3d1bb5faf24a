"""Mistakes of the cameras of the lock-step twin: mounting, light, drivers, and what is made of a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np

from hilserl.benchmark.sabotage import Mistake
from hilserl.benchmark.sabotage_setup import Setup, edit_json
from hilserl.benchmark.sabotage_trials import doctor, judged_doctor, room
from hilserl.config import CropConfig
from hilserl.encoder import FeatureEncoder
from robot.twin.lift import LiftConfig
from robot.twin.lockstep import LockstepCamera, LockstepTwin
from robot.types import U8, Frame

CAMERA, TWIN = "robot.twin.lockstep.LockstepCamera", "robot.twin.lockstep.LockstepTwin"


class _Stuck(LockstepCamera):
    """A camera that shows its first picture for ever."""

    _first: Frame | None = None

    def latest(self) -> Frame:
        """The first picture, as if it were of now."""
        now = super().latest()
        self._first = self._first or now
        return Frame(self._first.rgb, now.stamp_s, now.index)


class _Black(LockstepCamera):
    """A camera with its cap on."""

    def latest(self) -> Frame:
        """Nothing but noise."""
        return _shown(super().latest(), lambda rgb: rgb // 128)


class _Half(LockstepCamera):
    """A camera that fell back to half its size."""

    def latest(self) -> Frame:
        """Every other pixel."""
        return _shown(super().latest(), lambda rgb: rgb[::2, ::2])


class _BlueRed(LockstepCamera):
    """A driver that gives blue first."""

    def latest(self) -> Frame:
        """BGR."""
        return _shown(super().latest(), lambda rgb: rgb[..., ::-1])


class _HeadDown(LockstepCamera):
    """A camera mounted the other way up."""

    def latest(self) -> Frame:
        """Half a turn."""
        return _shown(super().latest(), lambda rgb: rgb[::-1, ::-1])


class _Aside(LockstepCamera):
    """A new camera whose mount sits 4 % further to the side."""

    def latest(self) -> Frame:
        """Shifted."""
        return _shown(super().latest(), lambda rgb: np.roll(rgb, 25, axis=1))


def _shown(frame: Frame, change: Callable[[U8], U8]) -> Frame:
    return Frame(np.ascontiguousarray(change(frame.rgb)), frame.stamp_s, frame.index)


class _Dim(LockstepTwin):
    """The same table in the evening."""

    def __init__(self, config: LiftConfig, width: int = 640, height: int = 480) -> None:
        super().__init__(replace(config, light=0.6), width, height)


class _CameraTurned(LockstepTwin):
    """The camera was turned by six degrees when somebody cleaned it."""

    def __init__(self, config: LiftConfig, width: int = 640, height: int = 480) -> None:
        super().__init__(replace(config, camera_turn=0.1), width, height)


def _squashed(frame: U8, crop: CropConfig, resize_size: tuple[int, int]) -> U8:
    """The whole picture, squeezed."""
    return np.asarray(cv2.resize(frame, resize_size[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def _nearest(frame: U8, crop: CropConfig, resize_size: tuple[int, int]) -> U8:
    """Another way to shrink."""
    part = frame[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    return np.asarray(cv2.resize(part, resize_size[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)


def _twice_divided(self: FeatureEncoder, images: U8, *rest: object) -> object:
    """Pictures that are 0 to 1 already are divided by 255 once more."""
    return _ENCODE(self, images // 255, *rest)


_ENCODE = FeatureEncoder.encode


def _seen(name: str, row: str, plant: Callable[[Setup], None], check: str, ending: str, word: str) -> Mistake:
    catcher = f"gripper_cam_{ending}" if ending else check
    return Mistake(name, row, plant, doctor(check), catcher, word, quick=False)


def _low_start(setup: Setup) -> None:
    """The hand starts so low that its camera looks past the object."""
    edit_json(setup.twin_file, {"task": {"reset_xyz": [0.31, 0.0, 0.03], "random_ee_range_z": 0.0}})


def _squashing_crop(setup: Setup) -> None:
    whole = {"top": 0, "left": 0, "height": 480, "width": 640}
    edit_json(setup.twin_file, {"task": {"crop_params_dict": {"gripper_cam": whole}}})


def _low_threshold(setup: Setup) -> None:
    edit_json(setup.model / "config.json", {"decision": {"threshold": 1e-9}})


MISTAKES = (
    Mistake(
        "camera_stuck_before_the_policy", "H 93, N 124", room(CAMERA, _Stuck),
        doctor("policy_inputs"), "picture_matters", "swapping it changes the action by", quick=False,
    ),
    _seen("camera_hangs", "C 48", room(CAMERA, _Stuck), "camera_stream", "stuck", "identical in a row"),
    _seen("camera_stands_in_motion", "C 48", room(CAMERA, _Stuck), "camera_follows", "follows", "repeat"),
    _seen("camera_cap_on", "C 48", room(CAMERA, _Black), "camera_stream", "flat", "grey levels"),
    _seen("camera_at_half_its_size", "C 39", room(CAMERA, _Half), "camera_stream", "", "(240, 320, 3)"),
    _seen("evening_light", "C 50", room(TWIN, _Dim), "camera_reference", "brightness", "darker"),
    _seen("camera_turned", "C 38, C 49", room(TWIN, _CameraTurned), "camera_reference", "place", "turned"),
    _seen("camera_upside_down", "C 38", room(CAMERA, _HeadDown), "camera_reference", "place", ""),
    _seen("camera_moved_aside", "C 49, L 114", room(CAMERA, _Aside), "camera_reference", "place", "shifted"),
    _seen("blue_for_red", "C 41", room(CAMERA, _BlueRed), "camera_reference", "colour", "colour histograms"),
    _seen("reset_hides_the_object", "C 51", _low_start, "camera_footprint", "footprint", "at the reset pose"),
    _seen(
        "squashed_pictures_live", "C 44", room("hilserl.env.policy_image", _squashed), "golden_frame", "",
        "differs",
    ),
    _seen(
        "squashed_pictures_in_training", "C 44", room("hilserl.dataset_video.policy_image", _squashed),
        "golden_stored", "", "differs",
    ),
    Mistake(
        "another_way_to_shrink", "C 46, P H14", room("hilserl.pages.preview_live.policy_image", _nearest),
        judged_doctor("golden_frame"), "golden_frame", "differs", quick=False,
    ),
    _seen(
        "pictures_divided_twice", "C 43", room("hilserl.encoder.FeatureEncoder.encode", _twice_divided),
        "golden_frame", "", "differs",
    ),
    Mistake(
        "crop_squashes", "C 44", _squashing_crop, doctor("camera_crop"), "gripper_cam_crop", "squashed"
    ),
    Mistake(
        "classifier_in_another_light", "C 50, F 72", room(TWIN, _Dim), judged_doctor("reward_classifier"),
        "classifier_light", "brightness", quick=False,
    ),
    Mistake(
        "classifier_calls_success_at_once", "F 73, C 41", _low_threshold, judged_doctor("reward_classifier"),
        "classifier_scene", "probability of success", quick=False,
    ),
)  # fmt: skip
"""Of the camera, and of what is made of its pictures."""
