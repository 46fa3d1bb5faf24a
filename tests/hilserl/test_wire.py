"""The wire over real gRPC on loopback: nothing lost, nothing twice, nothing malformed."""

import json
import queue
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hilserl._proto import learner_pb2 as pb
from hilserl._proto import learner_pb2_grpc as pb_grpc
from hilserl.alarms import Alarm
from hilserl.config import ServiceConfig
from hilserl.episode import (
    EpisodeBuilder,
    EpisodeHeader,
    durable_numbers,
    load_episode,
    save_episode,
    scan_episodes,
)
from hilserl.spool import MAX_FRAME_BYTES, Spool, SpoolError
from hilserl.types import End, Episode, Obs, Role, Spec, Step, Weights
from hilserl.wire import (
    ActorLink,
    Command,
    EpisodeRefused,
    JoinRefused,
    LearnerService,
    LearnerUnreachable,
    PortBusy,
    WireError,
    learner_status,
    send_command,
)
from hilserl.wire_assembly import Assembler
from hilserl.wire_client import status_from_proto
from hilserl.wire_codec import (
    first_to_proto,
    last_to_proto,
    next_to_proto,
    spec_to_proto,
    tensor_from_proto,
    tensor_to_proto,
    weights_from_proto,
    weights_to_proto,
)

SPEC = Spec(cameras=("wrist",), image_shape=(16, 16, 3), state_names=("a_rad", "b_m"))
TASK = {"name": "lift", "fps": 10.0, "scene": {"lift_height": 0.03}}
TASK_JSON = json.dumps(TASK)
WAIT_S = 20.0


def random_obs(rng: np.random.Generator) -> Obs:
    image = rng.integers(0, 256, SPEC.image_shape).astype(np.uint8)
    return Obs({"wrist": image}, rng.normal(size=2).astype(np.float32))


def make_play(number: int, steps: int, actor: str = "robot") -> tuple[EpisodeHeader, Obs, list[Step]]:
    """What happens in episode `number`: the same for the same number."""
    rng = np.random.default_rng(number)
    header = EpisodeHeader(actor, number, Role.TRAIN, 7, number, "hash", {"cube_m": 0.03})
    first = random_obs(rng)
    made = [
        Step(
            rng.uniform(-1, 1, 4).astype(np.float32),
            float(np.float32(rng.normal())),
            bool(rng.integers(2)),
            random_obs(rng),
            None,
        )
        for _ in range(steps)
    ]
    return header, first, made


def expected(number: int, steps: int, actor: str = "robot") -> Episode:
    header, first, made = make_play(number, steps, actor)
    builder = EpisodeBuilder(SPEC, header)
    builder.start(first)
    for step in made:
        builder.add(step)
    return builder.finish(End.SUCCESS, {"note": "x"})


def play(link: ActorLink, steps: int = 4, end: End = End.SUCCESS) -> int:
    number = link.next_episode_number
    header, first, made = make_play(number, steps, link.actor)
    link.begin(header, first)
    for step in made:
        link.step(step)
    link.end(end, {"note": "x"})
    return number


def assert_equal(a: Episode, b: Episode):
    for key in Episode.__slots__:
        x, y = getattr(a, key), getattr(b, key)
        if key == "images":
            assert list(x) == list(y)
            assert all(np.array_equal(x[c], y[c]) for c in x)
        elif isinstance(x, np.ndarray):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)
        else:
            assert x == y, key


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


