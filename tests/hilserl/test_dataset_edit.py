"""Edited datasets: what is left is what was there, labels go along, and a kill or an undo loses nothing."""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilserl.cli import main
from hilserl.dataset_edit import drop, merge, relabel, rename_task, repair, trim, undo
from hilserl.dataset_edit_build import EditError
from hilserl.dataset_edit_video import cut_video
from hilserl.dataset_schema import IMAGES, TASK_RECORD, DatasetError, open_dataset, undo_folder
from hilserl.labels import Label, LabelError, labels_file, read_labels, write_labels
from hilserl.recording_check import check_recording
from hilserl.recording_files import Recording
from hilserl.recording_format import encode_video
from hilserl.recording_record import RecordingError, read_records
from hilserl.task_record import TaskMismatch
from hilserl.types import End
from tests.fakes.recordings import CAMERA, JOINT_COLUMNS, Rows, write_dataset
from tests.fakes.takes import TINY, random_take, record

KEY = IMAGES + CAMERA
ENDS = (End.SUCCESS, End.FAILURE, End.TIMEOUT)


def silent(_: str) -> None:
    """Nobody listens."""


def fill(root: Path, lengths: list[int], first: int = 0, labelled: bool = True, role: str = "demo") -> Path:
    """Episodes of so many steps, told apart by their seed; every other one labelled."""
    with Recording.create(root, TINY) as recording:
        for number, steps in enumerate(lengths, first):
            take = random_take(TINY, number, steps, ENDS[number % 3])
            recording.append(take, record(take, TINY, seed=number, role=role))
    if labelled:
        labels = {
            str(index): Label(steps + 1, ((steps - 1, steps + 1),), "operator", exclude=index == 2)
            for index, steps in enumerate(lengths)
            if index % 2 == 0
        }
        write_labels(root, labels)
    return root


