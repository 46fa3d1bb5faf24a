"""`hilserl dataset`: edit recorded datasets, and check whether they still fit."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hilserl.cli_loading import load, say
from hilserl.cli_parsers import add_command

if TYPE_CHECKING:
    from hilserl.cli_parsers import Command, Commands

VERDICTS = ("success", "failure", "timeout")


def add_dataset(commands: Commands) -> None:
    """Add the commands."""
    parser = commands.add_parser(
        "dataset",
        help="edit a recorded dataset, or check whether it still fits the task",
        description="Edit a recorded dataset, checked and undoable, or check whether it still fits the task.",
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    drop = _add(actions, "drop", _drop, "leave episodes out; those after them move up")
    drop.add_argument("episodes", metavar="EPISODE", type=int, nargs="+", help="from 0")
    trim = _add(actions, "trim", _trim, "keep part of an episode: frames A up to, but not with, B")
    trim.add_argument("episode", metavar="EPISODE", type=int, help="from 0")
    trim.add_argument("start", metavar="A", type=int, help="first frame kept, from 0")
    trim.add_argument("stop", metavar="B", type=int, help="first frame no longer kept")
    relabel = _add(
        actions, "relabel", _relabel, "say otherwise how an episode ended, or what the task is called"
    )
    relabel.add_argument("--episode", metavar="EPISODE", type=int, help="from 0; with --end")
    relabel.add_argument("--end", choices=VERDICTS, help="how that episode ended")
    relabel.add_argument("--task", metavar="TEXT", help="the task in words, for the whole dataset")
    merge = _add(actions, "merge", _merge, "make a new dataset of several of one task, which stay", "NEW")
    merge.add_argument("sources", metavar="ROOT", nargs="+")
    undo = _add(actions, "undo", _undo, "bring back what was before the last edit; twice is redo")
    undo.add_argument("version", metavar="VERSION", nargs="?", default="", help="an older one, such as 000")
    _add(actions, "repair", _repair, "complete an edit that was cut short (every other command does, too)")
    text = "say whether a dataset still fits the task record, and with --live what the camera sees now"
    check = add_command(actions, "check", _check, text)
    check.add_argument("root", metavar="ROOT", type=Path, help="the dataset's folder")
    check.add_argument("--live", action="store_true", help="reset the arm, look, and compare")


def _add(
    actions: Commands, name: str, run: Command, text: str, root: str = "ROOT"
) -> argparse.ArgumentParser:
    """An action on a dataset that needs no configuration."""
    parser = actions.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False
    )
    parser.set_defaults(run=run, options=parser)
    parser.add_argument("root", metavar=root, type=Path, help="the dataset's folder")
    return parser


def _refuse(overrides: Sequence[str]) -> None:
    from hilserl.config import ConfigError

    if overrides:
        raise ConfigError(f"this command needs no configuration; it takes no {overrides[0]}")


def _drop(args: argparse.Namespace, overrides: list[str]) -> int:
    from hilserl.dataset_edit import drop

    _refuse(overrides)
    drop(args.root, args.episodes, say)
    return 0


def _trim(args: argparse.Namespace, overrides: list[str]) -> int:
    from hilserl.dataset_edit import trim

    _refuse(overrides)
    trim(args.root, args.episode, args.start, args.stop, say)
    return 0


def _relabel(args: argparse.Namespace, overrides: list[str]) -> int:
    from hilserl.config import ConfigError
    from hilserl.dataset_edit import relabel, rename_task
    from hilserl.types import End

    _refuse(overrides)
    if (args.episode is None) != (args.end is None) or (args.end is None) == (args.task is None):
        raise ConfigError('relabel takes either --episode and --end, or --task "in other words"')
    if args.task is not None:
        rename_task(args.root, args.task, say)
    else:
        relabel(args.root, args.episode, End(args.end), say)
    return 0


def _merge(args: argparse.Namespace, overrides: list[str]) -> int:
    from hilserl.dataset_edit import merge

    _refuse(overrides)
    merge(args.root, [Path(source) for source in args.sources], say)
    return 0


def _undo(args: argparse.Namespace, overrides: list[str]) -> int:
    from hilserl.dataset_edit import undo

    _refuse(overrides)
    undo(args.root, args.version, say)
    return 0


def _repair(args: argparse.Namespace, overrides: list[str]) -> int:
    from hilserl.dataset_edit import repair

    _refuse(overrides)
    repair(args.root, say)
    return 0


def _check(args: argparse.Namespace, overrides: list[str]) -> int:
    config = load(args, overrides)
    from hilserl.dataset_fit import fit_of_set
    from hilserl.dataset_fit_live import fit_live
    from hilserl.doctor.findings import Status, in_group, summary_line, worst

    found = in_group("set", fit_of_set(args.root, config.task, config.allow_task_difference))
    if args.live and found[0].status is Status.OK:
        found += in_group("live", fit_live(config, args.root, say, _allow_motion))
    for finding in found:
        say(finding.line())
    say(summary_line(found))
    return 1 if worst(found) is Status.FAIL else 0


def _allow_motion() -> None:
    """Raises ConfigError where nobody is there to allow it."""
    from hilserl.config import ConfigError

    try:
        input("the arm will move to its reset pose: make room, then press Enter ")
    except EOFError:
        raise ConfigError(
            "--live moves the arm, and nobody is here to allow it: run it in a terminal"
        ) from None
