"""What `hilserl status` says: the running learner, its run folder, what else there is, what to do next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hilserl.checkpoint import BEST, LAST, available
from hilserl.config import Config
from hilserl.episode import scan_episodes
from hilserl.inventory import Inventory, job_folder, take_inventory
from hilserl.next_step import Advisor
from hilserl.rollback import PENDING, listed, read_rollbacks
from hilserl.rundir import CONFIG_FILE
from hilserl.task_record import task_hash
from hilserl.wire import LearnerStatus, LearnerUnreachable, learner_status


def status_lines(config: Config, path: str, overrides: Sequence[str] = ()) -> Iterator[str]:
    """Lines for a person. The folder is described where it is on this machine; neither needs the other.

    path: of the configuration's file; overrides: as given. Both are in the command that comes next.
    """
    learner, away = _learner(config)
    if learner is None:
        yield f"no learner runs there: {away}"
    else:
        yield from running_lines(learner, config.policy.utd_ratio)
    yield from folder_lines(job_folder(config))
    found = take_inventory(config)
    yield from inventory_lines(found)
    step = Advisor(config, found, learner, path, overrides).advise()
    yield f"next: {step.why}:\n  {step.command}"


def status_json(config: Config, path: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The same as plain values."""
    learner, away = _learner(config)
    found = take_inventory(config)
    step = Advisor(config, found, learner, path, overrides).advise()
    told: dict[str, Any] = {
        "config": path,
        "task": config.task.name,
        "task_hash": task_hash(config.task),
        "learner": {"running": learner is not None, "away": away},
        "arm": None if found.arm is None else asdict(found.arm),
        "data": [asdict(one) | {"path": str(one.path), "fits": not one.faults} for one in found.data],
        "classifiers": [
            asdict(one) | {"path": str(one.path), "usable": not one.faults} for one in found.classifiers
        ],
        "preflight": {
            "made": found.preflight.made,
            "line": found.preflight.line,
            "red": [one.check for one in found.preflight.red],
        },
        "run": asdict(found.run),
        "next": {"why": step.why, "command": step.command},
    }
    if learner is not None:
        told["learner"] |= asdict(learner)
    return told


def _learner(config: Config) -> tuple[LearnerStatus | None, str]:
    try:
        return learner_status(config.service), ""
    except LearnerUnreachable as error:
        return None, str(error)


def inventory_lines(found: Inventory) -> Iterator[str]:
    """What there is, and whether it is valid."""
    if (arm := found.arm) is not None:
        told = f"calibration {arm.calibration or 'none'}, {arm.versions} earlier ones kept"
        yield f"arm: {told}; {arm.touch or 'no touch test of it'}"
        yield from (f"  NOT VALID: {fault}" for fault in arm.faults)
    for data in found.data:
        use = data.role or "of no known role"
        named = "" if data.used else ", not named in the configuration"
        yield f"data {data.path}: {use}{named}, {data.episodes} episodes, {data.labelled} labelled"
        yield from (f"  DOES NOT FIT: {fault}" for fault in data.faults)
    if not found.data:
        yield "data: none"
    for classifier in found.classifiers:
        named = "" if classifier.used else ", not named in the configuration"
        state = "" if classifier.faults else ", trusted"
        yield f"classifier {classifier.path}{named}{state}, trained on {classifier.episodes} episodes"
        yield from (f"  MUST NOT JUDGE: {fault}" for fault in classifier.faults)
    yield f"pre-flight: {found.preflight.line}"
    if found.run.evaluated:
        yield f"judged without help: {', '.join(found.run.evaluated)}"


def running_lines(status: LearnerStatus, utd_ratio: int) -> Iterator[str]:
    """What a learner said of itself."""
    state = "paused, `hilserl control resume` goes on" if status.paused else "learning"
    yield f"learner: {state}; task {status.task_hash}, weights version {status.weights_version}"
    pace = (
        "no transition came"
        if status.updates_per_transition is None
        else f"{status.updates_per_transition:.1f}"
    )
    yield (
        f"  {status.transitions} transitions, {status.updates} critic updates; updates per transition in the "
        f"last minute: {pace} (at most {utd_ratio})"
    )
    for name, (connected, number) in status.actors.items():
        yield f"  actor {name}: {'connected' if connected else 'away'}, episodes up to {number} are stored"
    if not status.actors:
        yield "  no actor has joined"
    for alarm in status.alarms:
        yield f"  ALARM {alarm.name} ({alarm.value:.3g}, limit {alarm.limit:.3g}): {alarm.message}"
    if not status.alarms:
        yield "  no alarm"


def folder_lines(root: Path) -> Iterator[str]:
    """What the run folder `root` holds; it is only read."""
    if not (root / CONFIG_FILE).exists():
        yield f"run folder {root}: none on this machine"
        return
    yield f"run folder {root}"
    checkpoints = root / "checkpoints"
    yield f"  checkpoints: {', '.join(p.name for p in available(checkpoints)) or 'none'}"
    for name in (LAST, BEST):
        link = checkpoints / name
        yield f"  {name}: {link.resolve().name if link.is_symlink() else 'none'}"
    episodes = scan_episodes(root / "episodes")
    ids = [(info.actor, info.number) for info in episodes]
    steps = sum(info.length for info in episodes)
    yield f"  episodes: {len(ids)}, {steps} transitions; {listed(ids) or 'none'}"
    for back in read_rollbacks(root):
        yield f"  rolled back to {back.to} on {back.time}; set apart: {listed(back.excluded) or 'no episode'}"
    if (root / PENDING).exists():
        yield "  a rollback was cut off; the learner's next start, or the same command again, finishes it"
