import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilserl.rundir import RunDir, RunDirError, whole_file, write_whole


def test_a_new_run_has_its_folders_and_its_configuration(tmp_path):
    with RunDir.create(tmp_path, "job", '{"a": 1}', resume=False) as run:
        assert (run.root / "config.json").read_text() == '{"a": 1}'
        for folder in (run.metrics, run.episodes, run.checkpoints, run.videos):
            assert folder.is_dir() and folder.parent == tmp_path / "job"


def test_an_existing_run_is_neither_overwritten_nor_continued_unasked(tmp_path):
    RunDir.create(tmp_path, "job", "first", resume=False).close()
    with pytest.raises(RunDirError, match=r"(?s)job.*--resume=true.*--job_name") as refused:
        RunDir.create(tmp_path, "job", "second", resume=False)
    assert (tmp_path / "job" / "config.json").read_text() == "first"
    # the refusal let go of the folder, though its traceback is still held
    assert refused.tb is not None
    RunDir.create(tmp_path, "job", "first", resume=True).close()


def test_resume_refuses_where_nothing_is_and_names_the_runs_there(tmp_path):
    RunDir.create(tmp_path, "other", "{}", resume=False).close()
    with pytest.raises(RunDirError, match=r"nothing to resume.*job.*other"):
        RunDir.create(tmp_path, "job", "{}", resume=True)
    assert not (tmp_path / "job").exists()


def test_resume_keeps_each_earlier_configuration(tmp_path):
    RunDir.create(tmp_path, "job", "one", resume=False).close()
    for text in ("two", "two", "three"):
        RunDir.create(tmp_path, "job", text, resume=True).close()
    root = tmp_path / "job"
    kept = sorted(p.name for p in root.glob("config*.json"))
    assert kept == ["config.json", "config_before_resume_1.json", "config_before_resume_2.json"]
    assert [(root / name).read_text() for name in kept] == ["three", "one", "two"]


def test_actors_and_learner_start_in_any_order_and_stay_apart(tmp_path):
    with (
        RunDir.open_actor(tmp_path, "job", "left", "left") as left,
        RunDir.create(tmp_path, "job", "learner", resume=False) as run,
        RunDir.open_actor(tmp_path, "job", "right", "right") as right,
    ):
        assert left.root != right.root
        assert {left.root.parent, right.root.parent} == {run.root / "actors"}
        assert (run.root / "config.json").read_text() == "learner"
        assert (left.root / "config.json").read_text() == "left"
    with RunDir.open_actor(tmp_path, "job", "left", "left"):
        pass  # an actor comes back without being told to resume


def test_one_folder_has_one_process(tmp_path):
    with (
        RunDir.create(tmp_path, "job", "{}", resume=False),
        pytest.raises(RunDirError, match=f"in use by a learner with process id {os.getpid()}"),
    ):
        RunDir.create(tmp_path, "job", "{}", resume=True)
    with (
        RunDir.open_actor(tmp_path, "job", "a", "{}"),
        pytest.raises(RunDirError, match="in use by an actor"),
    ):
        RunDir.open_actor(tmp_path, "job", "a", "{}")


def test_a_process_that_died_holds_nothing(tmp_path):
    code = (
        "import os, sys; from hilserl.rundir import RunDir\n"
        "run = RunDir.create(sys.argv[1], 'job', '{}', resume=False); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 9
    RunDir.create(tmp_path, "job", "{}", resume=True).close()


@given(st.text(max_size=8).filter(lambda t: not t.isalnum() or not t.isascii()))
def test_a_job_name_never_leads_elsewhere(name):
    if name and name[0].isalnum() and name.isascii() and all(c.isalnum() or c in "._-" for c in name):
        return
    with pytest.raises(RunDirError, match="job_name"):
        RunDir.create("never_made", name, "{}", resume=False)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_whole(path, "old")
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with path.open() as reader:  # who reads meanwhile reads the old file to its end
        write_whole(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


def test_what_a_killed_writer_left_is_swept_on_resume(tmp_path):
    run = RunDir.create(tmp_path, "job", "{}", resume=False)
    with whole_file(run.metrics / "learner.csv") as temporary:
        left = temporary.with_name(temporary.name.replace(".tmp", "x.tmp"))
        left.write_text("half")
    run.close()
    RunDir.create(tmp_path, "job", "{}", resume=True).close()
    assert [p.name for p in run.metrics.iterdir()] == ["learner.csv"]
