"""A learner that was stopped, or killed, and started again is the learner that was never stopped."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hilserl.checkpoint import available, latest, load_training_state
from hilserl.config import Config
from hilserl.episode import save_episode, scan_episodes
from hilserl.replay import Key
from hilserl.task_record import task_json
from hilserl.types import Episode, Role
from tests.fakes.run import Killed, Session, noise_episode, small_config


def story(config: Config, first: int, count: int) -> list[Episode]:
    """Episodes of two actors, some with help, an evaluation now and then."""
    out = []
    for number in range(first, first + count):
        role = Role.EVAL if number % 7 == 0 else Role.TRAIN
        actor = "a" if number % 3 else "b"
        out.append(noise_episode(config, number, role, actor, helped=0.3 if number % 4 == 0 else 0.0))
    return out


def with_demos(folder: Path, config: Config, count: int = 2) -> Config:
    demos = folder / "demos"
    for number in range(1, count + 1):
        save_episode(demos, noise_episode(config, number, Role.DEMO, "operator"))
    (demos / "task.json").write_text(task_json(config.task))
    return replace(config, demos=(str(demos),))


def replay_content(session: Session) -> dict[str, object]:
    """Everything the rings hold, where it is, and what is drawn next."""
    found: dict[str, object] = {"rng": session.replay.rng.bit_generator.state}
    for name in ("online", "protected"):
        ring = getattr(session.replay, name)
        found[f"{name}.entries"] = [{**entry.line(), "serial": None} for entry in ring.entries]
        found[f"{name}.samplable"] = ring.samplable.copy()
        for column, rows in ring.arrays.items():
            for entry in ring.entries if column != "serial" else ():
                slots = ring.slots(entry.first, entry.frames)
                found[f"{name}.{column} of {entry.key}"] = rows[slots].copy()
    return found


def learner_content(session: Session) -> dict[str, object]:
    tensors, plain = session.begin_learning().sac.state_dict()
    counters = session.counters
    return {
        **{name: tensor.numpy() for name, tensor in tensors.items()},
        "plain": plain,
        "counted": (counters.transitions, counters.updates, counters.episodes, counters.numbers),
    }


def assert_same(found: dict[str, object], expected: dict[str, object]) -> None:
    """Equal to the last bit."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, np.ndarray):
            got = found[name]
            assert isinstance(got, np.ndarray) and (got.dtype, got.shape) == (value.dtype, value.shape), name
            assert got.tobytes() == value.tobytes(), f"{name} differs"
        else:
            assert found[name] == value, name


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Waiting for the platter proves nothing here; idle loops need not wait long."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.setattr("hilserl.learner.WAIT_S", 0.005)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_obs_steps": 2, "n_step": 3, "num_critics": 4},
        {"cache_features": False, "freeze_vision_encoder": False, "batch_size": 8},
    ],
    ids=["plain", "stacks, n-step, REDQ", "an encoder that learns"],
)
def test_stopping_and_resuming_changes_nothing(tmp_path, changes):
    """Twice the half equals the whole: networks, moments, random numbers, counters, ring and batches."""
    config = small_config(**changes)
    config = with_demos(tmp_path, config)
    first, second = story(config, 1, 12), story(config, 13, 12)
    with Session(tmp_path / "straight", config) as whole:
        whole.feed(first + second)
        expected = learner_content(whole), replay_content(whole)
    with Session(tmp_path / "halves", config) as half:
        half.feed(first)
        saved = len(available(half.run.checkpoints))
        between = learner_content(half), replay_content(half)
        drawn = half.drawn
    with Session(tmp_path / "halves", config) as half:
        assert half.encodes_before == 0, "what the ring holds is not encoded again"
        assert [line for line in half.said if "0 were encoded" in line], half.said
        assert_same(learner_content(half), between[0])
        assert_same(replay_content(half), between[1])
        half.feed(second)
        drawn += half.drawn
        found = learner_content(half), replay_content(half)
    assert drawn == whole.drawn and len(drawn) > 150
    assert_same(found[0], expected[0])
    assert_same(found[1], expected[1])
    assert saved >= 2, "several checkpoints in the loop"
    stored = sum(entry.frames for entry in whole.replay.online.entries)
    assert stored < sum(len(e) + 1 for e in first + second if e.role is Role.TRAIN), "the ring wrapped"


