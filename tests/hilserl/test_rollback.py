"""Going back: the checkpoint's weights again, later data kept but never learned from, no crash in between."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from hilserl import rollback
from hilserl.checkpoint import CheckpointError, available, latest, save_checkpoint
from hilserl.config import PolicyConfig, TaskConfig
from hilserl.contract import build_contract
from hilserl.env import task_spec
from hilserl.rollback import (
    PENDING,
    ROLLBACKS,
    RollbackError,
    excluded_episodes,
    finish_rollback,
    listed,
    read_rollbacks,
    roll_back,
)
from hilserl.rundir import RunDir, RunDirError

CONTRACT = build_contract(task_spec(TaskConfig()), TaskConfig(), PolicyConfig(), "ab" * 32)


@pytest.fixture(scope="module", autouse=True)
def fast_disk():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


class Job:
    """A run folder by hand: checkpoints, and episodes that are names alone."""

    def __init__(self, folder: Path) -> None:
        self.run = RunDir.create(folder, "job", "{}", (folder / "job").exists())
        self.root = self.run.root

    def checkpoint(self, transitions: int, best: bool = False, **numbers: int) -> None:
        arrays = {"w": np.full(2, transitions, np.float32)}
        save_checkpoint(
            self.run.checkpoints,
            transitions,
            model=arrays,
            contract=CONTRACT,
            training_tensors=arrays,
            training_state={"numbers": numbers} if numbers else {},
            keep=10,
            best=best,
        )

    def play(self, actor: str, *numbers: int) -> None:
        for number in numbers:
            (self.run.episodes / f"{actor}_{number:08d}_00010_success.npz").touch()

    def names(self) -> list[str]:
        return sorted(p.name for p in self.run.checkpoints.iterdir() if not p.is_symlink())

    def target(self, name: str) -> str:
        return os.readlink(self.run.checkpoints / name)

    def outcome(self) -> tuple:
        """Everything a rollback may change, but for the time of day."""
        assert not (self.root / PENDING).exists()
        log = [(r.to, r.excluded, r.aside) for r in read_rollbacks(self.root)]
        links = {name: self.target(name) for name in ("last", "best")}
        assert all((self.run.checkpoints / name).is_dir() for name in links)
        return self.names(), links, log, sorted(p.name for p in self.run.episodes.iterdir())


@pytest.fixture
def job(tmp_path):
    """Two actors; the checkpoint at 100 had taken in a 1-3 and b 1, that at 200 a 1-5 and b 1-2."""
    made = Job(tmp_path)
    made.play("a", *range(1, 8))
    made.play("b", 1, 2, 3)
    made.checkpoint(100, a=3, b=1)
    made.checkpoint(200, a=5, b=2, best=True)
    made.checkpoint(300, a=6, b=3)
    yield made
    made.run.close()


def test_later_checkpoints_and_episodes_are_set_apart_and_nothing_is_deleted(job):
    done = roll_back(job.run, "100")
    assert job.names() == ["000100", "000200_rolled_back_1", "000300_rolled_back_1"]
    assert (job.target("last"), job.target("best")) == ("000100", "000200_rolled_back_1")
    assert latest(job.run.checkpoints).name == "000100"
    assert [p.name for p in available(job.run.checkpoints)] == ["000100"]
    later = [("a", 4), ("a", 5), ("a", 6), ("a", 7), ("b", 2), ("b", 3)]
    assert done.excluded == later and excluded_episodes(job.root) == set(later)
    assert len(list(job.run.episodes.iterdir())) == 10
    (line,) = [json.loads(line) for line in (job.root / ROLLBACKS).read_text().splitlines()]
    assert (line["to"], line["excluded"]) == ("000100", [list(episode) for episode in later])


def test_twice_is_once(job):
    roll_back(job.run, "200")
    before = job.outcome()
    assert roll_back(job.run, "000200") is None
    assert job.outcome() == before


def test_training_goes_on_and_may_go_back_again(job):
    roll_back(job.run, "200")
    job.play("a", 8, 9)
    job.checkpoint(300, a=9, b=2)
    again = roll_back(job.run, "best")
    assert again.to == "000200" and again.excluded == [("a", 8), ("a", 9)]
    assert "000300_rolled_back_1" in job.names() and "000300_rolled_back_2" in job.names()
    assert excluded_episodes(job.root) == {("a", n) for n in (6, 7, 8, 9)} | {("b", 3)}
    assert len(read_rollbacks(job.root)) == 2


def test_a_rollback_to_the_newest_checkpoint_drops_what_came_after_it(job):
    done = roll_back(job.run, "300")
    assert done.excluded == [("a", 7)] and not done.aside
    assert roll_back(job.run, "300") is None


def test_episodes_that_come_after_a_rollback_are_kept(job):
    """An actor's spool may still hold episodes of the policy that was taken back: they are only old data."""
    roll_back(job.run, "100")
    job.play("a", 8)
    assert ("a", 8) not in excluded_episodes(job.root)