class Bench:
    """A learner that can be killed and restarted on its port, and actors around it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.episodes = folder / "episodes"
        self.config = ServiceConfig(learner_port=0)
        self.service: LearnerService | None = None
        self.links: list[ActorLink] = []
        self.inbox: queue.Queue[Episode] = queue.Queue(100)
        self.messages: list[str] = []

    def serve(self, **changes: Any) -> LearnerService:
        self.inbox = changes.get("inbox", queue.Queue(100))
        arguments: dict[str, Any] = {
            "spec": SPEC,
            "task_hash": "hash",
            "task_json": TASK_JSON,
            "store": lambda episode: save_episode(self.episodes, episode),
            "inbox": self.inbox,
            "durable": durable_numbers(scan_episodes(self.episodes)),
        }
        self.service = LearnerService(self.config, **(arguments | changes))
        self.service.start()
        self.config = replace(self.config, learner_port=self.service.port)
        return self.service

    def link(self, actor: str = "robot", spool: str | None = None, connect: bool = True) -> ActorLink:
        link = ActorLink(self.config, actor, self.folder / (spool or f"spool_{actor}"), self.messages.append)
        self.links.append(link)
        if connect:
            link.connect(SPEC, "hash", TASK_JSON, WAIT_S)
        return link

    def stored(self) -> dict[tuple[str, int], Episode]:
        return {(e.actor, e.number): load_episode(e.path) for e in scan_episodes(self.episodes)}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    for link in made.links:
        link.close(0.0)
    if made.service is not None:
        made.service.stop()


# -- the codec ----------------------------------------------------------------------------------------

DTYPES = st.sampled_from(["bool", "uint8", "int32", "int64", "float16", "float32", "float64", ">f4"])


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)), st.booleans())
def test_any_tensor_comes_back_bit_for_bit(array, transposed):
    array = array.T if transposed else array
    back = tensor_from_proto(pb.Tensor.FromString(tensor_to_proto(array).SerializeToString()))
    assert back.dtype == array.dtype.newbyteorder("<")
    assert back.shape == array.shape
    assert back.tobytes() == array.astype(array.dtype.newbyteorder("<")).tobytes()
    assert back.flags.writeable


@pytest.mark.parametrize(
    ("dtype", "shape", "data"),
    [(6, [2], b"1234567"), (6, [-1, -1], b"1234"), (0, [1], b"1"), (99, [1], b"1"), (2, [2**62, 4], b"")],
)
def test_a_tensor_that_contradicts_itself_is_refused(dtype, shape, data):
    with pytest.raises(ValueError, match="tensor"):
        tensor_from_proto(pb.Tensor(dtype=dtype, shape=shape, data=data))


def test_weights_that_changed_on_the_way_are_refused():
    weights = Weights(3, {"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.float32)})
    message = weights_to_proto(weights)
    assert weights_from_proto(message).version == 3
    for spoil in (
        lambda m: setattr(m, "version", 4),
        lambda m: setattr(m.tensors[0], "name", "c"),
        lambda m: setattr(m.tensors[0].tensor, "data", b"\1" + m.tensors[0].tensor.data[1:]),
        lambda m: m.tensors[0].tensor.shape.reverse(),
        lambda m: m.tensors.pop(),
    ):
        spoiled = pb.Weights.FromString(message.SerializeToString())
        spoil(spoiled)
        with pytest.raises(ValueError, match="checksum"):
            weights_from_proto(spoiled)


# -- episodes -----------------------------------------------------------------------------------------


def test_what_is_played_is_what_is_stored_and_handed_over(bench: Bench):
    bench.serve()
    link = bench.link()
    lengths = {play(link, steps): steps for steps in (1, 5, 3)}
    assert link.close(WAIT_S) == 0
    assert list(lengths) == [1, 2, 3]
    stored = bench.stored()
    assert len(stored) == 3
    for number, steps in lengths.items():
        assert_equal(stored["robot", number], expected(number, steps))
        assert_equal(bench.inbox.get_nowait(), expected(number, steps))
    assert not list((bench.folder / "spool_robot").glob("*.ready"))


def watch_records(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The index of every record the learner takes from now on."""
    seen: list[int] = []
    take = Assembler.take
    monkeypatch.setattr(Assembler, "take", lambda self, r: (seen.append(r.index), take(self, r))[1])
    return seen


