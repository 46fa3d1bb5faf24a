"""How a reward classifier degrades when light or camera drift, and what the fit check says of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hilserl.benchmark.reward import Say, recorded, with_judge
from hilserl.config import Config

DRIFTS: dict[str, dict[str, float]] = {
    "as recorded": {},
    "light -30 %": {"light": 0.7},
    "light +30 %": {"light": 1.3},
    "camera +3 degrees": {"camera_turn": float(np.radians(3))},
    "camera -3 degrees": {"camera_turn": float(-np.radians(3))},
}
"""What each condition changes in the twin's scene."""


def with_scene(config: Config, changes: Mapping[str, Any]) -> Config:
    """`config` in a scene changed so; data of other scenes may then be used."""
    scene = dataclasses.replace(config.task.scene, **changes)
    allow = tuple({*config.allow_task_difference, "success", "scene"})
    task = dataclasses.replace(config.task, scene=scene)
    return dataclasses.replace(config, task=task, allow_task_difference=allow)


def drift(
    config: Config, model: Path, root: Path, folder: Path, count: int, say: Say
) -> list[dict[str, Any]]:
    """Frame accuracy, called successes and the fit check's findings under each of DRIFTS."""
    from hilserl.classifier.decision import success_frame
    from hilserl.classifier.model import RewardClassifier
    from hilserl.classifier.sources import open_source
    from hilserl.labels import read_labels

    rows = []
    for name, changes in DRIFTS.items():
        other = with_scene(with_judge(config, "button"), changes)
        place = recorded(
            other, folder / f"drift_{name.replace(' ', '_').replace('%', 'percent')}", count, say
        )
        classifier = RewardClassifier.load(str(model), other.task, other.allow_task_difference)
        source, labels = open_source(place, other.task, other.allow_task_difference), read_labels(place)
        right = frames = false = missed = warned = 0
        for episode in source.episodes:
            pictures = source.pictures(episode)
            probability = classifier.probabilities(pictures)
            truth = labels[episode.name].success()
            right += int(((probability >= 0.5) == truth).sum())
            frames += len(truth)
            called = success_frame(classifier.decision, probability)
            false += called is not None and not truth[called]
            missed += called is None and bool(truth.any())
            warned += sum(
                bool(classifier.out_of_range({camera: p[i] for camera, p in pictures.items()}))
                for i in range(len(truth))
            )
        rows.append(
            {
                "condition": name,
                "accuracy": right / frames,
                "false_calls": false,
                "missed": missed,
                "episodes": len(source.episodes),
                "frames_out_of_range": warned / frames,
                "check": drift_check(root, other),
            }
        )
        say(json.dumps(rows[-1]))
    return rows


def drift_check(root: Path, config: Config) -> list[str]:
    """What `hilserl dataset check --live` finds not to fit, in words."""
    from hilserl.dataset_fit_live import fit_live
    from hilserl.doctor.findings import Status

    found = fit_live(config, root, lambda _: None, lambda: None)
    return [f"{one.check}: {one.value} (limit {one.limit})" for one in found if one.status is Status.FAIL]
