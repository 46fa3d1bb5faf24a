"""`hilserl doctor`: the pre-flight."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hilserl.cli_loading import say
from hilserl.cli_parsers import add_command

if TYPE_CHECKING:
    from hilserl.cli_parsers import Commands
    from hilserl.doctor.result import Result

RED = 1


def add_doctor(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands, "doctor", _doctor, "check computer, task, arm, cameras, data and policy before training"
    )
    parser.add_argument("--groups", metavar="A,B", help="only these groups of checks (see --list)")
    parser.add_argument("--list", action=_List, nargs=0, help="say which groups and checks there are")
    parser.add_argument("--yes", action="store_true", help="the arm may move without a key press")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")


class _List(argparse.Action):
    """Like --help: it needs no configuration."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        from hilserl.doctor.checks import CHECKS, GROUPS

        for group in GROUPS:
            say(f"{group}: {', '.join(check.name for check in CHECKS if check.group == group)}")
        parser.exit()


def _doctor(args: argparse.Namespace, overrides: list[str]) -> int:
    """Exit code 0 where nothing is red, 1 where a check is."""
    from hilserl.config import ConfigError
    from hilserl.config_loading import load_config
    from hilserl.doctor.checks import CHECKS, GROUPS
    from hilserl.doctor.context import Context
    from hilserl.doctor.findings import Status, worst
    from hilserl.doctor.page import page_html
    from hilserl.doctor.preflight import run_checks
    from hilserl.doctor.result import PAGE, result_file, save_result
    from hilserl.rundir import write_whole
    from hilserl.task_record import task_hash

    wanted = args.groups.split(",") if args.groups else list(GROUPS)
    unknown = [group for group in wanted if group not in GROUPS]
    if unknown:
        raise ConfigError(f"--groups names {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    config = load_config(args.config_path, overrides)
    path = result_file(config)
    path.parent.mkdir(parents=True, exist_ok=True)
    with Context(config, path.parent, say, lambda question: args.yes or _ask(question)) as context:
        chosen = [check for check in CHECKS if check.group in wanted]
        result = run_checks(context, chosen, lambda finding: say(finding.line()))
    result = result.after(_earlier(path))
    save_result(result, path)
    title = f"{Path(args.config_path).name}, task {config.task.name} ({task_hash(config.task)})"
    write_whole(path.with_name(PAGE), page_html(result, title))
    say(f"{result.summary}\npage: {path.with_name(PAGE)}")
    if args.json:
        say(json.dumps(json.loads(path.read_text())))
    return RED if worst(result.findings) is Status.FAIL else 0


def _earlier(path: Path) -> Result | None:
    """The pre-flight before; a damaged one is replaced, and said."""
    from hilserl.doctor.result import PreflightError, load_result

    try:
        return load_result(path)
    except PreflightError as error:
        say(f"{error}; it is replaced")
        return None


def _ask(question: str) -> bool:
    """Whether the person at the terminal agrees; where there is none, nobody does."""
    if not sys.stdin.isatty():
        say(f"{question} Nobody can be asked here: --yes says so beforehand")
        return False
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
