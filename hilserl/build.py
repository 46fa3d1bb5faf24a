"""The composition root: from a Config to running processes. Each `run_*` is one program."""

from __future__ import annotations

import math
import queue
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from hilserl.acting import ActingPolicy
from hilserl.actor import Actor, EpisodeReport, Plan
from hilserl.body import build_body
from hilserl.checkpoint import latest, load_pretrained, load_training_state, save_checkpoint
from hilserl.config import Config, ConfigError
from hilserl.config_loading import to_json
from hilserl.contract import ContractMismatch, build_contract, check_encoder
from hilserl.display import EpisodeDisplay, LearnerDisplay
from hilserl.env import task_spec
from hilserl.episode import (
    TASK_FILE,
    EpisodeInfo,
    durable_numbers,
    load_episode,
    save_episode,
    scan_episodes,
)
from hilserl.learner import Budget, Counters, Learner
from hilserl.metrics import MetricLog, WandbRun, start_wandb, train_names
from hilserl.replay import Batch, Replay
from hilserl.rundir import RunDir, write_whole
from hilserl.sac import SAC
from hilserl.stopping import Stop, stop_on_interrupt
from hilserl.task_record import check_task, task_hash, task_json
from hilserl.types import End, Episode, Obs, Role, Spec, Step, Weights
from hilserl.vision import FeatureEncoder, load_trunk
from hilserl.wire import ActorLink, Command, LearnerService, LearnerUnreachable
from robot.types import F32

INBOX_EPISODES = 64
ENCODER_KEY = "encoder_sha256"
"""Name under which published weights carry the hash of the image encoder they were trained on."""


def build_encoder(config: Config) -> FeatureEncoder:
    """The frozen image encoder of this configuration."""
    policy = config.policy
    return FeatureEncoder(
        load_trunk(policy.vision_encoder_name), policy.feature_channels, device=policy.device
    )


def set_threads(config: Config) -> None:
    """Give torch the configured number of threads."""
    if config.run.num_threads:
        torch.set_num_threads(config.run.num_threads)


