"""The field report's mistakes, each planted on purpose: is it caught, and by name?

A mistake is planted in a copy of a healthy set-up (see `sabotage_setup`); then that runs for real which
should find it: a check of the pre-flight, a loader, a command. It counts as caught only if the expected check
is red, or the expected error is raised, with the expected word, and the same trial was well on the healthy
set-up. Some other error catches nothing.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hilserl.benchmark.sabotage_setup import Setup
from hilserl.doctor.findings import Finding, Status

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Trial:
    """What is run for real. run: gives findings; an error it raises is one, called as the error's class."""

    name: str
    run: Callable[[Setup], list[Finding]]


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake as data.

    row: of the field report. plant: makes it in a copy of the healthy set-up. catcher: the check, or the
    class of the error, that must name it; word: must stand in what it says. quick: needs neither training
    nor motion.
    """

    name: str
    row: str
    plant: Callable[[Setup], None]
    trial: Trial
    catcher: str
    word: str
    quick: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one mistake. said: what caught it, or all that was said instead. seconds: it took."""

    mistake: Mistake
    caught: bool
    said: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Result:
    """All of it. sick: what was not well on the healthy set-up. seconds: the whole of it took."""

    outcomes: tuple[Outcome, ...]
    sick: tuple[str, ...]
    seconds: float

    @property
    def missed(self) -> list[str]:
        """Names of the mistakes nothing caught."""
        return [one.mistake.name for one in self.outcomes if not one.caught]

    def to_json(self) -> dict[str, object]:
        """The numbers and the names."""
        return {
            "healthy_green": not self.sick,
            "planted": len(self.outcomes),
            "caught": len(self.outcomes) - len(self.missed),
            "missed": self.missed,
            "sick": list(self.sick),
            "seconds": round(self.seconds, 1),
        }


def findings_of(trial: Trial, setup: Setup) -> list[Finding]:
    """What the trial finds; an error it raises is a red finding of that name."""
    try:
        return trial.run(setup)
    except Exception as error:  # noqa: BLE001 - which error it is, is the very question
        return [Finding(type(error).__name__, Status.FAIL, str(error))]


def catch(mistake: Mistake, findings: Sequence[Finding]) -> Finding | None:
    """The red finding that names the mistake, if there is one."""
    named = (one for one in findings if one.check == mistake.catcher and one.status is Status.FAIL)
    return next((one for one in named if mistake.word in one.value), None)


def run_sabotage(healthy: Setup, mistakes: Sequence[Mistake], say: Say) -> Result:
    """Try each trial on the healthy set-up, then on a copy with each mistake planted in it."""
    begun = time.monotonic()
    well: dict[Trial, list[Finding]] = {}
    sick: list[str] = []
    for trial in dict.fromkeys(one.trial for one in mistakes):
        well[trial] = findings_of(trial, healthy)
        sick += [f"{trial.name}: {one.line()}" for one in well[trial] if one.status is Status.FAIL]
    for mistake in mistakes:
        if not was_well(mistake, well[mistake.trial]):
            sick.append(
                f"{mistake.trial.name}: {mistake.catcher} is not ok, which shall catch {mistake.name}"
            )
    for line in sick:
        say(f"NOT WELL  {line}")
    outcomes = []
    for mistake in mistakes:
        outcome = _planted(healthy, mistake, well[mistake.trial])
        outcomes.append(outcome)
        say(
            f"{'caught' if outcome.caught else 'MISSED'}  {mistake.name} ({mistake.row}): {outcome.said:.200}"
        )
    return Result(tuple(outcomes), tuple(sick), time.monotonic() - begun)


def _planted(healthy: Setup, mistake: Mistake, well: Sequence[Finding]) -> Outcome:
    begun = time.monotonic()
    setup = healthy.copy(healthy.folder.with_name(f"planted-{mistake.name}"))
    try:
        mistake.plant(setup)
        findings = findings_of(mistake.trial, setup)
    finally:
        shutil.rmtree(setup.folder, ignore_errors=True)
    caught = catch(mistake, findings)
    reds = [f"{one.check}: {one.value}" for one in findings if one.status is Status.FAIL]
    said = f"{caught.check}: {caught.value}" if caught else "; ".join(reds) or "nothing was red"
    if not was_well(mistake, well):
        caught, said = None, f"{mistake.catcher} was not well on the healthy set-up either"
    for folder in (setup.folder.resolve(), setup.folder):
        said = said.replace(f"{folder}/", "")
    return Outcome(mistake, caught is not None, said, time.monotonic() - begun)


def was_well(mistake: Mistake, well: Sequence[Finding]) -> bool:
    """On the healthy set-up: the check that shall catch it was ok, or nothing was raised."""
    if any(one.status is Status.FAIL for one in well):
        return False
    return all(one.status is Status.OK for one in well if one.check == mistake.catcher)


def table(result: Result) -> str:
    """Planted x caught by, in Markdown."""
    lines = [
        "| # | field report | planted | tried | caught by | what it says |",
        "|---|---|---|---|---|---|",
    ]
    for number, one in enumerate(result.outcomes, 1):
        mistake = one.mistake
        by = f"`{mistake.catcher}`" if one.caught else "**missed**"
        said = _cell(one.said.removeprefix(f"{mistake.catcher}: "))
        lines.append(
            f"| {number} | {mistake.row} | {mistake.name.replace('_', ' ')} | {mistake.trial.name} | {by} | "
            f"{said} |"
        )
    return "\n".join(lines)


def _cell(text: str, limit: int = 160) -> str:
    """One line that fits a table."""
    words = " ".join(text.split()).replace("|", "/")
    return words if len(words) <= limit else words[: limit - 3] + "..."
