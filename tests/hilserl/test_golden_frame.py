"""The golden frame: what enters the network is bit by bit the same wherever a stored frame is looked at.

Three times a classifier that was perfect in its preview was dead in training, because crop, resize, channel
order or scale lived in two places (field report C, rows 41 to 46).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from hilserl.alarms import CollapseGuard
from hilserl.body import Body as Parts
from hilserl.body import build_reward
from hilserl.build import build_encoder, build_replay, build_sac
from hilserl.checkpoint import load_pretrained
from hilserl.classifier.features import encode_episodes
from hilserl.classifier.labelled import Labelled
from hilserl.classifier.model import RewardClassifier
from hilserl.classifier.sources import open_source
from hilserl.config import Config, SuccessConfig, TaskConfig
from hilserl.contract import CheckpointError
from hilserl.counters import Counters
from hilserl.dataset_schema import IMAGES, open_dataset
from hilserl.dataset_video import native_frames
from hilserl.doctor.network_input import entering
from hilserl.encoder import FeatureEncoder
from hilserl.env import policy_image, task_spec
from hilserl.episode import TASK_FILE, EpisodeBuilder, EpisodeHeader, save_episode
from hilserl.episode_builder import Recorder
from hilserl.inference import load_player, play_trial
from hilserl.learner_saving import CheckpointSaver
from hilserl.pages.preview_decision import DecisionDesk
from hilserl.pages.preview_live import LiveScorer
from hilserl.pages.preview_recorded import RecordedPlayer
from hilserl.player import Player
from hilserl.recording_files import Recording
from hilserl.reward import ButtonReward
from hilserl.rollout import HoldStill, rollout
from hilserl.rundir import RunDir
from hilserl.sac_agent import SacAgent
from hilserl.task_record import task_hash, task_json
from hilserl.types import End, Episode, Role
from hilserl.vision import Trunk, load_trunk
from robot.types import U8, Frame
from tests.fakes.body import Body, Says
from tests.fakes.classifiers import save_classifier
from tests.fakes.recordings import CAMERA, small_config
from tests.fakes.takes import random_take, record

torch.set_num_threads(1)
FRAME = 3
"""The golden one of the recorded episode."""
TINY_POLICY = {
    "feature_channels": 8,
    "latent_dim": 8,
    "hidden_dims": (8, 8),
    "online_buffer_capacity": 300,
    "offline_buffer_capacity": 300,
}


@dataclass(frozen=True)
class Golden:
    """A recorded dataset, its golden native frame, a classifier and a policy on disk."""

    config: Config
    dataset: Path
    native: U8
    checkpoint: Path
    weights: dict[str, np.ndarray]

    def model(self) -> RewardClassifier:
        return RewardClassifier.load(self.config.classifier.model, self.config.task)


class Shows:
    """A camera that always delivers one frame."""

    def __init__(self, rgb: U8) -> None:
        self._rgb = rgb

    def latest(self) -> Frame:
        return Frame(self._rgb, time.monotonic(), 0)

    def close(self) -> None:
        """Nothing to release."""


def scene(seed: int, height: int, width: int) -> U8:
    """A coloured picture without symmetry, smooth enough to survive a video."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def golden(tmp_path_factory) -> Golden:
    folder, config = tmp_path_factory.mktemp("golden"), small_config()
    task = replace(config.task, success=SuccessConfig(kind="classifier"))
    config = replace(
        config,
        task=task,
        policy=replace(config.policy, **TINY_POLICY),
        classifier=replace(config.classifier, model=str(folder / "best_model")),
        teleop=replace(config.teleop, type="none"),
    )
    save_classifier(folder / "best_model", config)
    dataset = folder / "recorded"
    take = random_take(task, 0, 6)
    frames = [scene(t, task.camera_height, task.camera_width) for t in range(len(take) + 1)]
    take = replace(take, frames={CAMERA: frames})
    with Recording.create(dataset, task) as recording:
        recording.append(take, record(take, task))
    opened = open_dataset(dataset)
    ((_, native),) = native_frames(
        opened.episodes[0], IMAGES + CAMERA, opened.fps, np.array([FRAME]), frames[0].shape
    )
    checkpoint, weights = save_policy(config, folder, played(task, native))
    return Golden(config, dataset, native, checkpoint, weights)


def played(task: TaskConfig, native: U8) -> Episode:
    """Two steps of an actor in front of a camera that shows `native`."""
    header = EpisodeHeader("actor", 1, Role.TRAIN, 1, 0, task_hash(task))
    recorder = Recorder(EpisodeBuilder(task_spec(task), header))
    rollout(
        env=Body(task, Shows(native)).env,
        policy=HoldStill(),
        teleop=Says(),
        reward=ButtonReward(task.success),
        seed=0,
        max_steps=2,
        listeners=(recorder,),
    )
    return recorder.builder.finish(End.TIMEOUT)


def save_policy(config: Config, folder: Path, episode: Episode) -> tuple[Path, dict[str, np.ndarray]]:
    """A checkpoint of an untrained policy, and its weights as they are published."""
    spec, encoder = task_spec(config.task), build_encoder(config)
    replay = build_replay(config, spec, encoder)
    replay.add(episode)
    agent = SacAgent(build_sac(config, spec, replay, encoder), replay, encoder)
    with (
        RunDir.create(folder, "job", "{}", False) as run,
        CheckpointSaver(
            config,
            run.checkpoints,
            spec,
            agent,
            encoder,
            Counters(transitions=1),
            CollapseGuard(config.policy),
        ) as saver,
    ):
        saver.save(best=True)
    return folder / "job" / "checkpoints" / "000001", dict(agent.weights())


# --- the places that look at a frame -----------------------------------------------------------------------


