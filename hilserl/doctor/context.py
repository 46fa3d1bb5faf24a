"""What the checks share: the configuration, the body once it may move, and what was measured on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from hilserl.body import Body, build_body
from hilserl.config import Config
from hilserl.doctor.findings import Finding, Status
from hilserl.reward import ButtonReward
from robot.kinematics import F64

if TYPE_CHECKING:
    from hilserl.dataset_fit_live import Starts
    from hilserl.doctor.demonstrations import Demonstrated

type Say = Callable[[str], None]
BEFORE_TORQUE = ("task", "arm")
"""Groups whose checks need no torque, and without which none comes on."""


class Declined(Exception):
    """The person at the arm did not allow it to move."""


class Missing(Exception):
    """What a check needs is not there; it is skipped. The message says what, and how to get it."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check. run: gives its findings; its name is used where it cannot run at all."""

    name: str
    group: str
    run: Callable[[Context], list[Finding]]


class Context:
    """One pre-flight.

    with Context(config, folder, say, allow) as context: ...

    allow: asks the person whether the arm may move now. The body is built when a check first asks for it,
    and parked and released when the block ends.
    """

    def __init__(self, config: Config, folder: Path, say: Say, allow: Callable[[str], bool]) -> None:
        self.config, self.folder, self.say = config, folder, say
        self._allow = allow
        self._stack = ExitStack()
        self._body: Body | None = None
        self._refused = False
        self.starts_m: F64 | None = None
        """Achieved hand positions (N, 3) [m] of the resets, once they were made."""
        self.demos: Demonstrated | None = None
        """The demonstrations, once they were read."""
        self.seen: Starts | None = None
        """What the cameras show after resets, once it was looked at."""
        self.looks, self.late = 0, list[str]()
        """Steps and resets of the motion checks, and what was said of each one's picture that came late."""
        self._done: set[str] = set()
        self._red: list[str] = []
        self.memories: tuple[dict[str, dict[str, int]], dict[str, int]] | None = None
        """{joint: {register: value}} of the servos that answered, and {joint: status byte}."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def twin(self) -> bool:
        """Whether the body is the lock-step twin, which needs no port and no permission."""
        return self.config.robot.type == "twin"

    def note(self, group: str, findings: Iterable[Finding]) -> None:
        """Remember how a check of `group` came out: what needs no torque decides whether it comes on."""
        self._done.add(group)
        if group in BEFORE_TORQUE:
            self._red += [one.check for one in findings if one.status is Status.FAIL]

    def body(self) -> Body:
        """The arm, torque on. Raises Declined, and what building it raises (then the next call tries again).

        On a servo bus torque needs the checks of BEFORE_TORQUE made, and none of them red: Missing says
        which. Then a person is asked, once.
        """
        if self._body is None:
            self._check_torque()
            if self._refused or not (
                self.twin or self._allow("torque comes on and the arm moves: all clear?")
            ):
                self._refused = True
                raise Declined("nobody allowed the arm to move")
            # nothing is judged here, and the classifier configured has a check of its own
            judge = ButtonReward(self.config.task.success)
            self._body = self._stack.enter_context(build_body(self._quiet(), self.say, judge=judge))
        return self._body

    def agreed(self, question: str) -> bool:
        """Whether the person at the arm says yes."""
        return self._allow(question)

    def _check_torque(self) -> None:
        if self.twin:
            return
        if absent := [group for group in BEFORE_TORQUE if group not in self._done]:
            raise Missing(f"torque stays off until {' and '.join(absent)} were checked: add them to --groups")
        if self._red:
            raise Missing(f"torque stays off: mend {', '.join(self._red)} first")

    def _quiet(self) -> Config:
        """Nobody is at the controls, and no reset waits for an object."""
        teleop = replace(self.config.teleop, type="none")
        return replace(self.config, teleop=teleop, robot=replace(self.config.robot, object_time_s=0.0))
