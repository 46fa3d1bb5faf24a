"""One episode is one file: built step by step, saved whole or not at all, found by its name.

A file is called ACTOR_NUMBER_LENGTH_END.npz, so that a directory listing is the index. Inside: plain
arrays, images as PNG (lossless), and one JSON string. Nothing is ever pickled.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hilserl.episode_builder import EpisodeBuilder, EpisodeHeader, check_actor, check_info
from hilserl.types import End, Episode, Role
from robot.types import U8

__all__ = [
    "EpisodeBuilder",
    "EpisodeFileError",
    "EpisodeHeader",
    "EpisodeInfo",
    "durable_numbers",
    "episode_name",
    "load_episode",
    "save_episode",
    "scan_episodes",
]

FORMAT = 1
TASK_FILE = "task.json"
"""Beside the episodes of a folder: the task record they were played under."""
_NAME = re.compile(
    r"(?P<actor>[A-Za-z0-9][A-Za-z0-9._-]{0,63})_(?P<number>\d{8})_(?P<length>\d{5})_(?P<end>[a-z]+)\.npz"
)
_TEMPORARY = ".tmp"
_LOG = logging.getLogger(__name__)


class EpisodeFileError(Exception):
    """An episode file is torn, corrupt, or not what its name says. The message names the file."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path


@dataclass(frozen=True, slots=True)
class EpisodeInfo:
    """What the name of an episode file says. length: steps."""

    actor: str
    number: int
    length: int
    end: End
    path: Path


def episode_name(actor: str, number: int, length: int, end: End) -> str:
    """Stem of an episode's file. length: steps."""
    return f"{actor}_{number:08d}_{length:05d}_{end.value}"


def save_episode(folder: Path, episode: Episode) -> Path:
    """Write `episode` into `folder`, whole or not at all, durably. Return its path.

    Raises FileExistsError when this actor's episode of this number is there already, ValueError for a
    discarded episode.
    """
    if not episode.end.stored:
        raise ValueError(f"episode {episode.actor}/{episode.number} was discarded and must not be stored")
    check_actor(episode.actor)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{episode_name(episode.actor, episode.number, len(episode), episode.end)}.npz"
    if not _NAME.fullmatch(path.name):
        raise ValueError(f"episode number {episode.number} or length {len(episode)} is too large to be named")
    for other in folder.glob(f"{episode.actor}_{episode.number:08d}_*.npz"):
        info = _parse(other)
        if info is not None and (info.actor, info.number) == (episode.actor, episode.number):
            raise FileExistsError(f"episode {episode.actor}/{episode.number} is already stored as {other}")
    arrays = _to_arrays(episode)
    descriptor, temporary = tempfile.mkstemp(suffix=_TEMPORARY, prefix=f".{path.stem}-", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)  # unlike rename, a link never replaces what is there
    finally:
        os.unlink(temporary)
    fsync_folder(folder)
    return path


def load_episode(path: Path, pictures: bool = True) -> Episode:
    """Read one episode, without its `images` unless `pictures` are wanted: they take nearly all the time.

    Raises EpisodeFileError when the file is torn, corrupt or misnamed.
    """
    named = _parse(path)
    if named is None:
        raise EpisodeFileError(path, "not an episode: the name must be ACTOR_NUMBER_LENGTH_END.npz")
    with path.open("rb") as file, _named_errors(path), np.load(file, allow_pickle=False) as data:
        wanted = [key for key in data.files if pictures or not key.startswith("png_")]
        episode = _from_arrays({key: data[key] for key in wanted}, pictures)
    found = (episode.actor, episode.number, len(episode), episode.end)
    if found != (named.actor, named.number, named.length, named.end):
        raise EpisodeFileError(path, f"holds {found}, which is not what its name says")
    return episode


