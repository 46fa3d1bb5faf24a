"""Mistakes in configuration and task record: refused when it is loaded, or red before anything moves."""

from __future__ import annotations

from collections.abc import Callable

from hilserl.benchmark.sabotage import Mistake
from hilserl.benchmark.sabotage_setup import Setup, Tree, edit_json
from hilserl.benchmark.sabotage_trials import CONFIG, START, doctor
from hilserl.doctor.findings import Finding, Status
from hilserl.doctor.result import Result, result_file, save_result
from hilserl.task_record import task_hash

TASK = "task"


def in_config(changes: Tree) -> Callable[[Setup], None]:
    """The configuration says otherwise."""
    return lambda setup: edit_json(setup.twin_file, changes)


def in_task(**changes: object) -> Callable[[Setup], None]:
    """The task record says otherwise."""
    return in_config({TASK: changes})


def _twice(setup: Setup) -> None:
    """A key written twice, of which most readers take the last."""
    text = setup.twin_file.read_text()
    setup.twin_file.write_text(text.replace("{", '{"seed": 1, "seed": 2,', 1))


def _red(setup: Setup) -> None:
    """The last pre-flight was red, and nobody looked."""
    config = setup.config()
    found = Finding("gripper_round_trip", Status.FAIL, "+1: -2 degrees", "+1 opens", group="motion")
    result = Result(task_hash(config.task), "2026-01-31T10:00:00+00:00", 60.0, ("motion",), (found,))
    save_result(result, result_file(config))


def _refused(name: str, row: str, changes: Tree, word: str) -> Mistake:
    return Mistake(name, row, in_config(changes), CONFIG, "ConfigError", word)


MISTAKES = (
    _refused("second_scale", "A 7", {"robot": {"action_scale": 0.05}}, "robot.action_scale"),
    _refused("scale_below_the_dead_band", "A 8", {TASK: {"action_scale": 0.002}}, "dead band"),
    _refused("scale_beyond_the_leash", "A 8", {TASK: {"action_scale": 0.1}}, "task.leash"),
    _refused("gripper_scale_in_percent", "A 3, A 9", {TASK: {"gripper_scale": 50.0}}, "gripper_scale"),
    _refused("wrist_roll_in_degrees", "A 9, H17", {TASK: {"wrist_roll": 90.0}}, "wrist_roll"),
    _refused("reset_gripper_in_percent", "A 9", {TASK: {"reset_gripper": 50.0}}, "reset_gripper"),
    _refused(
        "reset_outside_the_box", "B 24", {TASK: {"reset_xyz": [0.12, 0.0, 0.07]}}, "outside the workspace box"
    ),
    _refused(
        "randomisation_leaves_the_box", "B 24", {TASK: {"random_ee_range_xy": 0.12}}, "the random range"
    ),
    _refused(
        "workspace_is_a_sliver", "B 25",
        {TASK: {"workspace_min": [0.166, -0.035, 0.0], "workspace_max": [0.185, 0.005, 0.01]}},
        "each side must be at least",
    ),
    _refused(
        "workspace_in_centimetres", "A 9",
        {TASK: {"workspace_min": [16, -11, 0.6], "workspace_max": [34, 9, 15]}}, "outside the workspace box",
    ),
    Mistake(
        "workspace_below_the_table", "B 32", in_task(workspace_min=[0.16, -0.11, -0.05]),
        doctor("box_floor"), "box_floor", "-50 mm",
    ),
    Mistake(
        "reset_pose_at_the_joint_limits", "B 23",
        in_task(reset_xyz=[0.48, 0.0, 0.20], workspace_max=[0.52, 0.09, 0.25]),
        doctor("reset_reach"), "reset_reach", "misses a start",
    ),
    _refused(
        "crop_read_as_x_y_w_h", "P H13",
        {TASK: {"crop_params_dict": {"gripper_cam": {"top": 80, "left": 0, "height": 480, "width": 480}}}},
        "crop_params_dict.gripper_cam covers rows 80 to 560",
    ),
    _refused("pictures_of_84_pixels", "C 39, C 40", {TASK: {"resize_size": [84, 84]}}, "multiple of 32"),
    _refused(
        "camera_named_otherwise", "G 80", {"cameras": {"gripper_cam": None, "wrist": {"type": "twin"}}},
        "same cameras must be named",
    ),
    _refused("key_misspelt", "L 115", {"policy": {"temperature_intial": 0.01}}, "temperature_init"),
    Mistake("key_given_twice", "M 117", _twice, CONFIG, "ConfigError", "key given twice: seed"),
    _refused("number_as_text", "M 117", {"policy": {"discount": "0.97"}}, "discount"),
    _refused(
        "path_of_one_computer", "M 118",
        {"policy": {"vision_encoder_name": "/home/me/models/resnet10"}}, "a path of one machine",
    ),
    _refused(
        "demonstrations_of_one_computer", "M 118", {"demos": ["/home/me/demos"]}, "a path of one machine"
    ),
    _refused("augmentation_that_shifts_nothing", "P H7", {"policy": {"augmentation_pad": 0}}, "pad of 0"),
    _refused(
        "cached_features_of_a_learning_encoder", "P H7", {"policy": {"freeze_vision_encoder": False}},
        "cache_features",
    ),
    _refused(
        "replay_smaller_than_a_batch", "G 84", {"policy": {"online_buffer_capacity": 64}},
        "at least one batch",
    ),
    Mistake(
        "replay_larger_than_the_memory", "G 84", in_config({"policy": {"online_buffer_capacity": 10**9}}),
        doctor("memory"), "memory", "the full replay takes",
    ),
    _refused(
        "learner_open_to_everybody", "I", {"service": {"learner_host": "0.0.0.0"}}, "TLS and a token"  # noqa: S104
    ),
    _refused("success_never_held_long_enough", "F 73", {TASK: {"success": {"hold_s": 60}}}, "hold_s"),
    Mistake(
        "training_on_a_red_pre_flight", "H 93", _red, START, "PreflightError", "motion/gripper_round_trip"
    ),
)  # fmt: skip
"""In the configuration of the lock-step twin."""
