"""Config -> the concrete body: arm, cameras, clock, scene, operator. Only this file names their classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hilserl.config import CameraConfig, Config, ConfigError
from hilserl.controls import build_device, leader_torque
from hilserl.env import Env
from hilserl.reward import ButtonReward, OracleReward
from hilserl.rollout import Reward
from robot.clearance import Clearance
from robot.errors import RobotError
from robot.kinematics import Kinematics, working_limits
from robot.pinhole import Pinhole
from robot.types import F32, U8, Arm, Camera, Clock, Scene, Teleop

if TYPE_CHECKING:
    from robot.camera import Source
    from robot.so101 import SO101

Message = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Body:
    """Everything an episode needs, wired.

    side_view: a picture for people; truth: whether the task is achieved now. Each where there is one.
    """

    env: Env
    teleop: Teleop
    reward: Reward
    arm: Arm
    side_view: Callable[[], U8] | None
    truth: Callable[[], bool] | None
    servos: SO101 | None = None
    """The driver below the guard, for its numbers only."""
    pause: Callable[[], AbstractContextManager[None]] = nullcontext
    """`with body.pause():` a person is waited for, and the arm holds for as long as that takes."""
    torque: Callable[[], dict[str, bool]] = lambda: {"follower": True}
    """{arm: whether its servos are energised}: the follower, and a leader where there is one."""
    holding: Callable[[], bool] = lambda: False
    """The guard holds the follower."""
    view: Callable[[F32], Pinhole] | None = None
    """The gripper camera as geometry with the arm at joint angles (6,) [rad]; None where nobody knows it."""


class ManualScene:
    """A real table: a person puts the object in place while the arm waits `wait_s`."""

    def __init__(
        self,
        clock: Clock,
        wait_s: float,
        message: Message,
        pause: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._clock, self._wait_s, self._message, self._pause = clock, wait_s, message, pause

    def arrange(self, seed: int) -> dict[str, float]:
        """Ask for the object and wait; with no time to wait nobody is asked."""
        if not self._wait_s:
            return {}
        self._message(f"place the object; the episode starts in {self._wait_s:g} s")
        with self._pause():
            self._clock.sleep_until(self._clock.now_s() + self._wait_s)
        return {}


@contextmanager
def build_body(
    config: Config,
    message: Message,
    *,
    demonstrate: bool = False,
    near_misses: bool = False,
    first_episode: int = 0,
    judge: Reward | None = None,
) -> Iterator[Body]:
    """The body of this configuration; leaving the block parks and releases it whatever happened.

    demonstrate: the scripted operator plays every step instead of correcting a policy; with
    near_misses every other episode of its is one, and it judges each with its buttons. first_episode: how
    many episodes this actor has played, for the scripted operator's decaying help. judge: the reward; that
    of task.success unless given.

    Before anything moves it raises ConfigError, TaskMismatch and what else keeps a reward classifier out.
    """
    with ExitStack() as stack:
        match config.robot.type:
            case "twin":
                body = _twin_body(config, stack, message, demonstrate, near_misses, first_episode, judge)
            case "so101":
                body = _real_body(config, stack, message, judge)
            case other:
                raise ConfigError(f'robot.type is {other!r}; it must be "twin" or "so101"')
        yield body


def build_reward(config: Config, truth: Callable[[], bool] | None) -> Reward:
    """The reward of task.success. truth: whether the task is achieved now, None where nobody knows.

    Raises ConfigError, TaskMismatch, or what else keeps a reward classifier from being used.
    """
    success = config.task.success
    match success.kind:
        case "button":
            return ButtonReward(success)
        case "classifier":
            return _classifier_reward(config)
        case "oracle" if truth is not None:
            return OracleReward(truth, success, config.task.fps)
        case other:
            raise ConfigError(f'task.success.kind is {other!r}; robot.type "{config.robot.type}" has none')


def _classifier_reward(config: Config) -> Reward:
    if not config.classifier.model:
        # Asked for only where one judges: until it is trained the same configuration records and trains.
        raise ConfigError(
            'task.success.kind is "classifier" but classifier.model is "": give the folder of a trained one, '
            "such as outputs/NAME/best_model, or its hub id"
        )
    from hilserl.classifier.model import RewardClassifier  # torch: seconds that no other reward costs
    from hilserl.classifier.reward import ClassifierReward

    model = RewardClassifier.load(
        config.classifier.model,
        config.task,
        config.allow_task_difference,
        trunk=config.policy.vision_encoder_name,
        device=config.policy.device,
    )
    teleop = config.teleop
    present = teleop.type not in ("none", "scripted") and (teleop.type, teleop.buttons) != ("leader", "none")
    overrule_steps = round(config.classifier.overrule_s * config.task.fps) if present else 0
    return ClassifierReward(model, config.task.success, overrule_steps)


def _twin_body(
    config: Config,
    stack: ExitStack,
    message: Message,
    demonstrate: bool,
    near_misses: bool,
    first_episode: int,
    judge: Reward | None,
) -> Body:
    from robot.guard import Guard
    from robot.twin.lockstep import LockstepTwin
    from robot.twin.near_miss import Rehearser
    from robot.twin.operator import Corrector, Demonstrator, Hands, Patience

    task, robot = config.task, config.robot
    twin = LockstepTwin(task.scene, task.camera_width, task.camera_height)
    stack.callback(twin.close)
    reward = judge or build_reward(config, twin.lifted)
    clearance = Clearance(robot.table_z)
    arm = Guard(
        twin.arm,
        twin.clock,
        max_joint_speed_rad_s=robot.max_joint_speed,
        watchdog_s=robot.watchdog_s,
        clearance=clearance,
    )
    stack.callback(arm.close)
    teleop: Teleop
    scene: Scene = twin
    if config.teleop.type != "scripted":
        teleop = build_device(config, message)
    elif demonstrate and near_misses:
        teleop = scene = Rehearser(twin.world, twin, task.scene.lift_height, task.action_scale, Hands())
    elif demonstrate:
        teleop = Demonstrator(twin.world, task.action_scale, Hands())
    else:
        patience = Patience(
            rate=config.teleop.intervention_rate, episodes=config.teleop.intervention_episodes
        )
        teleop = Corrector(twin.world, task.action_scale, Hands(), patience, first_episode)
    stack.callback(teleop.close)
    (name,) = task.camera_ids
    env = Env(
        task=task,
        arm=arm,
        cameras={name: twin.camera},
        clock=twin.clock,
        kinematics=Kinematics(working_limits(arm.limits)),
        scene=scene,
        max_joint_speed=robot.max_joint_speed,
        clearance=clearance,
    )
    return Body(
        env,
        teleop,
        reward,
        arm,
        twin.world.render_side,
        twin.lifted,
        torque=lambda: {"follower": True} | leader_torque(teleop),
        holding=lambda: arm.holding,
        view=twin.world.gripper_view,
    )


def _real_body(config: Config, stack: ExitStack, message: Message, judge: Reward | None) -> Body:
    from robot.calibrate_touch import check_touch
    from robot.calibration import calibration_id, check_calibration_id, load_calibration
    from robot.devices import check_port
    from robot.guard import Guard
    from robot.so101 import SO101
    from robot.timing import RealClock
    from robot.watchdog_link import WatchdogLink
    from robot.watchdog_protocol import WatchdogSettings, show_emergency

    task, robot, clock = config.task, config.robot, RealClock()
    clearance = Clearance(robot.table_z)
    reward = judge or build_reward(config, None)
    calibration = load_calibration(Path(robot.calibration_dir), robot.id, robot.port)
    check_calibration_id(calibration, task.calibration_id)
    check_port(robot.calibration_dir, robot.id, robot.port)
    tested = check_touch(calibration, robot.calibration_dir, robot.id)
    message(f"arm {robot.id!r}, calibration {calibration_id(calibration)}; {tested}")
    if told := show_emergency(robot.calibration_dir, robot.id):
        message(told)
    watchdog = stack.enter_context(
        WatchdogLink(
            WatchdogSettings(
                robot.port,
                robot.id,
                robot.calibration_dir,
                robot.max_joint_speed,
                robot.bus_retries,
                robot.park_after_s,
                table_z_m=robot.table_z,
            ),
            message,
        )
    )
    teleop = build_device(config, message)
    stack.callback(teleop.close)
    cameras = {}
    for name, camera in config.cameras.items():
        cameras[name] = open_camera(name, camera, (task.camera_width, task.camera_height))
        stack.callback(cameras[name].close)
    servos = SO101(
        robot.port,
        robot.id,
        robot.calibration_dir,
        clock,
        robot.bus_retries,
        clearance=clearance,
        health=robot.health,
        max_joint_speed_rad_s=robot.max_joint_speed,
        say=message,
        supervisor=watchdog,
    )
    stack.callback(servos.close)
    stack.callback(_park, servos, message)
    watchdog.wait_ready()
    servos.connect()
    arm = Guard(
        servos,
        clock,
        max_joint_speed_rad_s=robot.max_joint_speed,
        watchdog_s=robot.watchdog_s,
        clearance=clearance,
        unwell=lambda: servos.unwell,
    )
    stack.callback(arm.close)
    stack.callback(_park, arm, message)
    watchdog.idle_s = lambda: arm.idle_s
    env = Env(
        task=task,
        arm=arm,
        cameras=cameras,
        clock=clock,
        kinematics=Kinematics(working_limits(arm.limits)),
        scene=ManualScene(clock, robot.object_time_s, message, watchdog.pause),
        max_joint_speed=robot.max_joint_speed,
        clearance=clearance,
        unwell=lambda: servos.unwell,
    )
    return Body(
        env,
        teleop,
        reward,
        arm,
        None,
        None,
        servos,
        watchdog.pause,
        torque=lambda: {"follower": servos.torque} | leader_torque(teleop),
        holding=lambda: arm.holding,
    )


def _park(arm: Arm, message: Message) -> None:
    """Park on the way out. What goes wrong is said, not raised: it must not hide what was done before.

    An arm that could not be released is left to its watchdog.
    """
    try:
        arm.park()
    except RobotError as error:
        message(f"{type(error).__name__}: {error}")


def open_camera(name: str, config: CameraConfig, size: tuple[int, int]) -> Camera:
    """A camera of a real arm by itself, for whoever only looks. size: (width, height) of its pictures [px].

    Waits for its first picture; raises CameraError when none comes.
    """
    from robot.camera import CameraOptions, CameraThread

    options = CameraOptions(max_age_s=config.max_age_s)
    return CameraThread(camera_source(name, config, size), name=name, size=size, options=options)


def camera_source(name: str, config: CameraConfig, size: tuple[int, int]) -> Source:
    """What a camera of a real arm delivers, unchecked, not opened. size: (width, height) wanted [px]."""
    from robot.camera_sources import OpenCVSource, ZMQSource

    match config.type:
        case "opencv":
            return OpenCVSource(config.index_or_path, size)
        case "zmq":
            return ZMQSource(config.server_address, config.port, name)
        case other:
            raise ConfigError(
                f'cameras.{name}.type is {other!r}; with a servo bus it must be "opencv" or "zmq"'
            )
