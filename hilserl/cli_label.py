"""`hilserl label`: mark successes in recorded episodes, in a page, from what is known, or from a file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hilserl.classifier.sources import Source
    from hilserl.cli_parsers import Commands
    from hilserl.config import Config


def add_label(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "label",
        help="mark in a local page in which frames success is visible",
        description="Open a local page that shows recorded episodes, to mark in which frames success is "
        "visible. Labels stand in DATASET.labels.json beside the folder and are saved with every key. With "
        "--from, --import or --export no page is opened.",
        epilog="Any configuration value can be given as --section.key=value.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=_label, options=parser)
    parser.add_argument(
        "dataset", metavar="DATASET", help="a LeRobotDataset, or a folder of episodes (*.npz)"
    )
    parser.add_argument(
        "--config_path", metavar="FILE", help="the present task (default: the record beside the episodes)"
    )
    parser.add_argument("--port", type=int, default=0, metavar="N", help="of the page (default: a free one)")
    parser.add_argument("--no-browser", action="store_true", help="only say the page's address")
    parser.add_argument("--model", metavar="DIR", help="a trained classifier: review where it disagrees")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--from",
        dest="origin",
        choices=["truth", "buttons"],
        help="label what is not labelled yet by the scene's ground truth, or by what the buttons said",
    )
    instead.add_argument("--import", dest="taken", metavar="FILE", help="take labels from a JSON file")
    instead.add_argument("--export", dest="given", metavar="FILE", help="write the labels to a JSON file")


def _label(args: argparse.Namespace, overrides: list[str]) -> int:
    from hilserl.classifier.sources import open_source
    from hilserl.cli_loading import refuse_loose_words
    from hilserl.config import ConfigError

    refuse_loose_words(overrides)
    if overrides and args.config_path is None:
        raise ConfigError(f"{overrides[0]} changes a configuration: name one by --config_path")
    root = Path(args.dataset)
    config = _config(args, overrides, root)
    source = open_source(root, config.task, config.allow_task_difference)
    if args.origin:
        _fill(source, args.origin)
    elif args.taken:
        _import(source, Path(args.taken))
    elif args.given:
        _export(source, Path(args.given))
    else:
        _serve(args, source, config)
    return 0


def _config(args: argparse.Namespace, overrides: list[str], root: Path) -> Config:
    """The configuration named, or one that holds the task record beside the episodes."""
    from hilserl.config_loading import config_from_json, load_config
    from hilserl.dataset_schema import TASK_RECORD, is_dataset
    from hilserl.episode import TASK_FILE
    from hilserl.labels import LabelError

    if args.config_path is not None:
        return load_config(args.config_path, overrides)
    if not root.is_dir():
        raise LabelError(f"there is no folder {root}")
    path = root / (TASK_RECORD if is_dataset(root) else TASK_FILE)
    if not path.is_file():
        raise LabelError(
            f"{root} is no recording: it has no {path.relative_to(root)}. Name a LeRobotDataset that hilserl "
            "recorded, or a folder of episodes (*.npz) such as outputs/JOB/episodes"
        )
    return config_from_json(f'{{"task": {path.read_text(encoding="utf-8")}}}', str(path))


def _frames(source: Source) -> dict[str, int]:
    return {episode.name: episode.frames for episode in source.episodes}


def _fill(source: Source, origin: str) -> None:
    from hilserl.cli_loading import say
    from hilserl.labels import change_labels, check_labels, labels_file, read_labels
    from hilserl.labels_proposals import fill

    labels = read_labels(source.root)
    check_labels(labels, _frames(source), str(labels_file(source.root)))
    new, unknown = fill(source.episodes, labels, origin)
    if new:
        change_labels(source.root, new)
    what = {"truth": "ground truth", "buttons": "the buttons"}[origin]
    shows = sum(bool(label.ranges) for label in new.values())
    say(
        f"{len(new)} episodes labelled by {what} ({shows} show success), {len(labels)} were labelled before "
        f"and stay as they are: {labels_file(source.root)}"
    )
    if unknown:
        say(f"{len(unknown)} are still not labelled, {what} says nothing of them: {', '.join(unknown)}")


def _import(source: Source, path: Path) -> None:
    from hilserl.cli_loading import say
    from hilserl.labels import LabelError, change_labels, check_labels, labels_file, parse_json, read_labels
    from hilserl.labels_exchange import import_labels

    if not path.is_file():
        raise LabelError(f"--import {path} is no file")
    told = parse_json(path.read_text(encoding="utf-8"), str(path))
    new = import_labels(told, _frames(source), str(path))
    before = read_labels(source.root)
    check_labels(before, _frames(source), str(labels_file(source.root)))
    other = [
        key
        for key, label in new.items()
        if key in before and (before[key].ranges, before[key].exclude) != (label.ranges, label.exclude)
    ]
    if other:
        raise LabelError(
            f"{path} was not imported: it contradicts labels that are there, of {', '.join(other)}. Remove "
            f"these from the one or the other; the labels here are in {labels_file(source.root)}"
        )
    fresh = {key: label for key, label in new.items() if key not in before}
    if fresh:
        change_labels(source.root, fresh)
    there = len(new) - len(fresh)
    say(f"{len(fresh)} labels imported, {there} were there already: {labels_file(source.root)}")


def _export(source: Source, path: Path) -> None:
    from hilserl.cli_loading import say
    from hilserl.labels import LabelError, check_labels, labels_file, read_labels
    from hilserl.labels_exchange import export_labels
    from hilserl.rundir import write_whole

    if path.exists():
        raise LabelError(f"--export {path} exists, and nothing is replaced: choose another name")
    labels = read_labels(source.root)
    check_labels(labels, _frames(source), str(labels_file(source.root)))
    write_whole(path, json.dumps(export_labels(labels), indent=1) + "\n")
    say(f"{len(labels)} of {len(source.episodes)} episodes are labelled; exported to {path}")


def _serve(args: argparse.Namespace, source: Source, config: Config) -> None:
    from contextlib import ExitStack

    from hilserl.cli_loading import say
    from hilserl.labels_scores import Scores
    from hilserl.labels_session import LabelSession
    from hilserl.pages.frames import FrameStore, pictures_of
    from hilserl.pages.label_page import LabelPage
    from hilserl.pages.server import serve

    session = LabelSession(source.root, _frames(source))
    read, cameras = pictures_of(source.root)
    with ExitStack() as stack:
        scores = None
        if args.model:
            scores = Scores(args.model, source, config.task, config.allow_task_difference)
            scores.start()
            stack.callback(scores.close)
        frames = stack.enter_context(FrameStore(read))
        page = LabelPage(source.root, source.episodes, session, frames, cameras, config.task.fps, scores)
        serve(page.build, "Label", say, port=args.port, browser=not args.no_browser, routes=page.routes)
