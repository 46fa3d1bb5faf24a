"""What a configuration must satisfy beyond keys and types, found before anything moves."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterator

from hilserl.config import Config, RobotConfig, TaskConfig
from hilserl.config_ranges import inside, range_problems
from hilserl.config_tree import Tree, encode, flatten, leaf_names

SERVO_DEAD_BAND_RAD = 0.0052
"""About 0.3 degrees, at which an STS3215 stops answering to its goal."""
REACH_M = 0.3
"""Distance from the base to the hand about which the dead band turns it."""
MIN_ACTION_SCALE_M = 3 * SERVO_DEAD_BAND_RAD * REACH_M
MIN_GRIPPER_SCALE_RAD = 3 * SERVO_DEAD_BAND_RAD
MIN_BOX_SIDE_M = 0.05
TRUNK_STRIDE = 32
"""The encoder halves a picture five times."""

_CAMERA_TYPES = ("twin", "opencv", "zmq")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_DEVICE = re.compile(r"cpu|mps|cuda(:\d+)?")
_PERSONAL = re.compile(r"(/(?:home|Users|root)/|~|[A-Za-z]:\\Users\\)")


def find_problems(config: Config) -> list[str]:
    """Everything that cannot work, one sentence each; empty when the configuration is sound."""
    values = flatten(encode(config, Config))
    return [
        *range_problems(values),
        *_name_problems(config),
        *_timing_problems(config.task),
        *_health_problems(config.robot),
        *_speed_problems(config.task, config.robot),
        *_leader_problems(config),
        *_workspace_problems(config.task),
        *_action_problems(config.task),
        *_picture_problems(config),
        *_scene_problems(config),
        *_twin_problems(config),
        *_policy_problems(config),
        *_service_problems(config),
        *_allowed_problems(config),
    ]


def personal_paths(files: Tree, overridden: Collection[str]) -> list[str]:
    """Paths of one person's machine in configuration files; what the command line overrides is forgiven."""
    return [
        f'{name} is "{text}": a path of one machine breaks the file on all others; write it relative '
        "to the project folder, or give it on the command line"
        for name, value in flatten(files).items()
        for text in (value if isinstance(value, list) else [value])
        if name not in overridden and isinstance(text, str) and _PERSONAL.match(text)
    ]


def _name_problems(config: Config) -> Iterator[str]:
    names = {
        "job_name": config.job_name,
        "task.name": config.task.name,
        "service.actor_name": config.service.actor_name,
    }
    for name, value in names.items():
        if not _NAME.fullmatch(value):
            yield f'{name} is "{value}", it must be a name of letters, digits, _ and -'
    if not config.output_dir:
        yield 'output_dir is "", give the folder runs are written to, such as "outputs"'
    if not _DEVICE.fullmatch(config.policy.device):
        yield f'policy.device is "{config.policy.device}", it must be cpu, mps, cuda or cuda:NUMBER'


def _health_problems(robot: RobotConfig) -> Iterator[str]:
    """A warning that comes after the pause warns of nothing. Voltage is bad when it is low."""
    health = robot.health
    for name, warn, pause, low_is_bad in (
        ("temperature_c", health.warn_temperature_c, health.pause_temperature_c, False),
        ("voltage_v", health.warn_voltage_v, health.pause_voltage_v, True),
        ("load", health.warn_load, health.pause_load, False),
        ("current_a", health.warn_current_a, health.pause_current_a, False),
    ):
        if (pause > warn) if low_is_bad else (pause < warn):
            side = "above" if low_is_bad else "below"
            yield f"robot.health.pause_{name} is {pause}, it must not be {side} warn_{name} = {warn}"
    if robot.park_after_s <= robot.object_time_s:
        yield f"robot.park_after_s is {robot.park_after_s}, it must exceed robot.object_time_s"


def _speed_problems(task: TaskConfig, robot: RobotConfig) -> Iterator[str]:
    """The guard refuses what is too fast; the gripper's way in a step is fixed, so it must not be."""
    needed = task.gripper_scale * task.fps
    if robot.max_joint_speed < needed:
        yield (
            f"robot.max_joint_speed is {robot.max_joint_speed:g} rad/s, but a step moves the gripper by "
            f"task.gripper_scale, {needed:g} rad/s: allow that, or make gripper_scale smaller"
        )


