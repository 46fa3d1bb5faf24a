"""The files of a trained reward classifier: written whole or not at all, and read with every fault named.

best_model/
  model.safetensors   the trained part, float32. The frozen trunk is not in it: its name and hash are told
  config.json         task record, cameras, network sizes, trunk, decision, brightness seen, metrics, data
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hilserl.hub import HubError, hub_folder
from hilserl.rundir import fsync
from hilserl.tensor_file import write_tensors
from hilserl.vision import WEIGHTS_FILE, tensor_faults

FORMAT = 1
CONFIG_FILE = "config.json"
BEST = "best_model"
"""Folder of a trained classifier within the job's."""
_SECTIONS = (
    "cameras", "network", "trunk", "hash", "decision", "look", "trusted", "trust", "task", "metrics", "data"
)  # fmt: skip


class ClassifierError(Exception):
    """A classifier that cannot be made, loaded or asked; says what, and what would be right."""


def write_model(folder: Path, told: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write both files into the new folder `folder`, durably, whole or not at all.

    told: what config.json says beside its format. Raises ClassifierError where `folder` exists.
    """
    if folder.exists():
        raise ClassifierError(f"{folder} exists already; a trained classifier is never overwritten")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=".tmp", dir=folder.parent))
    try:
        partial.chmod(0o755)
        write_tensors(partial / WEIGHTS_FILE, arrays)
        text = json.dumps({"format": FORMAT, **told}, indent=1, allow_nan=False)
        (partial / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
        for path in (partial / WEIGHTS_FILE, partial / CONFIG_FILE, partial):
            fsync(path)
        partial.rename(folder)
        fsync(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def model_folder(name: str) -> Path:
    """Local folder of a classifier. name: a folder, or a hub id. Raises ClassifierError."""
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / CONFIG_FILE).is_file() or not (path / WEIGHTS_FILE).is_file():
            best = path / BEST
            hint = f"; use {best}" if best.is_dir() else f"; it needs {CONFIG_FILE} and {WEIGHTS_FILE}"
            raise ClassifierError(f"{path} holds no reward classifier{hint}")
        return path
    try:
        return hub_folder(name, [CONFIG_FILE, WEIGHTS_FILE])
    except HubError as error:
        raise ClassifierError(
            f"classifier.model {name!r}: no folder {path.absolute()}, and {error}. It must be the best_model "
            "folder of a trained classifier, or a hub id; train one with hilserl classifier train"
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """What config.json says, every section there. Raises ClassifierError."""
    path = folder / CONFIG_FILE
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ClassifierError(f"{path} cannot be read: {error}") from error
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise ClassifierError(
            f"{path} is no reward classifier of format {FORMAT}, the one this program reads"
        )
    absent = [name for name in _SECTIONS if name not in told]
    if absent:
        raise ClassifierError(f"{path} has no {', '.join(absent)}: it is damaged, or of another program")
    return told


def check_cameras(cameras: Collection[str], judged: Collection[str], source: str) -> None:
    """Raise ClassifierError unless a classifier of the cameras `judged` fits a task of `cameras`."""
    if sorted(cameras) != sorted(judged):
        raise ClassifierError(
            f"{source}: it judges pictures of {sorted(judged)}, the task's cameras are {sorted(cameras)}"
        )


def read_tensors(folder: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights. expected: tensors of these names and shapes. Raises ClassifierError naming each fault."""
    path = folder / WEIGHTS_FILE
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ClassifierError(f"{path} is not a readable safetensors file: {error}") from error
    faults = tensor_faults(expected, tensors)
    if faults:
        raise ClassifierError(f"{path} does not hold this classifier's network: " + "; ".join(faults))
    return tensors