def test_steps_flow_while_the_episode_is_played(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    seen = watch_records(monkeypatch)
    bench.serve()
    link = bench.link()
    header, first, made = make_play(1, 2)
    link.begin(header, first)
    until(lambda: seen == [0])
    for index, step in enumerate(made, 1):
        link.step(step)
        until(lambda: len(seen) == index + 1)  # noqa: B023
    assert bench.inbox.empty()
    link.end(End.SUCCESS)
    assert bench.inbox.get(timeout=WAIT_S).number == 1


def test_a_discarded_episode_vanishes(bench: Bench):
    bench.serve()
    link = bench.link()
    play(link, end=End.DISCARDED)
    play(link, steps=0, end=End.DISCARDED)
    kept = play(link)
    assert link.close(WAIT_S) == 0
    assert list(bench.stored()) == [("robot", kept)]
    assert bench.inbox.qsize() == 1


def test_two_actors_at_once(bench: Bench):
    bench.serve()
    links = [bench.link("left"), bench.link("right")]
    threads = [threading.Thread(target=lambda li=li: [play(li) for _ in range(5)]) for li in links]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bench.service is not None
    assert bench.service.actors() == {"left": True, "right": True}
    assert [li.close(WAIT_S) for li in links] == [0, 0]
    stored = bench.stored()
    assert set(stored) == {(a, n) for a in ("left", "right") for n in range(1, 6)}
    for (actor, number), episode in stored.items():
        assert_equal(episode, expected(number, 4, actor))


def test_the_same_name_twice_is_refused_and_free_again_afterwards(bench: Bench):
    bench.serve()
    first = bench.link(spool="here")
    with pytest.raises(JoinRefused, match="connected already"):
        bench.link(spool="there")
    with pytest.raises(SpoolError, match="in use"):
        bench.link(spool="here")
    play(first)
    first.close(WAIT_S)
    assert bench.service is not None
    until(lambda: not any(bench.service.actors().values()))
    other = bench.link(spool="elsewhere")
    assert other.next_episode_number == 2


def test_a_learner_killed_in_mid_episode_and_restarted_gets_everything_once(bench: Bench):
    service = bench.serve()
    link = bench.link()
    play(link)
    until(lambda: bench.inbox.qsize() == 1)
    header, first, made = make_play(2, 6)
    link.begin(header, first)
    for step in made[:3]:
        link.step(step)
    service.stop()
    for step in made[3:]:
        link.step(step)
    link.end(End.SUCCESS, {"note": "x"})
    play(link)  # played with nobody there
    until(lambda: not link.connected)
    assert link.backlog == 2
    bench.serve()
    assert link.close(WAIT_S) == 0
    assert any("lost the learner" in m for m in bench.messages)
    assert [e.number for e in bench.inbox.queue] == [2, 3]
    stored = bench.stored()
    assert_equal(stored["robot", 2], expected(2, 6))
    assert set(stored) == {("robot", n) for n in (1, 2, 3)}


def test_a_learner_that_dies_between_storing_and_acknowledging_stores_once(bench: Bench, monkeypatch):
    full: queue.Queue[Any] = queue.Queue(1)
    full.put(None)
    service = bench.serve(inbox=full)  # the episode is stored, then waits for room, and is not acknowledged
    link = bench.link()
    play(link)
    until(lambda: bench.stored())
    assert link.backlog == 1
    service.stop()
    resent = watch_records(monkeypatch)
    bench.serve()
    until(lambda: link.backlog == 0)
    assert not resent
    assert list(bench.stored()) == [("robot", 1)]
    assert bench.inbox.empty()  # the restarted learner finds it on its disk


def test_an_episode_that_could_not_be_stored_is_not_acknowledged(bench: Bench):
    failures = [OSError(28, "No space left on device")] * 2

    def store(episode: Episode) -> None:
        if failures:
            raise failures.pop()
        save_episode(bench.episodes, episode)

    bench.serve(store=store)
    link = bench.link()
    play(link)
    until(lambda: link.backlog == 0)
    assert not failures
    assert any("No space left" in m for m in bench.messages)
    assert list(bench.stored()) == [("robot", 1)]
    assert bench.inbox.qsize() == 1


def test_an_actor_killed_and_restarted_resends_whole_episodes_and_drops_the_torn_one(bench: Bench):
    bench.serve()
    first = bench.link()
    play(first)
    until(lambda: first.backlog == 0)
    assert bench.service is not None
    bench.service.stop()
    play(first)
    header, obs, made = make_play(3, 4)
    first.begin(header, obs)
    first.step(made[0])
    assert first.close(0.0) == 1  # as a killed process leaves it: 2 complete, 3 cut short
    bench.serve()
    second = bench.link()
    assert second.next_episode_number == 4
    assert play(second) == 4
    assert second.close(WAIT_S) == 0
    assert [e.number for e in bench.inbox.queue] == [2, 4]
    assert any("cut short" in m for m in bench.messages)


def test_an_actor_without_its_spool_continues_the_numbers(bench: Bench):
    bench.serve()
    link = bench.link()
    play(link)
    play(link)
    link.close(WAIT_S)
    shutil.rmtree(bench.folder / "spool_robot")
    until(lambda: bench.service is not None and not any(bench.service.actors().values()))
    assert bench.link().next_episode_number == 3


def test_unsent_episodes_are_not_mistaken_for_those_of_another_spool(bench: Bench):
    service = bench.serve()
    one = bench.link(spool="one")
    service.stop()
    play(one)
    one.close(0.0)
    bench.serve()
    other = bench.link(spool="other")
    play(other)
    play(other)
    other.close(WAIT_S)
    until(lambda: bench.service is not None and not any(bench.service.actors().values()))
    with pytest.raises(JoinRefused, match="another spool folder"):
        bench.link(spool="one")
    assert bench.links[-1].backlog == 1


def test_an_actor_takes_its_own_name_back_at_once(bench: Bench):
    """Its old connection may still look alive to the learner after a power cut."""
    bench.serve()
    link = bench.link()
    identity = (bench.folder / "spool_robot" / "identity").read_text()
    with raw_stub(bench) as stub:
        before = link._connection.session
        assert stub.Join(join_request(identity=identity)).session
        until(lambda: link._connection.session not in ("", before))
    play(link)
    until(lambda: link.backlog == 0)


# -- malformed records ----------------------------------------------------------------------------------


def join_request(**changes: Any) -> Any:
    fields = {
        "protocol_version": 1,
        "actor": "robot",
        "identity": "i",
        "spec": spec_to_proto(SPEC),
        "task_hash": "hash",
        "task_json": TASK_JSON,
    }
    return pb.JoinRequest(**(fields | changes))


class raw_stub:  # noqa: N801 (used as a function)
    """A client that sends what it likes."""

    def __init__(self, bench: Bench) -> None:
        self.channel = grpc.insecure_channel(f"127.0.0.1:{bench.config.learner_port}")

    def __enter__(self) -> Any:
        return pb_grpc.LearnerStub(self.channel)

    def __exit__(self, *_: object) -> None:
        self.channel.close()


def records(number: int, steps: int = 2) -> list[Any]:
    header, first, made = make_play(number, steps)
    nexts = [next_to_proto(header, i, s) for i, s in enumerate(made, 1)]
    return [
        first_to_proto(header, first),
        *nexts,
        last_to_proto(header, steps + 1, End.SUCCESS, {"note": "x"}),
    ]


def _nan_reward(r: list[Any]) -> None:
    r[1].next.reward = float("nan")


def _nan_state(r: list[Any]) -> None:
    r[2].next.observation.state.CopyFrom(tensor_to_proto(np.array([np.nan, 0], np.float32)))


def _wrong_action(r: list[Any]) -> None:
    r[1].next.action.CopyFrom(tensor_to_proto(np.array([0, 0, 0, 1.5], np.float32)))


def _action_as_double(r: list[Any]) -> None:
    r[1].next.action.CopyFrom(tensor_to_proto(np.zeros(4)))


def _small_image(r: list[Any]) -> None:
    r[1].next.observation.images[0].tensor.CopyFrom(tensor_to_proto(np.zeros((8, 8, 3), np.uint8)))


def _unknown_camera(r: list[Any]) -> None:
    r[0].first.observation.images[0].name = "elsewhere"


def _gap(r: list[Any]) -> None:
    del r[1]


def _no_end(r: list[Any]) -> None:
    r[-1].last.end = 0


def _other_task(r: list[Any]) -> None:
    r[0].first.task_hash = "other"


def _other_actor(r: list[Any]) -> None:
    r[0].actor = "somebody"


def _empty(r: list[Any]) -> None:
    r[1].ClearField("next")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_nan_reward, "finite"),
        (_nan_state, "finite"),
        (_wrong_action, "-1, 1"),
        (_action_as_double, "float32"),
        (_small_image, "16, 16"),
        (_unknown_camera, "wrist"),
        (_gap, "index 2 where 1"),
        (_no_end, "end code"),
        (_other_task, "task"),
        (_other_actor, "somebody"),
        (_empty, "empty"),
    ],
)
def test_a_malformed_episode_is_refused_with_the_reason_and_the_next_is_taken(bench: Bench, spoil, reason):
    bench.serve()
    bad = records(1)
    spoil(bad)
    with raw_stub(bench) as stub:
        session = stub.Join(join_request()).session
        sent = iter([*bad, *records(2)])
        acks = list(stub.StreamSteps(sent, metadata=[("hilserl-session", session)], timeout=WAIT_S))
    refused = [a for a in acks if a.refused_number]
    assert len(refused) == 1
    assert refused[0].refused_number == 1
    assert reason in refused[0].refused_reason
    assert acks[-1].durable_number == 2
    assert list(bench.stored()) == [("robot", 2)]
    assert_equal(bench.inbox.get_nowait(), expected(2, 2))


