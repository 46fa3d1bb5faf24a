"""Every number a run reports: its name, unit and meaning; and the log that refuses any other name.

`transitions` are control steps of the environment; `updates` are optimisation steps of the critic.
"""

from __future__ import annotations

import csv
import importlib
import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from hilserl.rundir import whole_file
from robot.types import ACTION_NAMES


class MetricError(Exception):
    """A metric that is not in the glossary or not finite, or a log that cannot be kept."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What a number means. unit: "1" for a plain ratio or value, "0/1" for a flag."""

    unit: str
    meaning: str


METRICS: dict[str, Metric] = {
    "time/transitions": Metric("transitions", "control steps of all actors; the x axis of every curve"),
    "time/updates": Metric("updates", "critic optimisation steps so far"),
    "time/actor_updates": Metric("updates", "actor and temperature optimisation steps so far"),
    "time/minutes": Metric("min", "wall time this run has been worked on, over all resumes"),
    "time/unix_s": Metric("s", "wall clock when the row was written; aligns the logs of several processes"),
    "time/transitions_per_s": Metric("transitions/s", "transitions taken in, mean of the last minute"),
    "time/updates_per_s": Metric("updates/s", "critic updates, mean of the last minute"),
    "time/update_share": Metric(
        "1", "share of the last minute's wall time spent in updates, sampling included"
    ),
    "time/sample_share": Metric("1", "share of the last minute's wall time spent in drawing batches"),
    "time/encode_share": Metric("1", "time spent encoding pictures over the last minute's wall time"),
    "episode/index": Metric("episodes", "number of the episode, counted by its actor"),
    "episode/steps": Metric("transitions", "length of the episode"),
    "episode/return": Metric("1", "undiscounted sum of rewards"),
    "episode/success": Metric("0/1", "ended in success, with whatever help was given"),
    "episode/intervention_share": Metric("1", "share of the episode's steps played by the operator"),
    "episode/policy_version": Metric("versions", "the one policy version that acted"),
    "episode/evaluation": Metric(
        "0/1", "held-out episode: deterministic actions, help forbidden, never trained on"
    ),
    "episode/seed": Metric("1", "seed of the scene and the start pose"),
    "episode/clipped_share": Metric("1", "share of steps the workspace box or the leash shortened"),
    "rollout/episodes": Metric("episodes", "episodes received so far, from all actors"),
    "rollout/interventions": Metric("transitions", "steps played by operators so far"),
    "rollout/steps_mean": Metric("transitions", "mean length of the last 20 episodes"),
    "rollout/return_mean": Metric("1", "mean return of the last 20 episodes"),
    "rollout/helped_success": Metric("1", "success share of the last 20 training episodes, help included"),
    "rollout/unaided_success": Metric(
        "1", "share of the last 20 training episodes that succeeded with no help at all"
    ),
    "rollout/intervention_share": Metric("1", "operator's share of the steps of the last 20 episodes"),
    "train/updates_per_transition": Metric("updates/transition", "achieved; compare utd_ratio"),
    "train/updates_per_transition_minute": Metric(
        "updates/transition", "achieved in the last minute; above utd_ratio while catching up"
    ),
    "train/update_ms": Metric("ms", "of one critic update, sampling and its share of the actor's included"),
    "train/sample_ms": Metric("ms", "of that, drawing the batch"),
    "train/encode_ms_per_frame": Metric("ms", "encoding one arrived picture, all its copies included"),
    "train/alarms": Metric("alarms", "alarms that stand; `hilserl status` says which"),
    "train/paused": Metric("0/1", "updates are paused until somebody resumes"),
    "train/policy_version": Metric("versions", "newest policy version published"),
    "train/replay_online_steps": Metric("transitions", "in the ring of the actors' newest episodes"),
    "train/replay_protected_steps": Metric("transitions", "demonstrations and help, never evicted"),
    "train/replay_protected_refused_steps": Metric("transitions", "help the protected store had no room for"),
    "train/replay_protected_full_share": Metric("1", "how full the protected store is"),
    "train/replay_rewarded_share": Metric("1", "share of the actors' transitions with a reward"),
    "train/critic_loss": Metric("1", "squared error of one critic, mean over critics and batches"),
    "train/critic_grad_norm": Metric("1", "norm of the critics' gradient before clipping"),
    "train/critic_q_mean": Metric("1", "mean value the critics give to the batch"),
    "train/critic_q_max": Metric("1", "largest value the critics give in a batch, mean over batches"),
    "train/critic_q_bound": Metric("1", "the most any state can be worth; values beyond it are diverging"),
    "train/critic_target_mean": Metric("1", "mean target of the critics"),
    "train/actor_loss": Metric("1", "temperature times log density minus value, plus cloning where it is on"),
    "train/actor_grad_norm": Metric("1", "norm of the actor's gradient before clipping"),
    "train/actor_entropy": Metric("nat", "entropy of the policy after squashing; compare target_entropy"),
    "train/actor_temperature": Metric("1", "SAC's temperature alpha"),
    "train/actor_saturated_share": Metric("1", "share of sampled action components beyond 0.98 in size"),
    "train/actor_cloning_loss": Metric("1", "distance of the policy from demonstrated actions"),
    "train/temperature_grad_norm": Metric("1", "norm of the temperature's gradient before clipping"),
    "train/pretrain_cloning_loss": Metric("1", "cloning loss before reinforcement learning starts"),
    "train/data_demo_share": Metric("1", "share of the batch drawn from demonstrations and interventions"),
    "train/data_reward_mean": Metric("1", "mean reward of the batch"),
    "train/data_state_max": Metric("1", "largest normalised state component; above 10 is suspicious"),
    "train/data_state_large_share": Metric("1", "share of normalised state components beyond 10"),
    **{
        f"train/actor_std_{name}": Metric("1", f"mean standard deviation of {name} before squashing")
        for name in ACTION_NAMES
    },
    "actor/loop_hz": Metric("Hz", "control rate achieved in the episode"),
    "actor/overruns": Metric("transitions", "steps of the episode that came late"),
    "actor/loop_p99_ms": Metric("ms", "99th percentile of the control period in the episode"),
    "actor/bus_retry_share": Metric("1", "repeats per exchange with the servos, since the last row"),
    "actor/bus_failures": Metric("exchanges", "exchanges with the servos given up, since the last row"),
    "actor/hottest_servo_c": Metric("C", "temperature of the hottest servo at the episode's end"),
    "actor/lowest_voltage_v": Metric("V", "lowest supply voltage a servo showed at the episode's end"),
    "actor/largest_load": Metric("1", "largest load of a servo at the episode's end, share of full torque"),
    "actor/spooled": Metric("episodes", "finished episodes the learner has not acknowledged yet"),
    "eval/success_rate": Metric("1", "share of successes, deterministic actions, help forbidden"),
    "eval/low95": Metric("1", "lower end of the 95 % Wilson interval of the success rate"),
    "eval/high95": Metric("1", "upper end of the 95 % Wilson interval of the success rate"),
    "eval/episodes": Metric("episodes", "help-free episodes counted"),
    "eval/steps_mean": Metric("transitions", "mean length of the evaluated episodes"),
}
"""The glossary. One line here is all a new metric needs."""

