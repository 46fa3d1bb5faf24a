"""What `hilserl status` says: how the running learner is, and what its run folder holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hilserl.checkpoint import BEST, LAST, available
from hilserl.config import Config
from hilserl.episode import scan_episodes
from hilserl.rollback import PENDING, listed, read_rollbacks
from hilserl.rundir import CONFIG_FILE
from hilserl.wire import LearnerStatus, LearnerUnreachable, learner_status


def status_lines(config: Config) -> Iterator[str]:
    """Lines for a person. The folder is described where it is on this machine; neither needs the other."""
    try:
        yield from running_lines(learner_status(config.service), config.policy.utd_ratio)
    except LearnerUnreachable as error:
        yield f"no learner runs there: {error}"
    yield from folder_lines(Path(config.output_dir) / config.job_name)


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
