"""Recorded datasets: what was played is what is read, whoever reads it and whatever ended the recording."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hilserl.recording as recording_module
from hilserl import recording_files
from hilserl.body import Body, build_body
from hilserl.build import with_imported_demos
from hilserl.config import Config, ConfigError
from hilserl.dataset_schema import ACTION, IMAGES, STATE, TASK_RECORD, DatasetError, open_dataset
from hilserl.env import policy_image
from hilserl.episode import load_episode, scan_episodes
from hilserl.recording import SEEDS, record_episodes
from hilserl.recording_check import check_recording
from hilserl.recording_files import Recording
from hilserl.recording_format import encode_video
from hilserl.recording_record import RecordingError, read_records
from hilserl.recording_stats import merge_stats, picture_stats, row_stats
from hilserl.recording_take import IDLE_RAD, JOINTS, TAIL_S, Take, is_idle, trim
from hilserl.task_record import TaskMismatch, task_hash
from hilserl.types import End, Role
from robot.errors import BusError
from robot.types import Event, Operator
from tests.fakes.body import action
from tests.fakes.recordings import CAMERA, action_rows, play, small_config
from tests.fakes.takes import TINY, Sayings, fake_body, random_take, record

CONFIG = small_config()
KEY = IMAGES + CAMERA
COMPRESSION = 2.5
"""Mean difference of a picture after the video, of 255."""


def lerobot(root: Path):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset("tests/recording", root=root)


def digests(root: Path) -> dict[str, str]:
    """Of every file of an episode."""
    paths = [path for folder in ("data", "videos", "meta/episodes") for path in (root / folder).rglob("*")]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()}


# --- what was played is what is read -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    """(root, what was said, the same episodes played once more and kept in memory)."""
    root, said = tmp_path_factory.mktemp("demos") / "set", []
    record_episodes(CONFIG, 3, "demo", root, said.append)
    played = play(CONFIG, [one.seed for one in read_records(root)])
    return root, said, played


def test_rows_are_what_was_played(demos):
    root, said, played = demos
    dataset = open_dataset(root)
    assert (dataset.schema, dataset.fps, len(dataset.episodes)) == ("actions", 10, 3)
    for episode, recording in zip(dataset.episodes, played, strict=True):
        expected = action_rows(recording)
        columns = {ACTION: expected.action, STATE: expected.state, **expected.extra}
        for name, column in columns.items():
            np.testing.assert_array_equal(episode.rows[name], column.reshape(episode.rows[name].shape), name)
        joints = np.stack(pq.read_table(episode.data_file)[JOINTS].to_numpy())
        np.testing.assert_array_equal(joints, np.stack(recording.q))
    assert said[-1].startswith("checked: 3 episodes (3 successes)")


def test_lerobots_loader_gives_every_frame_its_own_picture(demos):
    root, _, played = demos
    loaded = lerobot(root)
    frames = [frame for recording in played for frame in recording.frames]
    states = [obs.state for recording in played for obs in recording.obs]
    assert (len(loaded), loaded.num_episodes, loaded.fps) == (len(frames), 3, 10)
    for index in np.random.default_rng(0).permutation(len(frames))[:20]:
        item = loaded[int(index)]
        picture = item[KEY].numpy().transpose(1, 2, 0) * 255
        assert np.abs(picture - frames[index]).mean() < COMPRESSION
        np.testing.assert_array_equal(item[STATE].numpy(), states[index])
        assert item["task"] == CONFIG.task.name


def test_lerobots_loader_gives_each_episodes_pictures_in_their_order(tmp_path):
    fill(tmp_path / "set", 3)
    loaded = lerobot(tmp_path / "set")
    brightness = [20 + 3 * t for length in (6, 7, 8) for t in range(length)]  # see random_take
    found = [float(loaded[index][KEY].mean()) * 255 for index in range(len(loaded))]
    np.testing.assert_allclose(found, brightness, atol=1.2)


def test_a_recording_is_usable_as_demonstrations_at_once(demos, tmp_path):
    root, _, played = demos
    config = with_imported_demos(
        replace(CONFIG, demos=(str(root),), output_dir=str(tmp_path)), lambda _: None
    )
    episodes = [load_episode(info.path) for info in scan_episodes(Path(config.demos[0]))]
    for index, (episode, recording) in enumerate(zip(episodes, played, strict=True)):
        np.testing.assert_array_equal(episode.action, recording.action)
        np.testing.assert_array_equal(episode.state, np.stack([obs.state for obs in recording.obs]))
        assert (episode.end, episode.role, episode.task_hash) == (
            End.SUCCESS,
            Role.DEMO,
            task_hash(CONFIG.task),
        )
        assert episode.reward.tolist() == [step.reward for step in recording.steps]
        crop, size = CONFIG.task.crop_params_dict[CAMERA], CONFIG.task.resize_size
        with av.open(str(root / f"videos/{KEY}/chunk-000/file-{index:03d}.mp4")) as video:
            decoded = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        ours = np.stack([policy_image(frame, crop, size) for frame in decoded])
        np.testing.assert_array_equal(episode.images[CAMERA], ours)
        seen = np.stack([obs.images[CAMERA] for obs in recording.obs])
        assert np.abs(episode.images[CAMERA].astype(int) - seen).mean() < COMPRESSION


def test_scripted_near_misses_are_kept_with_their_ground_truth(tmp_path):
    root = tmp_path / "set"
    record_episodes(CONFIG, 4, "reward", root, lambda _: None)
    records = read_records(root)
    assert [one.facts["scenario"] for one in records][1::2] == ["pushed", "pinched at an edge"]
    for one, episode in zip(records, open_dataset(root).episodes, strict=True):
        held = [i for start, stop in one.success_ranges for i in range(start, stop)]
        if one.end == "success":
            assert held[-10:] == list(range(len(episode) - 10, len(episode)))
        else:
            assert held == []


def test_ranges_are_the_achieved_frames():
    @given(st.lists(st.booleans(), min_size=2, max_size=30))
    @settings(max_examples=50, deadline=None)
    def law(flags):
        take = replace(random_take(TINY, 0, 1), achieved=np.array(flags))
        ranges = take.success_ranges()
        assert [any(a <= i < b for a, b in ranges) for i in range(len(flags))] == flags
        assert all(a < b for a, b in ranges) and all(p[1] < q[0] for p, q in pairwise(ranges))

    law()


# --- trimming ----------------------------------------------------------------------------------------------


def take_of(busy: list[str]) -> Take:
    """A take whose steps are idle (""), asked for ("a") or moving without being asked ("m")."""
    take = random_take(TINY, 3, len(busy))
    asked = np.array([what == "a" for what in busy])
    moves = np.cumsum([0.0, *(2 * IDLE_RAD if what == "m" else 0.0 for what in busy)])
    joints = np.zeros((len(busy) + 1, 6), np.float32)
    joints[:, 2] = moves
    return replace(take, action=take.action * asked[:, None], joint_pos=joints)


@given(st.lists(st.sampled_from(["", "a", "m"]), min_size=1, max_size=30), st.sampled_from([5.0, 10.0]))
@settings(max_examples=100, deadline=None)
def test_trimming_cuts_only_idle_steps_at_the_ends(busy, fps):
    take = take_of(busy)
    trimmed = trim(take, fps)
    head, tail = trimmed.trimmed
    assert head + len(trimmed) + tail == len(take)
    stop = len(take) - tail
    for column in ("state", "joint_pos", "achieved"):
        np.testing.assert_array_equal(getattr(trimmed, column), getattr(take, column)[head : stop + 1])
    np.testing.assert_array_equal(trimmed.action, take.action[head:stop])
    assert [f.max() for f in trimmed.frames[CAMERA]] == [
        f.max() for f in take.frames[CAMERA][head : stop + 1]
    ]
    assert trimmed.reward.sum() == take.reward.sum() and trimmed.reward[-1] == 1.0
    if not any(busy):
        assert (head, tail) == (0, 0)
        return
    assert not any(busy[:head]) and busy[head] and not any(busy[stop:])
    idle_end = len(busy) - max(i for i, what in enumerate(busy) if what) - 1
    assert idle_end - tail == min(idle_end, round(TAIL_S * fps))
    columns = trimmed.columns()
    assert np.flatnonzero(columns["next.done"]).tolist() == [len(trimmed) - 1]
    assert is_idle(trimmed).sum() <= sum(not what for what in busy)


# --- buttons -----------------------------------------------------------------------------------------------

UP = Operator(action(z=1.0, gripper=1.0))
DOWN = Operator(action(z=-1.0))


def record_said(config: Config, teleop: Sayings, count, role, root, monkeypatch, parked=None) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(recording_module, "build_body", fake_body(teleop, parked))
    try:
        record_episodes(config, count, role, root, said.append)
    except BusError as error:
        said.append(str(error))
    return said


EPISODES = (
    [UP, UP, Operator(event=Event.DISCARD)],
    [UP, DOWN, UP, Operator(event=Event.FAILURE)],
    [*[Operator()] * 4, *[UP] * 4, *[Operator()] * 20, Operator(event=Event.SUCCESS)],
    [UP, Operator(event=Event.STOP)],
)
TINY_CONFIG = replace(CONFIG, task=TINY)


@pytest.mark.parametrize(("role", "ends"), [("demo", ["success"]), ("reward", ["failure", "success"])])
def test_buttons_keep_discard_and_stop(role, ends, tmp_path, monkeypatch):
    said = record_said(TINY_CONFIG, Sayings(*EPISODES), 5, role, tmp_path / "set", monkeypatch)
    records = read_records(tmp_path / "set")
    assert [one.end for one in records] == ends
    # each attempt has a seed of its own, kept or not
    assert records[-1].seed == SEEDS[role] + 2
    head, tail = records[-1].trimmed
    assert head == 4 and 10 < tail < 16
    (episode,) = open_dataset(tmp_path / "set").episodes[-1:]
    assert len(episode) == 29 - head - tail + 1
    assert episode.rows["next.success"].ravel().tolist() == [False] * (len(episode) - 2) + [True, False]
    assert episode.rows["next.reward"].ravel()[-2] == 1.0
    assert (
        episode.rows["intervention"].ravel()[:4].all() and not episode.rows["intervention"].ravel()[4:].any()
    )
    assert any("discarded; again" in line for line in said)


def test_a_fault_at_the_end_does_not_hide_what_was_saved(tmp_path, monkeypatch):
    fault = BusError("servo 3: overload")
    said = record_said(TINY_CONFIG, Sayings(*EPISODES), 1, "demo", tmp_path / "set", monkeypatch, fault)
    assert said[-3].startswith("1 episodes saved, 1 in")
    assert said[-2].startswith("checked: 1 episodes")
    assert said[-1] == str(fault)


def test_an_arm_left_alone_while_an_episode_is_encoded_is_held_with_what_it_lifted(tmp_path, monkeypatch):
    """Encoding may take longer than the guard's watchdog waits; the next episode begins as ever."""
    bodies: list[Body] = []

    @contextmanager
    def build(*args, **options):
        with build_body(*args, **options) as body:
            bodies.append(body)
            yield body

    def slowly(*args):
        (body,) = bodies
        clock, before = body.env._clock, body.arm.read().q_rad
        assert body.truth()
        clock.sleep_until(clock.now_s() + 4 * CONFIG.robot.watchdog_s)
        after = body.arm.read().q_rad
        assert body.arm.holding and body.truth()
        assert np.abs(after - before).max() < 0.02
        encode_video(*args)

    monkeypatch.setattr(recording_module, "build_body", build)
    monkeypatch.setattr(recording_files, "encode_video", slowly)
    record_episodes(CONFIG, 2, "demo", tmp_path / "set", lambda _: None)
    assert [(one.end, one.fault) for one in read_records(tmp_path / "set")] == [("success", "")] * 2