def test_sending_twice_in_any_chopping_changes_nothing(bench: Bench):
    stored: list[int] = []
    bench.serve(store=lambda episode: stored.append(episode.number))
    one, two = records(1), records(2)
    with raw_stub(bench) as stub:
        session = stub.Join(join_request()).session
        sent = iter([*one[:2], *one, *one, *two[:3], *two, *one, *two])
        acks = list(stub.StreamSteps(sent, metadata=[("hilserl-session", session)], timeout=WAIT_S))
    assert [(a.durable_number, a.refused_number) for a in acks] == [(n, 0) for n in (1, 1, 2, 2, 2)]
    assert stored == [1, 2]
    assert [e.number for e in bench.inbox.queue] == [1, 2]


def test_an_episode_already_on_the_disk_is_acknowledged_and_not_handed_over_again(bench: Bench):
    save_episode(bench.episodes, expected(1, 2))
    bench.serve(durable={})
    link = bench.link()
    play(link, 3)
    assert link.close(WAIT_S) == 0
    assert bench.inbox.empty()
    assert_equal(bench.stored()["robot", 1], expected(1, 2))


def test_a_torn_stream_leaves_nothing(bench: Bench):
    bench.serve()
    with raw_stub(bench) as stub:
        session = stub.Join(join_request()).session
        list(stub.StreamSteps(iter(records(1)[:-1]), metadata=[("hilserl-session", session)], timeout=WAIT_S))
    assert bench.inbox.empty()
    assert not bench.stored()


