"""Running the checks, one after the other; `hilserl.doctor.result` remembers how they came out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from time import monotonic

from hilserl.doctor.context import Check, Context, Declined, Missing
from hilserl.doctor.findings import Finding, Status, in_group
from hilserl.doctor.result import Result
from hilserl.task_record import task_hash


def run_checks(context: Context, checks: Sequence[Check], heard: Callable[[Finding], None]) -> Result:
    """Run `checks` in order. A check that cannot run is a finding, never the end of the others."""
    begun, found = monotonic(), []
    for check in checks:
        findings = in_group(check.group, _run(context, check))
        context.note(check.group, findings)
        for finding in findings:
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
