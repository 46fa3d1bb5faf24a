"""Checkpoints: safetensors and JSON only, whole or not there at all.

    checkpoints/003000/pretrained_model/{config.json, model.safetensors, golden.safetensors}
    checkpoints/003000/training_state/{state.json, tensors.safetensors}
    checkpoints/last, checkpoints/best     relative links

The number counts transitions. A checkpoint is written under a hidden name and renamed when it is complete
and on the disk. Each JSON file holds the sha256 of the tensors beside it. One process writes; any may read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from hilserl.contract import CheckpointError, ContractMismatch, check_form
from hilserl.rundir import fsync
from hilserl.tensor_file import write_tensors

__all__ = ["CheckpointError", "ContractMismatch", "Pretrained", "TrainingState"]

Arrays = dict[str, NDArray[Any]]
DIGITS = 6
PRETRAINED, TRAINING = "pretrained_model", "training_state"
LAST, BEST = "last", "best"
_MODEL, _CONTRACT, _GOLDEN = "model.safetensors", "config.json", "golden.safetensors"
_TENSORS, _STATE = "tensors.safetensors", "state.json"
_HASHES = "sha256"
_OLD = ".old"


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A policy as stored. path: its pretrained_model folder; golden_*: one known input and its output."""

    path: Path
    tensors: Arrays
    contract: dict[str, Any]
    golden_inputs: Arrays
    golden_outputs: Arrays


@dataclass(frozen=True, slots=True)
class TrainingState:
    """What resuming needs beside the policy. transitions: control steps when it was saved."""

    path: Path
    transitions: int
    tensors: Arrays
    state: dict[str, Any]


def save_checkpoint(
    root: Path,
    transitions: int,
    *,
    model: Mapping[str, NDArray[Any]],
    contract: Mapping[str, Any],
    training_tensors: Mapping[str, NDArray[Any]],
    training_state: Mapping[str, Any],
    keep: int,
    best: bool = False,
    golden_inputs: Mapping[str, NDArray[Any]] | None = None,
    golden_outputs: Mapping[str, NDArray[Any]] | None = None,
) -> Path:
    """Write checkpoints/<transitions> durably, point `last` (and `best`) at it, keep the newest `keep`.

    root: the checkpoints folder. The target of `best` is never removed. One of the same number is replaced.
    Raises ValueError for keep < 1 or for tensors that are not finite; nothing is then written.
    """
    if keep < 1:
        raise ValueError(f"keep is {keep}; at least one checkpoint must stay")
    _check_finite(model, "model")
    sweep(root)
    golden = {f"input.{name}": array for name, array in (golden_inputs or {}).items()}
    golden |= {f"output.{name}": array for name, array in (golden_outputs or {}).items()}
    root.mkdir(parents=True, exist_ok=True)
    final = root / f"{transitions:0{DIGITS}d}"
    temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}-", suffix=".tmp", dir=root))
    temporary.chmod(0o755)
    blobs = {_MODEL: model} | ({_GOLDEN: golden} if golden else {})
    _write_part(temporary / PRETRAINED, blobs, _CONTRACT, dict(contract))
    state = {**training_state, "transitions": transitions}
    _write_part(temporary / TRAINING, {_TENSORS: training_tensors}, _STATE, state)
    fsync(temporary)
    _publish(temporary, final)
    link(root, LAST, final.name)
    if best:
        link(root, BEST, final.name)
    _prune(root, keep)
    return final


def load_pretrained(path: str | Path) -> Pretrained:
    """Read a policy. path: a pretrained_model folder, the checkpoint around it, or a link to either.

    Raises CheckpointError saying what is missing, what is there, and which checkpoints could be used.
    """
    folder = _part(Path(path), PRETRAINED)
    contract, files = _read_part(folder, _CONTRACT, _MODEL)
    check_form(contract, str(folder / _CONTRACT))
    golden = files.get(_GOLDEN, {})
    return Pretrained(folder, files[_MODEL], contract, _under(golden, "input."), _under(golden, "output."))


def load_training_state(path: str | Path) -> TrainingState:
    """Read what resuming needs. path: a checkpoint, either of its folders, or a link to one.

    Raises CheckpointError saying what is missing, what is there, and which checkpoints could be used.
    """
    folder = _part(Path(path), TRAINING)
    state, files = _read_part(folder, _STATE, _TENSORS)
    return TrainingState(folder, int(state.pop("transitions")), files[_TENSORS], state)


def available(root: Path) -> list[Path]:
    """Every checkpoint under the checkpoints folder `root`, oldest first."""
    found = root.iterdir() if root.is_dir() else []
    return sorted((p for p in found if p.name.isdigit() and p.is_dir()), key=lambda p: int(p.name))


def latest(root: Path) -> Path | None:
    """The checkpoint saved last under the checkpoints folder `root`, None when there is none."""
    if (root / LAST).is_dir():
        return root / os.readlink(root / LAST)
    checkpoints = available(root)
    return checkpoints[-1] if checkpoints else None


