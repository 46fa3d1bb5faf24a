"""Running the checks, and the file that remembers how they came out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from hilserl.config import Config, ConfigError
from hilserl.doctor.context import Check, Context, Declined, Missing
from hilserl.doctor.findings import Finding, Status, in_group, summary_line
from hilserl.rundir import write_whole
from hilserl.task_record import task_hash

RESULT = "doctor.json"
PAGE = "doctor.html"


class PreflightError(Exception):
    """Training may not start: a check is red. Names it, and how to go on."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a pre-flight came out. when: UTC. seconds: it took."""

    task_hash: str
    when: str
    seconds: float
    groups: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def summary(self) -> str:
        """The line that runs store."""
        return f"doctor {self.when} ({', '.join(self.groups)}): {summary_line(self.findings)}"


def run_checks(context: Context, checks: Sequence[Check], heard: Callable[[Finding], None]) -> Result:
    """Run `checks` in order. A check that cannot run is a finding, never the end of the others."""
    begun, found = monotonic(), []
    for check in checks:
        for finding in in_group(check.group, _run(context, check)):
            found.append(finding)
            heard(finding)
    groups = tuple(dict.fromkeys(check.group for check in checks))
    when = datetime.now(UTC).isoformat(timespec="seconds")
    return Result(task_hash(context.config.task), when, monotonic() - begun, groups, tuple(found))


def _run(context: Context, check: Check) -> list[Finding]:
    try:
        return check.run(context)
    except (Declined, Missing) as reason:
        return [Finding(check.name, Status.SKIPPED, str(reason))]
    except Exception as error:  # noqa: BLE001 - whatever a check meets is a finding, and the others still run
        ours = type(error).__module__.partition(".")[0] in ("hilserl", "robot")
        advice = "" if ours else "the check itself broke: please report it"
        return [Finding(check.name, Status.FAIL, f"{type(error).__name__}: {error}", "", advice)]


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
            told["task_hash"], told["when"], float(told["seconds"]), tuple(told["groups"]), findings
        )
    except (ValueError, KeyError, TypeError) as error:
        raise PreflightError(f"{path} cannot be read ({error}): run hilserl doctor again") from error


def check_preflight(config: Config) -> str:
    """The summary of the last pre-flight, for the run's metadata; says where there was none.

    Raises PreflightError where one of its checks is red, unless run.ignore_checks names it. A pre-flight of
    another task record says nothing about this one.
    """
    result = load_result(result_file(config))
    if result is None:
        return "no pre-flight was made: hilserl doctor"
    if result.task_hash != task_hash(config.task):
        return f"the last pre-flight ({result.when}) was of another task record: run hilserl doctor"
    unknown = set(config.run.ignore_checks) - {one.check for one in result.findings}
    if unknown:
        raise ConfigError(
            f"run.ignore_checks names {', '.join(sorted(unknown))}, which the pre-flight does not know; it "
            f"made {', '.join(sorted({one.check for one in result.findings}))}"
        )
    red = [one for one in result.findings if one.status is Status.FAIL]
    left = [one for one in red if one.check not in config.run.ignore_checks]
    if left:
        raise PreflightError(
            "the pre-flight is red:\n"
            + "\n".join(f"  - {one.line()}" for one in left)
            + "\nMend it and run hilserl doctor again, or name what may be ignored: --run.ignore_checks="
            + ",".join(one.check for one in left)
        )
    ignored = f"; ignored: {', '.join(config.run.ignore_checks)}" if config.run.ignore_checks else ""
    return result.summary + ignored
