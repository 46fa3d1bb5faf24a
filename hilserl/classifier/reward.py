"""The reward classifier as the reward of a rollout: scores each step at the control rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from hilserl.classifier.decision import Decision, Judge
from hilserl.config import SuccessConfig
from hilserl.reward import scored
from hilserl.types import End, Obs
from robot.errors import RobotError
from robot.types import U8

OUTSIDE_FRAMES = 3
"""Pictures in a row that may be darker or brighter than any seen in training: a shadow passes, a lamp that
was switched off stays."""
CLASSIFIER = "classifier"
"""Fact: hash of the classifier that judged."""
PROBABILITY = "success_probability"
"""Fact: the probability of success of the last picture it judged."""


class ClassifierFault(RobotError):
    """The classifier cannot judge what the camera shows: the episode has no reward."""


class Classifier(Protocol):
    """A trained classifier. out_of_range: "", or how the pictures' brightness leaves that of training."""

    @property
    def decision(self) -> Decision: ...

    @property
    def hash(self) -> str: ...

    def probability(self, images: Mapping[str, U8]) -> float: ...

    def out_of_range(self, images: Mapping[str, U8]) -> str: ...


class ClassifierReward:
    """Success when the classifier's own decision (threshold, hold, least time, take-over) calls it.

    A classifier that cannot judge is never taken for one that sees no success: `score` raises
    ClassifierFault, and the actor discards the episode.
    """

    judge = "classifier"

    def __init__(self, classifier: Classifier, config: SuccessConfig, overrule_steps: int) -> None:
        """overrule_steps: control periods in which the operator may overrule a success that was called."""
        self._classifier, self._config = classifier, config
        self.overrule_steps = overrule_steps
        self._rule = Judge(classifier.decision)
        self._outside = 0
        self._facts: dict[str, float | str] = {}
        self.reset()

    @property
    def success_reward(self) -> float:
        """What a success pays."""
        return self._config.reward

    def reset(self) -> None:
        """A new episode: nothing is held yet."""
        self._rule.reset()
        self._outside = 0
        self._facts = {CLASSIFIER: self._classifier.hash}

    def score(self, obs: Obs, helped: bool) -> tuple[float, End | None]:
        """Reward of the step that led to `obs`, and SUCCESS once it is called.

        Raises ClassifierFault when the probability is none, when OUTSIDE_FRAMES pictures in a row are darker
        or brighter than in training, or when success would be called on one that is.
        """
        outside = self._classifier.out_of_range(obs.images)
        self._outside = self._outside + 1 if outside else 0
        probability = self._classifier.probability(obs.images)
        try:
            success = self._rule.step(probability, helped)
        except ValueError as error:
            raise ClassifierFault(f"the reward classifier is broken: {error}") from error
        if outside and (success or self._outside >= OUTSIDE_FRAMES):
            what = "a success would be called on it" if success else f"{self._outside} pictures in a row"
            raise ClassifierFault(
                f"the reward classifier was not trained for this light ({what}): {outside}. Restore the "
                "light and the camera's exposure, or record episodes in this light and train it again"
            )
        self._facts[PROBABILITY] = probability
        return scored(self._config, success)

    def facts(self) -> dict[str, float | str]:
        """Which classifier judged, and the probability it gave last."""
        return dict(self._facts)
