"""What a person sees of a run: one row per episode and a live line (actor), tables (learner).

On a terminal the live line moves; in a file there are plain lines only. Nothing else in the loops prints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from hilserl.types import Obs, Step
from robot.modes import Signs, mode_line

HEADER_EVERY = 25
"""Episode rows between two headers."""
_ABSENT = "-"


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    width: int
    metric: str
    show: Callable[[float], str]


def _percent(value: float) -> str:
    return f"{100 * value:.0f}%"


def _short(value: float) -> str:
    return f"{value:.3g}"


_COLUMNS = (
    _Column("ep", 4, "episode/index", lambda v: f"{v:.0f}"),
    _Column("steps", 5, "episode/steps", lambda v: f"{v:.0f}"),
    _Column("return", 6, "episode/return", lambda v: f"{v:.2f}"),
    _Column("success", 7, "episode/success", lambda v: "yes" if v else "no"),
    _Column("help", 4, "episode/intervention_share", _percent),
    _Column("policy", 6, "episode/policy_version", lambda v: f"v{v:.0f}"),
    _Column("upd/step", 8, "train/updates_per_transition", lambda v: f"{v:.1f}"),
    _Column("critic", 7, "train/critic_loss", _short),
    _Column("actor", 7, "train/actor_loss", _short),
    _Column("temp", 6, "train/actor_temperature", _short),
    _Column("Hz", 4, "actor/loop_hz", lambda v: f"{v:.1f}"),
    _Column("min", 5, "time/minutes", lambda v: f"{v:.1f}"),
)


class EpisodeDisplay:
    """One row per episode; below them, on a terminal, a live line.

    with EpisodeDisplay() as display:
        display.live("episode 12  step 31  operator")
        display.episode({"episode/index": 12, ...})
        display.message("the learner is away; 3 episodes wait on this disk")
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._live: Live | None = None
        self._rows = 0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live("", console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def live(self, text: str) -> None:
        """Replace the live line. Silent where the output is not a terminal."""
        if self._live is not None:
            self._live.update(Text(text, style="cyan", no_wrap=True, overflow="ellipsis"))

    def episode(self, row: Mapping[str, float]) -> None:
        """Print one finished episode; a value the row does not have shows as "-"."""
        if self._rows % HEADER_EVERY == 0:
            self._print(Text(" ".join(f"{c.title:>{c.width}}" for c in _COLUMNS), style="bold"))
        self._rows += 1
        cells = [c.show(row[c.metric]) if c.metric in row else _ABSENT for c in _COLUMNS]
        line = Text(" ".join(f"{text:>{c.width}}" for c, text in zip(_COLUMNS, cells, strict=True)))
        success = row.get("episode/success")
        if success is not None:
            line.stylize("green" if success else "dim")
        self._print(line)

    def message(self, text: str, *, warning: bool = False) -> None:
        """Print one line to the person, above the live line."""
        self._print(Text(text, style="yellow" if warning else ""))

    def _print(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)


class LiveLine:
    """A rollout listener that shows the step being played, who drives, and which arm has torque.

    `rest`, between two episodes, shows that nobody does.
    """

    def __init__(
        self,
        show: Callable[[str], None],
        torque: Callable[[], Mapping[str, bool]],
        holding: Callable[[], bool],
        *,
        recording: bool,
    ) -> None:
        """torque: {arm: energised} now, the "follower" among them. holding: its guard holds it."""
        self._show, self._torque, self._holding, self._recording = show, torque, holding, recording
        self._count, self._total = 0, 0.0

    def begin(self, obs: Obs) -> None:
        """A new episode; the arm is at its start."""
        self._count, self._total = 0, 0.0
        self.rest()

    def step(self, step: Step) -> None:
        """One more step."""
        self._count += 1
        self._total += step.reward
        line = self._line(playing=True, human=step.intervention)
        self._show(f"step {self._count}  {line}  return {self._total:+.2f}")

    def rest(self) -> None:
        """No episode is being played."""
        self._show(self._line(playing=False, human=False))

    def _line(self, *, playing: bool, human: bool) -> str:
        torque = self._torque()
        signs = Signs(torque["follower"], self._holding(), playing, self._recording, human)
        return mode_line(signs, torque)


class LearnerDisplay:
    """Tables of the newest values, by section, as Stable-Baselines3 shows them."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)

    def table(self, values: Mapping[str, float]) -> None:
        """Print one table of {metric: value}, in the sections rollout, eval, train, time."""
        self._console.print(Text(format_table(values)), soft_wrap=True)

    def message(self, text: str, *, warning: bool = False) -> None:
        """Print one line to the person."""
        self._console.print(Text(text, style="yellow" if warning else ""), soft_wrap=True)


_SECTIONS = ("rollout", "eval", "train", "time")


def format_table(values: Mapping[str, float]) -> str:
    """The table of `values` as text: a section per prefix, names and numbers in two columns."""
    lines: list[tuple[str, str]] = []
    sections = dict.fromkeys([*_SECTIONS, *(name.partition("/")[0] for name in values)])
    for section in sections:
        inside = {n.partition("/")[2]: v for n, v in values.items() if n.startswith(section + "/")}
        if inside:
            lines.append((section + "/", ""))
            lines += [("   " + name, _number(value)) for name, value in inside.items()]
    left = max((len(name) for name, _ in lines), default=0)
    right = max((len(number) for _, number in lines), default=0)
    rule = "-" * (left + right + 7)
    body = [f"| {name:<{left}} | {number:<{right}} |" for name, number in lines]
    return "\n".join([rule, *body, rule])


def _number(value: float) -> str:
    """Counters whole, everything else with four significant digits."""
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e9 else f"{value:.4g}"