def test_a_stream_without_a_session_is_refused(bench: Bench):
    bench.serve()
    with raw_stub(bench) as stub, pytest.raises(grpc.RpcError, match="join first"):
        list(stub.StreamSteps(iter(records(1)), timeout=WAIT_S))


def test_a_message_too_large_is_refused_on_both_sides(bench: Bench, tmp_path: Path):
    service = bench.serve()
    with raw_stub(bench) as stub:
        session = stub.Join(join_request()).session
        big = records(1)
        big[1].next.action.data = bytes(MAX_FRAME_BYTES + 2048)
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.StreamSteps(iter(big), metadata=[("hilserl-session", session)], timeout=WAIT_S))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    spool = Spool(tmp_path / "big", bench.messages.append)
    spool.begin(1)
    with pytest.raises(SpoolError, match=str(MAX_FRAME_BYTES)):
        spool.append(bytes(MAX_FRAME_BYTES + 1))
    with pytest.raises(ValueError, match="bytes"):
        service.publish(Weights(1, {"w": np.zeros(17 * 2**20, np.float32)}))
    link = bench.link("other")
    play(link)
    assert link.close(WAIT_S) == 0


def test_the_link_refuses_what_does_not_fit_before_it_is_sent(bench: Bench):
    bench.serve()
    link = bench.link()
    header, first, made = make_play(1, 1)
    with pytest.raises(ValueError, match="robot/1"):
        link.begin(replace(header, number=5), first)
    with pytest.raises(ValueError, match="16, 16"):
        link.begin(header, Obs({"wrist": np.zeros((4, 4, 3), np.uint8)}, np.zeros(2, np.float32)))
    link.begin(header, first)
    with pytest.raises(ValueError, match="without a step"):
        link.end(End.SUCCESS)
    with pytest.raises(ValueError, match="finite"):
        link.step(replace(made[0], reward=float("inf")))
    link.step(made[0])
    with pytest.raises(WireError, match="not ended"):
        link.begin(header, first)
    with pytest.raises(ValueError, match="cube_m"):
        link.end(End.SUCCESS, {"cube_m": 0.04})
    link.end(End.SUCCESS, {"note": "x"})
    assert link.close(WAIT_S) == 0
    assert_equal(bench.stored()["robot", 1], expected(1, 1))


def test_a_refused_episode_stops_the_actor_with_the_reason_and_is_kept(bench: Bench):
    bench.serve()
    link = bench.link()
    header, first, made = make_play(1, 1)
    link.begin(replace(header, task_hash="another"), first)
    link.step(made[0])
    link.end(End.SUCCESS)
    until(lambda: (bench.folder / "spool_robot" / "00000001.refused").exists())
    until(lambda: any("another" in m for m in bench.messages))
    with pytest.raises(EpisodeRefused, match="another"):
        link.begin(*make_play(2, 1)[:2])


# -- joining --------------------------------------------------------------------------------------------


