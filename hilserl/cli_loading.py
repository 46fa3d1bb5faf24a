"""What the commands of the command line share: loading the configuration, and saying what happens."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hilserl.config import Config


def refuse_loose_words(overrides: list[str]) -> None:
    """Beside an argument without a name, "--seed 5" would leave it open whose the 5 is."""
    from hilserl.config import ConfigError

    loose = [word for word in overrides if "=" not in word]
    if loose:
        raise ConfigError(f"{loose[0]}: this command takes values of the configuration as --key=value only")


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    print(line, flush=True)


def load(args: argparse.Namespace, overrides: list[str]) -> Config:
    """The effective configuration, printed in short."""
    from hilserl.config_loading import describe, load_config
    from hilserl.task_record import task_hash

    config = load_config(args.config_path, overrides)
    print(f"{args.config_path}, task {config.task.name} ({task_hash(config.task)}), not the default:")
    print(describe(config), flush=True)
    return config
