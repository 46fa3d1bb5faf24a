"""Weights that others published: fetched from the hub by name, files named one by one, never code."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path


class HubError(Exception):
    """The hub gave nothing; says why, as the rest of a sentence about the name."""


def hub_folder(name: str, files: Sequence[str]) -> Path:
    """Local folder with `files` of the repository `name` (owner/repository), fetched or from the cache."""
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) is None:
        raise HubError("it is no hub id (owner/repository)")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(files)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        raise HubError(f"the hub did not give it ({reason})") from error