def test_a_mismatch_names_every_field_with_both_values(bench: Bench):
    bench.serve()
    link = bench.link(connect=False)
    task = TASK | {"fps": 20.0, "scene": {"lift_height": 0.05}, "new": 1}
    spec = replace(SPEC, state_names=("a_deg", "b_m"))
    with pytest.raises(JoinRefused) as caught:
        link.connect(spec, "other", json.dumps(task), WAIT_S)
    found = {d.field: (d.learner, d.actor) for d in caught.value.differences}
    assert found == {
        "spec.state_names": ('["a_rad", "b_m"]', '["a_deg", "b_m"]'),
        "fps": ("10.0", "20.0"),
        "scene.lift_height": ("0.03", "0.05"),
        "new": ("absent", "1"),
    }
    assert "fps: the learner has 10.0, this actor has 20.0" in str(caught.value)


def test_a_difference_that_is_allowed_by_name_is_taken(bench: Bench):
    bench.serve(allow_task_difference=["fps", "scene"])
    link = bench.link(connect=False)
    with pytest.raises(JoinRefused, match="name"):
        link.connect(SPEC, "other", json.dumps(TASK | {"fps": 20.0, "name": "x"}), WAIT_S)
    whole_section = {"scene": {"lift_height": 0.05}}
    link.connect(SPEC, "other", json.dumps(TASK | {"fps": 20.0} | whole_section), WAIT_S)
    header, first, made = make_play(1, 1)
    link.begin(replace(header, task_hash="other"), first)
    link.step(made[0])
    link.end(End.SUCCESS)
    assert link.close(WAIT_S) == 0
    assert bench.stored()["robot", 1].task_hash == "other"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"protocol_version": 2}, "protocol_version"),
        ({"task_hash": "x"}, "task_hash"),
        ({"task_hash": "x", "task_json": "{"}, "task_json"),
        ({"task_hash": "x", "task_json": "[1]"}, "task_json"),
        ({"actor": "../x"}, "actor"),
    ],
)
def test_a_join_that_makes_no_sense_is_refused(bench: Bench, changes, field):
    bench.serve()
    with raw_stub(bench) as stub:
        reply = stub.Join(join_request(**changes))
    assert not reply.session
    assert field in reply.differences[0].field


def test_a_learner_restarted_with_another_task_stops_the_actor(bench: Bench):
    service = bench.serve()
    link = bench.link()
    service.stop()
    bench.serve(task_hash="new", task_json=json.dumps(TASK | {"fps": 30.0}))
    with pytest.raises(JoinRefused, match="fps"):
        link.wait_weights(WAIT_S)
    with pytest.raises(JoinRefused, match="fps"):
        link.begin(*make_play(1, 1)[:2])


def test_the_actor_waits_for_a_learner_that_is_not_there(bench: Bench):
    bench.serve().stop()
    link = bench.link(connect=False)
    with pytest.raises(LearnerUnreachable, match="learner_port"):
        link.connect(SPEC, "hash", TASK_JSON, 0.3)
    assert any("waiting: no learner at 127.0.0.1" in m for m in bench.messages)
    timer = threading.Timer(0.3, bench.serve)
    timer.start()
    link.connect(SPEC, "hash", TASK_JSON, WAIT_S)
    timer.join()
    play(link)
    assert link.close(WAIT_S) == 0


def test_a_busy_port_is_named_with_its_config_key(bench: Bench):
    bench.serve()
    second = Bench(bench.folder)
    second.config = bench.config
    with pytest.raises(PortBusy, match=rf"port {bench.config.learner_port} .*service.learner_port"):
        second.serve()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        second.config = ServiceConfig(learner_port=taken.getsockname()[1])
        with pytest.raises(PortBusy):
            second.serve()


# -- weights, progress, status ----------------------------------------------------------------------------


def weights(version: int) -> Weights:
    rng = np.random.default_rng(version)
    return Weights(version, {"w": rng.normal(size=(64, 64)).astype(np.float32), "n": np.int64([version])})


def test_the_newest_weights_win_and_versions_only_rise(bench: Bench):
    service = bench.serve()
    link = bench.link()
    assert link.weights() is None
    assert link.wait_weights(0.05) is None
    service.publish(weights(1))
    got = link.wait_weights(WAIT_S)
    assert got is not None
    seen = [got.version]
    for version in range(2, 300):
        service.publish(weights(version))
        newest = link.weights(newer_than=seen[-1])
        if newest is not None:
            seen.append(newest.version)
    until(lambda: link.weights(newer_than=299) is None)
    assert seen == sorted(seen)
    final = link.weights()
    assert final is not None
    for name, tensor in weights(299).tensors.items():
        np.testing.assert_array_equal(final.tensors[name], tensor)


