"""Who says that an episode succeeded. Success is terminal and paid once."""

from __future__ import annotations

from collections.abc import Callable

from hilserl.config import SuccessConfig
from hilserl.types import End, Obs


class OracleReward:
    """The twin's ground truth: success when `achieved` has held for `hold_s` without a break."""

    judge = "oracle"
    overrule_steps = 0

    def __init__(self, achieved: Callable[[], bool], config: SuccessConfig, fps: float) -> None:
        self._achieved = achieved
        self._config = config
        self._needed = max(1, round(config.hold_s * fps))
        self._held = 0

    @property
    def success_reward(self) -> float:
        """What a success pays."""
        return self._config.reward

    def reset(self) -> None:
        """A new episode: nothing is held yet."""
        self._held = 0

    def score(self, obs: Obs, helped: bool) -> tuple[float, End | None]:
        """Reward of the step that led to `obs`, and SUCCESS once it has held long enough."""
        self._held = self._held + 1 if self._achieved() else 0
        return scored(self._config, self._held >= self._needed)

    def facts(self) -> dict[str, float | str]:
        """Nothing beyond the verdict."""
        return {}


class ButtonReward:
    """Only the operator's buttons decide (the rollout reads them); every step costs step_cost."""

    judge = ""
    overrule_steps = 0

    def __init__(self, config: SuccessConfig) -> None:
        self._config = config

    @property
    def success_reward(self) -> float:
        """What a success pays."""
        return self._config.reward

    def reset(self) -> None:
        """Nothing to forget."""

    def score(self, obs: Obs, helped: bool) -> tuple[float, End | None]:
        """The step's cost; the episode goes on until a button or the time ends it."""
        return scored(self._config, False)

    def facts(self) -> dict[str, float | str]:
        """Nothing: nobody judged but the operator."""
        return {}


def scored(config: SuccessConfig, success: bool) -> tuple[float, End | None]:
    """THE line that pays: each step costs, success is terminal and paid once."""
    if success:
        return config.reward - config.step_cost, End.SUCCESS
    return 0.0 - config.step_cost, None
