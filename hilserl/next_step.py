"""What to do next on the way from an arm to a policy: one command, and why."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hilserl.config import Config
from hilserl.doctor.findings import Status
from hilserl.inventory import ClassifierFacts, Inventory, job_folder
from hilserl.task_record import task_hash
from hilserl.wire import LearnerStatus

DEMOS, PICTURES = 20, 30
"""Episodes of a first recording: demonstrations, and pictures for a classifier."""


@dataclass(frozen=True, slots=True)
class NextStep:
    """why: in words. words: of the command, without the program's name."""

    why: str
    words: tuple[str, ...]

    @property
    def command(self) -> str:
        """As it is typed."""
        return shlex.join(["hilserl", *self.words])


class Advisor:
    """Goes through the stages in order; the first that is not done says what to do.

    path: of the configuration's file. overrides: as they were given, so that the next command means the same.
    """

    def __init__(
        self,
        config: Config,
        found: Inventory,
        learner: LearnerStatus | None,
        path: str,
        overrides: Sequence[str] = (),
    ) -> None:
        self._config, self._found, self._learner = config, found, learner
        self._where = (f"--config_path={path}", *overrides)
        fitting = [one for one in found.data if one.role == "demo" and not one.faults]
        self._demos = [one for one in fitting if one.used] or fitting[-1:]
        good = [one for one in found.classifiers if not one.faults]
        self._judge = next(iter(good), None)
        self._classified = config.task.success.kind == "classifier"

    def advise(self) -> NextStep:
        """The next step."""
        return next(self._steps())

    def _steps(self) -> Iterator[NextStep]:
        run = self._found.run
        if self._learner is not None:
            yield self._while_learning(self._learner)
        if run.pending:
            yield self._step(
                "a rollback was cut off: the learner's next start finishes it", "learner", *RESUME
            )
        yield from self._arm()
        yield from self._preflight()
        yield from self._trained()
        if self._classified:
            yield from self._classifier()
        yield from self._demonstrations()
        if run.there:
            yield self._learn("the run has begun and saved no checkpoint yet", *RESUME)
        yield self._learn("all is ready")

    def _step(self, why: str, *words: str) -> NextStep:
        """words: the command, and options that come after the configuration."""
        options = [word for word in words if word.startswith("--")]
        return NextStep(why, (*words[: len(words) - len(options)], *self._where, *options))

    def _while_learning(self, learner: LearnerStatus) -> NextStep:
        if learner.task_hash != task_hash(self._config.task):
            return self._step("the learner that runs there is of another task", "control", "stop")
        if learner.paused:
            why = "; ".join(alarm.message for alarm in learner.alarms) or "somebody asked it to"
            return self._step(f"the learner has paused ({why}); when that is mended", "control", "resume")
        if not any(connected for connected, _ in learner.actors.values()):
            return self._step("the learner runs and no actor plays", "actor", *self._extra())
        return self._step(
            "the run goes on by itself; look again now and then, and stop it when it is good enough", "status"
        )

    def _arm(self) -> Iterator[NextStep]:
        arm = self._found.arm
        if arm is None:
            return
        if arm.faults:
            yield self._step(arm.faults[0], "calibrate")
        if not arm.touch:
            why = "nobody has tested whether the hand is where the numbers say"
            yield self._step(why, "calibrate", "--touch")

    def _preflight(self) -> Iterator[NextStep]:
        preflight = self._found.preflight
        red = [one for one in preflight.red if one.check not in self._config.run.ignore_checks]
        if red:
            advice = f" ({red[0].advice})" if red[0].advice else ""
            names = ", ".join(one.check for one in red)
            yield self._step(f"the pre-flight is red: mend {names}{advice}, then", "doctor", *self._extra())
        if not preflight.made and not self._found.run.checkpoints:
            yield self._step(preflight.line, "doctor", *self._extra())

    def _trained(self) -> Iterator[NextStep]:
        run = self._found.run
        chosen = run.best or run.last
        if not chosen:
            return
        if chosen not in run.evaluated:
            folder = job_folder(self._config) / "checkpoints" / chosen
            why = f"checkpoint {chosen} has not been judged without help yet"
            yield self._step(why, "inference", f"--checkpoint={folder / 'pretrained_model'}")
        yield self._learn(f"checkpoint {chosen} was judged; go on learning", *RESUME)

    def _classifier(self) -> Iterator[NextStep]:
        if self._judge is not None:
            return
        sources = [one for one in self._found.data if one.role == "reward" and not one.faults]
        why = _refused(self._found.classifiers)
        learned = max((one.episodes for one in self._found.classifiers), default=0)
        if not sources or (why and sum(one.episodes for one in sources) <= learned):
            more = ("record", f"--num_episodes={PICTURES}", "--role=reward")
            yield self._step(why or "no episode shows the classifier success and failure", *more)
        for one in sources:
            if one.labelled < one.episodes:
                left = f"{one.episodes - one.labelled} of its {one.episodes} episodes have no label"
                yield self._step(f"{one.path}: {left}", "label", str(one.path))
        datasets = ",".join(str(one.path) for one in sources)
        named = () if all(one.used for one in sources) else (f"--classifier.datasets={datasets}",)
        taken = len([one for one in self._found.classifiers if not one.used])  # none is ever overwritten
        another = (f"--job_name={self._config.job_name}_{taken}",) if taken else ()
        yield self._step("its episodes are labelled", "classifier", "train", *named, *another)

    def _demonstrations(self) -> Iterator[NextStep]:
        bad = [one for one in self._found.data if one.role == "demo" and one.faults]
        if not self._demos:
            why = f"{bad[0].path}: {bad[0].faults[0]}" if bad else "there are no demonstrations yet"
            more = ("record", f"--num_episodes={DEMOS}", "--role=demo")
            yield self._step(why, *more, *self._extra())
        looked = any(
            one.group == "demonstrations" and one.status is not Status.SKIPPED
            for one in self._found.preflight.findings
        )
        if not looked:
            why = "the pre-flight has not seen the demonstrations"
            yield self._step(why, "doctor", *self._extra())

    def _learn(self, why: str, *more: str) -> NextStep:
        return self._step(f"{why}; beside it, hilserl actor plays", "learner", *self._extra(), *more)

    def _extra(self) -> tuple[str, ...]:
        """What was found and the configuration does not name."""
        found = []
        if self._demos and not self._demos[0].used:
            found.append(f"--demos={self._demos[0].path}")
        if self._classified and self._judge is not None and not self._judge.used:
            found.append(f"--classifier.model={self._judge.path}")
        return tuple(found)


RESUME = ("--resume=true",)


def _refused(classifiers: Sequence[ClassifierFacts]) -> str:
    """Why the classifiers there are must not judge; "" where there is none."""
    return "; ".join(f"{one.path}: {one.faults[0]}" for one in classifiers if one.faults)