def trained_on(root: Path, golden: Golden) -> list[Tensor]:
    """The frames of an episode as training receives them, without those it varies."""
    task, name = golden.config.task, golden.config.policy.vision_encoder_name
    source, trunk = open_source(root, task), load_trunk(name)
    (episode,) = source.episodes
    labelled = Labelled(source, episode, np.zeros(episode.frames, np.bool_), "operator")
    with entering() as seen:
        encode_episodes([labelled], FeatureEncoder(trunk, trunk.channels), golden.config.classifier, 0)
    assert len(seen) == episode.frames * golden.config.classifier.copies
    return seen[: episode.frames]


def training(golden: Golden) -> list[Tensor]:
    """Training on a recorded dataset."""
    return trained_on(golden.dataset, golden)[FRAME : FRAME + 1]


def training_on_a_run(golden: Golden) -> list[Tensor]:
    """Training on an episode that an actor played, as the learner stores it."""
    task = golden.config.task
    with TemporaryDirectory() as name:
        folder = Path(name)
        save_episode(folder, played(task, golden.native))
        (folder / TASK_FILE).write_text(task_json(task))
        return trained_on(folder, golden)


def preview(golden: Golden) -> list[Tensor]:
    """The preview of the live camera."""
    model = golden.model()
    desk, camera = DecisionDesk(model.decision, None), Shows(golden.native)
    with entering() as seen:
        scorer = LiveScorer(golden.config.task, model, {CAMERA: camera}, desk, Path("unused"))
        with scorer:
            until = time.monotonic() + 10
            while not seen and time.monotonic() < until:
                time.sleep(0.01)
    return seen


def replayed(golden: Golden) -> list[Tensor]:
    """The preview of a recorded episode."""
    model = golden.model()
    source = open_source(golden.dataset, golden.config.task)
    with (
        entering() as seen,
        RecordedPlayer(golden.config.task, model, source, DecisionDesk(model.decision, None)) as player,
    ):
        until = time.monotonic() + 10
        while player.shown(0.0) is None and time.monotonic() < until:
            time.sleep(0.01)
    return seen[FRAME : FRAME + 1]


def actor(golden: Golden) -> list[Tensor]:
    """The actor: its policy's encoder, and the classifier that gives its reward."""
    config = golden.config
    body = Body(config.task, Shows(golden.native))
    player = Player(task_spec(config.task), config, build_encoder(config), deterministic=False)
    player.load(golden.weights)
    with entering() as seen:
        rollout(
            env=body.env,
            policy=player,
            teleop=Says(),
            reward=build_reward(config, None),
            seed=0,
            max_steps=1,
        )
    assert len(seen) == 2, "the policy looked at the first picture, the reward at the second"
    return seen


def inference(golden: Golden) -> list[Tensor]:
    """Inference with the stored policy."""
    config = golden.config
    body = Body(config.task, Shows(golden.native))
    player = load_player(load_pretrained(golden.checkpoint), config, task_spec(config.task))
    parts = Parts(body.env, Says(), build_reward(config, None), body.arm, None, None)
    short = replace(config, task=replace(config.task, control_time_s=1 / config.task.fps))
    with entering() as seen:
        play_trial(parts, player, short, seed=0)
    assert len(seen) == 2
    return seen


PLACES: dict[Callable[[Golden], list[Tensor]], str] = {
    training: "hilserl.dataset_video",
    training_on_a_run: "hilserl.env",
    preview: "hilserl.pages.preview_live",
    replayed: "hilserl.pages.preview_recorded",
    actor: "hilserl.env",
    inference: "hilserl.env",
}
"""Each place, and the module that makes the policy image there."""


def reference(golden: Golden) -> Tensor:
    """Crop, area resize, ImageNet scale: the definition, in so many words."""
    task = golden.config.task
    crop = task.crop_params_dict[CAMERA]
    part = golden.native[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    height, width = task.resize_size
    small = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
    mean, std = (torch.tensor(n).view(3, 1, 1) for n in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (torch.from_numpy(small).permute(2, 0, 1) / 255.0 - mean) / std


def same(golden: Golden, seen: list[Tensor]) -> bool:
    expected = reference(golden)
    return bool(seen) and all(torch.equal(one, expected) for one in seen)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_the_network_receives_the_stored_frame_bit_by_bit(golden, place):
    assert same(golden, place(golden))


def moved_crop(right, frame, crop, size):
    return right(frame, replace(crop, left=crop.left + 1), size)


def no_crop(right, frame, crop, size):
    height, width = frame.shape[:2]
    return right(frame, replace(crop, top=0, left=0, height=height, width=width), size)


def other_resize(right, frame, crop, size):
    part = frame[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    return cv2.resize(part, size[::-1], interpolation=cv2.INTER_LINEAR)


def other_channels(right, frame, crop, size):
    return np.ascontiguousarray(right(frame, crop, size)[..., ::-1])


def other_scale(right, frame, crop, size):
    return np.clip(right(frame, crop, size), 0, 1)  # once a wrapper did just that


@pytest.mark.parametrize(
    "defect", [moved_crop, no_crop, other_resize, other_channels, other_scale], ids=lambda one: one.__name__
)
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_a_second_opinion_on_crop_resize_channels_or_scale_is_found(golden, place, defect, monkeypatch):
    monkeypatch.setattr(
        f"{PLACES[place]}.policy_image", lambda frame, crop, size: defect(policy_image, frame, crop, size)
    )
    assert not same(golden, place(golden))


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_pictures_scaled_twice_on_their_way_into_the_trunk_are_found(golden, place, monkeypatch):
    right = Trunk.forward
    monkeypatch.setattr(Trunk, "forward", lambda trunk, images: right(trunk, images // 255))
    with suppress(CheckpointError):  # a stored policy finds it by itself, on its golden observation
        assert not same(golden, place(golden))
