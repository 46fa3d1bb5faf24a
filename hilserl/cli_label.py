"""`hilserl label`: mark successes in recorded episodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hilserl.cli_parsers import Commands


def add_label(commands: Commands) -> None:
    """Add the command."""