def pictures(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as video:
        return [picture.to_ndarray(format="rgb24") for picture in video.decode(video=0)]


def content(root: Path) -> list[dict]:
    """What a dataset says of each episode, wherever it lies; frames by frame."""
    labels, found = read_labels(root), []
    for episode, told in zip(open_dataset(root).episodes, read_records(root), strict=True):
        label = labels.get(str(episode.index))
        table = pq.read_table(episode.data_file)
        found.append(
            {
                "seed": told.seed,
                "end": told.end,
                "trimmed": told.trimmed,
                "truth": [any(a <= i < b for a, b in told.success_ranges) for i in range(len(episode))],
                "label": None if label is None else (label.success().tolist(), label.exclude),
                "joints": np.stack(table["observation.joint_pos"].to_numpy()).tolist(),
                "rows": {
                    name: column.tolist() for name, column in episode.rows.items() if "_index" not in name
                },
                "pictures": [p.tobytes() for p in pictures(episode.videos[KEY][0])],
            }
        )
        found[-1]["rows"].pop("timestamp")
    return found


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, and a dataset's labels."""
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    if labels_file(folder).exists():
        files["labels"] = labels_file(folder).read_bytes()
    return files


def videos(root: Path) -> list[tuple[int, bytes]]:
    """(file on the disk, its content) of every episode's video."""
    paths = [episode.videos[KEY][0] for episode in open_dataset(root).episodes]
    return [(path.stat().st_ino, path.read_bytes()) for path in paths]


def lerobot(root: Path):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset("tests/edited", root=root)


# --- what is left is what was there ------------------------------------------------------------------------


def trimmed(episode: dict, start: int, stop: int) -> dict:
    """The law of trimming, frame by frame."""
    count, seen = len(episode["truth"]), slice(start, stop)
    new = episode | {key: episode[key][seen] for key in ("truth", "joints", "pictures")}
    new["rows"] = {name: column[seen] for name, column in episode["rows"].items()}
    if episode["label"] is not None:
        new["label"] = (episode["label"][0][seen], episode["label"][1])
    new["trimmed"] = (episode["trimmed"][0] + start, episode["trimmed"][1] + count - stop)
    if stop < count:
        known = episode["truth"] if episode["label"] is None else episode["label"][0]
        success = episode["end"] == "success" and known[stop - 1]
        new["end"] = "success" if success else "timeout"
        rows, steps = new["rows"], stop - start - 1
        zero = [0.0] * 4
        rows["action"] = [*rows["action"][:-1], zero]
        reward = episode["rows"]["next.reward"][count - 2] if success else rows["next.reward"][steps - 1]
        rows["next.reward"] = [*rows["next.reward"][: steps - 1], reward, 0.0]
        rows["intervention"] = [*rows["intervention"][:-1], False]
        last = [frame == steps - 1 for frame in range(steps + 1)]
        never = [False] * (steps + 1)
        rows["next.success"] = rows["next.done"] = last if success else never
        rows["next.truncated"] = never if success else last
    return new


@st.composite
def edits(draw):
    kind = draw(st.sampled_from(["drop", "trim", "relabel"]))
    return kind, draw(st.integers(0, 2)), draw(st.integers(0, 4)), draw(st.integers(2, 12))


@given(st.lists(edits(), min_size=2, max_size=3))
@settings(max_examples=3, deadline=None)
def test_any_edits_leave_every_frame_they_do_not_name_as_it_was(tmp_path_factory, changes):
    root = fill(tmp_path_factory.mktemp("edits") / "set", [5, 8, 6])
    model, done, states = content(root), 0, [snapshot(root)]
    for kind, episode, start, length in changes:
        if episode >= len(model) or (kind == "drop" and len(model) == 1):
            continue
        stop = min(start + length, len(model[episode]["truth"]))
        before = videos(root)
        if kind == "drop":
            drop(root, [episode], silent)
            del model[episode], before[episode]
        elif kind == "relabel":
            end = next(end for end in ENDS if end.value != model[episode]["end"])
            relabel(root, episode, end, silent)
            rows, steps = model[episode]["rows"], len(model[episode]["truth"]) - 1
            model[episode]["end"] = end.value
            last = [frame == steps - 1 for frame in range(steps + 1)]
            for name, on in (
                ("success", end is End.SUCCESS),
                ("done", end.terminal),
                ("truncated", not end.terminal),
            ):
                rows[f"next.{name}"] = [mark and on for mark in last]
            rows["next.reward"] = [
                *rows["next.reward"][: steps - 1], float(end is End.SUCCESS) - TINY.success.step_cost, 0.0
            ]  # fmt: skip
        else:
            if stop - start < 2 or stop - start == len(model[episode]["truth"]):
                continue
            trim(root, episode, start, stop, silent)
            model[episode] = trimmed(model[episode], start, stop)
            before[episode] = videos(root)[episode]
        assert videos(root) == before, "videos not named are the same files"
        assert content(root) == model
        assert check_recording(root, TINY).episodes == len(model)
        states.append(snapshot(root))
        done += 1
    for number in range(done):  # each version is what stood before its edit
        undo(root, f"{number:03d}", silent)
        assert snapshot(root) == states[number]


@pytest.mark.parametrize("start", [0, 1, 2, 5])
def test_a_cut_video_shows_the_very_pictures(tmp_path, start):
    rng = np.random.default_rng(start)
    noise = rng.integers(
        0, 256, (48, 80, 3), np.uint8
    )  # one picture that moves: only every other is a key frame
    encode_video(tmp_path / "old.mp4", [noise[:, frame : frame + 64] for frame in range(11)], 10)
    cut_video(tmp_path / "old.mp4", tmp_path / "new.mp4", start, 9, 10)
    old, new = pictures(tmp_path / "old.mp4"), pictures(tmp_path / "new.mp4")
    assert len(new) == 9 - start
    np.testing.assert_array_equal(new, old[start:9])


@pytest.mark.parametrize(("episode", "told"), [(0, True), (1, False)])
def test_a_label_that_says_otherwise_stays_and_is_named(tmp_path, episode, told):
    root, said = fill(tmp_path / "set", [5, 6]), []
    before = read_labels(root)
    relabel(root, episode, End.TIMEOUT, said.append)
    assert read_labels(root) == before
    assert any(f"episode {episode} shows success, and that stays" in line for line in said) == told


def test_lerobots_loader_opens_what_was_edited(tmp_path):
    one, two = fill(tmp_path / "one", [5, 8, 6]), fill(tmp_path / "two", [4, 9], first=7)
    drop(one, [0], silent)
    trim(one, 1, 1, 6, silent)
    trim(two, 1, 4, 10, silent)
    relabel(two, 0, End.TIMEOUT, silent)
    merge(tmp_path / "new", [one, two], silent)
    rename_task(tmp_path / "new", "put it in other words", silent)
    loaded, told = lerobot(tmp_path / "new"), content(tmp_path / "new")
    assert (loaded.num_episodes, len(loaded)) == (4, sum(len(episode["truth"]) for episode in told))
    frames = [(episode, frame) for episode in told for frame in range(len(episode["truth"]))]
    for index, (episode, frame) in enumerate(frames):
        item = loaded[index]
        shown = (item[KEY].numpy().transpose(1, 2, 0) * 255).round().astype(np.uint8)
        assert (
            np.abs(
                shown.astype(int) - np.frombuffer(episode["pictures"][frame], np.uint8).reshape(shown.shape)
            ).max()
            <= 2
        )
        assert item["action"].tolist() == episode["rows"]["action"][frame]
        assert item["frame_index"] == frame and item["task"] == "put it in other words"
    assert loaded.meta.stats["index"]["max"].tolist() == [len(frames) - 1]


# --- merging -----------------------------------------------------------------------------------------------


def test_a_merge_is_its_parts_one_after_the_other_and_leaves_them_alone(tmp_path):
    one, two = fill(tmp_path / "one", [5, 8]), fill(tmp_path / "two", [4, 9, 6], first=7)
    before = snapshot(one), snapshot(two)
    merge(tmp_path / "new", [two, one], silent)
    assert content(tmp_path / "new") == content(two) + content(one)
    assert videos(tmp_path / "new") == videos(two) + videos(one)
    assert (snapshot(one), snapshot(two)) == before
    assert {path.name for path in tmp_path.iterdir()} == {
        name + more for name in ("one", "two", "new") for more in ("", ".labels.json")
    }
    with Recording.reopen(tmp_path / "new", TINY, "demo") as recording:
        take = random_take(TINY, 50, 3)
        recording.append(take, record(take, TINY, seed=50))
    assert check_recording(tmp_path / "new", TINY).episodes == 6


def test_what_does_not_belong_together_is_not_merged_and_named(tmp_path):
    one, two = fill(tmp_path / "one", [5]), fill(tmp_path / "two", [4], role="reward")
    with pytest.raises(EditError, match="role is {'demo'} there, {'reward'} here"):
        merge(tmp_path / "new", [one, two], silent)
    (two / TASK_RECORD).write_text(
        (two / TASK_RECORD).read_text().replace('"action_scale":0.02', '"action_scale":0.03')
    )
    with pytest.raises(TaskMismatch, match=r"action_scale: 0\.02 there, 0\.03 here"):
        merge(tmp_path / "new", [one, two], silent)
    with pytest.raises(EditError, match="two or more"):
        merge(tmp_path / "new", [one, one], silent)
    other = fill(tmp_path / "other", [3])
    with pytest.raises(EditError, match="exists, and a merge replaces nothing"):
        merge(other, [one, fill(tmp_path / "three", [3])], silent)
    assert not (tmp_path / "new").exists() and not undo_folder(tmp_path / "new").exists()


# --- undoing -----------------------------------------------------------------------------------------------


def test_undo_brings_back_every_byte_and_undoing_it_is_redo(tmp_path):
    root = fill(tmp_path / "set", [5, 8, 6])
    before = snapshot(root)
    drop(root, [1], silent)
    edited = snapshot(root)
    for expected in (before, edited, before, edited):
        undo(root, "", silent)
        assert snapshot(root) == expected
    with pytest.raises(EditError, match="no version '777'; it has\n  000  before: drop episode 1"):
        undo(root, "777", silent)
    assert snapshot(root) == edited


def test_undo_knows_where_there_were_no_labels(tmp_path):
    root = fill(tmp_path / "set", [5, 8], labelled=False)
    with pytest.raises(EditError, match="nothing to undo"):
        undo(root, "", silent)
    drop(root, [1], silent)
    assert not labels_file(root).exists()
    write_labels(root, {"0": Label(6, (), "operator")})
    undo(root, "", silent)
    assert not labels_file(root).exists()
    undo(root, "", silent)
    assert read_labels(root) == {"0": Label(6, (), "operator")}


def test_a_version_kept_is_not_changed_by_recording_on(tmp_path):
    root = fill(tmp_path / "set", [5, 8], labelled=False)
    before = snapshot(root)
    drop(root, [0], silent)
    with Recording.reopen(root, TINY, "demo") as recording:
        take = random_take(TINY, 50, 3)
        recording.append(take, record(take, TINY, seed=50))
    undo(root, "", silent)
    assert snapshot(root) == before
    undo(root, "", silent)
    assert [one.seed for one in read_records(root)] == [1, 50]


# --- refusing ----------------------------------------------------------------------------------------------


def test_a_recording_in_progress_or_another_edit_is_refused(tmp_path):
    root = fill(tmp_path / "set", [5, 8])
    before = snapshot(root)
    with (
        Recording.reopen(root, TINY, "demo"),
        pytest.raises((EditError, RecordingError), match="recorded into"),
    ):
        drop(root, [0], silent)
    undo_folder(root).mkdir(exist_ok=True)
    claim = os.open(undo_folder(root), os.O_RDONLY)
    fcntl.flock(claim, fcntl.LOCK_EX)
    with pytest.raises(EditError, match="edited by another process"):
        drop(root, [0], silent)
    os.close(claim)
    assert snapshot(root) == before
    drop(root, [0], silent)


def test_labels_that_change_meanwhile_or_are_of_other_episodes_are_never_moved(tmp_path):
    root = fill(tmp_path / "set", [5, 8])
    before = content(root)

    def label_now(_: str) -> None:
        write_labels(root, {"1": Label(9, (), "operator")})

    with pytest.raises(EditError, match="was changed meanwhile"):
        drop(root, [0], label_now)
    assert read_labels(root) == {"1": Label(9, (), "operator")} and not undo_folder(root).exists()
    assert [one["seed"] for one in content(root)] == [one["seed"] for one in before]
    write_labels(root, {"1": Label(77, (), "operator")})
    with pytest.raises(LabelError, match="had 77 frames, now it has 9"):
        drop(root, [0], silent)


def test_what_hilserl_did_not_record_is_lerobots_to_edit(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        Rows(
            rng.random((4, 6), np.float32),
            rng.random((4, 6), np.float32),
            [np.zeros((16, 32, 3), np.uint8)] * 4,
        )
        for _ in range(2)
    ]
    root = write_dataset(tmp_path / "set", rows, names=(JOINT_COLUMNS, JOINT_COLUMNS))
    with pytest.raises(EditError, match="lerobot-edit-dataset"):
        drop(root, [0], silent)
    shutil.copyfile(fill(tmp_path / "ours", [3]) / TASK_RECORD, root / TASK_RECORD)
    with pytest.raises(EditError, match=r"no files of their own.*\n?.*lerobot-edit-dataset"):
        drop(root, [0], silent)


def test_impossible_edits_are_named_and_change_nothing(tmp_path, capsys):
    root = fill(tmp_path / "set", [5, 8])
    before = snapshot(root)
    for words, complaint in {
        ("drop", "2"): "has no episode 2; its episodes are 0 ... 1",
        ("drop", "0", "1"): "remove the folder instead",
        ("trim", "0", "3", "4"): "at least two frames",
        ("trim", "0", "3", "7"): "0 <= first < end <= 6",
        ("trim", "0", "0", "6"): "all of episode 0 already",
        ("relabel", "--episode", "0", "--end", "success"): "ends in success already",
        ("relabel", "--episode", "0"): "either --episode and --end",
        ("relabel", "--task", "lift"): "is called 'lift'",
        ("undo",): "nothing to undo",
    }.items():
        assert main(["dataset", words[0], str(root), *words[1:]]) == 2
        assert complaint in capsys.readouterr().err, words
    assert main(["dataset", "drop", str(tmp_path / "nothing"), "0"]) == 2
    assert snapshot(root) == before
    assert {path.name for path in tmp_path.iterdir()} == {"set", "set.labels.json"}
    assert main(["dataset", "drop", str(root), "0"]) == 0 and main(["dataset", "undo", str(root)]) == 0
    assert snapshot(root) == before


def test_an_episode_that_cannot_be_read_can_be_dropped(tmp_path):
    root = fill(tmp_path / "set", [5, 8, 6])
    kept = [one for index, one in enumerate(content(root)) if index != 1]
    (root / f"videos/{KEY}/chunk-000/file-001.mp4").write_bytes(b"torn")
    (root / "data/chunk-000/file-001.parquet").write_bytes(b"torn")
    damaged = snapshot(root)
    with pytest.raises(DatasetError, match="file-001"):
        drop(root, [0], silent)
    assert snapshot(root) == damaged
    drop(root, [1], silent)
    assert content(root) == kept
    said: list[str] = []
    undo(root, "", said.append)
    assert snapshot(root) == damaged and "NOT WHOLE" in said[-1]


def test_what_a_killed_recorder_left_is_put_in_order_first(tmp_path):
    root = fill(tmp_path / "set", [5, 8, 6])
    shutil.copyfile(root / "meta/info.json", tmp_path / "info")
    with Recording.reopen(root, TINY, "demo") as recording:
        take = random_take(TINY, 50, 3)
        recording.append(take, record(take, TINY, seed=50))
    shutil.copyfile(tmp_path / "info", root / "meta/info.json")  # killed before it counted
    (root / ".partial").mkdir()
    drop(root, [0], silent)
    assert [one.seed for one in read_records(root)] == [1, 2, 50]


# --- a kill at any moment ----------------------------------------------------------------------------------


class Killed(BaseException):
    """The process is dead from here on."""


class Life:
    """Lets a process touch the disk `left` more times; then, and ever after, it is dead."""

    def __init__(self, monkeypatch, left: int) -> None:
        self.left = left
        calls = {os: ("link", "mkdir"), shutil: ("rmtree", "copyfile"), pq: ("write_table",)}
        calls[Path] = ("replace", "rename", "unlink", "rmdir", "mkdir", "write_text")
        for owner, names in calls.items():
            for name in names:
                monkeypatch.setattr(owner, name, self._mortal(getattr(owner, name)))

    def _mortal(self, call):
        def mortal(*args, **options):
            if self.left == 0:
                raise Killed
            self.left -= 1
            return call(*args, **options)

        return mortal


def edit_and_undo(root: Path) -> None:
    undo(root, "", silent)


KILLS = {
    "drop": lambda root: drop(root, [0], silent),
    "trim": lambda root: trim(root, 1, 1, 4, silent),
    "merge": lambda root: merge(root.with_name("new"), [root, root.with_name("other")], silent),
    "undo": lambda root: undo(root, "", silent),
}


@pytest.mark.parametrize("kind", KILLS)
def test_a_kill_at_any_moment_leaves_the_old_or_the_new_with_its_labels(kind, tmp_path, monkeypatch):
    start = tmp_path / "start"
    start.mkdir()
    fill(start / "set", [2, 5])
    fill(start / "other", [2], first=7)
    if kind == "undo":
        relabel(start / "set", 0, End.TIMEOUT, silent)
    target = "new" if kind == "merge" else "set"
    done = tmp_path / "done"
    shutil.copytree(start, done)
    with monkeypatch.context() as context:
        life = Life(context, 10_000)
        KILLS[kind](done / "set")
        steps = 10_000 - life.left
    old, new, other = (snapshot(path) for path in (start / target, done / target, start / "other"))
    seen = {"old": 0, "new": 0}
    # while the new one is built every few moments will do; while it is exchanged, every one
    for left in sorted({*range(0, steps, 4), *range(max(0, steps - 30), steps)}):
        root = tmp_path / f"{left}" / "set"
        shutil.copytree(start, root.parent)
        with monkeypatch.context() as context:
            Life(context, left)
            with pytest.raises(Killed):
                KILLS[kind](root)
        edited = root.with_name(target)
        if edited.exists():  # before anything is repaired: whole, or not to be found
            assert snapshot(edited) in (old, new)
        if undo_folder(edited).exists() or edited.exists():
            with suppress(EditError):  # there is nothing yet of a merge that had not been decided on
                repair(edited, silent)
        found = snapshot(edited)
        assert found in (old, new)
        seen["new" if found == new else "old"] += 1
        assert snapshot(root.with_name("other")) == other
        assert not (undo_folder(edited) / "new").exists()
        shutil.rmtree(root.parent)
    assert seen["old"] > 10 and seen["new"] > 3
