"""Configuration: frozen dataclasses. Each default lives here, once.

`config_loading` reads files and overrides, `config_checks` says what cannot work, `task_record` hashes
the task.
Lengths in metres, angles in radians, times in seconds unless a name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hilserl.dataset_columns import DatasetColumns
from robot.health import HealthLimits
from robot.twin.lift import LiftConfig


class ConfigError(Exception):
    """A configuration that cannot be used: each key at fault, its value, where it was set, what is right."""


@dataclass(frozen=True, slots=True)
class CropConfig:
    """Part of the native frame the policy sees [px]."""

    top: int = 0
    left: int = 80
    height: int = 480
    width: int = 480


@dataclass(frozen=True, slots=True)
class SuccessConfig:
    """Who says that an episode succeeded, and for how long it must hold.

    kind: "oracle" (the twin's ground truth), "button" (the operator's success and failure buttons) or
    "classifier" (the reward classifier in classifier.model, by the threshold and times saved with it).
    """

    kind: str = "button"
    hold_s: float = 0.5
    """Oracle: so long it must hold."""
    reward: float = 1.0
    step_cost: float = 0.0


@dataclass(frozen=True, slots=True)
class TaskConfig:
    """The one task record. Its hash is written into every episode, dataset and checkpoint.

    Recording, actor, learner, inference and every tool read this same record.
    """

    name: str = "grasp_only"
    fps: float = 10.0
    control_time_s: float = 10.0
    camera_width: int = 640
    camera_height: int = 480
    camera_ids: dict[str, str] = field(default_factory=lambda: {"gripper_cam": ""})
    """{camera name: identity (serial number or port path)}; the names are the policy's images, sorted."""
    crop_params_dict: dict[str, CropConfig] = field(default_factory=lambda: {"gripper_cam": CropConfig()})
    resize_size: tuple[int, int] = (128, 128)
    calibration_id: str = ""
    reset_xyz: tuple[float, float, float] = (0.25, 0.0, 0.07)
    reset_gripper: float = 0.8
    random_ee_reset: bool = True
    random_ee_range_xy: float = 0.03
    random_ee_range_z: float = 0.0
    workspace_min: tuple[float, float, float] = (0.10, -0.15, 0.00)
    workspace_max: tuple[float, float, float] = (0.35, 0.15, 0.25)
    action_scale: float = 0.02
    gripper_scale: float = 0.25
    leash: float = 0.05
    gripper_leash: float = 0.4
    wrist_roll: float = 1.5707963
    command_hz: float = 50.0
    success: SuccessConfig = field(default_factory=SuccessConfig)
    scene: LiftConfig = field(default_factory=LiftConfig)
    """The twin's scene; a real arm ignores everything in it."""


@dataclass(frozen=True, slots=True)
class RobotConfig:
    """The body on this machine. type: "twin" (lock-step simulation) or "so101" (servo bus)."""

    type: str = "twin"
    port: str = ""
    id: str = "so101"
    calibration_dir: str = "calibration"
    max_joint_speed: float = 4.0
    watchdog_s: float = 0.5
    bus_retries: int = 3
    table_z: float = 0.0
    """Height of the table in the arm's base frame [m]: below 0 where the base is raised."""
    health: HealthLimits = field(default_factory=HealthLimits)
    """Real arm: when the servos' heat, voltage, load and current warn, and when the arm holds for them."""
    park_after_s: float = 60.0
    """Real arm: a program that leaves the arm holding for so long, and is in no pause of its own, is ended by
    the watchdog, which parks the arm."""
    object_time_s: float = 2.0
    """Real arm: pause at the reset pose in which a person places the object."""


@dataclass(frozen=True, slots=True)
class CameraConfig:
    """Where a camera's frames come from. type: "twin", "opencv" or "zmq"; address by type."""

    type: str = "twin"
    index_or_path: str = ""
    server_address: str = "127.0.0.1"
    port: int = 5555
    max_age_s: float = 0.2


@dataclass(frozen=True, slots=True)
class TeleopConfig:
    """Who may take over. type: "gamepad", "keyboard", "leader", "scripted" (twin only) or "none"."""

    type: str = "gamepad"
    device: str = "0"
    """Gamepad: its index, or part of its name."""
    deadzone: float = 0.1
    port: str = ""
    id: str = "so101_leader"
    calibration_dir: str = "calibration"
    buttons: str = "keyboard"
    """Leader arm: as for the robot; and the device that has its buttons ("none": it is only grabbed)."""
    intervention_rate: float = 0.8
    """Scripted operator: probability of helping when help is needed, at the first episode."""
    intervention_episodes: int = 60
    """Scripted operator: help decays linearly to nothing over this many episodes."""


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """SAC. Values after HIL-SERL and the field report's best run unless a comment says otherwise."""

    n_obs_steps: int = 1
    batch_size: int = 256
    utd_ratio: int = 20
    """Critic updates per transition (control step of one environment)."""
    policy_update_freq: int = 20
    """One actor and temperature update per this many critic updates."""
    discount: float = 0.97
    n_step: int = 1
    """Steps of reward before the critic's value takes over."""
    tau: float = 0.005
    lr: float = 3e-4
    num_critics: int = 2
    temperature_init: float = 0.01
    target_entropy: float = -2.0
    use_backup_entropy: bool = False
    latent_dim: int = 256
    hidden_dims: tuple[int, ...] = (256, 256)
    num_spatial_embeddings: int = 8
    dropout: float = 0.1
    feature_channels: int = 512
    """Channels kept of each 512-channel trunk feature: fewer means a fixed orthogonal projection."""
    use_augmentation: bool = True
    augmentation_pad: int = 4
    feature_projection: str = "random"
    """How feature_channels are chosen: "random" (orthogonal) or "pca" (of the first demonstrations)."""
    cache_features: bool = True
    """Encode each frame once, when it arrives; false encodes in every update."""
    feature_copies: int = 2
    """Versions of each frame encoded once and kept: one as it is, the others randomly shifted."""
    grad_clip_norm: float = 40.0
    online_step_before_learning: int = 100
    demo_fraction: float = 0.5
    """Share of each batch drawn from demonstrations and interventions."""
    bc_pretrain_steps: int = 0
    critic_pretrain_steps: int = 0
    """Critic steps on the demonstrations after cloning, before the policy changes."""
    bc_weight: float = 0.0
    """Weight of the cloning loss on demonstrations in the actor's loss."""
    vision_encoder_name: str = "helper2424/resnet10"
    freeze_vision_encoder: bool = True
    device: str = "cpu"
    precision: str = "auto"
    """Number format of the image heads' product, the largest of an update; weights stay float32. "float32",
    "bfloat16", or "auto": bfloat16 where the processor multiplies it natively."""
    compile: bool = False
    """Compile the update (torch.compile); on a GPU with CUDA graphs."""
    online_buffer_capacity: int = 200_000
    offline_buffer_capacity: int = 20_000


