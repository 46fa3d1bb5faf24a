"""The golden frame: what enters the network is bit by bit the same wherever a picture is looked at.

Three times a classifier that was perfect in its preview was dead in training, because crop, resize, channel
order or scale lived in two places (field report, rows 41 to 46). Here a live picture goes through each place,
stored and read back where that place reads what is stored.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from hilserl.alarms import CollapseGuard
from hilserl.build import build_encoder, build_replay, build_sac
from hilserl.checkpoint import load_pretrained
from hilserl.classifier.decision import Decision
from hilserl.classifier.features import encode_episodes
from hilserl.classifier.labelled import Labelled
from hilserl.classifier.model import RewardClassifier
from hilserl.classifier.sources import open_source
from hilserl.config import Config
from hilserl.counters import Counters
from hilserl.dataset_schema import IMAGES, TASK_RECORD, is_dataset, open_dataset
from hilserl.dataset_video import native_frames
from hilserl.doctor.camera import SEED
from hilserl.doctor.context import Context, Missing
from hilserl.doctor.findings import Finding, judged
from hilserl.doctor.learning import small
from hilserl.doctor.network_input import definition, difference, entering, scaled
from hilserl.encoder import FeatureEncoder
from hilserl.env import task_spec
from hilserl.episode import TASK_FILE, load_episode, save_episode, scan_episodes
from hilserl.inference import load_player
from hilserl.learner_saving import CheckpointSaver
from hilserl.pages.preview_decision import DecisionDesk
from hilserl.pages.preview_live import LiveScorer
from hilserl.player import Player
from hilserl.rundir import RunDir
from hilserl.sac_agent import SacAgent
from hilserl.task_record import task_hash, task_json
from hilserl.types import ACTION_SIZE, End, Episode, Obs, Role
from hilserl.vision import load_trunk
from robot.types import U8, Frame

PATIENCE_S = 10.0

Natives = dict[str, U8]
"""{camera: native picture uint8 RGB (H, W, 3)}."""


class Shows:
    """A camera that always delivers one picture."""

    def __init__(self, rgb: U8, stamp_s: float) -> None:
        self._frame = Frame(rgb, stamp_s, 0)

    def latest(self) -> Frame:
        """The picture."""
        return self._frame

    def close(self) -> None:
        """Nothing to release."""


@dataclass(frozen=True, slots=True)
class Golden:
    """Two live moments, played and stored. config: small networks; model: the classifier's folder, or ""."""

    config: Config
    natives: tuple[Natives, Natives]
    seen: tuple[Obs, Obs]
    folder: Path
    model: str

    @property
    def stored(self) -> Episode:
        """The episode, read from its file."""
        (info,) = scan_episodes(self.folder)
        return load_episode(info.path)

    def expected(self, moments: Sequence[int]) -> list[Tensor]:
        """What must enter the network of these moments."""
        task, device = self.config.task, self.config.policy.device
        return [
            definition(native, task.crop_params_dict[name], task.resize_size, device)
            for moment in moments
            for name, native in self.natives[moment].items()
        ]


def live(context: Context) -> list[Finding]:
    """A live picture enters the networks as defined, wherever it is looked at."""
    kind, model = context.config.task.success.kind, context.config.classifier.model
    with tempfile.TemporaryDirectory(prefix="doctor_") as place:
        config = small(context.config, Path(place), 1)
        # one version of each picture, as it is
        config = dataclasses.replace(
            config, policy=dataclasses.replace(config.policy, use_augmentation=False)
        )
        golden = _played(context, config, Path(place), model if kind == "classifier" else "")
        wrong = []
        places = [*PLACES, _preview] if golden.model else PLACES
        for look in places:
            moments, seen = look(golden)
            if told := difference(seen, golden.expected(moments)):
                wrong.append(f"{look.__name__.strip('_')}: {told}")
    names = ", ".join(look.__name__.strip("_") for look in places)
    value = "; ".join(wrong) or f"equal to the last bit in {names}"
    advice = "crop, resize, channels or scale have a second home: please report it"
    return [judged("golden_frame", not wrong, value, "equal", advice)]


def _played(context: Context, config: Config, place: Path, model: str) -> Golden:
    env, task = context.body().env, config.task
    first, _ = env.reset(SEED)
    natives = [{name: frame.rgb.copy() for name, frame in env.frames.items()}]
    second = env.step(np.zeros(ACTION_SIZE, np.float32))
    natives.append({name: frame.rgb.copy() for name, frame in env.frames.items()})
    episode = Episode(
        images={name: np.stack([first.images[name], second.images[name]]) for name in first.images},
        state=np.random.default_rng(0).normal(size=(2, len(first.state))).astype(np.float32),  # not looked at
        action=np.zeros((1, ACTION_SIZE), np.float32),
        reward=np.zeros(1, np.float32),
        intervention=np.zeros(1, np.bool_),
        end=End.TIMEOUT,
        role=Role.TRAIN,
        actor="doctor",
        number=1,
        policy_version=0,
        seed=SEED,
        task_hash=task_hash(task),
    )
    folder = place / "golden"
    save_episode(folder, episode)
    (folder / TASK_FILE).write_text(task_json(task))
    return Golden(config, (natives[0], natives[1]), (first, second), folder, model)


