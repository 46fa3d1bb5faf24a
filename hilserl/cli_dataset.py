"""`hilserl dataset`: edit recorded datasets, and check whether they still fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hilserl.cli_parsers import Commands


def add_dataset(commands: Commands) -> None:
    """Add the commands."""
