"""Which episodes a model is tested on. Only whole episodes are held out, never single frames.

Neighbouring frames of a video are nearly the same picture: with frames drawn at random, every tested frame
has its twins in the training set, and the accuracy measured is that of remembering (field report, rows 69
and 70). The same goes for one episode that stands in two sources: such episodes stay together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from hilserl.classifier.labelled import TrainingDataError

HOLDOUTS = ("auto", "folds", "split")
SMALL = 100
"""Up to so many episodes "auto" tests each in its turn."""
SHARED = 0.5
"""Episodes that share so much of the shorter one's frames, bit by bit, are the same."""

type _Kind = tuple[bool, Hashable]
"""Whether an episode shows a success, and what it was recorded under."""


def check_holdout(holdout: str) -> None:
    """Raise TrainingDataError for a way of holding out that is none, or none to be trusted."""
    if "frame" in holdout:
        raise TrainingDataError(
            f'classifier.holdout is "{holdout}": frames of one video are never split between training and '
            "test. A tested frame's neighbours, 0.1 s before and after it, would be in the training set and "
            "leak the answer: the accuracy measured would be that of remembering (98 % instead of 92 % in "
            'the field report). Use "folds" or "split", which hold out whole episodes'
        )
    if holdout not in HOLDOUTS:
        raise TrainingDataError(f'classifier.holdout is "{holdout}", it must be one of {", ".join(HOLDOUTS)}')


def same_episodes(
    scenes: Sequence[Hashable | None], frames: Sequence[frozenset[bytes]] | None = None
) -> list[int]:
    """The group of each episode: episodes of one group are the same one and must not be parted.

    scenes: what tells of one scene (task and seed), None where nobody knows. frames: digests of each
    episode's pictures; None where they are not known yet. Groups are numbered in order.
    """
    parent = list(range(len(scenes)))

    def root(one: int) -> int:
        while parent[one] != one:
            one = parent[one]
        return one

    def join(one: int, other: int) -> None:
        first, second = sorted((root(one), root(other)))
        parent[second] = first

    first_of: dict[Hashable, int] = {}
    for index, scene in enumerate(scenes):
        if scene is not None:
            join(first_of.setdefault(scene, index), index)
    if frames is not None:
        for (one, other), count in _shared(frames).items():
            if count >= SHARED * min(len(frames[one]), len(frames[other])):
                join(one, other)
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(index), len(numbers)) for index in range(len(scenes))]


def _shared(frames: Sequence[frozenset[bytes]]) -> Counter[tuple[int, int]]:
    """How many pictures each two episodes have in common; pairs without any are not counted."""
    holders: dict[bytes, list[int]] = {}
    for index, digests in enumerate(frames):
        for digest in digests:
            holders.setdefault(digest, []).append(index)
    return Counter(
        (one, other) for held in holders.values() for i, one in enumerate(held) for other in held[i + 1 :]
    )


def hold_out(
    groups: Sequence[int], success: Sequence[bool], conditions: Sequence[Hashable], tests: int, seed: int
) -> list[list[int]]:
    """The episodes each of `tests` tests holds out: disjoint, together all of them, groups kept whole.

    success: whether an episode shows one. conditions: what each was recorded under; every test gets its share
    of each, as far as the groups allow. Raises TrainingDataError where a test would be without a success.
    """
    members: dict[int, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    _check_enough(members, success, tests)
    rng = np.random.default_rng(seed)
    order = [list(members)[i] for i in rng.permutation(len(members))]
    # Rare conditions and large groups first: what comes later fills the gaps.
    kinds = [(bool(one), condition) for one, condition in zip(success, conditions, strict=True)]
    often = Counter(kinds)
    order.sort(key=lambda group: (-len(members[group]), min(often[kinds[i]] for i in members[group])))
    held: list[list[int]] = [[] for _ in range(tests)]
    for group in order:
        theirs = [kinds[i] for i in members[group]]
        crowds = [_crowd(theirs, [kinds[i] for i in test]) for test in held]
        held[crowds.index(min(crowds))] += members[group]
    return [sorted(test) for test in held]


def _crowd(theirs: Sequence[_Kind], there: Sequence[_Kind]) -> tuple[int, int, int]:
    """How full of the like a test is: of the same class, of the same condition too, of anything."""
    classes = Counter(success for success, _ in there)
    return (
        sum(classes[success] for success, _ in theirs),
        sum(map(Counter(there).__getitem__, theirs)),
        len(there),
    )


def _check_enough(members: dict[int, list[int]], success: Sequence[bool], tests: int) -> None:
    """Every test needs a success: its own, and some in what its model is trained on."""
    good = sum(any(success[i] for i in group) for group in members.values())
    failed = sum(not all(success[i] for i in group) for group in members.values())
    for what, found in (("with", good), ("without", failed)):
        if found < 2:
            raise TrainingDataError(
                f"{found} different episode {what} a success: at least 2 are needed, one to train on and one "
                "to test on; record and label more"
            )
    least = min(len(members), good)
    if least < tests:
        raise TrainingDataError(
            f"{len(members)} different episodes, {good} of them with a success, are too few for {tests} "
            f"tests with a success in each: set --classifier.folds={least} or record more (the same scene in "
            "two sources counts once)"
        )
