import csv
import io
import json
import math
import os
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hilserl import display
from hilserl.display import EpisodeDisplay, LearnerDisplay, format_table
from hilserl.metrics import (
    METRICS,
    MetricError,
    MetricLog,
    check_metrics,
    read_rows,
    start_wandb,
    train_names,
)
from tests.fakes import learning

NAMES = sorted(set(METRICS) - {"time/transitions", "time/unix_s"})
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**40), 2**40)
ROWS = st.lists(st.dictionaries(st.sampled_from(NAMES), NUMBERS, max_size=5), min_size=1, max_size=6)


@pytest.fixture(scope="module", autouse=True)
def fast_disk():
    """Waiting for the platter proves nothing here and takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


def read_csv(path: Path) -> list[dict[str, float]]:
    with path.open(newline="") as file:
        return [{k: float(v) for k, v in row.items() if v != ""} for row in csv.DictReader(file)]


@settings(max_examples=40, deadline=None)
@given(ROWS, st.integers(0, 5))
def test_jsonl_and_csv_hold_the_same_rows_whatever_columns_come(rows, reopen_at):
    with tempfile.TemporaryDirectory() as folder:
        log = MetricLog(Path(folder), "learner", tensorboard=False)
        for number, row in enumerate(rows):
            if number == reopen_at:
                log.close()
                log = MetricLog(Path(folder), "learner", tensorboard=False)
            log.log(row, transitions=10 * number)
        log.close()
        stored = read_rows(Path(folder) / "learner.jsonl")
        assert read_csv(Path(folder) / "learner.csv") == stored
        for number, (row, found) in enumerate(zip(rows, stored, strict=True)):
            assert found.pop("time/unix_s") > 0
            assert found == {**row, "time/transitions": 10 * number}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 400))
def test_a_log_cut_at_any_byte_loses_the_torn_row_only(cut):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        with MetricLog(Path(folder), "a", tensorboard=False) as log:
            for number in range(4):
                log.log({"episode/index": number}, transitions=number)
        data = path.read_bytes()[:cut]
        path.write_bytes(data)
        with MetricLog(Path(folder), "a", tensorboard=False) as log:
            log.log({"episode/index": 99}, transitions=99)
        indices = [row["episode/index"] for row in read_rows(path)]
        assert indices == [*range(data.count(b"\n")), 99]
        assert read_csv(path.with_suffix(".csv")) == read_rows(path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train/critic_los": 1.0}, "train/critic_los"),
        ({"train/critic_loss": math.nan}, "train/critic_loss = nan"),
        ({"train/critic_loss": math.inf}, "not finite"),
    ],
)
def test_unknown_names_and_broken_values_are_refused_whole(tmp_path, values, message):
    with MetricLog(tmp_path, "a", tensorboard=False) as log, pytest.raises(MetricError, match=message):
        log.log({"episode/index": 1, **values}, transitions=1)
    assert read_rows(tmp_path / "a.jsonl") == []


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"episode/index": 1}\n{"epis\n{"episode/index": 3}\n')
    with pytest.raises(MetricError, match=r"a\.jsonl line 2"):
        MetricLog(tmp_path, "a", tensorboard=False)


def test_tensorboards_reader_reads_back_what_was_written(tmp_path):
    with MetricLog(tmp_path, "learner", tensorboard=True) as log:
        for transitions in (100, 200):
            log.log(
                {"train/critic_loss": 0.5 * transitions, "episode/success": True}, transitions=transitions
            )
    reader = EventAccumulator(str(tmp_path / "tensorboard" / "learner"))
    reader.Reload()
    assert [(e.step, e.value) for e in reader.Scalars("train/critic_loss")] == [(100, 50.0), (200, 100.0)]
    assert [e.value for e in reader.Scalars("episode/success")] == [1.0, 1.0]
    assert set(reader.Tags()["scalars"]) <= set(METRICS)


def test_logging_needs_no_torch(tmp_path):
    code = (
        "import sys; from pathlib import Path; from hilserl.metrics import MetricLog\n"
        "MetricLog(Path(sys.argv[1]), 'a', tensorboard=True).log({'episode/index': 1}, transitions=1)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0


def test_wandb_asked_for_but_not_installed_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MetricError, match=r"run\.wandb is true.*pip install.*run\.wandb=false"):
        start_wandb("job", tmp_path, {})


def test_rows_reach_wandb(tmp_path, monkeypatch):
    sent, about = [], {}
    run = types.SimpleNamespace(log=sent.append, finish=lambda: None, define_metric=lambda *_, **__: None)
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **k: about.update(k) or run))
    wandb = start_wandb("job", tmp_path, {"seed": 1})
    with MetricLog(tmp_path, "a", tensorboard=False, wandb=wandb) as log:
        log.log({"episode/index": 1}, transitions=7)
    assert sent == read_rows(tmp_path / "a.jsonl")
    assert about["name"] == "job" and about["config"] == {"seed": 1}


def test_every_number_the_learner_reports_is_in_the_glossary():
    sac = learning.agent(bc_weight=1.0)
    sac.pretrain_bc(learning.batches(), 1)
    sac.update(learning.batches(), 2)
    values = train_names(sac.metrics())
    assert len(values) > 15
    check_metrics(values)


def test_every_metric_says_its_unit_and_meaning():
    for name, metric in METRICS.items():
        assert name.count("/") == 1 and metric.unit and len(metric.meaning) > 10, name


def test_in_a_file_episodes_are_plain_lines():
    out = io.StringIO()
    with EpisodeDisplay(Console(file=out, force_terminal=False, width=200)) as shown:
        shown.live("moving")
        shown.episode({"episode/index": 7, "episode/steps": 64, "episode/success": 1, "time/minutes": 2.25})
        shown.message("[red]brackets[/red] stay")
    header, row, message = out.getvalue().splitlines()
    assert "\x1b" not in out.getvalue() and "moving" not in out.getvalue()
    assert dict(zip(header.split(), row.split(), strict=True))["success"] == "yes"
    assert row.split()[:2] == ["7", "64"] and len(header) == len(row) <= 80
    assert message == "[red]brackets[/red] stay"


def test_on_a_terminal_the_live_line_moves_below_the_rows():
    out = io.StringIO()
    with EpisodeDisplay(Console(file=out, force_terminal=True, width=100)) as shown:
        shown.live("moving")
        shown.episode({"episode/index": 7})
    assert "moving" in out.getvalue()


def test_display_and_glossary_name_the_same_metrics():
    assert {column.metric for column in display._COLUMNS} <= set(METRICS)


def test_the_learners_table_shows_every_value_once_in_its_section():
    values = {"time/transitions": 12345, "train/critic_loss": 0.012345, "rollout/helped_success": 0.5}
    text = format_table(values)
    assert len({len(line) for line in text.splitlines()}) == 1
    assert text.index("rollout/") < text.index("train/") < text.index("time/")
    assert "| 12345 " in text and "| 0.01235 " in text
    out = io.StringIO()
    LearnerDisplay(Console(file=out, width=40)).table(values)
    assert out.getvalue().splitlines() == text.splitlines()


def test_rows_are_json_for_any_reader(tmp_path):
    with MetricLog(tmp_path, "a", tensorboard=False) as log:
        log.log({"episode/success": True, "episode/return": 1.5}, transitions=3)
    row = json.loads((tmp_path / "a.jsonl").read_text())
    assert row["episode/success"] == 1 and row["time/transitions"] == 3
