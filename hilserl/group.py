"""The processes that train together, as SAC sees them; one alone is a group too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Group(Protocol):
    """The processes that train together. rank: this one's number; world: how many."""

    rank: int
    world: int

    def mean(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the processes."""


class Alone:
    """A group of one."""

    rank, world = 0, 1

    def mean(self, tensors: Sequence[Tensor]) -> None:
        """The mean of one is itself."""
