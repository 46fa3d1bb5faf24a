"""What a learner counts: transitions, updates, episodes; and the evaluation groups it judges by."""

from __future__ import annotations

from dataclasses import dataclass, field

from hilserl.types import End, Episode, Role


@dataclass(slots=True)
class Counters:
    """What a checkpoint restores. transitions counts online control steps, updates critic steps.

    minutes: wall time worked on the run, over all resumes, as last logged. numbers: the newest episode taken
    in of each actor.
    """

    transitions: int = 0
    updates: int = 0
    version: int = 0
    episodes: int = 0
    best_success: float = -1.0
    minutes: float = 0.0
    numbers: dict[str, int] = field(default_factory=dict)

    def count(self, episode: Episode) -> None:
        """One more episode that is learned from."""
        self.numbers[episode.actor] = max(episode.number, self.numbers.get(episode.actor, 0))
        if episode.role is Role.TRAIN:
            self.transitions += len(episode)
            self.episodes += 1


@dataclass(slots=True)
class Evaluations:
    """Held-out, help-free episodes, grouped by the policy version that played them."""

    version: int = -1
    results: list[bool] = field(default_factory=list)

    def take(self, episode: Episode) -> None:
        """Add one evaluation episode; a new policy version starts a new group."""
        if episode.policy_version != self.version:
            self.version, self.results = episode.policy_version, []
        self.results.append(episode.end is End.SUCCESS)

    @property
    def rate(self) -> float:
        """Share of successes of the present group."""
        return sum(self.results) / len(self.results)
