"""`hilserl classifier`: train a reward classifier, and watch it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hilserl.cli_loading import load, say
from hilserl.cli_parsers import add_command

if TYPE_CHECKING:
    from hilserl.cli_parsers import Commands


def add_classifier(commands: Commands) -> None:
    """Add the commands."""
    parser = commands.add_parser(
        "classifier",
        help="train a reward classifier, and watch it",
        description="Train a reward classifier, and watch what it makes of pictures.",
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _add_train(actions)
    _add_preview(actions)


def _add_train(actions: Commands) -> None:
    text = "train a reward classifier on labelled episodes, and test it on whole episodes it has not seen"
    add_command(actions, "train", _train, text)


def _train(args: argparse.Namespace, overrides: list[str]) -> int:
    config = load(args, overrides)
    from hilserl.classifier.training import run_train

    run_train(config, say)
    return 0


def _add_preview(actions: Commands) -> None:
    text = "a local page: what the cameras see, what the network receives, and the probability of success"
    parser = add_command(actions, "preview", _preview, text)
    parser.add_argument(
        "--model", metavar="DIR", help="folder of a trained one, or a hub id (default: classifier.model)"
    )
    parser.add_argument("--dataset", metavar="ROOT", help="recorded episodes instead of the cameras")
    parser.add_argument("--episode", type=int, metavar="N", help="the recorded episode shown first, from 0")
    parser.add_argument("--port", type=int, default=0, metavar="N", help="of the page (default: a free one)")
    parser.add_argument("--no-browser", action="store_true", help="only say the page's address")


def _preview(args: argparse.Namespace, overrides: list[str]) -> int:
    config = load(args, overrides)
    from hilserl.config import ConfigError

    name = args.model or config.classifier.model
    if not name:
        raise ConfigError("no classifier named: give --model DIR, or set classifier.model")
    from hilserl.pages.preview_page import run_preview

    run_preview(
        config,
        name,
        say,
        dataset=Path(args.dataset) if args.dataset else None,
        episode=args.episode,
        port=args.port,
        browser=not args.no_browser,
    )
    return 0
