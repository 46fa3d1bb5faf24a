"""`hilserl record`: play episodes with the operator alone and keep them as a LeRobotDataset.

role demo     demonstrations: only successes are kept, everything else is played again
role reward   pictures for a reward classifier: successes and failures are kept; only the buttons judge
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from hilserl.body import Body, build_body
from hilserl.config import Config, ConfigError
from hilserl.dataset_schema import DatasetError
from hilserl.display import EpisodeDisplay, LiveLine
from hilserl.doctor.result import standing
from hilserl.env import max_steps
from hilserl.recording_check import check_recording
from hilserl.recording_files import Recording
from hilserl.recording_record import record_of
from hilserl.recording_take import TakeListener, is_idle, trim
from hilserl.reward import ButtonReward
from hilserl.rollout import HoldStill, Listener, Played, rollout
from hilserl.stopping import stop_on_interrupt
from hilserl.task_record import TaskMismatch
from hilserl.types import End

ROLES = ("demo", "reward")
SEEDS = {"demo": 50_000_000, "reward": 60_000_000}
"""Where the seeds of recorded episodes start."""
ATTEMPTS = 4
"""A scripted operator may play so many episodes per one that is kept."""

Say = Callable[[str], None]


def run_record(config: Config, count: int, role: str, root: Path | None) -> Path:
    """Record until the dataset holds `count` episodes, a stop button, or an interrupt. Returns its folder.

    root: None names a new folder below the run's. An existing one needs config.resume. On the way out the
    arm is parked and the whole dataset is checked, also after an error of the body, which passes through.
    """
    if root is None:
        if config.resume:
            raise ConfigError("--resume=true needs --root: which recording shall be gone on with?")
        root = new_root(config, role)
    with ExitStack() as stack:
        stop = stack.enter_context(stop_on_interrupt())
        display = stack.enter_context(EpisodeDisplay())
        record_episodes(config, count, role, root, display.message, should_stop=stop, live=display.live)
    return root


def new_root(config: Config, role: str) -> Path:
    """A folder name of its own for every recording."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return Path(config.output_dir) / config.job_name / "recordings" / f"{role}_{stamp}"


def record_episodes(
    config: Config,
    count: int,
    role: str,
    root: Path,
    say: Say,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    live: Say = lambda line: None,
) -> None:
    """Record into `root` until it holds `count` episodes; see `run_record`. live: shows the present step.

    Raises RecordingError, TaskMismatch, DatasetError (the check failed), and what the body raises.
    """
    if role not in ROLES:
        raise ConfigError(f'--role is {role!r}; it must be "demo" or "reward"')
    if config.teleop.type == "none":
        raise ConfigError('teleop.type is "none", but somebody must play the episodes that are recorded')
    if config.resume:
        recording = Recording.reopen(root, config.task, role)
    else:
        recording = Recording.create(root, config.task)
    with recording:
        before = len(recording)
        try:
            if before < count:
                _play(config, count, role, recording, say, should_stop, live)
        finally:
            # What a servo or a camera did at the end must not hide what was saved.
            held = f", {len(recording)} in {root}" if len(recording) else ""
            say(f"{len(recording) - before} episodes saved{held}")
            fault = _check(config, recording, say)
        if fault is not None:
            raise fault


def _play(
    config: Config,
    count: int,
    role: str,
    recording: Recording,
    say: Say,
    should_stop: Callable[[], bool],
    live: Say,
) -> None:
    # What is to be learned must not judge: pictures for a classifier are judged by the buttons.
    judge = ButtonReward(config.task.success) if role == "reward" else None
    with build_body(config, say, demonstrate=True, near_misses=role == "reward", judge=judge) as body:
        _Session(config, role, recording, body, say, should_stop, live).play(count)


def _check(config: Config, recording: Recording, say: Say) -> DatasetError | TaskMismatch | None:
    """Say whether the dataset is whole; the fault where it is not."""
    if not len(recording):
        return None
    try:
        say(f"checked: {check_recording(recording.root, config.task).sentence()}")
    except (DatasetError, TaskMismatch) as fault:
        say(f"THE RECORDING IS NOT WHOLE: {fault}")
        return fault
    return None


class _Session:
    """The episodes of one recording on one body."""

    def __init__(
        self,
        config: Config,
        role: str,
        recording: Recording,
        body: Body,
        say: Say,
        should_stop: Callable[[], bool],
        live: Say,
    ) -> None:
        self._line = LiveLine(live, body.torque, body.holding, recording=True)
        self._config, self._role, self._recording = config, role, recording
        self._body, self._say, self._should_stop = body, say, should_stop
        self._preflight = standing(config).line
        say(self._preflight)

    def play(self, count: int) -> None:
        """Play until `count` episodes are stored, or a stop."""
        start = SEEDS[self._role] + 1000 * self._config.seed
        seed = max([start - 1, *(record.seed for record in self._recording.records)]) + 1
        missed, limit = 0, ATTEMPTS * count
        scripted = self._config.teleop.type == "scripted"
        while len(self._recording) < count and not self._should_stop():
            if scripted and missed >= limit:
                raise ConfigError(f"{missed} scripted episodes were not kept: is the task out of reach?")
            self._say(f"episode {len(self._recording) + 1} of {count} ({self._role})")
            listener = TakeListener(self._body.env, self._body.truth)
            played = self._rollout(seed, listener)
            self._line.rest()
            if played.stopped:
                return
            missed += not self._keep(seed, played, listener)
            seed += 1

    def _rollout(self, seed: int, listener: Listener) -> Played:
        return rollout(
            env=self._body.env,
            policy=HoldStill(),
            teleop=self._body.teleop,
            reward=self._body.reward,
            seed=seed,
            max_steps=max_steps(self._config.task),
            listeners=(listener, self._line),
            should_stop=self._should_stop,
        )

    def _keep(self, seed: int, played: Played, listener: TakeListener) -> bool:
        """Store the episode, or say why not and that it is played again."""
        fault = f" ({played.fault})" if played.fault else ""
        if played.end is End.DISCARDED:
            self._say(f"discarded{fault}; again")
            return False
        if self._role == "demo" and played.end is not End.SUCCESS:
            self._say(f"ended in {played.end.value}{fault}, which is no demonstration; again")
            return False
        take = listener.take(played.end)
        if self._role == "demo" and is_idle(take).all():
            self._say("nothing moved, which is no demonstration; again")
            return False
        take = trim(take, self._config.task.fps)
        record = record_of(take, self._config.task, self._role, seed, played.facts, played.fault)
        record = replace(record, preflight=self._preflight)
        # This takes seconds in which nobody commands the arm: its guard holds it, and what it grips.
        self._recording.append(take, record)
        head, tail = take.trimmed
        cut = f", {head} idle steps cut off before and {tail} after" if head or tail else ""
        self._say(f"saved: {played.end.value}{fault}, {len(take)} steps{cut}")
        return True
