"""Means of numbers that stay on their device until somebody asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor


class RunningMeans:
    """Sums and counts by name; nothing is fetched from a device before `take`."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """One more value for each name, () or (N,)."""
        for name, value in values.items():
            if name in self._sums:
                self._sums[name] += value.detach()
                self._counts[name] += 1
            else:
                self._sums[name] = value.detach().clone()
                self._counts[name] = 1

    def take(self, parts: Mapping[str, Sequence[str]]) -> dict[str, float]:
        """The means since the last call. parts: for a (N,) value the names of its N components."""
        out: dict[str, float] = {}
        for name, total in self._sums.items():
            mean = (total / self._counts[name]).cpu()
            if mean.ndim == 0:
                out[name] = float(mean)
            else:
                pairs = zip(parts[name], mean.tolist(), strict=True)
                out |= {f"{name}_{part}": value for part, value in pairs}
        self._sums.clear()
        self._counts.clear()
        return out
