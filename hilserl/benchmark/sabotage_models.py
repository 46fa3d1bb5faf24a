"""Mistakes in what was trained: the reward classifier and the policy's checkpoint."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from hilserl.benchmark.sabotage import Mistake
from hilserl.benchmark.sabotage_setup import Setup, edit_json
from hilserl.benchmark.sabotage_trials import CLASSIFIER, POLICY, RESUME
from hilserl.tensor_file import write_tensors

Tensors = dict[str, NDArray[Any]]
CONTRACT, WEIGHTS = "config.json", "model.safetensors"


def in_classifier(change: Callable[[dict[str, Any]], None]) -> Callable[[Setup], None]:
    """The classifier says something else of itself."""
    return lambda setup: _edit(setup.model / CONTRACT, change)


def in_contract(change: Callable[[dict[str, Any]], None]) -> Callable[[Setup], None]:
    """The checkpoint says something else of itself."""
    return lambda setup: _edit(_pretrained(setup) / CONTRACT, change)


def in_policy(change: Callable[[Tensors], None]) -> Callable[[Setup], None]:
    """The checkpoint holds other weights, under a hash that fits: another program wrote them."""

    def plant(setup: Setup) -> None:
        folder = _pretrained(setup)
        tensors = {name: array.copy() for name, array in load_file(folder / WEIGHTS).items()}
        change(tensors)
        write_tensors(folder / WEIGHTS, tensors)
        digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        edit_json(folder / CONTRACT, {"sha256": {WEIGHTS: digest}})

    return plant


def _edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


def _pretrained(setup: Setup) -> Path:
    return (setup.checkpoints / "last").resolve() / "pretrained_model"


def _squashed(told: dict[str, Any]) -> None:
    """It was trained on whole pictures, squeezed into a square."""
    record = json.loads(told["task"]) if isinstance(told["task"], str) else told["task"]
    record["crop_params_dict"]["gripper_cam"] = {"top": 0, "left": 0, "height": 480, "width": 640}
    told["task"] = json.dumps(record) if isinstance(told["task"], str) else record


def _other_trunk(told: dict[str, Any]) -> None:
    told["trunk"]["hash"] = "0" * 64


def _untrusted(told: dict[str, Any]) -> None:
    told["trusted"], told["trust"] = False, "9 of 20 failures were called a success"


def _other_cameras(told: dict[str, Any]) -> None:
    told["cameras"] = ["side_cam"]


def _cut(setup: Setup) -> None:
    path = setup.model / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1000])


def _statistics(tensors: Tensors) -> None:
    """Typed by hand once: two components are thought never to move."""
    for name, array in tensors.items():
        if name.endswith("normalise.scale"):
            array[-3:-1] = 1e8


def _damaged(setup: Setup) -> None:
    path = _pretrained(setup) / WEIGHTS
    data = bytearray(path.read_bytes())
    data[-8] ^= 0xFF
    path.write_bytes(data)


def _turned_state(told: dict[str, Any]) -> None:
    state = told["observation"]["state"]
    state[0], state[1] = state[1], state[0]


def _range(told: dict[str, Any]) -> None:
    told["action"]["range"] = [0.0, 2.0]


def _scale(told: dict[str, Any]) -> None:
    told["task"]["action_scale"] = 0.1


def _encoder(told: dict[str, Any]) -> None:
    told["encoder"]["hash"] = "0" * 64


def _more_state(told: dict[str, Any]) -> None:
    told["observation"]["state"].append({"name": "cube_xyz.x_m", "unit": "m"})


def _half_saved(setup: Setup) -> None:
    shutil.rmtree((setup.checkpoints / "last").resolve() / "training_state")


def _no_weights(setup: Setup) -> None:
    (_pretrained(setup) / WEIGHTS).unlink()


def _shuffled(tensors: Tensors) -> None:
    """An encoder that was never trained."""
    for name, array in tensors.items():
        if name.startswith("encoder.") and array.ndim == 4:
            array[...] = np.random.default_rng(0).normal(0, 0.05, array.shape).astype(array.dtype)


def _used(name: str, row: str, plant: Callable[[Setup], None], catcher: str, word: str) -> Mistake:
    return Mistake(name, row, plant, CLASSIFIER, catcher, word, quick=False)


def _played(name: str, row: str, plant: Callable[[Setup], None], catcher: str, word: str) -> Mistake:
    return Mistake(name, row, plant, POLICY, catcher, word, quick=False)


MISTAKES = (
    _used(
        "classifier_of_squashed_pictures", "C 44", in_classifier(_squashed), "TaskMismatch",
        "crop_params_dict",
    ),
    _used("classifier_on_another_trunk", "P H14", in_classifier(_other_trunk), "ClassifierError", "trunk"),
    _used("classifier_not_to_be_trusted", "F 69", in_classifier(_untrusted), "ClassifierError", "must not"),
    _used(
        "classifier_of_another_camera", "C 49", in_classifier(_other_cameras), "ClassifierError", "side_cam"
    ),
    _used("classifier_file_torn", "H 95", _cut, "ClassifierError", "safetensors"),
    _played(
        "statistics_typed_by_hand", "P H1", in_policy(_statistics), "CheckpointError", "answers differently"
    ),
    _played("checkpoint_damaged", "H 95", _damaged, "CheckpointError", "damaged"),
    _played("state_in_another_order", "G 81", in_contract(_turned_state), "ContractMismatch", "state[0]"),
    _played("policy_of_actions_0_to_2", "A 3", in_contract(_range), "ContractMismatch", "action.range"),
    _played("policy_at_another_scale", "A 8", in_contract(_scale), "ContractMismatch", "action_scale"),
    _played("policy_on_another_encoder", "H 88", in_contract(_encoder), "ContractMismatch", "encoder"),
    _played("encoder_left_random", "H 88", in_policy(_shuffled), "ContractMismatch", "encoder"),
    _played(
        "policy_that_was_told_where_the_cube_is", "N 120", in_contract(_more_state), "ContractMismatch",
        "cube_xyz.x_m",
    ),
    Mistake(
        "checkpoint_half_saved", "H 95, G 83", _half_saved, RESUME, "CheckpointError", "training_state",
        quick=False,
    ),
    Mistake(
        "checkpoint_without_weights", "H 95", _no_weights, RESUME, "CheckpointError",
        "model.safetensors is missing", quick=False,
    ),
)  # fmt: skip
"""In the classifier and the policy."""