class Player:
    """An ActingPolicy as the rollout wants one. deterministic: squashed mean instead of a draw."""

    def __init__(self, spec: Spec, config: Config, encoder: FeatureEncoder, *, deterministic: bool) -> None:
        self._policy = ActingPolicy(spec, config.policy, encoder)
        self._encoder_hash = encoder.hash()
        self._generator = torch.Generator().manual_seed(config.seed)
        self.deterministic = deterministic
        self.noise_scale = 1.0

    def load(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Take published weights. Raises ContractMismatch when they belong to another image encoder."""
        tensors = dict(weights)
        theirs = tensors.pop(ENCODER_KEY).tobytes().hex()
        if theirs != self._encoder_hash:
            raise ContractMismatch(
                f"the learner trains on an image encoder with hash {theirs[:16]}, this actor loaded "
                f"{self._encoder_hash[:16]}: give both the same policy.vision_encoder_name and "
                "policy.feature_channels"
            )
        self._policy.load(tensors)

    def reset(self) -> None:
        """A new episode begins."""
        self._policy.reset()

    def observe(self, obs: Obs) -> None:
        """An observation the operator acts on."""
        self._policy.observe(obs)

    def act(self, obs: Obs) -> F32:
        """The action (4,) after `obs`."""
        mode: Literal["sample", "mean"] = "mean" if self.deterministic else "sample"
        return self._policy.act(obs, mode, self._generator, self.noise_scale)


class SacAgent:
    """SAC on a Replay, as the learner's loop wants an Agent."""

    def __init__(self, sac: SAC, replay: Replay, encoder_hash: str) -> None:
        self.sac, self.replay, self.encoder_hash = sac, replay, encoder_hash
        self._hash = np.frombuffer(bytes.fromhex(encoder_hash), np.uint8)

    def sample(self) -> Batch:
        """A batch with the configured share of demonstrations."""
        return self.replay.sample(self.sac.config.batch_size, self.sac.config.demo_fraction)

    def demonstrations(self) -> Batch:
        """A batch of demonstrations only."""
        return self.replay.sample(self.sac.config.batch_size, 1.0)

    def update(self, critic_updates: int) -> None:
        """`critic_updates` critic steps and one actor step."""
        self.sac.update(self.sample, critic_updates)

    def weights(self) -> dict[str, NDArray[Any]]:
        """What an actor needs, with the encoder's hash."""
        return {**self.sac.actor_weights(), ENCODER_KEY: self._hash}

    def metrics(self) -> dict[str, float]:
        """The glossary's train/ metrics since the last call."""
        return train_names({**self.sac.metrics(), **self.replay.metrics()})


def build_replay(config: Config, spec: Spec, encoder: FeatureEncoder) -> Replay:
    """An empty replay as configured."""
    policy = config.policy
    return Replay(
        spec,
        encoder.encode,
        feature_shape=encoder.feature_shape(spec.image_shape),
        capacity=policy.online_buffer_capacity,
        protected_capacity=policy.offline_buffer_capacity,
        copies=policy.feature_copies,
        pad=policy.augmentation_pad if policy.use_augmentation else 0,
        n_obs_steps=policy.n_obs_steps,
        seed=config.seed,
    )


def load_demos(
    config: Config,
    replay: Replay,
    message: Callable[[str], None],
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Fill the protected store from config.demos. Raises TaskMismatch naming a field that differs."""
    for folder in config.demos:
        episodes = scan_episodes(Path(folder))
        if not episodes:
            raise ConfigError(f"demos names {folder}, which holds no episode (*.npz); record some first")
        task_file = Path(folder) / TASK_FILE
        if not task_file.is_file():
            raise ConfigError(
                f"demos names {folder}, which has no {TASK_FILE} saying under which task it was recorded"
            )
        check_task(config.task, task_file.read_text(), str(task_file), config.allow_task_difference)
        steps = 0
        for info in episodes:
            if should_stop():
                raise _Stopped
            steps += replay.add(load_episode(info.path))
        message(f"{len(episodes)} demonstrations ({steps} transitions) from {folder}")


def build_sac(config: Config, spec: Spec, replay: Replay) -> SAC:
    """SAC with state statistics computed from the replay."""
    mean, std = replay.state_statistics()
    return SAC(spec, config.policy, replay.feature_shape, mean, std, config.seed, value_range(config))


def value_range(config: Config) -> tuple[float, float]:
    """The least and the most a state can be worth: success is paid once, and every step may cost."""
    if config.policy.use_backup_entropy:
        return -math.inf, math.inf  # the entropy bonus has no such bounds
    success = config.task.success
    return -success.step_cost / (1 - config.policy.discount), success.reward - success.step_cost


class _Stopped(Exception):
    """The end was asked for before learning began."""


def run_learner(config: Config) -> None:
    """Serve actors and learn until interrupted or max_transitions."""
    set_threads(config)
    display = LearnerDisplay()
    with ExitStack() as stack:
        stop = stack.enter_context(stop_on_interrupt())
        run = stack.enter_context(
            RunDir.create(config.output_dir, config.job_name, to_json(config), config.resume)
        )
        try:
            _serve_and_learn(config, run, stack, stop, display)
        except _Stopped:
            display.message("stopped before learning began; episodes that arrived are kept")


def _serve_and_learn(
    config: Config, run: RunDir, stack: ExitStack, stop: Stop, display: LearnerDisplay
) -> None:
    spec, encoder = task_spec(config.task), build_encoder(config)
    replay, counters = build_replay(config, spec, encoder), Counters()
    load_demos(config, replay, display.message, stop)
    stored = _load_stored(config, run, replay, counters, stop)
    inbox: queue.Queue[Episode] = queue.Queue(INBOX_EPISODES)
    service = _service(config, run, spec, inbox, stored)
    service.start()
    stack.callback(service.stop)
    display.message(f"learner at {config.service.learner_host}:{service.port}, run folder {run.root}")

    def on_episode(episode: Episode) -> None:
        display.message(episode_line(episode))

    _gather(config, replay, inbox, counters, _obedient(service, stop, None), on_episode, display)
    agent = SacAgent(build_sac(config, spec, replay), replay, encoder.hash())
    publisher = _Publisher(service, run.root / "published_version")
    _restore_or_pretrain(config, run, agent, counters, stop, display)
    counters.version = max(counters.version, publisher.last_version())
    log = MetricLog(run.metrics, "learner", tensorboard=config.run.tensorboard, wandb=_wandb(config, run))
    stack.callback(log.close)

    def on_log(values: Mapping[str, float]) -> None:
        log.log(values, transitions=counters.transitions)
        display.table(values)

    def save(best: bool) -> None:
        path = _save(config, run, spec, agent, encoder, counters, best)
        display.message(f"checkpoint {path}" + (" (best so far)" if best else ""))

    Learner(
        agent=agent,
        store=replay,
        inbox=inbox,
        publisher=publisher,
        counters=counters,
        budget=_budget(config),
        on_log=on_log,
        on_episode=on_episode,
        save=save,
        eval_group=config.run.eval_episodes,
    ).run(_obedient(service, stop, save))


def _budget(config: Config) -> Budget:
    policy = config.policy
    return Budget(
        updates_per_transition=policy.utd_ratio,
        updates_per_call=min(policy.policy_update_freq, policy.utd_ratio),
        push_every=config.service.policy_push_every_updates,
        log_every=config.run.log_every_updates,
        checkpoint_every=config.run.checkpoint_every,
        max_transitions=config.run.max_transitions,
    )


def _service(
    config: Config,
    run: RunDir,
    spec: Spec,
    inbox: queue.Queue[Episode],
    stored: list[EpisodeInfo],
) -> LearnerService:
    def store(episode: Episode) -> None:
        if episode.role is not Role.EVAL:
            save_episode(run.episodes, episode)

    return LearnerService(
        config.service,
        spec,
        task_hash(config.task),
        task_json(config.task),
        store,
        inbox,
        durable_numbers(stored),
        config.allow_task_difference,
    )


class _Publisher:
    """Publishes to the actors, and keeps the newest version on disk: no two policies ever share one."""

    def __init__(self, service: LearnerService, path: Path) -> None:
        self._service, self._path = service, path

    def last_version(self) -> int:
        """The newest version ever published in this run, 0 when there is none."""
        return int(self._path.read_text()) if self._path.exists() else 0

    def publish(self, weights: Weights) -> None:
        """Hand new weights to the actors."""
        write_whole(self._path, f"{weights.version}\n")
        self._service.publish(weights)

    def progress(self, transitions: int, updates: int) -> None:
        """Tell the actors how far learning is."""
        self._service.progress(transitions, updates)


def _obedient(service: LearnerService, stop: Stop, save: Callable[[bool], None] | None) -> Callable[[], bool]:
    """A should_stop that first does what was asked for over the wire. save: None while nothing is learned."""

    def should_stop() -> bool:
        while not service.commands.empty():
            match service.commands.get():
                case Command.SAVE if save is not None:
                    save(False)
                case Command.STOP:
                    stop.ask()
        return stop()

    return should_stop


def _load_stored(
    config: Config, run: RunDir, replay: Replay, counters: Counters, stop: Stop
) -> list[EpisodeInfo]:
    """Take in a resumed run's own episodes. Raises TaskMismatch naming a field that differs."""
    task_file = run.episodes / TASK_FILE
    if task_file.exists():
        check_task(config.task, task_file.read_text(), str(task_file), config.allow_task_difference)
    else:
        write_whole(task_file, task_json(config.task))
    stored = scan_episodes(run.episodes)
    for info in stored:
        if stop():
            raise _Stopped
        _count(counters, replay, load_episode(info.path))
    return stored


def _count(counters: Counters, replay: Replay, episode: Episode) -> None:
    """Take one episode in before learning; evaluation never is."""
    if episode.role is Role.EVAL:
        return
    replay.add(episode)
    if episode.role is Role.TRAIN:
        counters.transitions += len(episode)
        counters.episodes += 1


def episode_line(episode: Episode) -> str:
    """One episode as the learner's terminal shows it."""
    return (
        f"{episode.actor}/{episode.number} {episode.role.value}: {episode.end.value} after {len(episode)} "
        f"steps, return {episode.reward.sum():+.2f}, help {100 * episode.intervention.mean():.0f} %, "
        f"policy v{episode.policy_version}"
    )


def _wandb(config: Config, run: RunDir) -> WandbRun | None:
    if not config.run.wandb:
        return None
    return start_wandb(config.job_name, run.root, {"config": to_json(config)})


def _gather(
    config: Config,
    replay: Replay,
    inbox: queue.Queue[Episode],
    counters: Counters,
    should_stop: Callable[[], bool],
    on_episode: Callable[[Episode], None],
    display: LearnerDisplay,
) -> None:
    """Take in episodes until there is enough to learn from; meanwhile actors hold still."""
    needed = max(1, config.policy.online_step_before_learning)
    told = -1
    while (have := replay.transitions) < needed:
        if should_stop():
            raise _Stopped
        if have != told:
            display.message(f"{have} of {needed} transitions before learning; demonstrate by taking over")
            told = have
        try:
            episode = inbox.get(timeout=0.2)
        except queue.Empty:
            continue
        on_episode(episode)
        _count(counters, replay, episode)


def _restore_or_pretrain(
    config: Config, run: RunDir, agent: SacAgent, counters: Counters, stop: Stop, display: LearnerDisplay
) -> None:
    newest = latest(run.checkpoints)
    if newest is None:
        if config.policy.bc_pretrain_steps:
            demonstrations = _watched(agent.demonstrations, stop)
            agent.sac.pretrain_bc(demonstrations, config.policy.bc_pretrain_steps)
            agent.sac.pretrain_critic(demonstrations, config.policy.critic_pretrain_steps)
            display.message(f"cloned the demonstrations for {config.policy.bc_pretrain_steps} steps")
        return
    pretrained = load_pretrained(newest)
    check_encoder(pretrained.contract, agent.encoder_hash, str(pretrained.path))
    saved = load_training_state(newest)
    agent.sac.load_state_dict(
        {name: torch.from_numpy(np.array(array)) for name, array in saved.tensors.items()}, saved.state["sac"]
    )
    agent.replay.rng.bit_generator.state = saved.state["replay_rng"]
    counters.updates, counters.version = saved.state["updates"], saved.state["version"]
    counters.best_success = saved.state["best_success"]
    counters.minutes = saved.state.get("minutes", 0.0)
    display.message(
        f"resumed from {newest}: {counters.updates} updates; {counters.transitions} transitions on disk"
    )


def _watched(sample: Callable[[], Batch], stop: Stop) -> Callable[[], Batch]:
    """A sample that ends cloning, which may take a minute, as soon as the end is asked for."""

    def watched() -> Batch:
        if stop():
            raise _Stopped
        return sample()

    return watched


def _save(
    config: Config,
    run: RunDir,
    spec: Spec,
    agent: SacAgent,
    encoder: FeatureEncoder,
    counters: Counters,
    best: bool,
) -> Path:
    tensors, plain = agent.sac.state_dict()
    model = {f"policy.{name}": array for name, array in agent.sac.actor_weights().items()}
    model |= {f"encoder.{name}": array for name, array in encoder_arrays(encoder).items()}
    golden_inputs, golden_outputs = _golden(config, spec, agent, encoder)
    return save_checkpoint(
        run.checkpoints,
        counters.transitions,
        model=model,
        contract=build_contract(spec, config.task, config.policy, encoder.hash()),
        training_tensors={name: tensor.cpu().numpy() for name, tensor in tensors.items()},
        training_state={
            "sac": plain,
            "replay_rng": agent.replay.rng.bit_generator.state,
            "updates": counters.updates,
            "version": counters.version,
            "episodes": counters.episodes,
            "best_success": counters.best_success,
            "minutes": counters.minutes,
        },
        keep=config.run.keep_checkpoints,
        best=best,
        golden_inputs=golden_inputs,
        golden_outputs=golden_outputs,
    )


def encoder_arrays(encoder: FeatureEncoder) -> dict[str, NDArray[Any]]:
    """The frozen encoder's tensors, so that a checkpoint needs no other file."""
    arrays = {
        f"trunk.{name}": tensor.cpu().contiguous().numpy()
        for name, tensor in encoder.trunk.state_dict().items()
    }
    if encoder.projection is not None:
        arrays["projection"] = encoder.projection.cpu().contiguous().numpy()
    return arrays


def golden_observation(spec: Spec, mean: NDArray[Any]) -> Obs:
    """One fixed observation: noise pictures and the mean state."""
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, spec.image_shape, dtype=np.uint8) for name in spec.cameras}
    return Obs(images, mean.astype(np.float32))


