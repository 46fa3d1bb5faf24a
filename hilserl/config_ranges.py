"""The range of every number and the choices of every kind, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# Intervals in the usual notation: a square bracket includes its end.
INTERVALS = {
    "dataset.max_clipped": "[0, 1]",
    "dataset.max_turn_rad": "(0, 3.2]",
    "dataset.max_lag_s": "[0, inf)",
    "dataset.min_gripper_rad": "[0, inf)",
    "task.fps": "(0, 100]",
    "task.control_time_s": "(0, inf)",
    "task.command_hz": "(0, 1000]",
    "task.camera_width": "[1, inf)",
    "task.camera_height": "[1, inf)",
    "task.random_ee_range_xy": "[0, inf)",
    "task.random_ee_range_z": "[0, inf)",
    "task.reset_gripper": "[-0.17, 1.74]",
    "task.wrist_roll": "[-2.74, 2.84]",
    "task.leash": "(0, inf)",
    "task.gripper_leash": "(0, inf)",
    "task.success.hold_s": "[0, inf)",
    "task.success.reward": "(0, inf)",
    "task.success.step_cost": "[0, inf)",
    "task.scene.cube_range_xy": "[0, inf)",
    "task.scene.cube_yaw": "[0, 3.2]",
    "task.scene.cube_size_min": "(0, 0.06]",
    "task.scene.cube_size_max": "(0, 0.06]",
    "task.scene.looks": "[0, 1]",
    "task.scene.latency_s": "[0, inf)",
    "task.scene.lift_height": "(0, inf)",
    "task.scene.light": "(0, 10]",
    "task.scene.camera_turn": "[-4, 4]",
    "robot.max_joint_speed": "(0, inf)",
    "robot.watchdog_s": "(0, inf)",
    "robot.bus_retries": "[0, inf)",
    "robot.table_z": "[-1, 1]",
    "robot.object_time_s": "[0, inf)",
    "robot.park_after_s": "[30, inf)",
    "robot.health.warn_temperature_c": "(0, 70]",
    "robot.health.pause_temperature_c": "(0, 70]",
    "robot.health.warn_voltage_v": "[0, 14]",
    "robot.health.pause_voltage_v": "[0, 14]",
    "robot.health.warn_load": "(0, 1.1]",
    "robot.health.pause_load": "(0, 1.1]",
    "robot.health.warn_current_a": "(0, inf)",
    "robot.health.pause_current_a": "(0, inf)",
    "robot.health.lasting_s": "[0, inf)",
    "teleop.deadzone": "[0, 1)",
    "teleop.intervention_rate": "[0, 1]",
    "teleop.intervention_episodes": "[0, inf)",
    "classifier.folds": "[2, inf)",
    "classifier.holdout_share": "(0, 0.5]",
    "classifier.copies": "[1, inf)",
    "classifier.augmentation_pad": "[0, 16]",
    "classifier.brightness": "[0, 0.9]",
    "classifier.colour": "[0, 0.9]",
    "classifier.latent_dim": "[1, inf)",
    "classifier.num_spatial_embeddings": "[1, inf)",
    "classifier.dropout": "[0, 1)",
    "classifier.lr": "(0, 1)",
    "classifier.weight_decay": "[0, 1)",
    "classifier.batch_size": "[2, inf)",
    "classifier.max_epochs": "[1, inf)",
    "classifier.patience": "[1, inf)",
    "classifier.false_success_rate": "(0, 1)",
    "classifier.takeover_s": "[0, inf)",
    "classifier.overrule_s": "[0, 10]",
    "policy.n_obs_steps": "[1, inf)",
    "policy.batch_size": "[2, inf)",
    "policy.utd_ratio": "[1, inf)",
    "policy.policy_update_freq": "[1, inf)",
    "policy.discount": "(0, 1)",
    "policy.n_step": "[1, 20]",
    "policy.tau": "(0, 1]",
    "policy.lr": "(0, 1)",
    "policy.num_critics": "[1, inf)",
    "policy.temperature_init": "(0, inf)",
    "policy.latent_dim": "[1, inf)",
    "policy.num_spatial_embeddings": "[1, inf)",
    "policy.dropout": "[0, 1)",
    "policy.feature_channels": "[1, 512]",
    "policy.augmentation_pad": "[0, 16]",
    "policy.feature_copies": "[1, inf)",
    "policy.grad_clip_norm": "(0, inf)",
    "policy.online_step_before_learning": "[0, inf)",
    "policy.demo_fraction": "[0, 1]",
    "policy.bc_pretrain_steps": "[0, inf)",
    "policy.critic_pretrain_steps": "[0, inf)",
    "policy.bc_weight": "[0, inf)",
    "policy.offline_buffer_capacity": "[1, inf)",
    "service.learner_port": "[1, 65535]",
    "service.policy_push_every_updates": "[1, inf)",
    "run.max_transitions": "[1, inf)",
    "run.max_episodes": "[1, inf)",
    "run.demo_episodes": "[1, inf)",
    "run.eval_every_episodes": "[0, inf)",
    "run.eval_episodes": "[1, inf)",
    "run.checkpoint_every": "[1, inf)",
    "run.keep_checkpoints": "[1, inf)",
    "run.log_every_updates": "[1, inf)",
    "run.num_threads": "[0, inf)",
    "seed": "[0, inf)",
}
CHOICES = {
    "dataset.joint_unit": ("", "degrees", "normalized", "rad"),
    "dataset.success": ("", "last", "none"),
    "task.success.kind": ("oracle", "button", "classifier"),
    "policy.feature_projection": ("random", "pca"),
    "policy.precision": ("auto", "float32", "bfloat16"),
    "robot.type": ("twin", "so101"),
    "teleop.type": ("gamepad", "keyboard", "leader", "scripted", "none"),
    "teleop.buttons": ("gamepad", "keyboard", "none"),
}


def range_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """One sentence per value outside its interval or choices. values: {dotted name: value} of a Config."""
    for name, interval in INTERVALS.items():
        if not inside(values[name], interval):
            yield f"{name} is {values[name]}, it must lie in {interval}"
    for name, choices in CHOICES.items():
        if values[name] not in choices:
            yield f'{name} is "{values[name]}", it must be one of {", ".join(choices)}'


def inside(value: float, interval: str) -> bool:
    """Whether a value lies in an interval such as "(0, 1]"; a square bracket includes its end."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value > low or (interval[0] == "[" and value == low)
    return above and (value < high or (interval[-1] == "]" and value == high))
