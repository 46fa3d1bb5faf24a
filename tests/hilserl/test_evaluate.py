import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hilserl.evaluate import Summary, TrialResult, evaluate, report, success_map, wilson_interval
from hilserl.types import End

COUNTS = st.integers(0, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def trial(seed: int, end: End = End.SUCCESS, **more) -> TrialResult:
    return TrialResult(seed=seed, steps=40, reward=float(end is End.SUCCESS), result=end, **more)


def shown(item) -> str:
    console = Console(width=100, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(item)
    return capture.get()


@pytest.mark.parametrize(
    ("successes", "n", "percent"),
    [(3, 5, (23, 88)), (14, 20, (48, 85)), (8, 10, (49, 94)), (6, 10, (31, 83)), (50, 50, (93, 100))],
)
def test_intervals_that_were_computed_elsewhere(successes, n, percent):
    assert tuple(round(100 * end) for end in wilson_interval(successes, n)) == percent


@given(COUNTS)
def test_the_interval_holds_the_rate_and_mirrors(counts):
    successes, n = counts
    low, high = wilson_interval(successes, n)
    assert 0 <= low <= (successes / n if n else 0.5) <= high <= 1
    mirrored = wilson_interval(n - successes, n)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high))
    if n:
        twice = wilson_interval(2 * successes, 2 * n)
        assert twice[1] - twice[0] < high - low


@pytest.mark.parametrize(("successes", "n"), [(-1, 5), (6, 5)])
def test_impossible_counts_are_refused(successes, n):
    with pytest.raises(ValueError, match=f"{successes} successes of {n}"):
        wilson_interval(successes, n)


def test_all_seeds_are_played_once_in_order_and_everything_is_written(tmp_path):
    path = tmp_path / "eval.json"
    seen, on_disk = [], []

    def play(seed: int) -> TrialResult:
        on_disk.append(len(json.loads(path.read_text())["trials"]) if path.exists() else 0)
        return trial(seed, End.SUCCESS if seed % 2 else End.TIMEOUT, facts={"cube_x_m": 0.2})

    settings = {"deterministic": True, "checkpoint": "x", "task_hash": "h"}
    summary = evaluate(play, range(10, 14), on_trial=seen.append, settings=settings, json_path=path)
    assert [t.seed for t in summary.trials] == [t.seed for t in seen] == [10, 11, 12, 13]
    assert on_disk == [0, 1, 2, 3]
    stored = json.loads(path.read_text())
    assert stored["settings"] == {**settings, "seeds": [10, 11, 12, 13]}
    assert (stored["successes"], stored["episodes"], stored["complete"]) == (2, 4, True)
    assert stored["success_low95"] < stored["success_rate"] == 0.5 < stored["success_high95"]
    assert stored["trials"][0]["facts"] == {"cube_x_m": 0.2}


@pytest.mark.parametrize("done", [0, 2])
def test_an_interrupt_sums_up_what_was_done(tmp_path, done):
    def play(seed: int) -> TrialResult:
        if seed == done:
            raise KeyboardInterrupt
        return trial(seed)

    summary = evaluate(play, range(20), json_path=tmp_path / "eval.json")
    stored = json.loads((tmp_path / "eval.json").read_text())
    assert len(summary.counted) == stored["episodes"] == done
    assert not stored["complete"] and stored["planned"] == 20
    assert "20" in summary.sentence() and "planned" in summary.sentence()
    assert stored["success_rate"] == (1.0 if done else None)
    assert bool(summary.metrics()) == bool(done)


def test_the_operators_stop_ends_it_and_is_no_failure():
    summary = evaluate(lambda s: trial(s, End.DISCARDED, stopped=True) if s == 3 else trial(s), range(9))
    assert (len(summary.trials), len(summary.counted), summary.success_rate) == (4, 3, 1.0)
    assert not summary.complete


def test_other_errors_are_not_swallowed(tmp_path):
    def play(seed: int) -> TrialResult:
        if seed:
            raise RuntimeError("camera gone")
        return trial(seed)

    with pytest.raises(RuntimeError, match="camera gone"):
        evaluate(play, range(3), json_path=tmp_path / "eval.json")
    assert json.loads((tmp_path / "eval.json").read_text())["episodes"] == 1


def test_a_persons_verdict_stands_beside_the_rule_and_changes_nothing():
    trials = (trial(1, human=End.SUCCESS), trial(2, End.TIMEOUT, human=End.SUCCESS), trial(3, End.TIMEOUT))
    summary = Summary(trials, 3)
    assert summary.successes == 1
    assert summary.to_json()["disputed_seeds"] == [2]
    assert "disagrees on seed 2" in shown(report(summary))


PLACES = st.tuples(st.floats(0.1, 0.3), st.floats(-0.1, 0.1), st.sampled_from([End.SUCCESS, End.TIMEOUT]))


@given(st.lists(PLACES, min_size=1, max_size=30), st.integers(1, 5))
def test_the_map_counts_every_trial_once(places, cells):
    trials = [trial(0, end, facts={"cube_x_m": x, "cube_y_m": y}) for x, y, end in places]
    table = success_map([*trials, trial(1), trial(2, End.DISCARDED, facts=trials[0].facts)], cells)
    assert table is not None
    found = [str(cell) for column in table.columns[1:] for cell in column.cells]
    counts = [tuple(map(int, cell.split("/"))) for cell in found if cell != "-"]
    assert sum(n for _, n in counts) == len(places)
    assert sum(s for s, _ in counts) == sum(end is End.SUCCESS for _, _, end in places)


def test_the_map_is_seen_from_behind_the_arm():
    far_left = trial(0, facts={"cube_x_m": 0.3, "cube_y_m": 0.1})
    near_right = trial(1, End.FAILURE, facts={"cube_x_m": 0.2, "cube_y_m": -0.1})
    table = success_map([far_left, near_right], 2)
    assert table is not None
    rows = [
        [str(c) for c in row] for row in zip(*(column.cells for column in table.columns[1:]), strict=True)
    ]
    assert rows == [["1/1", "-"], ["-", "0/1"]]


def test_without_positions_there_is_no_map():
    assert success_map([trial(1)]) is None
    assert "3/3" in shown(report(Summary(tuple(map(trial, range(3))), 3)))
