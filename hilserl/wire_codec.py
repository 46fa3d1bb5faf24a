"""Protocol messages <-> plain data. Every value that came over the wire is validated on its way in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilserl._proto import learner_pb2 as pb
from hilserl.alarms import Alarm
from hilserl.episode import EpisodeHeader
from hilserl.types import End, Obs, Role, Spec, Step, Weights

PROTOCOL_VERSION = 1

_DTYPES: dict[Any, np.dtype[Any]] = {
    pb.DTYPE_BOOL: np.dtype("bool"),
    pb.DTYPE_UINT8: np.dtype("uint8"),
    pb.DTYPE_INT32: np.dtype("<i4"),
    pb.DTYPE_INT64: np.dtype("<i8"),
    pb.DTYPE_FLOAT16: np.dtype("<f2"),
    pb.DTYPE_FLOAT32: np.dtype("<f4"),
    pb.DTYPE_FLOAT64: np.dtype("<f8"),
}
_DTYPE_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_ROLES = {Role.DEMO: pb.ROLE_DEMO, Role.TRAIN: pb.ROLE_TRAIN, Role.EVAL: pb.ROLE_EVAL}
_ENDS = {
    End.SUCCESS: pb.END_SUCCESS,
    End.FAILURE: pb.END_FAILURE,
    End.TIMEOUT: pb.END_TIMEOUT,
    End.FAULT: pb.END_FAULT,
    End.DISCARDED: pb.END_DISCARDED,
}


class Command(Enum):
    """What a person may ask of a running learner."""

    SAVE = "save"
    STOP = "stop"
    PAUSE = "pause"
    RESUME = "resume"


_COMMANDS = {
    Command.SAVE: pb.COMMAND_SAVE,
    Command.STOP: pb.COMMAND_STOP,
    Command.PAUSE: pb.COMMAND_PAUSE,
    Command.RESUME: pb.COMMAND_RESUME,
}


@dataclass(frozen=True, slots=True)
class Difference:
    """A field in which the learner and an actor disagree; values in words."""

    field: str
    learner: str
    actor: str

    def __str__(self) -> str:
        return f"{self.field}: the learner has {self.learner}, this actor has {self.actor}"


def tensor_to_proto(array: NDArray[Any]) -> Any:  # noqa: ANN401 (generated messages have no types)
    """Return `array` as a Tensor. Raises ValueError for a dtype the wire does not carry."""
    dtype = array.dtype.newbyteorder("<")
    if dtype not in _DTYPE_CODES:
        raise ValueError(f"the wire carries {[str(d) for d in _DTYPES.values()]}, not {array.dtype}")
    data = array.astype(dtype, copy=False).tobytes()
    return pb.Tensor(dtype=_DTYPE_CODES[dtype], shape=array.shape, data=data)


def tensor_from_proto(message: Any) -> NDArray[Any]:  # noqa: ANN401
    """Return a Tensor as a writable array. Raises ValueError when dtype, shape and data do not agree."""
    if message.dtype not in _DTYPES:
        raise ValueError(f"unknown tensor dtype code {message.dtype}")
    dtype, shape = _DTYPES[message.dtype], tuple(message.shape)
    size = dtype.itemsize
    for length in shape:
        size *= length
    if any(length < 0 for length in shape) or size != len(message.data):
        raise ValueError(f"a {dtype} tensor {shape} does not have {len(message.data)} bytes")
    return np.frombuffer(message.data, dtype).reshape(shape).copy()


def spec_to_proto(spec: Spec) -> Any:  # noqa: ANN401
    """Return `spec` as a message."""
    return pb.Spec(
        cameras=spec.cameras,
        image_shape=spec.image_shape,
        state_names=spec.state_names,
        action_names=spec.action_names,
    )


def obs_to_proto(obs: Obs) -> Any:  # noqa: ANN401
    """Return `obs` as a message."""
    images = [pb.NamedTensor(name=n, tensor=tensor_to_proto(i)) for n, i in obs.images.items()]
    return pb.Observation(images=images, state=tensor_to_proto(obs.state))


def obs_from_proto(message: Any) -> Obs:  # noqa: ANN401
    """Return an Observation as Obs. Raises ValueError when it is not one."""
    images = {i.name: tensor_from_proto(i.tensor) for i in message.images}
    return Obs(images=images, state=tensor_from_proto(message.state))


def first_to_proto(header: EpisodeHeader, obs: Obs) -> Any:  # noqa: ANN401
    """Return the first record of an episode."""
    first = pb.First(
        role=_ROLES[header.role],
        policy_version=header.policy_version,
        seed=header.seed,
        task_hash=header.task_hash,
        info=_facts(header.info),
        observation=obs_to_proto(obs),
    )
    return pb.Record(actor=header.actor, number=header.number, index=0, first=first)


def header_from_proto(record: Any) -> EpisodeHeader:  # noqa: ANN401
    """Return the header in a first record. Raises ValueError when it is not valid."""
    first = record.first
    return EpisodeHeader(
        actor=record.actor,
        number=record.number,
        role=_decode(_ROLES, first.role, "role"),
        policy_version=first.policy_version,
        seed=first.seed,
        task_hash=first.task_hash,
        info=info_from_proto(first.info),
    )


def next_to_proto(header: EpisodeHeader, index: int, step: Step) -> Any:  # noqa: ANN401
    """Return step number `index` (from 1) as a record."""
    following = pb.Next(
        action=tensor_to_proto(step.action),
        reward=step.reward,
        intervention=step.intervention,
        observation=obs_to_proto(step.obs),
    )
    return pb.Record(actor=header.actor, number=header.number, index=index, next=following)


def step_from_proto(message: Any) -> Step:  # noqa: ANN401
    """Return a Next as a Step without an end. Raises ValueError when it is not one."""
    return Step(
        action=tensor_from_proto(message.action),
        reward=message.reward,
        intervention=message.intervention,
        obs=obs_from_proto(message.observation),
        end=None,
    )


def last_to_proto(header: EpisodeHeader, index: int, end: End, info: Mapping[str, float | str]) -> Any:  # noqa: ANN401
    """Return the end marker of an episode."""
    last = pb.Last(end=_ENDS[end], info=_facts(info))
    return pb.Record(actor=header.actor, number=header.number, index=index, last=last)


def end_from_proto(message: Any) -> End:  # noqa: ANN401
    """Return the end in a Last. Raises ValueError when it is not one."""
    return _decode(_ENDS, message.end, "end")


def info_from_proto(facts: Mapping[str, Any]) -> dict[str, float | str]:
    """Return the facts as plain values. Raises ValueError for one without a value."""
    info: dict[str, float | str] = {}
    for key, fact in facts.items():
        kind = fact.WhichOneof("value")
        if kind is None:
            raise ValueError(f"info {key!r} has no value")
        info[key] = getattr(fact, kind)
    return info


def weights_to_proto(weights: Weights) -> Any:  # noqa: ANN401
    """Return `weights` with their checksum."""
    tensors = [pb.NamedTensor(name=n, tensor=tensor_to_proto(t)) for n, t in weights.tensors.items()]
    return pb.Weights(version=weights.version, tensors=tensors, sha256=weights_digest(weights))


def weights_from_proto(message: Any) -> Weights:  # noqa: ANN401
    """Return the weights. Raises ValueError when they do not match their checksum."""
    tensors = {t.name: tensor_from_proto(t.tensor) for t in message.tensors}
    weights = Weights(version=message.version, tensors=tensors)
    if weights_digest(weights) != message.sha256:
        raise ValueError(f"weights version {weights.version} do not match their checksum")
    return weights


def weights_digest(weights: Weights) -> bytes:
    """SHA-256 over the version and every tensor's name, dtype, shape and bytes, sorted by name."""
    digest = hashlib.sha256(f"{weights.version}\n".encode())
    for name in sorted(weights.tensors):
        array = weights.tensors[name]
        dtype = array.dtype.newbyteorder("<")
        digest.update(json.dumps([name, dtype.str, array.shape]).encode())
        digest.update(array.astype(dtype, copy=False).tobytes())
    return digest.digest()