@dataclass(frozen=True, slots=True)
class ClassifierConfig:
    """The reward classifier: where it comes from, and how it is trained. Its trunk is the policy's."""

    model: str = ""
    """Folder of a trained one (best_model) or a hub id; used where task.success.kind is "classifier"."""
    datasets: tuple[str, ...] = ()
    """Labelled recordings and episode folders to train on."""
    holdout: str = "auto"
    """What is tested on episodes not trained on: "folds" (each in its turn), "split" (a share of them) or
    "auto": folds up to 100 episodes."""
    folds: int = 5
    holdout_share: float = 0.2
    copies: int = 4
    """Versions of each training frame that are encoded once: one as it is, the others shifted and lit
    otherwise."""
    augmentation_pad: int = 4
    brightness: float = 0.4
    """Training frames are made darker or brighter by up to this share."""
    colour: float = 0.1
    """The balance of their colours is changed by up to this share."""
    latent_dim: int = 128
    num_spatial_embeddings: int = 8
    dropout: float = 0.3
    lr: float = 3e-4
    weight_decay: float = 0.02
    batch_size: int = 64
    max_epochs: int = 60
    patience: int = 8
    """Epochs without a lower held-out loss after which training ends."""
    false_success_rate: float = 0.05
    """Share of failed held-out episodes in which a success may be called; threshold and times are chosen for
    it."""
    takeover_s: float = 0.0
    """No success is called so long after the operator took over."""
    overrule_s: float = 1.0
    """So long the arm holds still after a success it called: the operator may say that it was none. Nobody is
    waited for where teleop.type is "none" or "scripted"."""


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """The learner's gRPC service. Any address but loopback needs TLS and a token."""

    learner_host: str = "127.0.0.1"
    learner_port: int = 50051
    actor_name: str = "actor"
    """Name of this actor: one of several that join a learner at the same time must have another."""
    tls_cert: str = ""
    tls_key: str = ""
    token_file: str = ""
    policy_push_every_updates: int = 200
    pace: bool = False
    """Lock-step twin only: the actor waits so that `utd_ratio` is kept."""


@dataclass(frozen=True, slots=True)
class RunConfig:
    """How long a run lasts and what it leaves behind. Intervals count transitions unless named otherwise."""

    max_transitions: int = 100_000
    max_episodes: int = 100_000
    demo_episodes: int = 10
    """`hilserl demo`: scripted demonstrations recorded before training."""
    eval_every_episodes: int = 0
    """Every so many training episodes the actor plays a group of held-out, help-free ones; 0: never."""
    eval_episodes: int = 20
    checkpoint_every: int = 500
    keep_checkpoints: int = 5
    log_every_updates: int = 200
    auto_pause: bool = False
    """Stop updating when a collapse alarm is raised, until a person resumes."""
    ignore_checks: tuple[str, ...] = ()
    """Red checks of the pre-flight (hilserl doctor) in spite of which a run may start."""
    num_threads: int = 0
    """torch threads of this process; 0 leaves torch's default."""
    tensorboard: bool = True
    wandb: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """Everything a run needs. Files under configs/ say only what differs from these defaults."""

    job_name: str = "hilserl"
    output_dir: str = "outputs"
    seed: int = 0
    resume: bool = False
    demos: tuple[str, ...] = ()
    """Folders of recorded episodes, or LeRobotDatasets, that fill the demonstration store at start."""
    dataset: DatasetColumns = field(default_factory=DatasetColumns)
    allow_task_difference: tuple[str, ...] = ()
    """Task fields (dotted) in which data or checkpoints may differ from the task record."""
    task: TaskConfig = field(default_factory=TaskConfig)
    robot: RobotConfig = field(default_factory=RobotConfig)
    cameras: dict[str, CameraConfig] = field(default_factory=lambda: {"gripper_cam": CameraConfig()})
    teleop: TeleopConfig = field(default_factory=TeleopConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    service: ServiceConfig = field(default_factory=ServiceConfig)
    run: RunConfig = field(default_factory=RunConfig)


@dataclass(frozen=True, slots=True)
class InferenceArgs:
    """What one evaluation is asked to do; the rest comes from the Config (`seed`, `policy.device`, ...).

    checkpoint: folder of a `pretrained_model`. temperature: factor on the policy's standard deviation,
    used when stochastic; deterministic actions otherwise.
    """

    checkpoint: str
    num_episodes: int = 10
    record_video: bool = False
    video_dir: str = ""
    """"" leaves the choice to the run folder."""
    stochastic: bool = False
    temperature: float = 1.0