def _replay(golden: Golden) -> tuple[Sequence[int], list[Tensor]]:
    """The learner's replay, of what was stored."""
    encoder = build_encoder(golden.config)
    replay = build_replay(golden.config, task_spec(golden.config.task), encoder)
    with entering() as seen:
        replay.add(golden.stored)
    return (0, 1), seen


def _training(golden: Golden) -> tuple[Sequence[int], list[Tensor]]:
    """The training of a classifier, of what was stored."""
    return (0, 1), trained_on(golden.config, golden.folder)


def trained_on(config: Config, root: Path) -> list[Tensor]:
    """The pictures of the first episode of `root`, as the training of a classifier gets them, unvaried."""
    source, trunk = (
        open_source(root, config.task, config.allow_task_difference),
        load_trunk(config.policy.vision_encoder_name),
    )
    episode = source.episodes[0]
    labelled = Labelled(source, episode, np.zeros(episode.frames, np.bool_), "operator")
    unvaried = dataclasses.replace(config.classifier, copies=1)
    encoder = FeatureEncoder(trunk, trunk.channels, device=config.policy.device)
    with entering() as seen:
        encode_episodes([labelled], encoder, unvaried, 0)
    return seen


def _actor(golden: Golden) -> tuple[Sequence[int], list[Tensor]]:
    """The actor's policy, of what the body showed it."""
    config, spec = golden.config, task_spec(golden.config.task)
    player = Player(spec, config, build_encoder(config), deterministic=False)
    player.load(_agent(golden)[0].weights())
    with entering() as seen:
        player.act(golden.seen[0])
    return (0,), seen


def _inference(golden: Golden) -> tuple[Sequence[int], list[Tensor]]:
    """A stored policy, loaded as for inference."""
    config, spec = golden.config, task_spec(golden.config.task)
    agent, encoder = _agent(golden)
    with (
        RunDir.create(golden.folder.parent, "golden_run", "{}", False) as run,
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
    (stored,) = [one for one in run.checkpoints.iterdir() if one.is_dir() and not one.is_symlink()]
    player = load_player(load_pretrained(stored), config, spec)
    with entering() as seen:
        player.act(golden.seen[0])
    return (0,), seen


def _agent(golden: Golden) -> tuple[SacAgent, FeatureEncoder]:
    """An untrained policy."""
    config, spec = golden.config, task_spec(golden.config.task)
    encoder = build_encoder(config)
    replay = build_replay(config, spec, encoder)
    replay.add(golden.stored)
    return SacAgent(build_sac(config, spec, replay, encoder), replay, encoder), encoder


def _preview(golden: Golden) -> tuple[Sequence[int], list[Tensor]]:
    """The classifier's live preview."""
    config = golden.config
    model = RewardClassifier.load(
        golden.model,
        config.task,
        config.allow_task_difference,
        trunk=config.policy.vision_encoder_name,
        device=config.policy.device,
    )
    cameras = {name: Shows(native, 0.0) for name, native in golden.natives[0].items()}
    desk = DecisionDesk(Decision(1.0, 1, 10**6), None)
    with entering() as seen, LiveScorer(config.task, model, cameras, desk, golden.folder) as scorer:
        scorer.newest.get(timeout_s=PATIENCE_S)
    return (0,), seen


Place = Callable[[Golden], tuple[Sequence[int], list[Tensor]]]
PLACES: tuple[Place, ...] = (_replay, _training, _actor, _inference)
"""Each place: which of the two moments it looks at, and the pictures that entered its network."""


def stored(context: Context) -> list[Finding]:
    """Stored pictures of the configured data enter the networks as defined."""
    config, found = context.config, []
    for name in dict.fromkeys((*config.demos, *config.classifier.datasets)):
        root = Path(name)
        if not (root / (TASK_RECORD if is_dataset(root) else TASK_FILE)).is_file():
            continue  # of another program, or damaged: other checks say so
        wrong = difference(trained_on(config, root), _stored(config, root))
        advice = "what was recorded is read otherwise than it was written: please report it"
        value = f"{wrong or 'equal to the last bit'} [{name}]"
        found.append(judged("golden_stored", not wrong, value, "equal", advice))
    if not found:
        raise Missing("neither demos nor classifier.datasets name recordings made under a task record")
    return found


def _stored(config: Config, root: Path) -> list[Tensor]:
    """What must enter the network of the first episode's pictures."""
    task, device = config.task, config.policy.device
    if not is_dataset(root):
        episode = load_episode(scan_episodes(root)[0].path)
        return [scaled(image, device) for images in episode.images.values() for image in images]
    dataset, expected = open_dataset(root), []
    recorded = dataset.episodes[0]
    for name in task.camera_ids:
        key, crop = IMAGES + name, task.crop_params_dict[name]
        frames = np.arange(len(recorded))
        for _, native in native_frames(recorded, key, dataset.fps, frames, dataset.images[key]):
            expected.append(definition(native, crop, task.resize_size, device))
    return expected
