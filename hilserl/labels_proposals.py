"""Labels that are known before anybody looks: ground truth of the twin, and what the buttons said.

A person confirms them in the page with one key; `hilserl label --from` takes them as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hilserl.classifier.sources import SourceEpisode
from hilserl.labels import Label, Ranges
from hilserl.rollout import OPERATOR, OVERRULED
from hilserl.types import End

TRUTH, BUTTONS = "truth", "buttons"
ORIGINS = {TRUTH: "ground truth", BUTTONS: "button"}
"""Where a proposal may come from, and how a label made of it is signed (`Label.by`)."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """ranges: frames that show success, as in Label. origin: a key of ORIGINS. why: a sentence's part."""

    ranges: Ranges
    origin: str
    why: str

    def label(self, frames: int) -> Label:
        """It, as a label nobody has looked at."""
        return Label(frames, self.ranges, ORIGINS[self.origin])


def proposals(episode: SourceEpisode) -> tuple[Proposal, ...]:
    """What is known of an episode, the better knowledge first; () where nobody but a classifier judged it.

    The word of a classifier is never proposed: it would learn from itself.
    """
    found = []
    if episode.truth is not None:
        found.append(Proposal(episode.truth, TRUTH, "ground truth of the scene"))
    by_button = _by_button(episode)
    if by_button is not None:
        found.append(by_button)
    return tuple(found)


def _by_button(episode: SourceEpisode) -> Proposal | None:
    """What the person at the pad said, or, where only he could call a success, did not say."""
    if episode.judge not in (OPERATOR, "button"):
        return None
    against = episode.facts.get(OVERRULED)
    note = "" if against is None else f", against the automatic reward, which called {_called(str(against))}"
    if episode.end == End.SUCCESS.value:
        last = episode.frames - 1
        return Proposal(((last, last + 1),), BUTTONS, "ended by the success button" + note)
    pressed = episode.end == End.FAILURE.value
    what = "ended by the failure button" if pressed else "the success button was not pressed"
    return Proposal((), BUTTONS, what + note)


def _called(automatic: str) -> str:
    return "nothing" if automatic == "none" else automatic


def fill(
    episodes: Iterable[SourceEpisode], labels: Mapping[str, Label], origin: str
) -> tuple[dict[str, Label], tuple[str, ...]]:
    """Labels for the episodes that have none, from one origin; and the names it says nothing of."""
    new: dict[str, Label] = {}
    unknown = []
    for episode in episodes:
        if episode.name in labels:
            continue
        known = [one for one in proposals(episode) if one.origin == origin]
        if known:
            new[episode.name] = known[0].label(episode.frames)
        else:
            unknown.append(episode.name)
    return new, tuple(unknown)
