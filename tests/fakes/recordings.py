"""Demonstrations on the lock-step twin, and LeRobotDatasets of them as lerobot's own writer makes them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from hilserl.body import build_body
from hilserl.config import Config, CropConfig
from hilserl.config_loading import load_config
from hilserl.dataset_schema import (
    DONE,
    INTERVENTION,
    JOINT_COLUMNS,
    REWARD,
    STATE,
    SUCCESS,
    TASK_RECORD,
    TRUNCATED,
)
from hilserl.env import STATE_NAMES
from hilserl.rollout import HoldStill, rollout
from hilserl.task_record import task_json
from hilserl.types import End, Obs, Step
from robot.calibration import Calibration, JointCalibration
from robot.types import ACTION_NAMES, F32, GRIPPER, U8

os.environ.setdefault("HF_HUB_OFFLINE", "1")
CONFIG = Path(__file__).resolve().parents[2] / "configs" / "twin_lift_train_config.json"
CAMERA = "gripper_cam"
CALIBRATION = Calibration(
    (
        JointCalibration(1, 0, 10, 1030, 3460),
        JointCalibration(2, 0, -20, 827, 3225),
        JointCalibration(3, 0, 0, 925, 3161),
        JointCalibration(4, 0, 7, 954, 3305),
        JointCalibration(5, 0, 0, 33, 4009),
        JointCalibration(6, 0, 99, 1452, 2958),
    ),
    "tests/fakes",
)
"""The field report's follower: no range is the arm model's."""


def small_config(width: int = 160, height: int = 120) -> Config:
    """The lift task with small pictures: what is tested does not depend on their size."""
    config = load_config(CONFIG)
    crop = CropConfig(top=0, left=(width - height) // 2, height=height, width=height)
    task = replace(
        config.task,
        camera_width=width,
        camera_height=height,
        crop_params_dict={CAMERA: crop},
        resize_size=(64, 64),
    )
    return replace(config, task=task)


@dataclass
class Recording:
    """One played episode: T steps, T + 1 observations. goal: (T, 6), what the joints were commanded to."""

    obs: list[Obs] = field(default_factory=list)
    frames: list[U8] = field(default_factory=list)
    q: list[F32] = field(default_factory=list)
    goal: list[F32] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    @property
    def action(self) -> F32:
        return np.stack([step.action for step in self.steps])


def play(config: Config, seeds: Sequence[int]) -> list[Recording]:
    """Successful scripted demonstrations with native frames, joints and commands."""
    found = []
    with build_body(config, lambda _: None, demonstrate=True) as body:
        for seed in seeds:
            listener = _Listener(body.env, Recording())
            played = rollout(
                env=body.env,
                policy=HoldStill(),
                teleop=body.teleop,
                reward=body.reward,
                seed=seed,
                max_steps=100,
                listeners=(listener,),
            )
            assert played.end is End.SUCCESS, f"choose another seed than {seed}"
            found.append(listener.recording)
    return found


class _Listener:
    def __init__(self, env, recording: Recording) -> None:
        self._env, self.recording = env, recording

    def begin(self, obs: Obs) -> None:
        self._note(obs)

    def step(self, step: Step) -> None:
        self.recording.steps.append(step)
        self.recording.goal.append(self._env._reference_q.copy())
        self._note(step.obs)

    def _note(self, obs: Obs) -> None:
        self.recording.obs.append(obs)
        self.recording.q.append(self._env.state.q_rad.copy())
        self.recording.frames.append(self._env.frames[CAMERA].rgb.copy())


def lerobot_degrees(q: F32, calibration: Calibration = CALIBRATION) -> F32:
    """(N, 6) as lerobot's bus gives them with use_degrees: written after its `_normalize`."""
    counts = calibration.counts(q).astype(np.float64)
    low = np.array([joint.range_min for joint in calibration.joints])
    high = np.array([joint.range_max for joint in calibration.joints])
    values = (counts - (low + high) / 2) * 360 / 4095
    bounded = np.clip(counts[:, GRIPPER], low[GRIPPER], high[GRIPPER])
    values[:, GRIPPER] = (bounded - low[GRIPPER]) / (high[GRIPPER] - low[GRIPPER]) * 100
    return values.astype(np.float32)


