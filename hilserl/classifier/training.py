"""Trains a reward classifier on labelled episodes, and says whether it can be trusted.

Every number reported is of episodes held out (see `crossvalidation`). Threshold and hold are chosen on the
same held-out episodes, so what follows from them is a little better than it will be on new ones.

outputs/<job_name>/
  best_model/    the classifier (see `model_files`)
  report.html    for people
  metrics.json   the same numbers
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hilserl.classifier.choosing import Chosen, choose
from hilserl.classifier.crossvalidation import Trained, held_out, sizes_of, split_words, train
from hilserl.classifier.features import EpisodeFeatures, encode_episodes
from hilserl.classifier.folds import check_holdout
from hilserl.classifier.labelled import TrainingData, read_training_data
from hilserl.classifier.metrics_summary import Summary, summarise
from hilserl.classifier.model import BEST, About, ClassifierError, RewardClassifier
from hilserl.classifier.report import Report, report_html
from hilserl.classifier.report_parts import short_names
from hilserl.config import Config
from hilserl.encoder import FeatureEncoder
from hilserl.rundir import write_whole
from hilserl.task_record import task_hash, task_json
from hilserl.vision import load_trunk
from robot.types import U8

REPORT_FILE, METRICS_FILE = "report.html", "metrics.json"
Say = Callable[[str], None]


def run_train(config: Config, say: Say) -> Path:
    """Train as config.classifier says; the folder of the classifier, outputs/<job_name>/best_model.

    A classifier that calls more false successes than asked for is kept for looking at, but not trusted: it
    gives no reward. Raises, before anything is computed, TrainingDataError, LabelError, SourceError,
    TaskMismatch or DatasetError for data that cannot be used, VisionError without a trunk, and
    ClassifierError where a classifier is there already.
    """
    began, classifier = time.monotonic(), config.classifier
    check_holdout(classifier.holdout)
    job = Path(config.output_dir) / config.job_name
    if (job / BEST).exists():
        raise ClassifierError(
            f"{job / BEST} exists already; a trained classifier is never overwritten: use --job_name=NAME"
        )
    data = read_training_data(classifier.datasets, config.task, config.allow_task_difference)
    say(data.sentence())
    for (root, which), why in data.left_out.items():
        say(f"LEFT OUT, {why}: {root}: {which}")
    held_out(config, data.episodes, None)  # too few are found before minutes are spent
    trunk = load_trunk(config.policy.vision_encoder_name)
    encoder = FeatureEncoder(trunk, trunk.channels, device=config.policy.device)
    features = encode_episodes(data.episodes, encoder, classifier, config.seed)
    say(f"{data.frames} frames encoded, {classifier.copies} versions each ({time.monotonic() - began:.1f} s)")
    trained = train(config, data.episodes, features, say)
    takeover_frames = round(classifier.takeover_s * config.task.fps)
    chosen = choose(trained.scored, classifier.false_success_rate, config.task.fps, takeover_frames)
    summary = summarise(trained.scored, chosen.decision, config.task.fps)
    _say_result(summary, chosen, say)
    seconds = time.monotonic() - began
    names = short_names(
        [*(str(one.source.root) for one in data.episodes), *(root for root, _ in data.left_out)]
    )
    metrics = _metrics(config, trained, summary, chosen, seconds, names)
    about = About(
        task=task_json(config.task),
        trunk=config.policy.vision_encoder_name,
        sizes=sizes_of(classifier),
        decision=chosen.decision,
        look=_look(features),
        trusted=chosen.met,
        trust=chosen.sentence,
        metrics=metrics,
        data=_about_data(data, names),
    )
    model = RewardClassifier(trained.network, encoder, about)
    write_whole(job / METRICS_FILE, json.dumps(metrics, indent=1, allow_nan=False) + "\n")
    write_whole(job / REPORT_FILE, report_html(_report(config, data, trained, summary, names)))
    model.save(job / BEST)
    say(f"trained in {seconds:.0f} s: {job / BEST}; report: {job / REPORT_FILE}")
    return job / BEST


def _look(features: Sequence[EpisodeFeatures]) -> dict[str, tuple[float, float]]:
    """{camera: (least, most) brightness of a frame as it is}."""
    return {
        camera: (
            min(float(one.brightness[camera].min()) for one in features),
            max(float(one.brightness[camera].max()) for one in features),
        )
        for camera in features[0].brightness
    }


def _say_result(summary: Summary, chosen: Chosen, say: Say) -> None:
    accuracy, decision, fps = summary.accuracy, chosen.decision, summary.rate_hz
    say(
        f"held-out episodes: {accuracy.value or 0.0:.1%} of frames right (95 %: {accuracy.low:.1%} to "
        f"{accuracy.high:.1%}, by episode)"
    )
    say(
        f"success is called from probability {decision.threshold:g} on, held for {decision.hold_frames} "
        f"frames ({decision.hold_frames / fps:.1f} s), not before {decision.min_frames / fps:.1f} s: "
        f"{chosen.sentence}"
    )
    for one, call in zip(summary.episodes, summary.calls, strict=True):
        if not call.correct:
            seen, called = (
                "never" if frame is None else f"{frame / fps:.1f} s" for frame in (one.true_frame, call.frame)
            )
            say(f"  {one.source} episode {one.episode}: {call.word}; success at {seen}, called {called}")
    if not chosen.met:
        say(
            "NOT TRUSTED: it is saved, but gives no reward. Look at its mistakes in the report; record more "
            "episodes like them, or allow more with classifier.false_success_rate"
        )


def _metrics(
    config: Config,
    trained: Trained,
    summary: Summary,
    chosen: Chosen,
    seconds: float,
    names: Mapping[str, str],
) -> dict[str, Any]:
    fps = config.task.fps
    calls = zip(summary.episodes, summary.calls, strict=True)
    return summary.to_json() | {
        "trusted": chosen.met,
        "trust": chosen.sentence,
        "false_success_rate_asked": config.classifier.false_success_rate,
        "split": split_words(config, trained.tests, sum(len(test) for test in trained.tests)),
        "epochs": trained.epochs,
        "best_epochs": [one.best_epoch for one in trained.fitted],
        "train_seconds": seconds,
        "success_times": [
            {
                "source": names[one.source],
                "episode": one.episode,
                "success_s": None if call.true_frame is None else call.true_frame / fps,
                "called_s": None if call.frame is None else call.frame / fps,
                "delay_s": None if call.delay is None else call.delay / fps,
                "verdict": call.word,
            }
            for one, call in calls
        ],
    }


def _about_data(data: TrainingData, names: Mapping[str, str]) -> dict[str, Any]:
    by: dict[str, int] = {}
    for one in data.episodes:
        by[one.by] = by.get(one.by, 0) + 1
    return {
        "sources": sorted({names[str(one.source.root)] for one in data.episodes}),
        "episodes": len(data.episodes),
        "episodes_with_success": data.with_success,
        "frames": data.frames,
        "success_frames": data.success_frames,
        "labelled_by": by,
        "left_out": _left_out(data, names),
    }


def _left_out(data: TrainingData, names: Mapping[str, str]) -> dict[str, str]:
    return {f"{names[root]}: {which}": why for (root, which), why in data.left_out.items()}


def _report(
    config: Config, data: TrainingData, trained: Trained, summary: Summary, names: Mapping[str, str]
) -> Report:
    labelled = {(str(one.source.root), one.episode.name): one for one in data.episodes}

    def pictures(source: str, episode: str, frames: Sequence[int]) -> U8:
        """The cameras' pictures side by side."""
        one = labelled[source, episode]
        shown = one.source.pictures(one.episode)
        return np.concatenate([images[list(frames)] for images in shown.values()], axis=2)

    trunk = config.policy.vision_encoder_name
    settings: Mapping[str, object] = {
        "task": f"{config.task.name} ({task_hash(config.task)})",
        "trunk": Path(trunk).name if Path(trunk).is_absolute() else trunk,
        "seed": config.seed,
        "epochs of the model that is kept": trained.epochs,
        **{name: value for name, value in dataclasses.asdict(config.classifier).items() if name != "model"},
        "datasets": ", ".join(names.values()),
    }
    return Report(
        name=config.job_name,
        summary=summary,
        false_success_rate=config.classifier.false_success_rate,
        split=split_words(config, trained.tests, len(data.episodes)),
        losses=[one.losses for one in trained.fitted],
        pictures=pictures,
        settings=settings,
        left_out=_left_out(data, names),
    )
