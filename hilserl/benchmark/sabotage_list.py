"""Every mistake that is planted, the cheap ones first."""

from __future__ import annotations

from hilserl.benchmark import sabotage_config, sabotage_demos, sabotage_servos
from hilserl.benchmark.sabotage import Mistake

MISTAKES: tuple[Mistake, ...] = (
    *sabotage_config.MISTAKES,
    *sabotage_servos.MISTAKES,
    *sabotage_demos.MISTAKES,
)
