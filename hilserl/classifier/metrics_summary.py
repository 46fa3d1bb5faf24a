"""Everything measured on held-out episodes, once: for the report, metrics.json and the model's folder."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hilserl.classifier.decision import Decision
from hilserl.classifier.metrics import (
    FAIR_THRESHOLD,
    Confusion,
    Estimate,
    Scored,
    ScoreError,
    frame_accuracy,
    frame_confusion,
)
from hilserl.classifier.metrics_calls import (
    Call,
    EpisodeConfusion,
    FalseSuccesses,
    call_of,
    episode_confusion,
    false_successes,
)
from hilserl.classifier.metrics_coverage import Coverage, coverage
from hilserl.classifier.metrics_curves import Calibration, PrecisionRecall, calibration, precision_recall


@dataclass(frozen=True, slots=True)
class Summary:
    """What held-out episodes say of a classifier and its decision.

    accuracy: of frames at probability 0.5; accuracy_in_use and frames: at the decision's threshold. calls:
    one per episode, in order. The decision was chosen on the same episodes: what follows from it is a little
    better than it will be on new ones.
    """

    episodes: tuple[Scored, ...]
    decision: Decision
    rate_hz: float
    accuracy: Estimate
    accuracy_in_use: Estimate
    frames: Confusion
    calls: tuple[Call, ...]
    confusion: EpisodeConfusion
    false_successes: FalseSuccesses
    curve: PrecisionRecall | None
    calibration: Calibration
    coverage: Coverage

    @property
    def delays(self) -> list[int]:
        """Frames from success to its call, of the rightly called ones, sorted."""
        return sorted(call.delay for call in self.calls if call.delay is not None)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values. None: not known. Shares are 0 to 1, times in seconds."""
        false, confusion, frames = self.false_successes, self.confusion, self.frames
        delays = self.delays
        return {
            "episode_split_accuracy": self.accuracy.value,
            "accuracy_low95": self.accuracy.low,
            "accuracy_high95": self.accuracy.high,
            "accuracy_in_use": self.accuracy_in_use.to_json(),
            "episodes": len(self.episodes),
            "episodes_with_success": confusion.called_rate.total,
            "frames": self.accuracy.total,
            "success_frames": frames.true_success + frames.missed,
            "decision": {
                name: getattr(self.decision, name)
                for name in ("threshold", "hold_frames", "min_frames", "takeover_frames")
            },
            "frame_confusion": {
                name: getattr(frames, name)
                for name in ("true_success", "false_success", "missed", "true_failure")
            },
            "episode_confusion": {
                name: getattr(confusion, name) for name in ("called", "early", "missed", "false", "quiet")
            },
            "episodes_correct": confusion.correct.to_json(),
            "false_success_rate": confusion.false_rate.to_json(),
            "called_rate": confusion.called_rate.to_json(),
            "false_successes": false.count,
            "failed_play_hours": false.hours,
            "false_successes_per_hour": false.per_hour,
            "false_successes_per_hour_low95": false.low,
            "false_successes_per_hour_high95": false.high if math.isfinite(false.high) else None,
            "average_precision": self.curve.average_precision if self.curve else None,
            "calibration_error": self.calibration.error,
            "median_delay_s": delays[(len(delays) - 1) // 2] / self.rate_hz if delays else None,
            "coverage_warnings": list(self.coverage.warnings),
        }


def summarise(episodes: Sequence[Scored], decision: Decision, rate_hz: float) -> Summary:
    """Measure everything. Raises ScoreError without an episode, or for one that comes twice."""
    if not episodes:
        raise ScoreError("no held-out episode: nothing can be said of the classifier")
    name, times = Counter((one.source, one.episode) for one in episodes).most_common(1)[0]
    if times > 1:
        raise ScoreError(f"episode {name[1]} of {name[0]} was scored {times} times, each must count once")
    calls = tuple(call_of(one, decision) for one in episodes)
    return Summary(
        episodes=tuple(episodes),
        decision=decision,
        rate_hz=rate_hz,
        accuracy=frame_accuracy(episodes, FAIR_THRESHOLD),
        accuracy_in_use=frame_accuracy(episodes, decision.threshold),
        frames=frame_confusion(episodes, decision.threshold),
        calls=calls,
        confusion=episode_confusion(calls),
        false_successes=false_successes(calls, rate_hz),
        curve=precision_recall(episodes),
        calibration=calibration(episodes),
        coverage=coverage(episodes, calls),
    )
