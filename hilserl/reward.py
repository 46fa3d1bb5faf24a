"""Who says that an episode succeeded. Success is terminal and paid once."""

from __future__ import annotations

from collections.abc import Callable

from hilserl.config import SuccessConfig
from hilserl.types import End, Obs


class OracleReward:
    """The twin's ground truth: success when `achieved` has held for `hold_s` without a break."""

    def __init__(self, achieved: Callable[[], bool], config: SuccessConfig, fps: float) -> None:
        self._achieved = achieved
        self._config = config
        self._needed = max(1, round(config.hold_s * fps))
        self._held = 0

    def reset(self) -> None:
        """A new episode: nothing is held yet."""
        self._held = 0

    def score(self, obs: Obs) -> tuple[float, End | None]:
        """Reward of the step that led to `obs`, and SUCCESS once it has held long enough."""
        self._held = self._held + 1 if self._achieved() else 0
        if self._held >= self._needed:
            return self._config.reward - self._config.step_cost, End.SUCCESS
        return 0.0 - self._config.step_cost, None


class ButtonReward:
    """Only the operator's buttons decide (the rollout reads them); every step costs step_cost."""

    def __init__(self, config: SuccessConfig) -> None:
        self._config = config

    def reset(self) -> None:
        """Nothing to forget."""

    def score(self, obs: Obs) -> tuple[float, End | None]:
        """The step's cost; the episode goes on until a button or the time ends it."""
        return 0.0 - self._config.step_cost, None