def spec_differences(learner: Any, actor: Any) -> list[Difference]:  # noqa: ANN401
    """Return the fields in which two Spec messages differ."""
    names = ("cameras", "image_shape", "state_names", "action_names")
    pairs = [(name, list(getattr(learner, name)), list(getattr(actor, name))) for name in names]
    return [
        Difference(f"spec.{n}", json.dumps(ours), json.dumps(theirs))
        for n, ours, theirs in pairs
        if ours != theirs
    ]


def command_to_proto(command: Command) -> Any:  # noqa: ANN401
    """Return `command` as a request."""
    return pb.ControlRequest(command=_COMMANDS[command])


def command_from_proto(message: Any) -> Command:  # noqa: ANN401
    """Return the command in a request. Raises ValueError for one this program does not know."""
    return _decode(_COMMANDS, message.command, "command")


def alarm_to_proto(alarm: Alarm) -> Any:  # noqa: ANN401
    """Return `alarm` as a message."""
    return pb.Alarm(name=alarm.name, message=alarm.message, value=alarm.value, limit=alarm.limit)


def alarm_from_proto(message: Any) -> Alarm:  # noqa: ANN401
    """Return an Alarm."""
    return Alarm(message.name, message.message, message.value, message.limit)


def _facts(info: Mapping[str, float | str]) -> dict[str, Any]:
    return {k: pb.Fact(text=v) if isinstance(v, str) else pb.Fact(number=v) for k, v in info.items()}


def _decode[T](table: Mapping[T, Any], code: Any, what: str) -> T:  # noqa: ANN401
    for value, known in table.items():
        if known == code:
            return value
    raise ValueError(f"unknown {what} code {code}")
