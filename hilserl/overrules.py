"""What the operator's buttons said against the automatic reward: lines of an actor's overrules.jsonl.

The same facts are stored with each episode, where `hilserl label` finds them; this file is the list to read
when asking how far a reward can be trusted.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from hilserl.classifier.reward import CLASSIFIER, PROBABILITY
from hilserl.episode import episode_name
from hilserl.rollout import OVERRULED, Played


@dataclass(frozen=True, slots=True)
class Overrule:
    """One button against the reward.

    episode: its name in the learner's folder of episodes, and its key in a label file. step: of the button,
    counted from 1; the picture is frame `step`. automatic: what the reward called at it, "success" or "none".
    button: "success" or "failure". probability and classifier: what the classifier gave that picture, and its
    hash; None and "" where another reward judged.
    """

    episode: str
    number: int
    step: int
    automatic: str
    button: str
    probability: float | None
    classifier: str

    def sentence(self) -> str:
        """For the person who pressed it."""
        seen = "" if self.probability is None else f" (probability {self.probability:.2f})"
        called = "a success" if self.automatic == "success" else "no success"
        return f"episode {self.number}: {self.button} by button, the reward called {called}{seen}"


def overrule_of(actor: str, number: int, played: Played) -> Overrule | None:
    """The overrule in a stored episode, None where the reward was not contradicted."""
    if OVERRULED not in played.facts or not played.end.stored:
        return None
    probability = played.facts.get(PROBABILITY)
    return Overrule(
        episode=episode_name(actor, number, played.steps, played.end),
        number=number,
        step=played.steps,
        automatic=str(played.facts[OVERRULED]),
        button=played.end.value,
        probability=None if probability is None else float(probability),
        classifier=str(played.facts.get(CLASSIFIER, "")),
    )


def append_overrule(path: Path, overrule: Overrule) -> None:
    """Add a line to `path`, durably. A line torn by a power cut is ended first, so that this one is whole."""
    line = (json.dumps(asdict(overrule)) + "\n").encode()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        os.write(descriptor, line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