def test_a_recording_without_an_episode_leaves_no_folder(tmp_path, monkeypatch):
    record_said(TINY_CONFIG, Sayings([Operator(event=Event.STOP)]), 1, "demo", tmp_path / "set", monkeypatch)
    assert not (tmp_path / "set").exists()


# --- nothing is overwritten, whatever ends the recording ---------------------------------------------------


def fill(root: Path, count: int) -> None:
    with Recording.create(root, TINY) as recording:
        for number in range(count):
            take = random_take(TINY, number, 5 + number)
            recording.append(take, record(take, TINY, seed=number))


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


class Killed(BaseException):
    """The process is dead from here on."""


class Life:
    """Lets a process touch the disk `left` more times; then, and ever after, it is dead."""

    def __init__(self, monkeypatch, left: int) -> None:
        self.left = left
        for owner, name in (
            (os, "link"),
            (os, "fsync"),
            (Path, "replace"),
            (Path, "unlink"),
            (shutil, "rmtree"),
            (Path, "rmdir"),
        ):
            monkeypatch.setattr(owner, name, self._mortal(getattr(owner, name)))

    def _mortal(self, call):
        def mortal(*args, **options):
            if self.left == 0:
                raise Killed
            self.left -= 1
            return call(*args, **options)

        return mortal


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
            Life(context, left)
            try:
                recording.append(take, record(take, TINY, seed=99))
                survived = True
            except Killed:
                pass
        os.close(recording._claim)  # what the kernel does
        again = Recording.reopen(root, TINY, "demo")
        assert len(again) in ((stored + 1,) if survived else (stored, stored + 1))
        again.append(take, record(take, TINY, seed=100))
        again.close()
        assert check_recording(root, TINY).episodes == len(again)
        assert before.items() <= digests(root).items()
        assert not list(root.rglob(".*"))
        left += 1
    assert left > 15


