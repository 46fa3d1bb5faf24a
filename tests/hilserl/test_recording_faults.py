"""Whatever ends a recording, finished episodes are whole, nothing is replaced, and the fault is named."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import hilserl.recording as recording_module
from hilserl import recording_files
from hilserl.config import ConfigError
from hilserl.dataset_schema import INFO_FILE, DatasetError, undo_folder
from hilserl.labels import Label, labels_file, write_labels
from hilserl.recording import ATTEMPTS, record_episodes, run_record
from hilserl.recording_check import check_recording, check_whole
from hilserl.recording_files import Recording
from hilserl.recording_format import EPISODE_LINE, ROW_FILE, encode_video, place
from hilserl.recording_record import RecordingError, read_records
from hilserl.task_record import TaskMismatch
from robot.types import Event, Operator
from tests.fakes.body import action
from tests.fakes.recordings import digests, lerobot, small_config
from tests.fakes.takes import TINY, Sayings, fake_body, fill, random_take, record

TINY_CONFIG = replace(small_config(), task=TINY)
UP = Operator(action(z=1.0))


def recorded_said(teleop, root: Path, monkeypatch, count=5, role="reward", config=TINY_CONFIG) -> list[str]:
    """What is said while `teleop` records on the lock-step twin."""
    said: list[str] = []
    monkeypatch.setattr(recording_module, "build_body", fake_body(teleop))
    record_episodes(config, count, role, root, said.append)
    return said


def test_a_folder_that_exists_is_refused_without_resume(tmp_path):
    fill(tmp_path / "set", 1)
    before = digests(tmp_path)
    with pytest.raises(RecordingError, match="exists, and a recording replaces nothing"):
        record_episodes(TINY_CONFIG, 1, "demo", tmp_path / "set", lambda _: None)
    assert digests(tmp_path) == before


def test_only_one_recorder_of_the_same_task_and_role_goes_on_with_a_recording(tmp_path):
    root = tmp_path / "set"
    fill(root, 1)
    with pytest.raises(RecordingError, match="role 'demo', not 'reward'"):
        Recording.reopen(root, TINY, "reward")
    with pytest.raises(TaskMismatch, match="action_scale"):
        Recording.reopen(root, replace(TINY, action_scale=0.03), "demo")
    with Recording.reopen(root, TINY, "demo"), pytest.raises(RecordingError, match="another process"):
        Recording.reopen(root, TINY, "demo")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(RecordingError, match="no recording to go on with"):
        Recording.reopen(tmp_path / "other", TINY, "demo")


def test_what_cannot_be_recorded_leaves_no_folder(tmp_path):
    for task in (replace(TINY, fps=7.5), replace(TINY, camera_width=33)):
        with pytest.raises(ConfigError):
            Recording.create(tmp_path / "set", task)
    assert not (tmp_path / "set").exists()


def test_what_another_recording_of_the_same_name_left_beside_it_is_not_taken_for_its_own(tmp_path):
    root = tmp_path / "set"
    write_labels(root, {"0": Label(6, ((2, 6),), "operator")})
    with pytest.raises(RecordingError, match=labels_file(root).name):
        Recording.create(root, TINY)
    labels_file(root).unlink()
    undo_folder(root).mkdir()
    with pytest.raises(RecordingError, match=undo_folder(root).name):
        Recording.create(root, TINY)
    assert not root.exists()


def test_a_place_where_no_folder_can_be_made_is_named(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RecordingError, match="thesis.tex/set cannot be made"):
        Recording.create(tmp_path / "thesis.tex" / "set", TINY)


def test_a_file_that_somebody_else_put_there_is_not_replaced(tmp_path):
    root, take = tmp_path / "set", random_take(TINY, 9, 6)
    fill(root, 1)
    with Recording.reopen(root, TINY, "demo") as recording:
        theirs = root / place(ROW_FILE, 1)
        theirs.write_text("theirs")
        with pytest.raises(RecordingError, match="replaces nothing"):
            recording.append(take, record(take, TINY))
        assert theirs.read_text() == "theirs"


def test_a_set_that_is_not_whole_at_the_end_is_said_and_raised(tmp_path, monkeypatch):
    root, said = tmp_path / "set", []

    def say(line):
        said.append(line)
        if line.startswith("saved"):
            (video,) = root.rglob("file-000.mp4")
            video.unlink()

    monkeypatch.setattr(
        recording_module, "build_body", fake_body(Sayings([UP, Operator(event=Event.FAILURE)]))
    )
    with pytest.raises(DatasetError, match=r"file-000\.mp4"):
        record_episodes(TINY_CONFIG, 1, "reward", root, say)
    assert said[-1].startswith("THE RECORDING IS NOT WHOLE")


def test_a_scripted_operator_who_never_succeeds_is_not_asked_for_ever(tmp_path, monkeypatch):
    never = [[UP, Operator(event=Event.FAILURE)]] * (ATTEMPTS + 1)
    with pytest.raises(ConfigError, match=f"{ATTEMPTS} scripted episodes were not kept"):
        recorded_said(Sayings(*never), tmp_path / "set", monkeypatch, count=1, role="demo")


def test_damage_is_named_before_anything_is_changed(tmp_path):
    root = tmp_path / "set"
    fill(root, 2)
    for path, damage, named in (
        (place(EPISODE_LINE, 1), lambda whole: whole[: len(whole) // 2], "file-001.parquet cannot be read"),
        (INFO_FILE, lambda whole: whole[: len(whole) // 2], "cannot be gone on with"),
        (INFO_FILE, lambda whole: whole.replace(b"gripper_cam", b"front_cam"), "other features .*front_cam"),
    ):
        whole = (root / path).read_bytes()
        (root / path).write_bytes(damage(whole))
        before = digests(root)
        with pytest.raises(RecordingError, match=named):
            Recording.reopen(root, TINY, "demo")
        assert digests(root) == before
        (root / path).write_bytes(whole)
    Recording.reopen(root, TINY, "demo").close()
    assert check_recording(root, TINY).episodes == 2


def test_resume_needs_a_recording_and_moves_no_arm_where_nothing_is_missing(tmp_path, monkeypatch):
    def build(*args, **options):
        pytest.fail("the arm is moved")

    monkeypatch.setattr(recording_module, "build_body", build)
    again = replace(TINY_CONFIG, resume=True)
    with pytest.raises(RecordingError, match="no recording to go on with"):
        record_episodes(again, 1, "demo", tmp_path / "typo", lambda _: None)
    assert not list(tmp_path.iterdir())
    fill(tmp_path / "set", 2)
    said: list[str] = []
    record_episodes(again, 2, "demo", tmp_path / "set", said.append)
    assert said[-1].startswith("checked: 2 episodes")


def test_somebody_must_play(tmp_path):
    config = replace(TINY_CONFIG, teleop=replace(TINY_CONFIG.teleop, type="none"))
    with pytest.raises(ConfigError, match="somebody must play"):
        record_episodes(config, 1, "demo", tmp_path / "set", lambda _: None)
    assert not (tmp_path / "set").exists()


def test_an_episode_of_one_step_is_an_episode(tmp_path, monkeypatch):
    root = tmp_path / "set"
    once = Sayings(
        [Operator(UP.action, Event.FAILURE)], [Operator(event=Event.SUCCESS)], [Operator(event=Event.STOP)]
    )
    said = recorded_said(once, root, monkeypatch)
    assert [one.end for one in read_records(root)] == ["failure", "success"]
    assert said[-1].startswith("checked: 2 episodes (1 successes), 4 frames")
    assert lerobot(root)[3]["frame_index"] == 1


def test_an_interrupt_while_an_episode_is_encoded_keeps_it_and_ends(tmp_path, monkeypatch):
    def interrupted(*args):
        os.kill(os.getpid(), signal.SIGINT)
        encode_video(*args)

    failures = [[UP, UP, Operator(event=Event.FAILURE)]] * 3
    monkeypatch.setattr(recording_module, "build_body", fake_body(Sayings(*failures)))
    monkeypatch.setattr(recording_files, "encode_video", interrupted)
    root = run_record(TINY_CONFIG, 3, "reward", tmp_path / "set")
    assert check_recording(root, TINY).episodes == 1


def readable(root: Path) -> int | None:
    """Episodes in a recording nobody has gone on with; None where the reader says that this is needed."""
    try:
        return check_whole(root).episodes
    except DatasetError as error:
        assert "--resume=true" in str(error)
        return None


class Killed(BaseException):
    """The process is dead from here on."""


class Life:
    """Lets a process touch the disk `left` more times by these functions; ever after, they raise `fate`."""

    def __init__(self, monkeypatch, left: int, fate: BaseException, *functions: tuple[object, str]) -> None:
        self.left, self._fate = left, fate
        for owner, name in functions:
            monkeypatch.setattr(owner, name, self._mortal(getattr(owner, name)))

    def _mortal(self, call):
        def mortal(*args, **options):
            if self.left == 0:
                raise self._fate
            self.left -= 1
            return call(*args, **options)

        return mortal


WRITING = ((os, "link"), (os, "fsync"), (Path, "replace"))
REMOVING = ((Path, "unlink"), (shutil, "rmtree"), (Path, "rmdir"))


@pytest.mark.parametrize("stored", [0, 2])
def test_a_kill_at_any_moment_loses_no_finished_episode(stored, tmp_path, monkeypatch):
    left, survived = 0, False
    take = random_take(TINY, 99, 6)
    while not survived:
        root = tmp_path / f"{left}"
        if stored:
            fill(root, stored)
        before = digests(root)
        recording = Recording.reopen(root, TINY, "demo") if stored else Recording.create(root, TINY)
        with monkeypatch.context() as context:
            Life(context, left, Killed(), *WRITING, *REMOVING)
            try:
                recording.append(take, record(take, TINY, seed=99))
                survived = True
            except Killed:
                pass
        os.close(recording._claim)  # what the kernel does
        if stored:
            assert readable(root) in (stored, stored + 1, None)
        again = Recording.reopen(root, TINY, "demo")
        assert len(again) in ((stored + 1,) if survived else (stored, stored + 1))
        assert not len(again) or readable(root) == len(again)
        again.append(take, record(take, TINY, seed=100))
        again.close()
        assert check_recording(root, TINY).episodes == len(again)
        assert before.items() <= digests(root).items()
        assert not list(root.rglob(".*"))
        left += 1
    assert left > 15


def test_a_disk_that_is_full_from_any_moment_on_is_named_and_loses_no_episode(tmp_path, monkeypatch):
    left, fits = 0, False
    take, full = random_take(TINY, 99, 6), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    while not fits:
        root = tmp_path / f"{left}"
        fill(root, 1)
        before = digests(root)
        with Recording.reopen(root, TINY, "demo") as recording, monkeypatch.context() as context:
            Life(context, left, full, *WRITING)
            try:
                recording.append(take, record(take, TINY, seed=99))
                fits = True
            except RecordingError as error:
                told = f"No space left on device. Its {len(recording)} finished episodes are whole"
                assert told in str(error)
        found = readable(root)
        assert found in (len(recording), 2, None)
        if found == 1:
            assert digests(root) == before, "what was begun is gone"
        with Recording.reopen(root, TINY, "demo") as again:
            assert len(again) == (found or 2)
            again.append(take, record(take, TINY, seed=100))
        assert check_recording(root, TINY).episodes == len(again)
        assert before.items() <= digests(root).items()
        left += 1
    assert left > 12


@contextmanager
def files_of_at_most(size: int):
    """As on a disk with so many bytes left: a file that grows beyond them is an error of the system."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [500, 4000, 30_000])
