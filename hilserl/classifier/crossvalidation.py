"""Models tested on episodes they were not trained on, and the one that is kept.

In each test a model is trained without the episodes held out and then judges them. With "folds" each episode
is held out once; with "split" one share of them is. Which epoch is best is the median over the tests, one
number for all of them, and every test's model is asked after that epoch (or after its last one, where it had
ended before). The model that is kept is then trained on all episodes for that many epochs: it has seen what
the tested ones saw, and more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hilserl.classifier.features import EpisodeFeatures, side_by_side
from hilserl.classifier.fitting import Fitted, Frames, fit
from hilserl.classifier.folds import SMALL, hold_out, same_episodes
from hilserl.classifier.labelled import Labelled
from hilserl.classifier.metrics import Scored
from hilserl.classifier.network import Sizes, SuccessNetwork
from hilserl.config import ClassifierConfig, Config

CONDITION = "scenario"
"""The fact every test gets its share of."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What the tests and the last training gave. tests: the episodes each held out; fitted: one per test."""

    network: SuccessNetwork
    epochs: int
    tests: list[list[int]]
    fitted: list[Fitted]
    scored: list[Scored]


def train(
    config: Config,
    episodes: Sequence[Labelled],
    features: Sequence[EpisodeFeatures],
    say: Callable[[str], None],
) -> Trained:
    """The tests, then the model that is kept. features: of each episode. Same seed, same weights."""
    classifier, seed = config.classifier, config.seed
    tests = held_out(config, episodes, features)
    frames = Frames.of(features, [one.success for one in episodes])
    networks = [frames.network(sizes_of(classifier), seed + test) for test in range(len(tests) + 1)]
    everything = set(range(len(episodes)))

    def test(number: int) -> Fitted:
        kept, held = sorted(everything - set(tests[number])), tests[number]
        return fit(
            networks[number],
            frames,
            frames.of_episodes(kept),
            frames.of_episodes(held),
            classifier,
            seed + number,
            classifier.max_epochs,
        )

    with side_by_side() as pool:
        fitted = list(pool.map(test, range(len(tests))))
        best = sorted(one.best_epoch for one in fitted)
        epochs = best[len(best) // 2]
        say(f"{split_words(config, tests, len(episodes))}; best after {best} epochs, kept: {epochs}")
        frames_of_all = frames.of_episodes(sorted(everything))
        last = pool.submit(
            fit, networks[-1], frames, frames_of_all, None, classifier, seed + len(tests), epochs
        ).result()
    scored = [
        one
        for held, result in zip(tests, fitted, strict=True)
        for one in _scored(episodes, features, held, result, epochs)
    ]
    order = {(str(one.source.root), one.episode.name): place for place, one in enumerate(episodes)}
    scored.sort(key=lambda one: order[one.source, one.episode])
    return Trained(last.network, epochs, tests, fitted, scored)


def held_out(
    config: Config, episodes: Sequence[Labelled], features: Sequence[EpisodeFeatures] | None
) -> list[list[int]]:
    """The episodes each test holds out. features: None where they are not known yet.

    Raises TrainingDataError where there are too few.
    """
    classifier = config.classifier
    groups = same_episodes(
        [one.episode.seed for one in episodes],
        None if features is None else [one.digests for one in features],
    )
    folds = _in_folds(classifier, len(episodes))
    tests = hold_out(
        groups,
        [bool(one.success.any()) for one in episodes],
        [one.episode.facts.get(CONDITION, "") for one in episodes],
        classifier.folds if folds else round(1 / classifier.holdout_share),
        config.seed,
    )
    return tests if folds else tests[:1]


def _in_folds(classifier: ClassifierConfig, episodes: int) -> bool:
    return classifier.holdout == "folds" or (classifier.holdout == "auto" and episodes <= SMALL)


def split_words(config: Config, tests: Sequence[Sequence[int]], episodes: int) -> str:
    """How episodes were held out, in words."""
    if _in_folds(config.classifier, episodes):
        return f"each of {episodes} episodes held out once, in {len(tests)} folds of whole episodes"
    return f"{len(tests[0])} of {episodes} episodes held out, whole ones"


def _scored(
    episodes: Sequence[Labelled],
    features: Sequence[EpisodeFeatures],
    held: Sequence[int],
    result: Fitted,
    epochs: int,
) -> list[Scored]:
    """What one test's model says of the episodes it was not trained on."""
    said = result.said[min(epochs, len(result.said)) - 1]
    parts = np.split(said, np.cumsum([len(episodes[i].success) for i in held])[:-1])
    return [
        Scored(
            source=str(episodes[i].source.root),
            episode=episodes[i].episode.name,
            facts=episodes[i].episode.facts | _light(features[i]),
            success=episodes[i].success,
            probability=part,
            end=episodes[i].episode.end,
            by=episodes[i].by,
            helped=episodes[i].episode.helped,
        )
        for i, part in zip(held, parts, strict=True)
    ]


def _light(features: EpisodeFeatures) -> dict[str, float | str]:
    """How bright an episode's pictures are, as a fact of each camera."""
    return {f"{camera}_brightness": float(seen.mean()) for camera, seen in features.brightness.items()}


def sizes_of(classifier: ClassifierConfig) -> Sizes:
    """Of the network that is trained."""
    return Sizes(classifier.num_spatial_embeddings, classifier.latent_dim, classifier.dropout)
