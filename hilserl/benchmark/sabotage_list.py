"""Every mistake that is planted, the cheap ones first."""

from __future__ import annotations

from hilserl.benchmark import (
    sabotage_body,
    sabotage_camera,
    sabotage_config,
    sabotage_demos,
    sabotage_models,
    sabotage_recorded,
    sabotage_servos,
)
from hilserl.benchmark.sabotage import Mistake

MISTAKES: tuple[Mistake, ...] = (
    *sabotage_config.MISTAKES,
    *sabotage_servos.MISTAKES,
    *sabotage_demos.MISTAKES,
    *sabotage_recorded.MISTAKES,
    *sabotage_models.MISTAKES,
    *sabotage_body.MISTAKES,
    *sabotage_camera.MISTAKES,
)
