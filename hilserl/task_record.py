"""The task record's hash, and the refusal of data or policies that belong to another task.

Every episode, dataset, classifier and checkpoint stores `task_json`; whoever reads one calls `check_task`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from hilserl.config import TaskConfig
from hilserl.config_tree import Checker, build, encode, flatten, shown

HASH_LENGTH = 16
ABSENT = "absent"

type Stored = TaskConfig | Mapping[str, Any] | str
"""A task record: as it is, as JSON text, or as the object parsed from it."""


class TaskMismatch(Exception):
    """Data or a policy made under another task record. The message names each differing field."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One field of the task record, dotted below `task`, and both values as JSON, or "absent"."""

    field: str
    ours: str
    theirs: str


def task_json(task: TaskConfig) -> str:
    """The record as canonical JSON: keys sorted, one spelling per number. Equal tasks give equal text."""
    return json.dumps(encode(task, TaskConfig), sort_keys=True, separators=(",", ":"))


def task_hash(task: TaskConfig) -> str:
    """First 16 hexadecimal digits of the sha256 of `task_json`."""
    return hash_of(task_json(task))


def hash_of(record: str) -> str:
    """`task_hash` of a record as `task_json` wrote it."""
    return hashlib.sha256(record.encode()).hexdigest()[:HASH_LENGTH]


def task_from_json(text: str, source_name: str) -> TaskConfig:
    """The task a stored record describes; a field added to this program since has its default.

    Raises TaskMismatch naming what this program does not know.
    """
    try:
        raw = _plain(text)
    except ValueError as error:
        raise TaskMismatch(f"{source_name} is no task record: {error}") from error
    checker = Checker(TaskConfig, source_name)
    tree = checker.check(raw)
    if checker.problems:
        raise TaskMismatch("\n  - ".join([f"{source_name} is no task record:", *checker.problems]))
    return build(tree, TaskConfig)


def task_differences(ours: Stored, theirs: Stored, allow: Collection[str] = ()) -> list[Difference]:
    """Fields in which two task records differ, except those `allow` names (a field or a whole section).

    Raises TaskMismatch for what is JSON but no object, ValueError for text that is not JSON.
    """
    a, b = flatten(_plain(ours)), flatten(_plain(theirs))
    return [
        Difference(name, _value(a, name), _value(b, name))
        for name in [*a, *(name for name in b if name not in a)]
        if not is_allowed(name, allow) and _value(a, name) != _value(b, name)
    ]


def check_task(ours: TaskConfig, theirs: Stored, source_name: str, allow: Collection[str] = ()) -> None:
    """Raise TaskMismatch, naming each differing field with both values, unless `allow` names it.

    source_name: the file (or peer) the other record came from. allow: `config.allow_task_difference`.
    """
    differences = task_differences(ours, theirs, allow)
    if not differences:
        return
    lines = "\n".join(f"  - {d.field}: here {d.ours}, there {d.theirs}" for d in differences)
    names = ",".join(d.field for d in differences)
    raise TaskMismatch(
        f"{source_name} belongs to another task; it differs in\n{lines}\n"
        f"Use data of this task, or accept the difference by name: --allow_task_difference={names}"
    )


def check_played(played: str, record: str, source_name: str) -> None:
    """Raise TaskMismatch unless an episode of the hash `played` was played under the `record` beside it.

    source_name: the episode's file.
    """
    if played != hash_of(record):
        raise TaskMismatch(
            f"{source_name} was played under the task record {played!r}, the one beside it is "
            f"{hash_of(record)}: move it to the episodes of its own record"
        )


def _plain(record: Stored) -> Mapping[str, Any]:
    if isinstance(record, TaskConfig):
        plain: Mapping[str, Any] = encode(record, TaskConfig)
        return plain
    parsed = json.loads(record) if isinstance(record, str) else record
    if not isinstance(parsed, Mapping):
        raise TaskMismatch(f"a task record must be a JSON object, got {shown(parsed)[:60]}")
    return parsed


def _value(flat: Mapping[str, Any], name: str) -> str:
    return shown(flat[name]) if name in flat else ABSENT


def is_allowed(name: str, allow: Collection[str]) -> bool:
    """Whether `allow` names this dotted task field, or a section it lies in."""
    return any(name == allowed or name.startswith(allowed + ".") for allowed in allow)
