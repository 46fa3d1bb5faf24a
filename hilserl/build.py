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

from hilserl.acting import ActingPolicy
from hilserl.actor import Actor, EpisodeReport, Plan
from hilserl.body import build_body
from hilserl.checkpoint import latest, load_training_state, save_checkpoint
from hilserl.config import Config, ConfigError
from hilserl.config_loading import to_json
from hilserl.contract import ContractMismatch, build_contract
from hilserl.display import EpisodeDisplay, LearnerDisplay
from hilserl.env import task_spec
from hilserl.episode import durable_numbers, load_episode, save_episode, scan_episodes
from hilserl.learner import Budget, Counters, Learner
from hilserl.metrics import MetricLog, WandbRun, start_wandb, train_names
from hilserl.replay import Batch, Replay
from hilserl.rundir import RunDir
from hilserl.sac import SAC
from hilserl.stopping import Stop, stop_on_interrupt
from hilserl.task_record import check_task, task_hash, task_json
from hilserl.types import End, Episode, Obs, Role, Spec
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

    def load(self, weights: Mapping[str, np.ndarray]) -> None:
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
        self.sac, self.replay = sac, replay
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

    def weights(self) -> dict[str, np.ndarray]:
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


def load_demos(config: Config, replay: Replay, message: Callable[[str], None]) -> None:
    """Fill the protected store from config.demos. Raises TaskMismatch naming a field that differs."""
    for folder in config.demos:
        episodes = scan_episodes(Path(folder))
        if not episodes:
            raise ConfigError(f"demos names {folder}, which holds no episode (*.npz); record some first")
        task_file = Path(folder) / "task.json"
        if not task_file.is_file():
            raise ConfigError(
                f"demos names {folder}, which has no task.json saying under which task it was recorded"
            )
        check_task(config.task, task_file.read_text(), str(task_file), config.allow_task_difference)
        steps = sum(replay.add(load_episode(info.path)) for info in episodes)
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


def run_learner(config: Config) -> None:
    """Serve actors and learn until interrupted or max_transitions."""
    set_threads(config)
    display = LearnerDisplay()
    with ExitStack() as stack:
        stop = stack.enter_context(stop_on_interrupt())
        run = stack.enter_context(
            RunDir.create(config.output_dir, config.job_name, to_json(config), config.resume)
        )
        spec, encoder = task_spec(config.task), build_encoder(config)
        replay = build_replay(config, spec, encoder)
        load_demos(config, replay, display.message)
        stored = scan_episodes(run.episodes)
        counters = Counters(version=0)
        for info in stored:
            episode = load_episode(info.path)
            replay.add(episode)
            if episode.role is Role.TRAIN:
                counters.transitions += len(episode)
                counters.episodes += 1
        inbox: queue.Queue[Episode] = queue.Queue(INBOX_EPISODES)

        def store(episode: Episode) -> None:
            if episode.role is not Role.EVAL:
                save_episode(run.episodes, episode)

        service = LearnerService(
            config.service,
            spec,
            task_hash(config.task),
            task_json(config.task),
            store,
            inbox,
            durable_numbers(stored),
            config.allow_task_difference,
        )
        service.start()
        stack.callback(service.stop)
        display.message(f"learner at {config.service.learner_host}:{service.port}, run folder {run.root}")
        _gather(config, replay, inbox, counters, stop, display)
        if stop():
            return
        sac = build_sac(config, spec, replay)
        agent = SacAgent(sac, replay, encoder.hash())
        _restore_or_pretrain(config, run, agent, counters, display)
        log = MetricLog(
            run.metrics,
            "learner",
            tensorboard=config.run.tensorboard,
            wandb=start_wandb(config.job_name, run.root, {"config": to_json(config)})
            if config.run.wandb
            else None,
        )
        stack.callback(log.close)

        def on_log(values: Mapping[str, float]) -> None:
            log.log(values, transitions=counters.transitions)
            display.table(values)

        def save(best: bool) -> None:
            path = _save(config, run, spec, agent, encoder, counters, best)
            display.message(f"checkpoint {path}" + (" (best so far)" if best else ""))

        def should_stop() -> bool:
            while not service.commands.empty():
                match service.commands.get():
                    case Command.SAVE:
                        save(False)
                    case Command.STOP:
                        stop.ask()
            return stop()

        Learner(
            agent=agent,
            store=replay,
            inbox=inbox,
            publisher=service,
            counters=counters,
            budget=Budget(
                config.policy.utd_ratio,
                min(config.policy.policy_update_freq, config.policy.utd_ratio),
                config.service.policy_push_every_updates,
                config.run.log_every_updates,
                config.run.checkpoint_every,
                config.run.max_transitions,
            ),
            on_log=on_log,
            on_episode=lambda episode: None,
            save=save,
            eval_group=config.run.eval_episodes,
        ).run(should_stop)