_MODULES = {"tensorboard": "run.tensorboard", "wandb": "run.wandb"}


def train_names(metrics: Mapping[str, float]) -> dict[str, float]:
    """The learner's own names under train/: "critic/loss" becomes "train/critic_loss"."""
    return {"train/" + name.replace("/", "_"): value for name, value in metrics.items()}


def check_metrics(values: Mapping[str, float]) -> None:
    """Raise MetricError unless every name is in the glossary and every value is a finite number."""
    unknown = [name for name in values if name not in METRICS]
    if unknown:
        raise MetricError(f"no such metric: {', '.join(unknown)}; hilserl.metrics.METRICS lists them")
    broken = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
    if broken:
        raise MetricError(f"not finite: {', '.join(broken)}; leave out a value that does not exist")


class WandbRun(Protocol):
    """What the log needs of a Weights & Biases run."""

    def log(self, data: dict[str, Any]) -> None: ...

    def finish(self) -> None: ...


def start_wandb(job_name: str, folder: Path, config: Mapping[str, Any]) -> WandbRun:
    """Start a Weights & Biases run. Raises MetricError when the package is not installed."""
    wandb = _need("wandb", 'pip install "hilserl[wandb]"')
    run = wandb.init(project="hilserl", name=job_name, dir=str(folder), config=dict(config))
    run.define_metric("time/transitions")
    run.define_metric("*", step_metric="time/transitions")
    return run  # type: ignore[no-any-return]


