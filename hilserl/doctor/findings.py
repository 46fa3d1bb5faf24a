"""What a check found: plain data, for the terminal, the page and the file that later runs read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum


class Status(Enum):
    """How a check came out. A FAIL stops training; a WARN does not; SKIPPED says what was missing."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Picture:
    """Something to look at. png: the file's bytes."""

    title: str
    png: bytes


@dataclass(frozen=True, slots=True)
class Finding:
    """One verdict.

    check: its name, by which it can be ignored. value: what was found, with its unit. limit: what it is
    held against. advice: what to do; empty when it is well.
    """

    check: str
    status: Status
    value: str
    limit: str = ""
    advice: str = ""
    pictures: tuple[Picture, ...] = ()
    group: str = ""

    def line(self) -> str:
        """One line for a terminal."""
        limit = f" (limit {self.limit})" if self.limit else ""
        advice = f": {self.advice}" if self.advice and self.status is not Status.OK else ""
        return f"{self.status.value:7} {self.group}/{self.check}: {self.value}{limit}{advice}"


def judged(
    check: str, good: bool, value: str, limit: str, advice: str, *, pictures: tuple[Picture, ...] = ()
) -> Finding:
    """OK or FAIL."""
    return Finding(check, Status.OK if good else Status.FAIL, value, limit, advice, pictures)


def graded(check: str, amount: float, warn: float, fail: float, unit: str, advice: str) -> Finding:
    """An amount that should be small: WARN above `warn`, FAIL above `fail`, and for what is no number."""
    status = Status.OK if amount <= warn else Status.WARN if amount <= fail else Status.FAIL
    return Finding(check, status, f"{amount:.3g} {unit}", f"warn {warn:g}, fail {fail:g} {unit}", advice)


def in_group(group: str, findings: Iterable[Finding]) -> list[Finding]:
    """The findings, as those of a group."""
    return [replace(finding, group=group) for finding in findings]


def worst(findings: Iterable[Finding]) -> Status:
    """FAIL before WARN before OK; SKIPPED where nothing was looked at."""
    seen = {finding.status for finding in findings}
    for status in (Status.FAIL, Status.WARN, Status.OK):
        if status in seen:
            return status
    return Status.SKIPPED


def summary_line(findings: Iterable[Finding]) -> str:
    """The line that later runs store: counts, and the names of what failed and warned."""
    listed = list(findings)
    count = {status: sum(one.status is status for one in listed) for status in Status}
    parts = [f"{count[Status.OK]} ok, {count[Status.WARN]} warnings, {count[Status.FAIL]} failed"]
    parts[0] += f", {count[Status.SKIPPED]} skipped"
    for status, word in ((Status.FAIL, "failed"), (Status.WARN, "warned")):
        names = [one.check for one in listed if one.status is status]
        if names:
            parts.append(f"{word}: {', '.join(names)}")
    return "; ".join(parts)
