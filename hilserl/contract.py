"""The contract a checkpoint carries: what its networks eat and answer, in names, units, shapes and order.

It is plain JSON (pretrained_model/config.json), built from the same Spec, TaskConfig and PolicyConfig that
acted, and compared field by field before another set-up may use the checkpoint.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from hilserl.config import PolicyConfig, TaskConfig
from hilserl.config_tree import Checker, build, encode, flatten, shown
from hilserl.task_record import TaskMismatch, check_task, task_hash
from hilserl.types import Spec

FORMAT = 1
_UNITS = ("rad_s", "m_s", "rad", "m", "s")
"""Suffixes of state names, longest first."""


class CheckpointError(Exception):
    """A checkpoint that is missing, incomplete, damaged or made for something else; says what and where."""


class ContractMismatch(CheckpointError):
    """A checkpoint of another observation, action, encoder or task; each differing field is named."""


def build_contract(spec: Spec, task: TaskConfig, policy: PolicyConfig, encoder_hash: str) -> dict[str, Any]:
    """The contract of a policy trained with these, as plain JSON values.

    encoder_hash: sha256 of the frozen image encoder (`FeatureEncoder.hash`).
    """
    height, width, channels = spec.image_shape
    return {
        "format": FORMAT,
        "observation": {
            "state": [{"name": name, "unit": _unit(name)} for name in spec.state_names],
            "state_dtype": "float32",
            "cameras": list(spec.cameras),
            "image_height_width_channels": [height, width, channels],
            "image": "uint8 RGB; cropped, then shrunk by area",
            "n_obs_steps": policy.n_obs_steps,
        },
        "action": {
            "names": list(spec.action_names),
            "range": [-1.0, 1.0],
            "scale_m": task.action_scale,
            "gripper": {"-1": "close", "0": "hold", "+1": "open", "scale_rad": task.gripper_scale},
        },
        "crop_top_left_height_width": {
            name: [crop.top, crop.left, crop.height, crop.width]
            for name, crop in sorted(task.crop_params_dict.items())
        },
        "encoder": {"name": policy.vision_encoder_name, "hash": encoder_hash},
        "policy": encode(policy, PolicyConfig),
        "task_hash": task_hash(task),
        "task": encode(task, TaskConfig),
    }


def check_contract(
    contract: Mapping[str, Any],
    spec: Spec,
    task: TaskConfig,
    source: str,
    allow: Collection[str] = (),
) -> None:
    """Raise ContractMismatch unless a policy of `contract` fits this observation, action and task.

    Every differing field is named with both values. allow: dotted task fields that may differ. source: the
    checkpoint's file.
    """
    ours = build_contract(spec, task, policy_of(contract, source), "")
    faults = []
    for section in ("observation", "action"):
        here, there = _flat(ours, section), _flat(contract, section)
        faults += [
            f"{section}.{name}: here {here.get(name, 'absent')}, there {there.get(name, 'absent')}"
            for name in {**here, **there}
            if here.get(name) != there.get(name) and name not in _FROM_TASK
        ]
    try:
        check_task(task, contract["task"], source, allow)
    except TaskMismatch as mismatch:
        faults.append(str(mismatch))
    if faults:
        raise ContractMismatch(f"{source} does not fit:\n  " + "\n  ".join(faults))


_FROM_TASK = ("scale_m", "gripper.scale_rad")
"""Parts of the action section that are compared as fields of the task record, where they may be allowed."""


def check_encoder(contract: Mapping[str, Any], encoder_hash: str, source: str) -> None:
    """Raise ContractMismatch unless the image encoder in use is the one the policy was trained on."""
    trained = contract["encoder"]
    if trained["hash"] != encoder_hash:
        raise ContractMismatch(
            f"{source} was trained on the encoder {trained['name']!r} with hash {trained['hash'][:16]}, "
            f"the one loaded has hash {encoder_hash[:16]}: set --policy.vision_encoder_name to the encoder "
            "it was trained on, or put that encoder's weights back"
        )


def policy_of(contract: Mapping[str, Any], source: str, device: str | None = None) -> PolicyConfig:
    """The policy configuration (the architecture) a checkpoint was trained with, on `device` when given.

    Raises CheckpointError when it is not a policy of this program.
    """
    checker = Checker(PolicyConfig, f"{source}, policy")
    tree = checker.check(contract["policy"])
    missing = [f.name for f in dataclasses.fields(PolicyConfig) if f.name not in contract["policy"]]
    if missing:
        checker.problems.append(f"{source}, policy: no value for {', '.join(missing)}")
    if checker.problems:
        raise CheckpointError("\n".join(checker.problems))
    policy = build(tree, PolicyConfig)
    return policy if device is None else dataclasses.replace(policy, device=device)


def check_form(contract: Mapping[str, Any], source: str) -> None:
    """Raise CheckpointError unless `contract` has this program's format and every section."""
    if contract.get("format") != FORMAT:
        raise CheckpointError(
            f"{source} has format {contract.get('format')!r}, this program reads {FORMAT}; "
            "use the program version that wrote it"
        )
    expected = ("observation", "action", "encoder", "policy", "task", "task_hash")
    absent = [section for section in expected if section not in contract]
    if absent:
        raise CheckpointError(f"{source} has no section {', '.join(absent)}; it is no checkpoint's contract")


def _flat(contract: Mapping[str, Any], section: str) -> dict[str, str]:
    """{dotted name: value as JSON}; the state's components by position, so that an order shows."""
    plain = dict(contract[section])
    for index, component in enumerate(plain.pop("state", [])):
        plain[f"state[{index}]"] = component["name"]
    return {name: shown(value) for name, value in flatten(plain).items()}


def _unit(state_name: str) -> str:
    """The unit a state's name ends in: "joint_vel.gripper_rad_s" gives "rad/s"."""
    for unit in _UNITS:
        if state_name.endswith("_" + unit):
            return unit.replace("_", "/")
    raise ValueError(f"the state {state_name!r} must end in its unit: _{', _'.join(_UNITS)}")