def test_weights_are_sent_again_only_when_they_differ(bench: Bench):
    service = bench.serve()
    service.publish(weights(5))
    link = bench.link()
    first = link.wait_weights(WAIT_S)
    service.stop()
    until(lambda: not link.connected)
    service = bench.serve()
    service.publish(weights(5))
    until(lambda: link.connected)
    service.publish(weights(4))  # rolled back
    until(lambda: link.weights(newer_than=5) is not None)
    newest = link.weights()
    assert first is not None and newest is not None and newest.version == 4


def test_corrupt_weights_are_refused_and_asked_for_again(bench: Bench):
    service = bench.serve()
    link = bench.link()
    service.publish(weights(1))
    assert link.wait_weights(WAIT_S) is not None
    good = weights_to_proto(weights(2))
    bad = pb.Weights.FromString(good.SerializeToString())
    bad.tensors[0].tensor.data = bytes(len(bad.tensors[0].tensor.data))
    with service._news:
        service._weights = bad
        bad.sha256 = b"x" * 32
        service._news.notify_all()
    until(lambda: any("checksum" in m for m in bench.messages))
    newest = link.weights()
    assert newest is not None and newest.version == 1
    service.publish(weights(2))
    until(lambda: link.weights(newer_than=1) is not None)


def test_weights_that_are_not_finite_are_not_published(bench: Bench):
    service = bench.serve()
    with pytest.raises(ValueError, match="'w'"):
        service.publish(Weights(1, {"w": np.array([np.nan], np.float32)}))


def test_a_paced_actor_hears_of_progress(bench: Bench):
    service = bench.serve()
    link = bench.link()
    assert not link.wait_updates(10, 0.05)
    threading.Timer(0.1, lambda: service.progress(30, 10)).start()
    assert link.wait_updates(10, WAIT_S)
    assert link.progress() == (30, 10)


def test_status_and_commands(bench: Bench):
    service = bench.serve()
    service.publish(weights(4))
    service.progress(30, 10)
    link = bench.link()
    play(link)
    until(lambda: link.backlog == 0)
    status = learner_status(bench.config)
    assert (status.task_hash, status.weights_version, status.transitions, status.updates) == (
        "hash",
        4,
        30,
        10,
    )
    assert status.actors == {"robot": (True, 1)}
    assert (status.alarms, status.updates_per_transition, status.paused) == ((), None, False)
    for command in Command:
        send_command(bench.config, command)
        assert service.commands.get(timeout=WAIT_S) is command
    with raw_stub(bench) as stub, pytest.raises(grpc.RpcError, match="unknown command code 77"):
        stub.Control(pb.ControlRequest(command=77))
    assert service.commands.empty()
    service.stop()
    with pytest.raises(LearnerUnreachable):
        learner_status(bench.config)


ALARMS = st.lists(
    st.builds(Alarm, st.text(max_size=20), st.text(max_size=80), st.floats(), st.floats()), max_size=4
)


@settings(max_examples=30, deadline=None)
@given(alarms=ALARMS, paused=st.booleans(), ratio=st.none() | st.floats(0, 100))
def test_status_says_what_stands(alarms, paused, ratio):
    service = LearnerService(ServiceConfig(), SPEC, "hash", TASK_JSON, print, queue.Queue(), {})
    service.progress(30, 10)
    service.set_alarms([Alarm("old", "", 0.0, 0.0)], paused=not paused, updates_per_transition=1.0)
    service.set_alarms(alarms, paused=paused, updates_per_transition=ratio)
    reply = pb.StatusReply.FromString(service.Status(pb.StatusRequest(), None).SerializeToString())
    found = status_from_proto(reply)
    assert [repr(alarm) for alarm in found.alarms] == [repr(alarm) for alarm in alarms]  # nan too
    assert (found.paused, found.updates_per_transition) == (paused, ratio)
    assert (found.transitions, found.updates, found.task_hash) == (30, 10, "hash")


# -- other machines ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=t"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    return str(cert), str(key)