def _wandb(config: Config, run: RunDir) -> WandbRun | None:
    if not config.run.wandb:
        return None
    return start_wandb(config.job_name, run.root, {"config": to_json(config)})


def _gather(
    config: Config,
    replay: Replay,
    inbox: queue.Queue[Episode],
    counters: Counters,
    stop: Stop,
    display: LearnerDisplay,
) -> None:
    """Take in episodes until there is enough to learn from; meanwhile actors hold still."""
    needed = config.policy.online_step_before_learning
    told = -1
    while not stop() and (have := replay.transitions) < max(1, needed):
        if have != told:
            display.message(f"{have} of {needed} transitions before learning; demonstrate by taking over")
            told = have
        try:
            episode = inbox.get(timeout=0.2)
        except queue.Empty:
            continue
        replay.add(episode)
        if episode.role is Role.TRAIN:
            counters.transitions += len(episode)
            counters.episodes += 1


def _restore_or_pretrain(
    config: Config, run: RunDir, agent: SacAgent, counters: Counters, display: LearnerDisplay
) -> None:
    newest = latest(run.checkpoints)
    if newest is None:
        if config.policy.bc_pretrain_steps:
            agent.sac.pretrain_bc(agent.demonstrations, config.policy.bc_pretrain_steps)
            agent.sac.pretrain_critic(agent.demonstrations, config.policy.critic_pretrain_steps)
            display.message(f"cloned the demonstrations for {config.policy.bc_pretrain_steps} steps")
        return
    saved = load_training_state(newest)
    agent.sac.load_state_dict(
        {name: torch.from_numpy(np.array(array)) for name, array in saved.tensors.items()}, saved.state["sac"]
    )
    agent.replay.rng.bit_generator.state = saved.state["replay_rng"]
    counters.updates, counters.version = saved.state["updates"], saved.state["version"]
    counters.best_success = saved.state["best_success"]
    display.message(
        f"resumed from {newest}: {counters.updates} updates; {counters.transitions} transitions on disk"
    )


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
        },
        keep=config.run.keep_checkpoints,
        best=best,
        golden_inputs=golden_inputs,
        golden_outputs=golden_outputs,
    )


def encoder_arrays(encoder: FeatureEncoder) -> dict[str, np.ndarray]:
    """The frozen encoder's tensors, so that a checkpoint needs no other file."""
    arrays = {
        f"trunk.{name}": tensor.cpu().contiguous().numpy()
        for name, tensor in encoder.trunk.state_dict().items()
    }
    if encoder.projection is not None:
        arrays["projection"] = encoder.projection.cpu().contiguous().numpy()
    return arrays


def golden_observation(spec: Spec, mean: np.ndarray) -> Obs:
    """One fixed observation: noise pictures and the mean state."""
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, spec.image_shape, dtype=np.uint8) for name in spec.cameras}
    return Obs(images, mean.astype(np.float32))


def _golden(
    config: Config, spec: Spec, agent: SacAgent, encoder: FeatureEncoder
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
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
        ).run()


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