def scan_episodes(folder: Path) -> list[EpisodeInfo]:
    """List the episodes in `folder`, sorted by actor and number, from the names alone.

    Leftovers of interrupted saves and files with other names are ignored and logged as warnings. Raises
    EpisodeFileError when two files claim to be the same episode.
    """
    found: dict[tuple[str, int], EpisodeInfo] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name == TASK_FILE:
            continue
        info = _parse(path)
        if info is None:
            what = "leftover of an interrupted save" if path.suffix == _TEMPORARY else "not an episode file"
            _LOG.warning("ignored %s: %s", path, what)
            continue
        other = found.setdefault((info.actor, info.number), info)
        if other is not info:
            raise EpisodeFileError(path, f"is the same episode as {other.path.name}")
    return [found[key] for key in sorted(found)]


def durable_numbers(episodes: list[EpisodeInfo]) -> dict[str, int]:
    """Return the highest stored episode number of each actor."""
    return {e.actor: e.number for e in sorted(episodes, key=lambda e: e.number)}


def fsync_folder(folder: Path) -> None:
    """Make a new or removed name in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _parse(path: Path) -> EpisodeInfo | None:
    match = _NAME.fullmatch(path.name)
    if match is None or match["end"] not in {e.value for e in End if e.stored}:
        return None
    return EpisodeInfo(match["actor"], int(match["number"]), int(match["length"]), End(match["end"]), path)


def _to_arrays(episode: Episode) -> dict[str, NDArray[Any]]:
    check_info(episode.info)
    meta = {key: getattr(episode, key) for key in ("actor", "number", "policy_version", "seed", "task_hash")}
    meta |= {"format": FORMAT, "end": episode.end.value, "role": episode.role.value}
    meta |= {"info": episode.info, "cameras": list(episode.images)}
    arrays: dict[str, NDArray[Any]] = {
        "meta": np.array(json.dumps(meta)),
        "state": episode.state,
        "action": episode.action,
        "reward": episode.reward,
        "intervention": episode.intervention,
    }
    for index, images in enumerate(episode.images.values()):
        pngs = [_to_png(image) for image in images]
        arrays[f"png_{index}"] = np.concatenate(pngs)
        arrays[f"png_bytes_{index}"] = np.array([len(png) for png in pngs], np.int64)
    return arrays


def _from_arrays(arrays: Mapping[str, NDArray[Any]], pictures: bool) -> Episode:
    meta = json.loads(str(arrays["meta"]))
    if meta["format"] != FORMAT:
        raise ValueError(f"format {meta['format']}, this program reads {FORMAT}")
    images = {}
    for index, camera in enumerate(meta["cameras"] if pictures else ()):
        cuts = np.cumsum(arrays[f"png_bytes_{index}"])[:-1]
        images[camera] = np.stack([_from_png(png) for png in np.split(arrays[f"png_{index}"], cuts)])
    return Episode(
        images=images,
        state=arrays["state"],
        action=arrays["action"],
        reward=arrays["reward"],
        intervention=arrays["intervention"],
        end=End(meta["end"]),
        role=Role(meta["role"]),
        actor=meta["actor"],
        number=meta["number"],
        policy_version=meta["policy_version"],
        seed=meta["seed"],
        task_hash=meta["task_hash"],
        info=meta["info"],
    )


def _to_png(image: U8) -> NDArray[Any]:
    # Level 1 and BGR order: a PNG cut out of the file shows true colours in any viewer.
    done, png = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise ValueError(f"could not encode an image of shape {image.shape}")
    return np.asarray(png, np.uint8).ravel()


def _from_png(png: NDArray[Any]) -> U8:
    image = cv2.imdecode(png, cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError("an image cannot be decoded")
    return np.asarray(image[..., ::-1], np.uint8)


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Turn what reading a damaged archive may raise into one error that names the file."""
    # RuntimeError: zipfile takes a flipped flag for encryption or for an unknown compression.
    archive = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError)
    try:
        yield
    except (*archive, cv2.error, ValueError, KeyError, TypeError) as error:
        raise EpisodeFileError(path, f"cannot be read: {type(error).__name__}: {error}") from error
