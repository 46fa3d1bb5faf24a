"""Recorded datasets: what was played is what is read, whoever reads it and whatever ended the recording."""

from __future__ import annotations

import json
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
from hilserl.config import Config
from hilserl.dataset_schema import ACTION, IMAGES, STATE, TASK_RECORD, DatasetError, open_dataset
from hilserl.env import policy_image
from hilserl.episode import load_episode, scan_episodes
from hilserl.recording import SEEDS, record_episodes
from hilserl.recording_check import check_recording
from hilserl.recording_format import encode_video
from hilserl.recording_record import RECORD, episode_lines, read_records
from hilserl.recording_stats import merge_stats, picture_stats, row_stats
from hilserl.recording_take import IDLE_RAD, JOINTS, TAIL_S, Take, is_idle, trim
from hilserl.task_record import TaskMismatch, task_hash
from hilserl.types import End, Role
from robot.errors import BusError
from robot.types import Event, Operator
from tests.fakes.body import action
from tests.fakes.recordings import CAMERA, action_rows, lerobot, play, small_config
from tests.fakes.takes import TINY, Sayings, fake_body, fill, random_take

CONFIG = small_config()
KEY = IMAGES + CAMERA
COMPRESSION = 2.5
"""Mean difference of a picture after the video, of 255."""


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


def test_lines_say_where_each_episode_begins_and_ends(tmp_path):
    fill(tmp_path / "set", 3)
    lines = episode_lines(tmp_path / "set")
    assert [line["length"] for line in lines] == [6, 7, 8]
    assert [(line["dataset_from_index"], line["dataset_to_index"]) for line in lines] == [
        (0, 6),
        (6, 13),
        (13, 21),
    ]
    assert [line[f"videos/{KEY}/to_timestamp"] for line in lines] == [0.6, 0.7, 0.8]


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
    # one component alone is asked of: a step in which only the gripper closes is not idle
    asked = np.array([what == "a" for what in busy])[:, None] & (
        np.arange(len(busy))[:, None] % 4 == range(4)
    )
    moves = np.cumsum([0.0, *(2 * IDLE_RAD if what == "m" else 0.0 for what in busy)])
    joints = np.zeros((len(busy) + 1, 6), np.float32)
    joints[:, 2] = moves
    return replace(take, action=take.action * asked, joint_pos=joints)


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


@pytest.mark.parametrize("end", [End.SUCCESS, End.FAILURE, End.TIMEOUT, End.FAULT])
def test_the_last_step_says_how_it_ended_and_no_other_row_does(end):
    columns = random_take(TINY, 0, 4, end).columns()
    last = [False, False, False, True, False]
    expected = {
        "next.success": end is End.SUCCESS,
        "next.done": end in (End.SUCCESS, End.FAILURE),
        "next.truncated": end in (End.TIMEOUT, End.FAULT),
    }
    for name, marked in expected.items():
        assert columns[name].tolist() == [marked and here for here in last], name


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


def test_a_demonstration_in_which_nothing_moves_is_played_again(tmp_path, monkeypatch):
    still = [*[Operator()] * 3, Operator(event=Event.SUCCESS)]
    moved = [UP, UP, Operator(event=Event.SUCCESS)]
    said = record_said(TINY_CONFIG, Sayings(still, moved), 1, "demo", tmp_path / "set", monkeypatch)
    assert "nothing moved, which is no demonstration; again" in said
    assert len(read_records(tmp_path / "set")) == 1


def test_a_recording_without_an_episode_leaves_no_folder(tmp_path, monkeypatch):
    record_said(TINY_CONFIG, Sayings([Operator(event=Event.STOP)]), 1, "demo", tmp_path / "set", monkeypatch)
    assert not (tmp_path / "set").exists()


# --- the integrity check -----------------------------------------------------------------------------------


def edit_rows(path: Path, column: str, row: int, value) -> None:
    table = pq.read_table(path)
    values = table[column].to_pylist()
    values[row] = value
    index = table.column_names.index(column)
    pq.write_table(table.set_column(index, column, pa.array(values, table[column].type)), path)


def edit_record(path: Path, **changes) -> None:
    told = json.loads(pq.read_table(path)[RECORD][0].as_py())
    edit_rows(path, RECORD, 0, json.dumps(told | changes))


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
    "another verdict": ("meta/episodes", lambda path: edit_record(path, end="failure")),
    "another task's": ("meta/episodes", lambda path: edit_record(path, task_hash="0" * 16)),
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


def test_statistics_of_pictures_are_of_the_whole_episode():
    frames = [np.full((8, 8, 3), shade, np.uint8) for shade in range(201)]
    stats = picture_stats({"x": frames})["x"]
    np.testing.assert_allclose(stats["mean"].ravel() * 255, 100, atol=0.5)
    np.testing.assert_allclose([stats["min"].max() * 255, stats["max"].min() * 255], [0, 200])