def _golden(
    config: Config, spec: Spec, agent: SacAgent, encoder: FeatureEncoder
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """An input and the policy's answer to it, by which a rebuilt policy is recognised."""
    mean, _ = agent.replay.state_statistics()
    obs = golden_observation(spec, mean)
    player = Player(spec, config, encoder, deterministic=True)
    player.load(agent.weights())
    inputs = {f"image.{name}": image for name, image in obs.images.items()} | {"state": obs.state}
    return inputs, {"action": player.act(obs)}


def run_actor(config: Config) -> None:
    """Drive the body for a learner until interrupted, stopped by a button, or max_episodes."""
    set_threads(config)
    with ExitStack() as stack:
        stop = stack.enter_context(stop_on_interrupt())
        name = config.service.actor_name
        folder = stack.enter_context(
            RunDir.open_actor(config.output_dir, config.job_name, name, to_json(config))
        )
        display = stack.enter_context(EpisodeDisplay())
        spec, encoder = task_spec(config.task), build_encoder(config)
        link = ActorLink(config.service, name, folder.spool, display.message)
        stack.callback(link.close)
        while not stop():
            try:
                link.connect(spec, task_hash(config.task), task_json(config.task), timeout_s=0.5)
                break
            except LearnerUnreachable:
                continue
        if stop():
            return
        log = MetricLog(folder.metrics, "actor", tensorboard=config.run.tensorboard)
        stack.callback(log.close)
        body = stack.enter_context(
            build_body(config, display.message, first_episode=link.next_episode_number - 1)
        )
        transitions = 0

        def report(episode: EpisodeReport) -> None:
            nonlocal transitions
            if episode.fault:
                what = "discarded" if episode.played.end is End.DISCARDED else "cut short"
                display.message(f"episode {episode.number} {what}: {episode.fault}", warning=True)
            if not episode.played.steps:
                return
            transitions += episode.played.steps
            row = episode_row(episode) | {"actor/spooled": link.backlog}
            if episode.role is Role.TRAIN:
                taken, updates = link.progress()
                row["train/updates_per_transition"] = updates / max(1, taken)
            log.log(row, transitions=transitions)
            display.episode(row)

        Actor(
            env=body.env,
            policy=Player(spec, config, encoder, deterministic=False),
            teleop=body.teleop,
            reward=body.reward,
            link=link,
            plan=Plan(
                actor=name,
                task_hash=task_hash(config.task),
                seed=config.seed,
                max_steps=max_steps(config),
                max_episodes=config.run.max_episodes,
                wait_for_weights=bool(config.demos),
                pace=config.policy.utd_ratio if config.service.pace else 0,
                eval_every=config.run.eval_every_episodes,
                eval_episodes=config.run.eval_episodes,
            ),
            report=report,
            should_stop=stop,
            listeners=(LiveLine(display),),
        ).run()


class LiveLine:
    """A rollout listener that shows the step being played."""

    def __init__(self, display: EpisodeDisplay) -> None:
        self._display, self._count, self._total = display, 0, 0.0

    def begin(self, obs: Obs) -> None:
        """A new episode."""
        self._count, self._total = 0, 0.0

    def step(self, step: Step) -> None:
        """One more step."""
        self._count += 1
        self._total += step.reward
        who = "operator" if step.intervention else "policy"
        self._display.live(f"step {self._count}  {who}  return {self._total:+.2f}")


def max_steps(config: Config) -> int:
    """Control steps until an episode times out."""
    return round(config.task.control_time_s * config.task.fps)


def episode_row(episode: EpisodeReport) -> dict[str, float]:
    """The glossary's metrics of one played episode."""
    played, periods = episode.played, np.array(episode.timing.period_s)
    row: dict[str, Any] = {
        "episode/index": episode.number,
        "episode/steps": played.steps,
        "episode/return": played.total_reward,
        "episode/success": float(played.end is End.SUCCESS),
        "episode/intervention_share": played.interventions / played.steps,
        "episode/policy_version": episode.policy_version,
        "episode/evaluation": float(episode.role is Role.EVAL),
        "episode/clipped_share": played.clipped_steps / played.steps,
        "actor/overruns": episode.timing.overruns,
    }
    if len(periods):
        row["actor/loop_hz"] = float(1 / periods.mean())
        row["actor/loop_p99_ms"] = float(np.quantile(periods, 0.99) * 1000)
    return row
