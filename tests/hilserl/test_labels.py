"""Laws of labels: what is said is what is stored and read, and nothing is lost or guessed."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilserl import labels_marks as marks_of
from hilserl.classifier.sources import SourceEpisode, open_source
from hilserl.cli import main
from hilserl.episode import save_episode
from hilserl.labels import (
    BY,
    Label,
    LabelError,
    change_labels,
    check_labels,
    labels_file,
    ranges_of,
    read_labels,
    write_labels,
)
from hilserl.labels_exchange import export_labels, import_labels
from hilserl.labels_marks import Marks
from hilserl.labels_proposals import fill, proposals
from hilserl.labels_review import DOUBT, disagreements
from hilserl.labels_session import MARKS, LabelSession, next_after
from hilserl.recording_files import Recording
from hilserl.task_record import task_json
from hilserl.types import End
from tests.fakes.episodes import short_episode
from tests.fakes.takes import TINY, random_take, record

FRAMES = 12
success = st.lists(st.booleans(), min_size=1, max_size=40).map(lambda bits: np.array(bits))
some = st.builds(
    lambda bits, by, exclude: Label(len(bits), ranges_of(bits), by, exclude),
    success,
    st.sampled_from(BY),
    st.booleans(),
)
many = st.dictionaries(st.integers(0, 1200).map(str), some, max_size=6)


@given(success)
def test_ranges_and_frames_say_the_same(bits):
    label = Label(len(bits), ranges_of(bits), "operator")
    assert (label.success() == bits).all()
    # brute force: half-open, ascending, apart
    assert [k for first, end in label.ranges for k in range(first, end)] == np.flatnonzero(bits).tolist()
    assert all(a[1] < b[0] for a, b in zip(label.ranges, label.ranges[1:], strict=False))


@pytest.mark.parametrize(
    "ranges",
    [((0, 0),), ((3, 2),), ((-1, 2),), ((0, 13),), ((0, 2), (2, 4)), ((4, 6), (0, 2)), ((0, 5), (4, 8))]
    + [((True, 3),), ((0.0, 3),)],
)
def test_ranges_that_cannot_be_are_refused_with_their_values(ranges):
    with pytest.raises(LabelError, match=rf"\[{ranges[-1][0]}|\[{ranges[0][0]}"):
        Label(FRAMES, ranges, "operator")
    with pytest.raises(LabelError, match="robot"):
        Label(FRAMES, (), "robot")


@settings(max_examples=40, deadline=None)
@given(labels=many)
def test_what_is_written_is_read(tmp_path_factory, labels):
    source = tmp_path_factory.mktemp("set") / "rec"
    write_labels(source, labels)
    assert read_labels(source) == labels
    assert list(read_labels(source)) == sorted(labels, key=int), "in the order of the episodes"
    assert [path.name for path in source.parent.iterdir()] == ["rec.labels.json"], "no leftovers, no folder"


@given(labels=many)
def test_what_is_exported_is_imported(labels):
    told = json.loads(json.dumps(export_labels(labels)))
    frames = {key: label.frames for key, label in labels.items()}
    assert import_labels(told, frames, "it") == {k: replace(v, by="import") for k, v in labels.items()}


@given(st.integers(1, 30), st.data())
def test_success_start_means_from_there_to_the_end(frames, data):
    start = data.draw(st.integers(0, frames - 1))
    (label,) = import_labels({"0": {"success_start": start}}, {"0": frames}, "it").values()
    assert label.success().tolist() == [k >= start for k in range(frames)]


def test_an_import_names_every_fault_and_takes_nothing():
    faults = {
        "0": {"success_start": 3, "ranges": [[3, 9]]},
        "1": {"success_start": 12},
        "2": {"success_start": -1},
        "3": {"success_start": True},
        "4": {"ranges": [[5, 9], [0, 2]]},
        "5": {},
        "6": {"exclude": False},
        "7": {"ranges": [[3, 13]]},
        "8": {"ranges": [[3]]},
        "9": {"ranges": None},
        "10": {"success_start": None},
        "11": {"sucess_start": 3},
        "12": 7,
        "13": {"exclude": "yes"},
        "007": None,
        "20": None,
    }
    frames = {str(index): FRAMES for index in range(15)}
    with pytest.raises(LabelError) as error:
        import_labels({**faults, "14": None}, frames, "it")
    lines = str(error.value).splitlines()[1:]
    assert [line.partition(":")[0].strip(" -") for line in lines] == list(faults)
    good = {"0": None, "1": {"exclude": True}, "2": {"ranges": [], "exclude": False}}
    assert [label.exclude for label in import_labels(good, frames, "it").values()] == [False, True, False]


def test_a_name_said_twice_and_a_damaged_file_are_errors_that_lose_nothing(tmp_path):
    write_labels(tmp_path / "rec", {"0": Label(3, (), "operator")})
    path = labels_file(tmp_path / "rec")
    good = path.read_text()
    for text in (good[:-4], good.replace("{\n", '{"0": 1,\n', 1), good.replace('"by"', '"who"'), "[]"):
        path.write_text(text)
        with pytest.raises(LabelError, match=r"rec\.labels\.json"):
            read_labels(tmp_path / "rec")
        with pytest.raises(LabelError):
            change_labels(tmp_path / "rec", {"1": Label(3, (), "operator")})
        assert path.read_text() == text


def test_labels_of_other_episodes_are_refused_and_kept(tmp_path):
    write_labels(tmp_path / "rec", {"0": Label(3, (), "operator"), "5": Label(4, ((0, 1),), "operator")})
    before = labels_file(tmp_path / "rec").read_bytes()
    for frames in ({"0": 4, "5": 4}, {"0": 3}):
        with pytest.raises(
            LabelError, match=r"episode (0 was labelled when it had 3 frames|5 does not exist)"
        ):
            LabelSession(tmp_path / "rec", frames)
    check_labels(read_labels(tmp_path / "rec"), {"0": 3, "5": 4, "6": 1}, "it")
    assert labels_file(tmp_path / "rec").read_bytes() == before


def test_two_processes_lose_none_of_each_others_labels(tmp_path):
    code = (
        "import sys; from pathlib import Path; from hilserl.labels import *\n"
        "_, root, who = sys.argv\n"
        "for k in range(40): change_labels(Path(root), {f'{who}{k}': Label(5, (), 'operator')})"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "rec"), who]) for who in ("1", "2")
    ]
    assert [process.wait(60) for process in running] == [0, 0]
    assert len(read_labels(tmp_path / "rec")) == 80


# marking


def visible(marks: Marks) -> list[bool]:
    return Label(FRAMES, marks.ranges, "operator").success().tolist()


starts = st.lists(st.booleans(), min_size=FRAMES, max_size=FRAMES).map(lambda bits: Marks(ranges_of(bits)))
places = st.integers(0, FRAMES - 1)


@given(starts, places, places)
def test_an_interval_is_both_frames_named_and_all_between(marks, one, other):
    first, last = min(one, other), max(one, other)
    before = visible(marks)
    if not before[first]:
        closed = marks_of.mark_end(marks_of.mark_start(marks, first, FRAMES), last, FRAMES)
        assert visible(closed) == [v or first <= k <= last for k, v in enumerate(before)]
        if first != last:
            with pytest.raises(LabelError, match=f"frame {last} and end at {first}"):
                marks_of.mark_end(marks_of.mark_start(Marks(()), last, FRAMES), first, FRAMES)
    if not before[last]:
        closed = marks_of.mark_start(marks_of.mark_end(marks, last, FRAMES), first, FRAMES)
        assert visible(closed) == [v or first <= k <= last for k, v in enumerate(before)]


@given(starts, places)
def test_one_key_within_an_interval_moves_its_edge(marks, frame):
    before = visible(marks)
    around = next((r for r in marks.ranges if r[0] <= frame < r[1]), (frame, frame))

    def without(dropped) -> list[bool]:
        return [v and k not in dropped for k, v in enumerate(before)]

    assert visible(marks_of.mark_start(marks, frame, FRAMES)) == without(range(around[0], frame))
    assert visible(marks_of.mark_end(marks, frame, FRAMES)) == without(range(frame + 1, around[1]))
    assert visible(marks_of.mark_to_end(marks, frame, FRAMES)) == [
        v or k >= frame for k, v in enumerate(without(range(around[0], frame)))
    ]
    if around[0] == around[1]:
        with pytest.raises(LabelError, match=f"frame {frame}"):
            marks_of.remove(marks, frame)
    else:
        assert visible(marks_of.remove(marks, frame)) == without(range(*around))


actions = st.lists(
    st.tuples(st.sampled_from("01"), st.sampled_from([*MARKS, "exclude", "accept", "undo", "redo"]), places),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(actions)
def test_every_change_is_on_the_disk_and_can_be_taken_back(tmp_path_factory, keys):
    source = tmp_path_factory.mktemp("set") / "rec"
    session = LabelSession(source, {"0": FRAMES, "1": FRAMES})
    states = [{}]
    pending = None
    for name, key, frame in keys:
        try:
            if key in MARKS:
                pending = session.mark(name, key, frame, pending).pending
            elif key == "accept":
                session.accept(name, ((frame, frame + 1),))
            elif key == "exclude":
                session.exclude(name)
            else:
                {"undo": session.undo, "redo": session.redo}[key]()
        except LabelError:
            pass
        assert read_labels(source) == session.labels
        if key not in ("undo", "redo") and session.labels != states[-1]:
            states.append(dict(session.labels))
        elif key in ("undo", "redo"):
            states = [{}]  # what follows is a history of its own
            break
    while states and len(states) > 1:
        states.pop()
        session.undo()
        assert read_labels(source) == states[-1]


def test_undo_and_redo_walk_the_same_way_back_and_forth(tmp_path):
    session = LabelSession(tmp_path / "rec", {"0": FRAMES, "1": FRAMES})
    seen = [{}]
    for name, key, frame in [("0", "to_end", 5), ("1", "none", 0), ("0", "remove", 7), ("0", "to_end", 3)]:
        session.mark(name, key, frame, None)
        seen.append(dict(session.labels))
    session.exclude("1")
    seen.append(dict(session.labels))
    for expected in seen[-2::-1]:
        session.undo()
        assert read_labels(tmp_path / "rec") == expected
    with pytest.raises(LabelError, match="nothing to undo"):
        session.undo()
    for expected in seen[1:]:
        session.redo()
        assert read_labels(tmp_path / "rec") == expected
    session.undo()
    session.mark("0", "none", 0, None)
    with pytest.raises(LabelError, match="nothing to redo"):
        session.redo()


def test_undo_does_not_take_back_what_another_program_said(tmp_path):
    session = LabelSession(tmp_path / "rec", {"0": FRAMES, "1": FRAMES})
    session.mark("0", "to_end", 5, None)
    theirs = Label(FRAMES, ((1, 2),), "import")
    change_labels(tmp_path / "rec", {"0": theirs, "1": theirs})
    with pytest.raises(LabelError, match="episode 0 was labelled by another program"):
        session.undo()
    session.mark("1", "none", 0, None)
    session.undo()
    assert read_labels(tmp_path / "rec") == {"0": theirs, "1": theirs} == session.labels


def test_nobody_says_no_success_by_removing_or_including(tmp_path):
    session = LabelSession(tmp_path / "rec", {"0": FRAMES})
    for key in ("to_end", "remove"):
        session.mark("0", key, 5, None)
    assert session.labels == {} and session.unlabelled() == ["0"]
    session.exclude("0")
    assert session.labels["0"] == Label(FRAMES, (), "operator", exclude=True)
    session.exclude("0")
    assert session.labels == {}
    session.mark("0", "to_end", 5, None)
    session.exclude("0")
    session.exclude("0")
    assert session.labels["0"] == Label(FRAMES, ((5, FRAMES),), "operator")


@given(st.integers(1, 8), st.data())
def test_the_next_unlabelled_one_is_the_nearest_ahead_round_the_end(count, data):
    names = [str(k) for k in range(count)]
    here = data.draw(st.sampled_from(names))
    wanted = data.draw(st.sets(st.sampled_from(names)))
    ahead = [names[(int(here) + k) % count] for k in range(1, count)]
    assert next_after(names, wanted, here) == next((name for name in ahead if name in wanted), None)


# what is known before anybody looks


def episode(end="timeout", truth=None, judge="button") -> SourceEpisode:
    return SourceEpisode(
        name="0",
        frames=FRAMES,
        end=end,
        facts={},
        truth=truth,
        judge=judge,
        seed=1,
        helped=np.zeros(FRAMES - 1, np.bool_),
    )


@pytest.mark.parametrize(
    ("known", "buttons"),
    [
        (episode("success"), ((11, 12),)),
        (episode("failure"), ()),
        (episode("timeout"), ()),
        (episode("fault"), ()),
        (episode("success", judge="classifier"), None),
        (episode("timeout", judge="classifier"), None),
        (episode("success", judge="oracle"), None),
    ],
)
def test_what_the_buttons_said_is_proposed_and_what_a_machine_said_is_not(known, buttons):
    assert [p.ranges for p in proposals(known)] == ([] if buttons is None else [buttons])
    with_truth = replace(known, truth=((2, 4),))
    assert [p.ranges for p in proposals(with_truth)][0] == ((2, 4),)


@pytest.mark.parametrize("end", ["success", "failure"])
def test_the_press_of_an_operator_during_rl_is_offered_with_what_he_overruled(end):
    (offered,) = proposals(replace(episode(end, judge="operator"), facts={"overruled": "success"}))
    assert offered.ranges == (((11, 12),) if end == "success" else ())
    assert "against the automatic reward, which called success" in offered.why


def test_filling_touches_only_what_has_no_label():
    known = [replace(episode(truth=((1, 3),)), name=name) for name in "0123"]
    known[3] = replace(known[3], truth=None)
    mine = {"1": Label(FRAMES, (), "operator")}
    new, unknown = fill(known, mine, "truth")
    assert new == {name: Label(FRAMES, ((1, 3),), "ground truth") for name in "02"}
    assert unknown == ("3",)


# the review list


@given(st.data())
def test_the_review_list_holds_every_doubted_frame_once_the_worst_episode_first(data):
    labels, probabilities = {}, {}
    for name in "abc":
        bits = data.draw(success)
        labels[name] = Label(len(bits), ranges_of(bits), "operator", data.draw(st.booleans()))
        values = [data.draw(st.floats(0, 1, width=32)) for _ in bits]
        probabilities[name] = np.array(values, np.float32)
    del probabilities["c"]
    found = disagreements(labels, probabilities)
    expected = {
        (name, k)
        for name in "ab"
        if not labels[name].exclude
        for k, said in enumerate(labels[name].success())
        if abs(np.float32(said) - probabilities[name][k]) >= DOUBT
    }
    listed = [(one.episode, k) for one in found for k in range(one.first, one.end)]
    assert sorted(listed) == sorted(expected)
    for one in found:
        doubts = [
            abs(float(one.success) - float(probabilities[one.episode][k])) for k in range(one.first, one.end)
        ]
        assert doubts[one.worst - one.first] == max(doubts) == pytest.approx(one.difference)
        assert {bool(labels[one.episode].success()[k]) for k in range(one.first, one.end)} == {one.success}
    order = list(dict.fromkeys(one.episode for one in found))
    worst = [max(one.difference for one in found if one.episode == name) for name in order]
    assert worst == sorted(worst, reverse=True)
    assert [one.episode for one in found] == [n for n in order for one in found if one.episode == n]
    for name in order:
        within = [one.difference for one in found if one.episode == name]
        assert within == sorted(within, reverse=True)


def test_neighbours_of_the_same_label_are_one_entry_and_other_lengths_are_refused():
    label = Label(8, ((4, 8),), "operator")
    probability = np.array([0.1, 0.9, 0.95, 0.8, 0.2, 0.9, 0.9, 0.9], np.float32)
    (first, second) = disagreements({"0": label}, {"0": probability})
    assert (first.first, first.end, first.worst, first.success) == (1, 4, 2, False)
    assert (second.first, second.end, second.success) == (4, 5, True)
    with pytest.raises(LabelError, match="episode 0"):
        disagreements({"0": label}, {"0": probability[1:]})


# the command


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets") / "rec"
    with Recording.create(root, TINY) as made:
        for seed, end in enumerate((End.SUCCESS, End.FAILURE, End.TIMEOUT)):
            take = random_take(TINY, seed, 6 + seed, end)
            if end is End.TIMEOUT:
                take = replace(take, achieved=None)
            made.append(take, record(take, TINY, role="reward"))
    return root


@pytest.fixture
def unlabelled(recording):
    labels_file(recording).unlink(missing_ok=True)
    return recording


def test_labels_from_truth_and_then_from_buttons(unlabelled, capsys):
    truth = {e.name: e.truth for e in open_source(unlabelled, TINY).episodes}
    assert main(["label", str(unlabelled), "--from", "truth"]) == 0
    assert {k: v.ranges for k, v in read_labels(unlabelled).items()} == {
        k: v for k, v in truth.items() if v is not None
    }
    assert "2 episodes labelled" in (said := capsys.readouterr().out) and "says nothing of them: 2" in said
    assert main(["label", str(unlabelled), "--from", "buttons"]) == 0
    assert "1 episodes labelled" in capsys.readouterr().out
    labels = read_labels(unlabelled)
    assert [labels[k].by for k in "012"] == ["ground truth", "ground truth", "button"]
    assert labels["2"] == Label(9, (), "button")


def test_export_and_import_by_the_command(unlabelled, tmp_path, capsys):
    main(["label", str(unlabelled), "--from", "buttons"])
    before = read_labels(unlabelled)
    assert before["0"].ranges == ((6, 7),), "the last frame of 7"
    assert main(["label", str(unlabelled), "--export", str(tmp_path / "out.json")]) == 0
    assert main(["label", str(unlabelled), "--export", str(tmp_path / "out.json")]) == 2, (
        "nothing is replaced"
    )
    labels_file(unlabelled).unlink()
    assert main(["label", str(unlabelled), "--import", str(tmp_path / "out.json")]) == 0
    assert read_labels(unlabelled) == {k: replace(v, by="import") for k, v in before.items()}
    assert main(["label", str(unlabelled), "--import", str(tmp_path / "out.json")]) == 0
    (tmp_path / "other.json").write_text('{"0": null, "1": null}')
    capsys.readouterr()
    assert main(["label", str(unlabelled), "--import", str(tmp_path / "other.json")]) == 2
    assert "contradicts labels that are there, of 0" in capsys.readouterr().err
    assert read_labels(unlabelled)["0"].ranges == ((6, 7),)


def test_a_label_of_another_frame_count_stops_every_form_of_the_command(unlabelled, tmp_path, capsys):
    write_labels(unlabelled, {"0": Label(8, (), "operator")})
    before = labels_file(unlabelled).read_bytes()
    (tmp_path / "in.json").write_text('{"1": null}')
    for words in (["--from", "truth"], ["--export", str(tmp_path / "x")], ["--no-browser"]):
        assert main(["label", str(unlabelled), *words]) == 2
        assert "episode 0 was labelled when it had 8 frames, now it has 7" in capsys.readouterr().err
    assert main(["label", str(unlabelled), "--import", str(tmp_path / "in.json")]) == 2
    assert labels_file(unlabelled).read_bytes() == before and not (tmp_path / "x").exists()
    assert main(["label", str(tmp_path)]) == 2
    assert "is no recording" in capsys.readouterr().err
    assert main(["label", str(tmp_path / "nowhere"), "--from", "truth"]) == 2
    assert f"there is no folder {tmp_path / 'nowhere'}" in capsys.readouterr().err


def test_episode_archives_are_labelled_by_the_stem_of_their_names(tmp_path):
    folder = tmp_path / "episodes"
    for number, facts in enumerate(({"judge": "operator"}, {"judge": "classifier"}), 1):
        one = short_episode(5, number=number)
        images = {"gripper_cam": np.zeros((6, 16, 16, 3), np.uint8)}
        save_episode(folder, replace(one, images=images, info=facts))
    task = replace(TINY, success=replace(TINY.success, kind="classifier"))
    (folder / "task.json").write_text(task_json(task))
    assert main(["label", str(folder), "--from", "buttons"]) == 0
    assert read_labels(folder) == {"a_00000001_00005_success": Label(6, ((5, 6),), "button")}