class Crash(BaseException):
    """The power goes."""


def test_a_crash_anywhere_leaves_the_old_state_or_one_that_is_finished(tmp_path, monkeypatch):
    """Cut before every single step that changes the disk, and again in the repair; the outcome is one."""
    left, real = [0], {}

    def cut(owner, name):
        real[name] = getattr(owner, name)

        def step(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                raise Crash
            return real[name](*args, **kwargs)

        monkeypatch.setattr(owner, name, step)

    def fresh(name: str) -> Job:
        job = Job(tmp_path / name)
        job.play("a", 1, 2, 3)
        job.checkpoint(100, a=1)
        job.checkpoint(200, a=2, best=True)
        job.checkpoint(300, a=3)
        return job

    left[0] = 10**6
    whole = fresh("whole")
    before = whole.outcome()
    for owner, name in [(Path, "rename"), (Path, "unlink"), (Path, "replace"), (Path, "symlink_to")]:
        cut(owner, name)
    roll_back(whole.run, "100")
    expected = whole.outcome()
    assert expected != before
    crashes = 0
    for steps in range(100):
        left[0] = 10**6
        job = fresh(f"cut_{steps}")
        left[0] = steps
        try:
            roll_back(job.run, "100")
            break
        except Crash:
            crashes += 1
        begun = (job.root / PENDING).exists()
        for again in (1, steps):  # the next start is cut too, and the one after
            left[0] = again
            try:
                finish_rollback(job.root)
            except Crash:
                continue
        left[0] = 10**6
        finish_rollback(job.root)
        assert job.outcome() == (expected if begun or len(read_rollbacks(job.root)) else before), steps
        assert read_rollbacks(job.root) == [] or len(read_rollbacks(job.root)) == 1
        roll_back(job.run, "100")
        assert job.outcome() == expected
        job.run.close()
    assert crashes > 8


def test_one_that_was_cut_off_is_finished_before_another_begins(job, monkeypatch):
    def power_cut(*_):
        raise Crash

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(rollback, "link", power_cut)
        roll_back(job.run, "100")
    with pytest.raises(RollbackError, match="there are: 000100$"):
        roll_back(job.run, "200")
    assert roll_back(job.run, "100") is None


@pytest.mark.parametrize("step", ["150", "last", "", "-100", "1e2"])
def test_an_unknown_checkpoint_is_refused_with_the_choices(job, step):
    before = job.outcome()
    with pytest.raises(RollbackError, match="000100, 000200, 000300"):
        roll_back(job.run, step)
    assert job.outcome() == before


def test_a_damaged_checkpoint_is_refused_before_anything_is_given_up(job):
    before = job.outcome()
    model = job.run.checkpoints / "000100/pretrained_model/model.safetensors"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="damaged"):
        roll_back(job.run, "100")
    job.checkpoint(50)
    job.checkpoint(300, a=6, b=3)
    with pytest.raises(RollbackError, match="earlier version"):
        roll_back(job.run, "50")
    assert job.outcome()[1:] == before[1:]


def test_a_running_learner_forbids_it(job, tmp_path):
    with pytest.raises(RunDirError, match="in use by a learner"):
        RunDir.hold(tmp_path, "job")
    with pytest.raises(RunDirError, match="no run at .*runs in .*: job"):
        RunDir.hold(tmp_path, "other")
    job.run.close()
    RunDir.hold(tmp_path, "job").close()


def test_a_damaged_list_is_named(job):
    (job.root / ROLLBACKS).write_text("{}\n")
    with pytest.raises(RollbackError, match=r"rollbacks.jsonl is damaged \(KeyError"):
        excluded_episodes(job.root)


def test_episodes_in_short():
    assert listed([("b", 2), ("a", 41), ("a", 42), ("a", 43), ("a", 45)]) == "a 41-43, 45; b 2"
    assert rollback.describe(rollback.Rollback("000100", "", [("a", 4)], {"000200": "x"})) == [
        "last is checkpoint 000100",
        "checkpoint 000200 is now called x",
        "1 later episodes stay on disk and are never learned from again: a 4",
    ]
