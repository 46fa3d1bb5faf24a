"""What a pre-flight left behind, the file that remembers it, and whether a run may start after it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hilserl.config import Config, ConfigError
from hilserl.doctor.findings import Finding, Status, summary_line
from hilserl.rundir import write_whole
from hilserl.task_record import task_hash

RESULT = "doctor.json"
PAGE = "doctor.html"
METADATA = "preflight"
"""Under this key a checkpoint, an episode, an evaluation and a recording store what the pre-flight said."""


class PreflightError(Exception):
    """Training may not start: a check is red. Names it, and how to go on."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a pre-flight came out.

    when: UTC. seconds: it took. groups: what was looked at. older: {group: when} of those among them that
    were not looked at this time, but in an earlier pre-flight of the same task record.
    """

    task_hash: str
    when: str
    seconds: float
    groups: tuple[str, ...]
    findings: tuple[Finding, ...]
    older: Mapping[str, str] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The line that runs store."""
        groups = [
            f"{group} of {self.older[group]}" if group in self.older else group for group in self.groups
        ]
        return f"doctor {self.when} ({', '.join(groups)}): {summary_line(self.findings)}"

    def after(self, earlier: Result | None) -> Result:
        """This one, with those groups of an `earlier` one that it did not look at.

        So a red check stays red until it is made again: leaving its group out, or not letting the arm move,
        mends nothing.
        """
        if earlier is None or earlier.task_hash != self.task_hash:
            return self
        now, before = self._looked(), earlier._looked()
        kept = [
            group
            for group in earlier.groups
            if group not in now and (group in before or group not in self.groups)
        ]
        groups = (*kept, *(group for group in self.groups if group not in kept))
        findings = [one for one in earlier.findings if one.group in kept]
        findings += [one for one in self.findings if one.group not in kept]
        older = {group: earlier.older.get(group, earlier.when) for group in kept}
        return replace(self, groups=groups, findings=tuple(findings), older=older)

    def _looked(self) -> set[str]:
        """Groups in which something was looked at."""
        return {one.group for one in self.findings if one.status is not Status.SKIPPED}


@dataclass(frozen=True, slots=True)
class Standing:
    """What the last pre-flight says about a run. line: for a person and for metadata. made: there was one."""

    line: str
    made: bool
    findings: tuple[Finding, ...] = ()

    @property
    def red(self) -> tuple[Finding, ...]:
        """What failed."""
        return tuple(one for one in self.findings if one.status is Status.FAIL)


def result_file(config: Config) -> Path:
    """Where the last pre-flight of a run is remembered."""
    return Path(config.output_dir) / config.job_name / RESULT


def save_result(result: Result, path: Path) -> None:
    """Write it, without its pictures: those are on the page."""
    told: dict[str, Any] = {
        "task_hash": result.task_hash,
        "when": result.when,
        "seconds": round(result.seconds, 1),
        "groups": list(result.groups),
        "older": dict(result.older),
        "summary": result.summary,
        "findings": [
            {
                "group": one.group,
                "check": one.check,
                "status": one.status.value,
                "value": one.value,
                "limit": one.limit,
                "advice": one.advice,
            }
            for one in result.findings
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(told, indent=1) + "\n")


def load_result(path: Path) -> Result | None:
    """The last pre-flight's result, None where there was none. Raises PreflightError for a damaged file."""
    if not path.is_file():
        return None
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        findings = tuple(
            Finding(
                one["check"], Status(one["status"]), one["value"], one["limit"], one["advice"],
                group=one["group"],
            )
            for one in told["findings"]
        )  # fmt: skip
        return Result(
            told["task_hash"],
            told["when"],
            float(told["seconds"]),
            tuple(told["groups"]),
            findings,
            dict(told["older"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PreflightError(f"{path} cannot be read ({error}): run hilserl doctor again") from error


def standing(config: Config) -> Standing:
    """What the last pre-flight says, refusing nothing.

    One of another task record says nothing about this one. Raises PreflightError for a damaged file.
    """
    result = load_result(result_file(config))
    if result is None:
        return Standing("no pre-flight was made: hilserl doctor looks before training", False)
    if result.task_hash != task_hash(config.task):
        line = f"the last pre-flight ({result.when}) was of another task record: run hilserl doctor again"
        return Standing(line, False)
    red = {one.check for one in result.findings if one.status is Status.FAIL}
    ignored = [name for name in config.run.ignore_checks if name in red]
    line = result.summary + (f"; ignored: {', '.join(ignored)}" if ignored else "")
    return Standing(line, True, result.findings)


def check_preflight(config: Config) -> Standing:
    """What the last pre-flight says, where a run may start after it, also where there was none.

    Raises PreflightError where a check is red that run.ignore_checks does not name, or the file is damaged;
    ConfigError where run.ignore_checks names what was not checked.
    """
    found = standing(config)
    if not found.made:
        return found
    known = {one.check for one in found.findings}
    unknown = set(config.run.ignore_checks) - known
    if unknown:
        raise ConfigError(
            f"run.ignore_checks names {', '.join(sorted(unknown))}, which the pre-flight does not know; it "
            f"made {', '.join(sorted(known))}"
        )
    left = [one for one in found.red if one.check not in config.run.ignore_checks]
    if left:
        raise PreflightError(
            "the pre-flight is red:\n"
            + "\n".join(f"  - {one.line()}" for one in left)
            + "\nMend it and run hilserl doctor again, or name what may be ignored: --run.ignore_checks="
            + ",".join(one.check for one in left)
        )
    return found