def test_killed_between_checkpoint_and_more_data_loses_no_episode(tmp_path):
    """No close, no last checkpoint: training goes on from the last one written, with every episode."""
    config = with_demos(tmp_path, small_config(online_buffer_capacity=2000, offline_buffer_capacity=2000))
    played: list[Episode] = []
    for life in range(3):
        more = story(config, 1 + 7 * life, 7)
        session = Session(tmp_path / "run", config)
        with pytest.raises(Killed), session:
            checkpoint = latest(session.run.checkpoints)
            if checkpoint is not None:
                saved = load_training_state(checkpoint)
                found = learner_content(session)
                for name, array in saved.tensors.items():
                    assert np.asarray(found[name]).tobytes() == array.tobytes(), name
                assert session.counters.updates == saved.state["updates"]
                assert session.replay.rng.bit_generator.state == saved.state["replay_rng"]
            learned = [e for e in played if e.role is not Role.EVAL]
            assert session.counters.transitions == sum(map(len, learned)), "lost or counted twice"
            entries = session.replay.online.entries
            assert sorted(map(str, (e.key for e in entries))) == sorted(str(Key.of(e)) for e in learned)
            helped = {str(Key.of(e)) for e in learned if e.intervention.any()}
            kept = [str(e.key) for e in session.replay.protected.entries if e.key.role is not Role.DEMO]
            assert sorted(kept) == sorted(helped)
            if life:  # what the loop had not got to when it was killed was encoded now; nothing else was
                copies, last = session.replay.copies, played[-1]
                assert session.encodes_before == (0 if last.role is Role.EVAL else copies * (len(last) + 1))
            session.feed(more, kill=True)
        played += more
    assert session.counters.updates <= session.counters.transitions


def test_a_killed_run_and_one_that_was_not_hold_the_same_data(tmp_path):
    config = with_demos(tmp_path, small_config(online_buffer_capacity=2000))
    episodes = story(config, 1, 14)
    with Session(tmp_path / "whole", config) as whole:
        whole.feed(episodes)
        expected = replay_content(whole)
    with pytest.raises(Killed), Session(tmp_path / "killed", config) as killed:
        killed.feed(episodes[:8], kill=True)
    with Session(tmp_path / "killed", config) as killed:
        killed.feed(episodes[8:])
        found = replay_content(killed)
    del found["rng"], expected["rng"]  # the updates since the last checkpoint were done again
    assert_same(found, expected)


def test_another_layout_is_said_and_filled_again_from_the_archive(tmp_path):
    config = with_demos(tmp_path, small_config(online_buffer_capacity=2000))
    with Session(tmp_path / "run", config) as session:
        session.feed(story(config, 1, 7))
        trained = learner_content(session)
    other = replace(config, policy=replace(config.policy, feature_copies=3))
    with Session(tmp_path / "run", other) as session:
        assert [line for line in session.said if "copies was 2, is now 3" in line], session.said
        frames = [entry.frames for entry in session.replay.online.entries]
        assert session.encodes_before >= 3 * sum(frames) > 0
        rebuilt = replay_content(session)
        assert_same(learner_content(session), trained)
    with Session(tmp_path / "fresh", other) as fresh:
        fresh.feed(story(config, 1, 7))
        expected = replay_content(fresh)
    for content in (rebuilt, expected):
        del content["rng"]
    assert_same(rebuilt, expected)


def test_an_episode_damaged_in_the_archive_is_named_not_skipped(tmp_path):
    config = with_demos(tmp_path, small_config())
    with Session(tmp_path / "run", config) as session:
        session.feed(story(config, 1, 5))
        path = scan_episodes(session.run.episodes)[0].path
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(Exception, match=path.name):
        Session(tmp_path / "run", config)


def test_a_checkpoint_says_which_episodes_it_had_learned_from(tmp_path):
    config = with_demos(tmp_path, small_config())
    with Session(tmp_path / "run", config) as session:
        session.feed(story(config, 1, 12))
    state = json.loads((session.run.checkpoints / "last/training_state/state.json").read_text())
    assert state["numbers"] == {"a": 11, "b": 12}
