"""`hilserl classifier`: train a reward classifier, and watch it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hilserl.cli_parsers import Commands


def add_classifier(commands: Commands) -> None:
    """Add the commands."""