def verify_golden(
    pretrained: Pretrained, compute: Callable[[Arrays], Mapping[str, NDArray[Any]]], tolerance: float = 1e-3
) -> None:
    """Raise CheckpointError unless the rebuilt policy answers the stored input with the stored output.

    compute: {name: array} of the inputs -> {name: array} of the outputs. tolerance: largest difference of
    any component. A checkpoint without a golden pair is refused.
    """
    if not pretrained.golden_outputs:
        raise CheckpointError(f"{pretrained.path} has no golden input and output ({_GOLDEN}) to verify with")
    answers = compute(pretrained.golden_inputs)
    for name, expected in pretrained.golden_outputs.items():
        got = np.asarray(answers[name])
        if got.shape != expected.shape:
            raise CheckpointError(f"{pretrained.path}: {name} has shape {got.shape}, stored {expected.shape}")
        error = float(np.abs(got.astype(np.float64) - expected).max(initial=0.0))
        if not error <= tolerance:
            raise CheckpointError(
                f"{pretrained.path}: the policy rebuilt from it answers differently: {name} is off by "
                f"{error:.3g}, at most {tolerance:.3g} is rounding; the network, the image encoder or the "
                "observation differ from those in training"
            )


def sweep(root: Path) -> None:
    """Remove half-written checkpoints and finish an interrupted replacement. For the one writer only."""
    for old in root.glob(f".*{_OLD}"):
        final = root / old.name[1 : -len(_OLD)]
        if final.exists():
            shutil.rmtree(old)
        else:
            old.rename(final)
    for leftover in root.glob(".*.tmp"):
        if leftover.is_symlink():
            leftover.unlink()
        else:
            shutil.rmtree(leftover)


def _check_finite(arrays: Mapping[str, NDArray[Any]], what: str) -> None:
    broken = [n for n, a in arrays.items() if a.dtype.kind == "f" and not np.isfinite(a).all()]
    if broken:
        raise ValueError(f"not saved: {what} tensors hold values that are not finite: {', '.join(broken)}")


def _write_part(
    folder: Path, blobs: Mapping[str, Mapping[str, NDArray[Any]]], about_name: str, about: dict[str, Any]
) -> None:
    folder.mkdir()
    hashes = {}
    for name, arrays in blobs.items():
        hashes[name] = write_tensors(folder / name, arrays)
        fsync(folder / name)
    text = json.dumps({**about, _HASHES: hashes}, indent=2, allow_nan=False) + "\n"
    (folder / about_name).write_text(text, encoding="utf-8")
    fsync(folder / about_name)
    fsync(folder)


def _publish(temporary: Path, final: Path) -> None:
    """Rename into place. One of the same number steps aside first; `sweep` brings it back after a crash."""
    old = final.with_name(f".{final.name}{_OLD}")
    if final.exists():
        final.rename(old)
    temporary.rename(final)
    fsync(final.parent)
    if old.exists():
        shutil.rmtree(old)


def link(root: Path, name: str, target: str) -> None:
    """Point root/name, at once and durably, at the checkpoint called `target` in the folder `root`."""
    temporary = root / f".{name}.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(root / name)
    fsync(root)


def _prune(root: Path, keep: int) -> None:
    linked = {os.readlink(root / name) for name in (LAST, BEST) if (root / name).is_symlink()}
    for checkpoint in available(root)[:-keep]:
        if checkpoint.name not in linked:
            aside = checkpoint.with_name(f".{checkpoint.name}-pruned.tmp")
            checkpoint.rename(aside)
            shutil.rmtree(aside)


def _part(path: Path, part: str) -> Path:
    """The folder `part` of the checkpoint that `path` names, in whichever of the ways."""
    resolved = path.resolve()  # a link that is moved while files are read must not mix two checkpoints
    inside = resolved.name in (PRETRAINED, TRAINING)
    checkpoint = resolved.parent if inside else resolved
    folder = checkpoint / part
    if folder.is_dir():
        return folder
    if not checkpoint.is_dir():
        state = "is a link to nothing" if path.is_symlink() else "does not exist"
        raise CheckpointError(f"checkpoint {path} {state}; {_choices(checkpoint)}")
    raise CheckpointError(
        f"{path} is no complete checkpoint: {part}/ is missing, there is {_listing(checkpoint)}; "
        f"{_choices(checkpoint)}"
    )


def _read_part(folder: Path, about_name: str, needed: str) -> tuple[dict[str, Any], dict[str, Arrays]]:
    for name in (about_name, needed):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder} is not complete: {name} is missing, there is {_listing(folder)}; "
                f"{_choices(folder.parent)}"
            )
    path = folder / about_name
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}; {_choices(folder.parent)}") from error
    if not isinstance(about, dict) or not isinstance(about.get(_HASHES), dict):
        raise CheckpointError(f"{path} was not written by this program: it has no {_HASHES} of its tensors")
    hashes = about.pop(_HASHES)
    return about, {name: _read_tensors(folder / name, digest) for name, digest in hashes.items()}


def _read_tensors(path: Path, digest: str) -> Arrays:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing, there is {_listing(path.parent)}")
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise CheckpointError(
            f"{path} is damaged or of another checkpoint: its sha256 is {found[:16]}, stored {digest[:16]}; "
            f"{_choices(path.parent.parent)}"
        )
    try:
        return dict(load(data))
    except SafetensorError as error:
        raise CheckpointError(f"{path} is no safetensors file: {error}") from error


def _under(arrays: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _listing(folder: Path) -> str:
    return ", ".join(sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))) or "nothing"


def _choices(checkpoint: Path) -> str:
    root = checkpoint.parent
    names = [p.name for p in available(root)]
    names += [name for name in (BEST, LAST) if (root / name).is_dir()]
    return f"checkpoints in {root}: {', '.join(names) or 'none'}"
