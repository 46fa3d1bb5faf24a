"""What a replay will take of the machine, said before it is taken."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from hilserl.ring_journal import ReplayError
from hilserl.ring_layout import allocated

log = logging.getLogger(__name__)
_KEEP_FREE = 0.9
"""Share of what is free that a proposed capacity would take."""


def announce(frame_bytes: int, capacities: tuple[int, int], fps: float | None, folder: Path | None) -> None:
    """Log what a full replay of (online, protected) frames takes, in frames, hours at fps, and bytes.

    folder: of its files; None for memory alone. Raises ReplayError, with the capacity that would fit, where
    the disk has not that much left, or the memory: updates read all of a store at random, and one that does
    not fit the memory would be read from the disk again and again.
    """
    online, protected = capacities
    needed = frame_bytes * (online + protected)
    places = {"memory": free_memory()}
    if folder is not None:
        places[f"disk in {folder}"] = _free_disk(folder)
    hours = f" ({online / fps / 3600:.1f} + {protected / fps / 3600:.1f} h)" if fps else ""
    log.info(
        "replay: %d online + %d protected frames%s x %.1f kB = %.2f GB when full; free: %s",
        online, protected, hours, frame_bytes / 1e3, needed / 1e9,
        ", ".join(f"{free / 1e9:.2f} GB of {place}" for place, free in places.items()),
    )  # fmt: skip
    for place, free in places.items():
        if needed > free:
            fitting = max(0, int(free * _KEEP_FREE / frame_bytes) - protected)
            raise ReplayError(
                f"the replay needs {needed / 1e9:.2f} GB ({frame_bytes / 1e3:.1f} kB for each of {online} "
                f"online and {protected} protected frames) but {free / 1e9:.2f} GB of {place} are free: "
                f"lower online_buffer_capacity to {fitting}, or feature_channels, or feature_copies"
            )


def _free_disk(folder: Path) -> int:
    """Bytes left for the rings in `folder`, counting what they have taken already."""
    here = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    disk = os.statvfs(here)
    return disk.f_bavail * disk.f_frsize + sum(allocated(ring) for ring in folder.glob("*/"))


def free_memory() -> int:
    """Bytes of memory this machine can still give (all of it where the system does not say)."""
    info = Path("/proc/meminfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