def lerobot_normalized(q: F32, calibration: Calibration = CALIBRATION) -> F32:
    """(N, 6) as lerobot's bus gives them without use_degrees."""
    values = lerobot_degrees(q, calibration)
    counts = calibration.counts(q).astype(np.float64)
    low = np.array([joint.range_min for joint in calibration.joints])
    high = np.array([joint.range_max for joint in calibration.joints])
    share = (np.clip(counts, low, high) - low) / (high - low) * 200 - 100
    values[:, :GRIPPER] = share[:, :GRIPPER]
    return values


@dataclass
class Rows:
    """What is written of one episode: T or T + 1 frames."""

    action: F32
    state: F32
    frames: list[U8]
    extra: dict[str, np.ndarray] = field(default_factory=dict)


def joint_rows(recording: Recording, unit: Callable[[F32], F32] = lerobot_degrees) -> Rows:
    """As `lerobot-record` does it: at every frame what is measured, then what is commanded."""
    goal = np.stack([*recording.goal, recording.goal[-1]])
    return Rows(unit(goal), unit(np.stack(recording.q)), recording.frames)


def action_rows(recording: Recording) -> Rows:
    """Our own schema."""
    steps = recording.steps
    count = len(steps)
    end = steps[-1].end
    action = np.concatenate([recording.action, np.zeros((1, 4), np.float32)])
    last = np.arange(count + 1) == count - 1
    extra = {
        REWARD: np.array([*(step.reward for step in steps), 0], np.float32)[:, None],
        SUCCESS: (last & (end is End.SUCCESS))[:, None],
        DONE: (last & end.terminal)[:, None],
        TRUNCATED: (last & (not end.terminal))[:, None],
        INTERVENTION: np.array([*(step.intervention for step in steps), False])[:, None],
    }
    return Rows(action, np.stack([obs.state for obs in recording.obs]), recording.frames, extra)


def write_dataset(
    root: Path,
    episodes: Sequence[Rows],
    *,
    names: tuple[Sequence[str], Sequence[str]] = (JOINT_COLUMNS, JOINT_COLUMNS),
    fps: int = 10,
    camera: str = CAMERA,
    video: bool = True,
    config: Config | None = None,
) -> Path:
    """A dataset of lerobot's own writer. config: write its task record too (our schema)."""
    from lerobot.configs import RGBEncoderConfig
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    first = episodes[0]
    shape = first.frames[0].shape
    features = {
        "action": _feature(len(names[0]), "float32", names[0]),
        STATE: _feature(len(names[1]), "float32", names[1]),
        f"observation.images.{camera}": {
            "dtype": "video" if video else "image",
            "shape": shape,
            "names": ["height", "width", "channels"],
        },
    }
    for name, column in first.extra.items():
        features[name] = _feature(1, str(column.dtype), None)
    dataset = LeRobotDataset.create(
        "tests/recording",
        fps,
        features,
        root=root,
        robot_type="so_follower",
        use_videos=video,
        rgb_encoder=RGBEncoderConfig(),
    )
    for rows in episodes:
        for index in range(len(rows.state)):
            frame = {"action": rows.action[index], STATE: rows.state[index], "task": "lift the cube"}
            frame |= {f"observation.images.{camera}": rows.frames[index]}
            frame |= {name: column[index] for name, column in rows.extra.items()}
            dataset.add_frame(frame)
        dataset.save_episode(parallel_encoding=False)
    dataset.finalize()
    if config is not None:
        (root / TASK_RECORD).write_text(task_json(config.task))
    return root


OURS = (ACTION_NAMES, STATE_NAMES)


def _feature(size: int, dtype: str, names: Sequence[str] | None) -> dict:
    return {"dtype": dtype, "shape": (size,), "names": None if names is None else list(names)}


def lerobot(root: Path):
    """The dataset as lerobot's own loader opens it."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset("tests/recording", root=root)


def digests(root: Path) -> dict[str, str]:
    """Of every file of an episode."""
    paths = [path for folder in ("data", "videos", "meta/episodes") for path in (root / folder).rglob("*")]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()}