KILLED_AT_WORK = """
import os, signal, sys
from dataclasses import replace
from itertools import pairwise
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


# --- the integrity check -----------------------------------------------------------------------------------


def edit_rows(path: Path, column: str, row: int, value) -> None:
    table = pq.read_table(path)
    values = table[column].to_pylist()
    values[row] = value
    index = table.column_names.index(column)
    pq.write_table(table.set_column(index, column, pa.array(values, table[column].type)), path)


def shorten(path: Path) -> None:
    with av.open(str(path)) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    encode_video(path, frames[:-1], 10)


FAULTS = {
    "a torn video": (f"videos/{KEY}", lambda path: path.write_bytes(path.read_bytes()[:-200])),
    "a lost picture": (f"videos/{KEY}", shorten),
    "a lost video": (f"videos/{KEY}", Path.unlink),
    "a lost file of rows": ("data", Path.unlink),
    "a lost line": ("meta/episodes", Path.unlink),
    "a second end": ("data", lambda path: edit_rows(path, "next.done", 0, True)),
    "another joint": ("data", lambda path: edit_rows(path, JOINTS, 2, [0.0] * 6)),
    "another index": ("data", lambda path: edit_rows(path, "index", 0, 3)),
    "an action out of range": ("data", lambda path: edit_rows(path, ACTION, 1, [2.0, 0, 0, 0])),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_check_finds_every_damage(fault, tmp_path):
    root = tmp_path / "set"
    fill(root, 3)
    assert check_recording(root, TINY).frames == 6 + 7 + 8
    folder, damage = FAULTS[fault]
    (path,) = (root / folder).glob("*/file-001.*")
    damage(path)
    with pytest.raises(DatasetError):
        check_recording(root, TINY)


def test_the_check_knows_the_task(tmp_path):
    fill(tmp_path / "set", 1)
    assert (tmp_path / "set" / TASK_RECORD).is_file()
    with pytest.raises(TaskMismatch):
        check_recording(tmp_path / "set", replace(TINY, wrist_roll=1.5))


# --- statistics --------------------------------------------------------------------------------------------


def test_statistics_are_those_of_lerobot_and_of_all_episodes_together():
    from lerobot.datasets.compute_stats import aggregate_stats, compute_episode_stats

    takes = [random_take(TINY, seed, 20 + seed) for seed in range(3)]
    parts = [row_stats(take.columns()) for take in takes]
    merged = merge_stats(parts)
    together = row_stats(
        {name: np.concatenate([take.columns()[name] for take in takes]) for name in takes[0].columns()}
    )
    features = {name: {"dtype": "float32"} for name in takes[0].columns()}
    theirs = aggregate_stats([compute_episode_stats(take.columns(), features) for take in takes])
    for name, stats in merged.items():
        assert stats.keys() == theirs[name].keys()
        for key in ("min", "max", "mean", "std", "count"):
            np.testing.assert_allclose(stats[key], together[name][key], atol=1e-9)
            np.testing.assert_allclose(stats[key], theirs[name][key], atol=1e-5)  # they sum in float32


def test_statistics_of_pictures_are_in_0_to_1_per_channel():
    frames = [np.full((8, 8, 3), (0, 51, 255), np.uint8)] * 7
    stats = picture_stats({"x": frames})["x"]
    np.testing.assert_allclose(stats["mean"].ravel(), [0, 0.2, 1.0])
    assert stats["mean"].shape == (3, 1, 1) and stats["count"].tolist() == [7]