def test_tls_and_token(bench: Bench, certificate: tuple[str, str]):
    cert, key = certificate
    token, wrong = bench.folder / "token", bench.folder / "wrong"
    token.write_text("secret\n")
    wrong.write_text("guess")
    bench.config = ServiceConfig(learner_port=0, tls_cert=cert, tls_key=key, token_file=str(token))
    service = bench.serve()
    service.publish(weights(1))
    good = bench.config
    link = bench.link()
    play(link)
    assert link.wait_weights(WAIT_S) is not None
    assert link.close(WAIT_S) == 0
    bench.config = replace(good, token_file=str(wrong))
    with pytest.raises(JoinRefused, match="token"):
        bench.link("guesser")
    with pytest.raises(LearnerUnreachable, match="token"):
        send_command(bench.config, Command.STOP)
    with pytest.raises(LearnerUnreachable):
        learner_status(replace(good, tls_cert="", token_file=""))  # no encryption
    assert list(bench.stored()) == [("robot", 1)]


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "learner.example"])
def test_other_machines_need_tls_and_a_token(tmp_path: Path, host):
    bench = Bench(tmp_path)
    bench.config = ServiceConfig(learner_host=host, learner_port=0)
    with pytest.raises(WireError, match=r"service.tls_cert, service.tls_key, service.token_file"):
        bench.serve()
    with pytest.raises(WireError, match=r"service.tls_cert, service.token_file"):
        bench.link()
    files = {"tls_cert": "nowhere.pem", "tls_key": "nowhere.pem", "token_file": "nowhere"}
    bench.config = replace(bench.config, **files)
    with pytest.raises(WireError, match=r"service.tls_\w+: cannot read nowhere.pem"):
        bench.serve()
    with pytest.raises(WireError, match=r"service.token_file: cannot read nowhere"):
        bench.link()


def test_an_empty_token_is_no_token(bench: Bench):
    token = bench.folder / "token"
    token.write_text("\n")
    bench.config = ServiceConfig(learner_port=0, token_file=str(token))
    with pytest.raises(WireError, match=r"service.token_file: .*token is empty"):
        bench.serve()
    with pytest.raises(WireError, match=r"service.token_file: .*token is empty"):
        bench.link()


# -- the spool ----------------------------------------------------------------------------------------------


def spooled(folder: Path, *episodes: int) -> None:
    spool = Spool(folder, lambda _: None)
    for number in episodes:
        spool.begin(number)
        for index in range(3):
            spool.append(f"{number}/{index}".encode() * 50)
        spool.commit()
    spool.close()


@pytest.mark.parametrize("damage", ["cut", "flip", "length"])
def test_a_damaged_spool_file_is_set_aside_and_the_rest_is_sent(tmp_path: Path, damage):
    spooled(tmp_path, 1, 2, 3)
    path = tmp_path / "00000002.ready"
    raw = bytearray(path.read_bytes())
    if damage == "flip":
        raw[len(raw) // 2] ^= 4
    if damage == "length":
        raw[3] = 0xFF
    path.write_bytes(raw[:-5] if damage == "cut" else raw)
    said: list[str] = []
    spool = Spool(tmp_path, said.append)
    assert spool.pending() == [1, 3]
    assert spool.last_number == 3
    assert (tmp_path / "00000002.corrupt").exists()
    assert any("00000002.ready" in line for line in said)
    over = threading.Event()
    sent = []
    for payload in spool.follow(over):
        sent.append(payload[:3])
        if len(sent) == 6:
            over.set()
    assert sent == [b"1/0", b"1/1", b"1/2", b"3/0", b"3/1", b"3/2"]
    spool.close()


def test_numbers_rise_even_when_the_spool_is_empty(tmp_path: Path):
    spooled(tmp_path, 1, 2)
    spool = Spool(tmp_path, lambda _: None)
    spool.acknowledge(2)
    assert spool.pending() == []
    spool.close()
    spool = Spool(tmp_path, lambda _: None)
    with pytest.raises(SpoolError, match="above 2"):
        spool.begin(2)
    spool.close()


def test_a_full_disk_leaves_a_readable_spool(tmp_path: Path):
    spool = Spool(tmp_path, lambda _: None)
    spool.begin(1)
    spool.append(b"first")
    real = spool._open

    class Full:
        name = "full"

        def write(self, data: bytes) -> int:
            assert real is not None
            return real.write(data[: len(data) // 2])

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    spool._open = Full()  # type: ignore[assignment]
    with pytest.raises(SpoolError, match="disk full"):
        spool.append(b"second")
    spool._open = real
    spool.append(b"third")
    spool.commit()
    over = threading.Event()
    follow = spool.follow(over)
    assert [next(follow), next(follow)] == [b"first", b"third"]
    spool.close()
