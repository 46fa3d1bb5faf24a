"""Folders of labelled episode archives with tiny pictures in which success is a bright square, or is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hilserl.config import CameraConfig, Config, CropConfig, PolicyConfig, TaskConfig
from hilserl.episode import TASK_FILE, save_episode
from hilserl.labels import Label, write_labels
from hilserl.task_record import task_hash, task_json
from hilserl.types import End, Episode, Role
from robot.types import U8

SIDE = 32
TRUNK = "random:4:0"


def classifier_config(tmp_path: Path, cameras: Sequence[str] = ("cam",), **classifier: object) -> Config:
    """Small and quick: tiny pictures, a tiny random trunk, a tiny network."""
    task = TaskConfig(
        camera_ids=dict.fromkeys(cameras, ""),
        crop_params_dict={camera: CropConfig() for camera in cameras},
        resize_size=(SIDE, SIDE),
    )
    config = Config(
        output_dir=str(tmp_path / "outputs"),
        job_name="judge",
        task=task,
        cameras={camera: CameraConfig() for camera in cameras},
        policy=PolicyConfig(vision_encoder_name=TRUNK),
    )
    small = {"latent_dim": 16, "num_spatial_embeddings": 4, "copies": 2, "augmentation_pad": 1, "lr": 3e-3}
    small |= {"folds": 3, "max_epochs": 20, "batch_size": 32}
    return replace(config, classifier=replace(config.classifier, **(small | classifier)))


@dataclass(frozen=True)
class Played:
    """One episode to be written: its frames, those labelled a success, and what tells of it."""

    images: dict[str, U8]
    ranges: tuple[tuple[int, int], ...]
    seed: int
    info: dict[str, float | str]
    labelled: bool = True


Shown = Callable[[np.random.Generator, bool], U8]


def square(rng: np.random.Generator, success: bool) -> U8:
    """A picture of dark noise, with a bright square somewhere in the middle where success is visible."""
    picture = rng.integers(0, 90, (SIDE, SIDE, 3), dtype=np.uint8)
    if success:
        row, column = rng.integers(4, 9, 2)
        picture[row : row + 20, column : column + 20] = (40, 230, 60)
    return picture


def noise(rng: np.random.Generator, success: bool) -> U8:
    """A picture that says nothing."""
    return rng.integers(0, 180, (SIDE, SIDE, 3), dtype=np.uint8)


def played(
    seed: int,
    frames: int = 12,
    start: int | None = None,
    shown: dict[str, Shown] | None = None,
    scenario: str = "lift",
) -> Played:
    """An episode that shows success from frame `start` on, or never; the same pictures for the same seed."""
    rng = np.random.default_rng([seed, 7])
    stop = frames if start is None else start
    images = {
        camera: np.stack([one(rng, frame >= stop) for frame in range(frames)])
        for camera, one in (shown or {"cam": square}).items()
    }
    ranges = () if start is None else ((start, frames),)
    return Played(images, ranges, seed, {"scenario": scenario})


def several(
    successes: int, failures: int, first_seed: int = 0, shown: dict[str, Shown] | None = None
) -> list[Played]:
    """Successful episodes, then failed ones, of different lengths."""
    good = [played(first_seed + i, 12 + i % 3, 6 + i % 3, shown) for i in range(successes)]
    bad = [played(first_seed + 1000 + i, 11 + i % 3, None, shown, f"miss {i % 2}") for i in range(failures)]
    return good + bad


def write_archive(root: Path, task: TaskConfig, episodes: Sequence[Played], labels: bool = True) -> Path:
    """The folder with its task record, and labels beside it."""
    told = {}
    for number, one in enumerate(episodes, 1):
        count = len(next(iter(one.images.values())))
        path = save_episode(root, _episode(one, count - 1, number, task))
        if one.labelled:
            told[path.stem] = Label(count, one.ranges, "operator")
    (root / TASK_FILE).write_text(task_json(task))
    if labels:
        write_labels(root, told)
    return root


def _episode(one: Played, steps: int, number: int, task: TaskConfig) -> Episode:
    return Episode(
        images=one.images,
        state=np.zeros((steps + 1, 1), np.float32),
        action=np.zeros((steps, 4), np.float32),
        reward=np.zeros(steps, np.float32),
        intervention=np.arange(steps) % 5 == 3,
        end=End.SUCCESS if one.ranges else End.FAILURE,
        role=Role.TRAIN,
        actor="a",
        number=number,
        policy_version=1,
        seed=one.seed,
        task_hash=task_hash(task),
        info=one.info,
    )
