"""The decision rule while it is tried out, and the way it gets into the model's file."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from hilserl.classifier.decision import Decision
from hilserl.classifier.model_files import CONFIG_FILE, ClassifierError
from hilserl.rundir import write_whole

THRESHOLD_STEP = 0.01
BY_HAND = "; then the decision was changed by hand, which no held-out episode has tested"
"""Added to what is known of a model's trustworthiness."""


class DecisionDesk:
    """The decision that is tried; any thread may read `present`, one thread changes it.

    kept: what the model's file says. folder: of the model, None where it came from a hub.
    """

    def __init__(self, decision: Decision, folder: Path | None) -> None:
        self.present = self.kept = decision
        self._folder = folder

    def move_threshold(self, steps: int) -> None:
        """By hundredths, within 0.01 to 1."""
        asked = round(self.present.threshold + steps * THRESHOLD_STEP, 6)
        self.present = replace(self.present, threshold=min(1.0, max(THRESHOLD_STEP, asked)))

    def move_hold(self, frames: int) -> None:
        """By frames, at least one."""
        self.present = replace(self.present, hold_frames=max(1, self.present.hold_frames + frames))

    @property
    def changed(self) -> bool:
        """Whether the tried decision differs from the kept one."""
        return self.present != self.kept

    def write(self) -> str:
        """Put the tried decision into the model's file; says where, what it was and what it is.

        Raises ClassifierError where it cannot be written.
        """
        if self._folder is None:
            raise ClassifierError(
                "this model came from a hub and is not changed here: give a copy of its folder as --model"
            )
        before = write_decision(self._folder, self.present)
        self.kept = self.present
        where = self._folder / CONFIG_FILE
        if before == self.present:
            return f"{where} says so already: {in_words(before)}"
        return f"{where}: was {in_words(before)}; is {in_words(self.present)}"


def write_decision(folder: Path, decision: Decision) -> Decision:
    """Replace the decision in a model's file, whole or not at all; returns the one it held.

    What training found of the old one's trustworthiness stays, and that it was changed by hand is added: no
    held-out episode was judged by the new one. Raises ClassifierError.
    """
    path = folder / CONFIG_FILE
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        before = Decision(**told["decision"])
        trust = str(told["trust"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClassifierError(f"{path} cannot be changed: {type(error).__name__}: {error}") from error
    if before == decision:
        return before
    told["decision"] = asdict(decision)
    note = f"{trust.partition(BY_HAND)[0]}{BY_HAND}: {in_words(decision)}"
    told["trust"] = note
    try:
        write_whole(path, json.dumps(told, indent=1) + "\n")
    except OSError as error:
        raise ClassifierError(f"{path} cannot be changed: {error}") from error
    return before


def in_words(decision: Decision) -> str:
    """The rule in one line."""
    more = f", not in the first {decision.takeover_frames} of a take-over" if decision.takeover_frames else ""
    return (
        f"threshold {decision.threshold:.3g}, held {decision.hold_frames} frames, "
        f"after {decision.min_frames} steps{more}"
    )