def _leader_problems(config: Config) -> Iterator[str]:
    """A leader arm beside a follower: two ports, two calibrations, and buttons where buttons judge."""
    teleop, robot = config.teleop, config.robot
    if teleop.type != "leader":
        return
    if not teleop.port or not teleop.id:
        yield f'teleop.port is "{teleop.port}" and teleop.id "{teleop.id}"; a leader arm needs both'
    if robot.type == "so101" and teleop.port == robot.port:
        yield f'teleop.port and robot.port are both "{robot.port}"; leader and follower have one each'
    if (teleop.id, teleop.calibration_dir) == (robot.id, robot.calibration_dir):
        yield f'teleop.id and robot.id are both "{robot.id}"; leader and follower are calibrated one by one'
    if teleop.buttons == "none" and config.task.success.kind == "button":
        yield 'task.success.kind is "button" but teleop.buttons is "none"; use "gamepad" or "keyboard"'


def _timing_problems(task: TaskConfig) -> Iterator[str]:
    if 0 < task.control_time_s * task.fps < 1:
        yield f"task.control_time_s {task.control_time_s} s holds not one step at task.fps {task.fps}"
    if task.command_hz < task.fps:
        yield f"task.command_hz is {task.command_hz}, it must be at least task.fps = {task.fps}"
    if task.success.hold_s >= task.control_time_s:
        yield (
            f"task.success.hold_s is {task.success.hold_s} s, "
            f"it must be shorter than an episode ({task.control_time_s} s)"
        )


def _workspace_problems(task: TaskConfig) -> Iterator[str]:
    spread = (task.random_ee_range_xy, task.random_ee_range_xy, task.random_ee_range_z)
    for i, axis in enumerate("xyz"):
        low, high = task.workspace_min[i], task.workspace_max[i]
        if high - low < MIN_BOX_SIDE_M:
            yield (
                f"the workspace box spans {axis} = {low} to {high} m "
                f"(task.workspace_min, task.workspace_max); each side must be at least {MIN_BOX_SIDE_M} m"
            )
            continue
        reset = task.reset_xyz[i]
        margin = spread[i] if task.random_ee_reset else 0.0
        if reset - margin < low - 1e-9 or reset + margin > high + 1e-9:
            spread_text = f" +- {margin} (the random range)" if margin else ""
            yield (
                f"task.reset_xyz has {axis} = {reset}{spread_text} m, outside the workspace box, "
                f"where {axis} goes from {low} to {high} m"
            )


def _action_problems(task: TaskConfig) -> Iterator[str]:
    pairs = (
        ("", task.action_scale, MIN_ACTION_SCALE_M, task.leash, "m"),
        ("gripper_", task.gripper_scale, MIN_GRIPPER_SCALE_RAD, task.gripper_leash, "rad"),
    )
    for part, scale, least, leash, unit in pairs:
        name, leash_name = f"{part or 'action_'}scale", f"{part}leash"
        if scale < least:
            yield (
                f"task.{name} is {scale} {unit}, it must be at least {least:.4f} {unit}: "
                "three times what the servos' dead band (0.3 degrees) swallows"
            )
        if scale > leash:
            yield (
                f"task.{name} is {scale} {unit}, it must not exceed task.{leash_name} = {leash} {unit}, "
                "or full actions would be cut short"
            )


def _picture_problems(config: Config) -> Iterator[str]:
    task = config.task
    sections = {
        "task.camera_ids": set(task.camera_ids),
        "task.crop_params_dict": set(task.crop_params_dict),
        "cameras": set(config.cameras),
    }
    if len({frozenset(names) for names in sections.values()}) > 1 or not config.cameras:
        listed = "; ".join(
            f"{where}: {', '.join(sorted(names)) or 'none'}" for where, names in sections.items()
        )
        yield f"the same cameras must be named in three places, at least one, but {listed}"
    for name in sorted(set.union(*sections.values())):
        if not _NAME.fullmatch(name):
            yield f'camera name "{name}" must be letters, digits, _ and -'
    for name, crop in task.crop_params_dict.items():
        bottom, right = crop.top + crop.height, crop.left + crop.width
        rows_fit = 0 <= crop.top < bottom <= task.camera_height
        if not (rows_fit and 0 <= crop.left < right <= task.camera_width):
            yield (
                f"task.crop_params_dict.{name} covers rows {crop.top} to {bottom} and columns {crop.left} to "
                f"{right}, outside the native frame of {task.camera_height} rows and {task.camera_width} "
                "columns (task.camera_height, task.camera_width)"
            )
    if any(side <= 0 or side % TRUNK_STRIDE for side in task.resize_size):
        yield (
            f"task.resize_size is {list(task.resize_size)}, each side must be a multiple of {TRUNK_STRIDE}, "
            "the encoder's stride; it was made for [128, 128]"
        )


