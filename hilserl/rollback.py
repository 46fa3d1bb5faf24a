"""Going back to an earlier checkpoint: `last` points at it again, and later data are set apart, not deleted.

    rollbacks.jsonl                  one line per rollback, oldest first
    rollback_pending.json            a rollback that was cut off; whoever next holds the run finishes it
    checkpoints/003000_rolled_back_1     a checkpoint that the first rollback took back

Later episodes are those the checkpoint's training had not yet taken in. They stay among the run's episodes
and are never sampled again. Only one who holds the run folder may call what writes here.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from hilserl.checkpoint import BEST, LAST, available, link, load_pretrained, load_training_state
from hilserl.episode import scan_episodes
from hilserl.rundir import RunDir, fsync, write_whole

ROLLBACKS, PENDING = "rollbacks.jsonl", "rollback_pending.json"
EpisodeId = tuple[str, int]
"""Actor and number."""


class RollbackError(Exception):
    """A run that cannot go back as asked. The message says why and where it could go."""


@dataclass(frozen=True, slots=True)
class Rollback:
    """One rollback. to: name of the checkpoint. time: UTC, ISO 8601. aside: {checkpoint: its name now}.

    excluded: the episodes this rollback set apart, sorted.
    """

    to: str
    time: str
    excluded: list[EpisodeId]
    aside: dict[str, str]


def roll_back(run: RunDir, step: str) -> Rollback | None:
    """Take the run back to checkpoint `step`; None when it is there already.

    step: a checkpoint's number, with or without leading zeros, or "best". Raises RollbackError naming the
    choices for one that is not there, CheckpointError for a damaged one; nothing is then changed.
    """
    finish_rollback(run.root)
    checkpoint = _chosen(run.checkpoints, step)
    load_pretrained(checkpoint)  # both parts are verified before anything is given up for them
    seen = load_training_state(checkpoint).state.get("numbers")
    if not isinstance(seen, dict):
        raise RollbackError(
            f"{checkpoint} is of an earlier version: it does not say which episodes it had taken in; "
            "start a new run from its data instead"
        )
    before = read_rollbacks(run.root)
    known = {episode for rollback in before for episode in rollback.excluded}
    later = {(e.actor, e.number) for e in scan_episodes(run.episodes) if e.number > seen.get(e.actor, 0)}
    suffix = f"_rolled_back_{len(before) + 1}"
    aside = [p.name for p in available(run.checkpoints) if int(p.name) > int(checkpoint.name)]
    excluded = sorted(later - known)
    if not aside and not excluded and _target(run.checkpoints, LAST) == checkpoint.name:
        return None
    rollback = Rollback(
        to=checkpoint.name,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        excluded=excluded,
        aside={name: name + suffix for name in aside},
    )
    write_whole(run.root / PENDING, _line(rollback))
    finish_rollback(run.root)
    return rollback


def finish_rollback(root: Path) -> None:
    """Complete a rollback that was cut off in the run folder `root`, if there is one. Any number of times."""
    pending, checkpoints = root / PENDING, root / "checkpoints"
    if not pending.exists():
        return
    rollback = _parsed(pending.read_text(encoding="utf-8"), pending)
    link(checkpoints, LAST, rollback.to)
    for name, moved in rollback.aside.items():
        if _target(checkpoints, BEST) == name:
            link(checkpoints, BEST, moved)  # still the best that was measured
        if (checkpoints / name).exists():
            (checkpoints / name).rename(checkpoints / moved)
    fsync(checkpoints)
    done = read_rollbacks(root)
    if not done or done[-1] != rollback:
        write_whole(root / ROLLBACKS, "".join(map(_line, [*done, rollback])))
    pending.unlink()
    fsync(root)


def read_rollbacks(root: Path) -> list[Rollback]:
    """Every completed rollback of the run folder `root`, oldest first."""
    path = root / ROLLBACKS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [_parsed(line, path) for line in lines]


def excluded_episodes(root: Path) -> set[EpisodeId]:
    """The episodes of the run folder `root` that must never be learned from again."""
    return {episode for rollback in read_rollbacks(root) for episode in rollback.excluded}


def describe(rollback: Rollback) -> list[str]:
    """What a rollback did, in lines for a person."""
    lines = [f"last is checkpoint {rollback.to}"]
    lines += [f"checkpoint {name} is now called {moved}" for name, moved in rollback.aside.items()]
    if rollback.excluded:
        lines.append(
            f"{len(rollback.excluded)} later episodes stay on disk and are never learned from again: "
            + listed(rollback.excluded)
        )
    else:
        lines.append("no later episode is on disk")
    return lines


def listed(episodes: list[EpisodeId]) -> str:
    """Episodes in short: "robot 41-43, 45; spare 2"."""
    numbers: dict[str, list[int]] = {}
    for actor, number in sorted(episodes):
        numbers.setdefault(actor, []).append(number)
    return "; ".join(f"{actor} {_spans(of)}" for actor, of in numbers.items())


def _spans(numbers: list[int]) -> str:
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def _chosen(checkpoints: Path, step: str) -> Path:
    found = available(checkpoints)
    wanted = _target(checkpoints, BEST) if step == BEST else step
    for path in found:
        if wanted.isdigit() and int(path.name) == int(wanted):
            return path
    names = ", ".join(p.name for p in found) or "none"
    what = f"{BEST}, which is {wanted or 'not there'}," if step == BEST else repr(step)
    raise RollbackError(f"no checkpoint {what} to go back to; there are: {names}")


def _target(checkpoints: Path, name: str) -> str:
    """The checkpoint a link names, "" where there is no such link."""
    path = checkpoints / name
    return os.readlink(path) if path.is_symlink() else ""


def _line(rollback: Rollback) -> str:
    return json.dumps(asdict(rollback)) + "\n"


def _parsed(text: str, path: Path) -> Rollback:
    try:
        plain = json.loads(text)
        excluded = [(str(actor), int(number)) for actor, number in plain["excluded"]]
        return Rollback(str(plain["to"]), str(plain["time"]), excluded, dict(plain["aside"]))
    except (ValueError, KeyError, TypeError) as error:
        raise RollbackError(f"{path} is damaged ({type(error).__name__}: {error}): {text[:80]!r}") from error