def test_video_rows_and_line_that_do_not_fit_are_named(size, tmp_path):
    root, take = tmp_path / "set", random_take(TINY, 99, 60)
    fill(root, 1)
    before = digests(root)
    with Recording.reopen(root, TINY, "demo") as recording:
        with pytest.raises(RecordingError, match="File too large"), files_of_at_most(size):
            recording.append(take, record(take, TINY, seed=99))
        assert digests(root) == before
        recording.append(take, record(take, TINY, seed=99))
    assert check_recording(root, TINY).episodes == 2


KILLED_AT_WORK = """
import os, signal, sys
from pathlib import Path
from hilserl.recording import record_episodes
from tests.fakes.recordings import small_config

calls, finished = 0, 0

def say(line):
    global finished
    finished += line.startswith("saved")

def stop():
    global calls
    calls += finished == 2
    if calls == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return False

record_episodes(small_config(64, 48), 4, "demo", Path(sys.argv[1]), say, should_stop=stop)
"""


def test_after_a_kill_in_mid_episode_lerobot_reads_the_finished_ones_and_resume_completes_them(tmp_path):
    root = tmp_path / "set"
    killed = subprocess.run([sys.executable, "-c", KILLED_AT_WORK, str(root)], check=False)
    assert killed.returncode == -signal.SIGKILL
    config = small_config(64, 48)
    assert check_recording(root, config.task).episodes == 2
    assert lerobot(root).num_episodes == 2
    before, seeds = digests(root), [one.seed for one in read_records(root)]
    record_episodes(replace(config, resume=True), 3, "demo", root, lambda _: None)
    assert before.items() <= digests(root).items()
    records = read_records(root)
    assert [one.seed for one in records][:2] == seeds and len({one.seed for one in records}) == 3
    assert lerobot(root).num_episodes == 3