def _scene_problems(config: Config) -> Iterator[str]:
    task, scene = config.task, config.task.scene
    if scene.cube_size_min > scene.cube_size_max:
        yield f"task.scene.cube_size_min {scene.cube_size_min} exceeds cube_size_max {scene.cube_size_max}"
    if config.robot.type != "twin":
        return
    for i, axis in enumerate("xy"):
        center, spread = scene.cube_center_xy[i], scene.cube_range_xy
        low, high = center - spread, center + spread
        if low < task.workspace_min[i] - 1e-9 or high > task.workspace_max[i] + 1e-9:
            yield (
                f"task.scene puts the cube at {axis} = {low:g} to {high:g} m, outside the workspace box, "
                f"where {axis} goes from {task.workspace_min[i]} to {task.workspace_max[i]} m"
            )


def _twin_problems(config: Config) -> Iterator[str]:
    twin = config.robot.type == "twin"
    if not twin:
        if config.task.success.kind == "oracle":
            yield (
                'task.success.kind is "oracle", which only robot.type "twin" can answer; use "button" or '
                '"classifier"'
            )
        if config.teleop.type == "scripted":
            yield 'teleop.type is "scripted", which only robot.type "twin" has; use "gamepad" or "keyboard"'
        if config.service.pace:
            yield 'service.pace is true, but only the clock of robot.type "twin" can wait'
        if not config.robot.id:
            yield 'robot.id is "", give the name the calibration was stored under, such as "so101"'
    for name, camera in config.cameras.items():
        if camera.type not in _CAMERA_TYPES:
            yield f'cameras.{name}.type is "{camera.type}", it must be one of {", ".join(_CAMERA_TYPES)}'
        elif (camera.type == "twin") != twin:
            right = 'must be "twin"' if twin else 'must be "opencv" or "zmq"'
            yield f'cameras.{name}.type is "{camera.type}", with robot.type "{config.robot.type}" it {right}'
        if camera.type == "opencv" and not camera.index_or_path:
            yield f'cameras.{name}.index_or_path is "", give the camera\'s number or device path'
        if not inside(camera.max_age_s, "(0, inf)"):
            yield f"cameras.{name}.max_age_s is {camera.max_age_s}, it must be positive"
        if not inside(camera.port, "[1, 65535]"):
            yield f"cameras.{name}.port is {camera.port}, it must lie in [1, 65535]"


def _policy_problems(config: Config) -> Iterator[str]:
    policy = config.policy
    if not policy.hidden_dims or min(policy.hidden_dims) < 1:
        yield f"policy.hidden_dims is {list(policy.hidden_dims)}, give at least one positive width"
    if policy.cache_features and not policy.freeze_vision_encoder:
        yield (
            "policy.freeze_vision_encoder is false but policy.cache_features is true: features of an encoder "
            "that learns cannot be kept; set policy.cache_features to false too"
        )
    if policy.use_augmentation and policy.augmentation_pad == 0:
        yield "policy.use_augmentation is true but policy.augmentation_pad is 0; a pad of 0 shifts nothing"
    if policy.online_buffer_capacity < policy.batch_size:
        yield (
            f"policy.online_buffer_capacity is {policy.online_buffer_capacity}, "
            f"it must hold at least one batch (policy.batch_size = {policy.batch_size})"
        )
    if not policy.vision_encoder_name:
        yield 'policy.vision_encoder_name is "", give a hub id (helper2424/resnet10), a folder or a file'


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _service_problems(config: Config) -> Iterator[str]:
    service = config.service
    if not service.learner_host:
        yield 'service.learner_host is "", give an address such as "127.0.0.1"'
    elif not is_loopback(service.learner_host):
        missing = [name for name in ("tls_cert", "token_file") if not getattr(service, name)]
        if missing:
            yield (
                f'service.learner_host is "{service.learner_host}", which other machines can reach; '
                f"set {' and '.join('service.' + name for name in missing)} too (TLS and a token)"
            )
    if service.tls_key and not service.tls_cert:
        yield "service.tls_key is set but service.tls_cert is not; give both"


def _allowed_problems(config: Config) -> Iterator[str]:
    known = list(leaf_names(TaskConfig))
    for name in config.allow_task_difference:
        head, _, entry = name.partition(".")
        whole = any(leaf == name or leaf.startswith(name + ".") for leaf in known)
        of_camera = bool(entry) and any(leaf.startswith(f"{head}.<name>") for leaf in known)
        if not (whole or of_camera):
            yield (
                f'allow_task_difference names "{name}", which is no field of the task record; '
                "write it as below task, such as random_ee_reset or scene.looks"
            )