class MetricLog:
    """One series of rows: folder/NAME.jsonl and folder/NAME.csv always, TensorBoard and W&B where asked.

    The JSONL file is the truth: it is appended to, and a line torn by a crash is dropped when it is opened
    again. The CSV is written from it and may grow columns at any time.
    """

    def __init__(self, folder: Path, name: str, *, tensorboard: bool, wandb: WandbRun | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._jsonl, self._csv = folder / f"{name}.jsonl", folder / f"{name}.csv"
        self._wandb = wandb
        rows = read_rows(self._jsonl)
        with whole_file(self._jsonl) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self._columns = list(dict.fromkeys(key for row in rows for key in row))
        self._rewrite_csv(rows)
        self._lines = self._jsonl.open("a", encoding="utf-8")
        self._events = _event_writer(folder / "tensorboard" / name) if tensorboard else None

    def log(self, values: Mapping[str, float], *, transitions: int) -> None:
        """Write one row. transitions: control steps so far, the row's place on the x axis.

        Raises MetricError for a name outside the glossary or a value that is not finite; nothing is then
        written.
        """
        now = time.time()
        row: dict[str, float] = {"time/transitions": transitions, "time/unix_s": round(now, 3)}
        row |= {name: _plain(value) for name, value in values.items() if name != "time/transitions"}
        check_metrics(row)
        self._lines.write(json.dumps(row) + "\n")
        self._lines.flush()
        new = [name for name in row if name not in self._columns]
        if new:
            self._columns += new
            self._rewrite_csv(read_rows(self._jsonl))
        else:
            with self._csv.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(row)
        if self._events is not None:
            self._events.add(row, transitions, now)
        if self._wandb is not None:
            self._wandb.log(dict(row))

    def close(self) -> None:
        """Make the rows durable and close every file. More than once is allowed."""
        if not self._lines.closed:
            os.fsync(self._lines.fileno())
            self._lines.close()
        if self._events is not None:
            self._events.close()
            self._events = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _rewrite_csv(self, rows: list[dict[str, float]]) -> None:
        with whole_file(self._csv) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)


def read_rows(path: Path) -> list[dict[str, float]]:
    """The rows of a JSONL log, oldest first; none when the file is missing.

    A last line without its newline was torn by a crash and is left out. Raises MetricError for any other
    line that is not an object.
    """
    if not path.exists():
        return []
    *lines, _torn = path.read_text(encoding="utf-8").split("\n")
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise MetricError(f"{path} line {number} is damaged: {error}; remove the line") from error
        rows.append(row)
    return rows


class _Events:
    """A TensorBoard event file, written without torch."""

    def __init__(self, folder: Path, event: Any, summary: Any, writer: Any) -> None:  # noqa: ANN401
        self._event, self._summary = event, summary
        self._writer = writer(str(folder), flush_secs=10)

    def add(self, row: Mapping[str, float], transitions: int, now_s: float) -> None:
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in row.items()]
        self._writer.add_event(
            self._event(wall_time=now_s, step=transitions, summary=self._summary(value=values))
        )

    def close(self) -> None:
        self._writer.close()


def _event_writer(folder: Path) -> _Events:
    _need("tensorboard", "pip install tensorboard")
    event = importlib.import_module("tensorboard.compat.proto.event_pb2").Event
    summary = importlib.import_module("tensorboard.compat.proto.summary_pb2").Summary
    writer = importlib.import_module("tensorboard.summary.writer.event_file_writer").EventFileWriter
    return _Events(folder, event, summary, writer)


def _need(module: str, remedy: str) -> Any:  # noqa: ANN401  # a module has no better type
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MetricError(
            f"{_MODULES[module]} is true but {module} cannot be imported ({error}): {remedy}, "
            f"or set --{_MODULES[module]}=false"
        ) from error


def _plain(value: float) -> float:
    """A number JSON knows: flags as 0 or 1, numpy scalars as Python's."""
    return int(value) if isinstance(value, bool) else value.item() if hasattr(value, "item") else value
