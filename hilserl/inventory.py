"""What exists for a configuration on this machine, and whether it is valid. Everything is only read.

Nothing here imports torch, and what is slow to import is imported only where it is needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hilserl.checkpoint import BEST, LAST, available
from hilserl.config import Config
from hilserl.doctor.result import PreflightError, Standing, standing
from hilserl.episode import TASK_FILE, EpisodeFileError, scan_episodes
from hilserl.inventory_arm import ArmFacts, arm_facts
from hilserl.labels import LabelError, read_labels
from hilserl.rollback import PENDING
from hilserl.rundir import CONFIG_FILE
from hilserl.task_record import TaskMismatch, task_differences

RECORDINGS = "recordings"
CLASSIFIER = "best_model"
JUDGE = "success"
"""Field of the task record that may differ where pictures are learned from: a judge does not change them."""


@dataclass(frozen=True, slots=True)
class DataFacts:
    """A recorded dataset or a folder of episodes.

    role: "demo" or "reward", "" where it does not say. used: whether the configuration names it. labelled:
    episodes with a label. faults: why it cannot be used here; empty when it fits.
    """

    path: Path
    role: str
    episodes: int
    labelled: int
    used: bool
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ClassifierFacts:
    """A trained reward classifier.

    used: the configuration names it. episodes: it was trained on. faults: why it must not judge here.
    """

    path: Path
    used: bool
    episodes: int = 0
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunFacts:
    """The run folder. checkpoints: names, oldest first. last, best: names, "" where there is none.

    evaluated: names of checkpoints that inference has played. pending: a rollback was cut off.
    """

    there: bool
    checkpoints: tuple[str, ...]
    last: str
    best: str
    evaluated: tuple[str, ...]
    pending: bool


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything there is. arm: None on the lock-step twin."""

    arm: ArmFacts | None
    data: tuple[DataFacts, ...]
    classifiers: tuple[ClassifierFacts, ...]
    preflight: Standing
    run: RunFacts


def job_folder(config: Config) -> Path:
    """outputs/<job>."""
    return Path(config.output_dir) / config.job_name


def take_inventory(config: Config) -> Inventory:
    """Look at what lies where `config` says."""
    return Inventory(
        arm=arm_facts(config) if config.robot.type == "so101" else None,
        data=tuple(_data(config)),
        classifiers=tuple(_classifiers(config)),
        preflight=_preflight(config),
        run=_run(job_folder(config)),
    )


def _preflight(config: Config) -> Standing:
    try:
        return standing(config)
    except PreflightError as error:
        return Standing(str(error), made=False)


def _data(config: Config) -> Iterator[DataFacts]:
    named = {Path(name): "reward" for name in config.classifier.datasets}
    named |= {Path(name): "demo" for name in config.demos}
    for path, role in named.items():
        yield _facts_of(config, path, role, used=True)
    folder, known = job_folder(config) / RECORDINGS, {path.resolve() for path in named}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if _is_recorded(path) and path.resolve() not in known:
            yield _facts_of(config, path, "", used=False)


def _is_recorded(path: Path) -> bool:
    return (path / "meta/info.json").is_file()


def _facts_of(config: Config, path: Path, role: str, *, used: bool) -> DataFacts:
    """role: what the configuration uses it for, "" where it does not."""
    if not path.is_dir():
        return DataFacts(path, role, 0, 0, used, ("there is no such folder",))
    try:
        told, episodes = _recorded(path) if _is_recorded(path) else ("", len(scan_episodes(path)))
        labelled = len(read_labels(path))
    except (EpisodeFileError, LabelError, OSError, ValueError) as error:
        return DataFacts(path, role, 0, 0, used, (f"cannot be read: {error}",))
    role = role or told
    faults = [] if episodes else ["holds no episode"]
    record = path / ("meta/hilserl_task.json" if _is_recorded(path) else TASK_FILE)
    if record.is_file():
        faults += _differences(config, record.read_text(), pictures=role == "reward")
    elif not _is_recorded(path):  # another program's dataset names no task; importing checks what it can
        faults.append(f"has no {TASK_FILE}: nobody knows under which task it was recorded")
    return DataFacts(path, role, episodes, labelled, used, tuple(faults))


def _recorded(path: Path) -> tuple[str, int]:
    """Role ("" in another program's dataset) and number of episodes of a LeRobotDataset."""
    from hilserl.recording_record import RecordingError, episode_lines, read_records

    try:
        if not (path / "meta/hilserl_task.json").is_file():
            return "", len(episode_lines(path))
        records = read_records(path)
    except RecordingError as error:
        raise ValueError(str(error)) from error
    return records[0].role if records else "", len(records)


def _differences(config: Config, text: str, pictures: bool) -> list[str]:
    """Fields of the task record that differ, in words. pictures: only these are learned from."""
    allow = (*config.allow_task_difference, *((JUDGE,) if pictures else ()))
    try:
        differ = task_differences(config.task, text, allow)
    except (TaskMismatch, ValueError) as error:
        return [f"its task record cannot be read: {error}"]
    return [f"{one.field}: here {one.ours}, there {one.theirs}" for one in differ]


def _classifiers(config: Config) -> Iterator[ClassifierFacts]:
    used, numbered = config.classifier.model, re.compile(rf"{re.escape(config.job_name)}(_\d+)?")
    if used:
        yield _classifier(config, Path(used), used=True)
    for own in sorted(Path(config.output_dir).glob(f"*/{CLASSIFIER}")):
        if numbered.fullmatch(own.parent.name) and (not used or own.resolve() != Path(used).resolve()):
            yield _classifier(config, own, used=False)


def _classifier(config: Config, path: Path, *, used: bool) -> ClassifierFacts:
    if not path.is_dir():
        return ClassifierFacts(path, used)  # a hub id: known only where it is loaded
    try:
        told = json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
        faults = [] if told["trusted"] else [f"not trusted: {told['trust']}"]
        task, episodes = told["task"], int(told["data"].get("episodes", 0))
    except (OSError, ValueError, KeyError, TypeError) as error:
        return ClassifierFacts(path, used, 0, (f"cannot be read: {type(error).__name__} {error}",))
    text = task if isinstance(task, str) else json.dumps(task)
    faults += _differences(config, text, pictures=True)
    return ClassifierFacts(path, used, episodes, tuple(faults))


def _run(root: Path) -> RunFacts:
    checkpoints = root / "checkpoints"
    names = {name: _target(checkpoints / name) for name in (LAST, BEST)}
    return RunFacts(
        there=(root / CONFIG_FILE).exists(),
        checkpoints=tuple(path.name for path in available(checkpoints)),
        last=names[LAST],
        best=names[BEST],
        evaluated=tuple(sorted(set(_evaluated(root)))),
        pending=(root / PENDING).exists(),
    )


def _target(link: Path) -> str:
    return link.resolve().name if link.is_symlink() and link.exists() else ""


def _evaluated(root: Path) -> Iterator[str]:
    """Names of the run's checkpoints that an evaluation names, its links followed as they stand now."""
    for path in root.glob("inference/*/summary.json"):
        try:
            played = Path(json.loads(path.read_text(encoding="utf-8"))["settings"]["checkpoint"]).resolve()
        except (OSError, ValueError, KeyError, TypeError):
            continue
        checkpoints = (root / "checkpoints").resolve()
        yield from (part.name for part in (played, played.parent) if part.parent == checkpoints)
