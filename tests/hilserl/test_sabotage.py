"""The harness that plants mistakes catches by name only, and can fail. A few of its mistakes, for real."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilserl.benchmark.sabotage import Mistake, Outcome, Result, Trial, catch, run_sabotage, table
from hilserl.benchmark.sabotage_config import in_task
from hilserl.benchmark.sabotage_list import MISTAKES
from hilserl.benchmark.sabotage_setup import Parts, build_setup
from hilserl.benchmark.sabotage_trials import CONFIG, LEARNER, doctor, replaced
from hilserl.doctor.findings import Finding, Status

ROOT = Path(__file__).resolve().parents[2]
EASY, WIRE = ROOT / "configs/twin_lift_easy_config.json", ROOT / "configs/twin_wire_config.json"
FEW = (
    "wrist_roll_in_degrees",
    "crop_read_as_x_y_w_h",
    "servo_offset_differs",
    "wrist_roll_over_half_a_turn",
    "overload_does_not_let_go",
    "arms_swapped_after_a_reboot",
    "fingertip_3_cm_off",
    "gripper_actions_0_to_2",
    "gripper_still_means_close",
    "demos_of_zero_actions",
    "demos_of_a_tenth_of_the_scale",
    "actions_three_steps_late",
    "state_in_degrees",
    "pose_of_the_last_command",
    "rewards_for_every_good_frame",
    "pictures_0_to_1_kept_as_bytes",
    "wrong_task_hash",
    "demos_that_are_no_demos",
    "policy_acts_0_to_2",
)
SCALE = doctor("action_scale")


def quiet(_: object) -> None:
    pass


def nothing(_: object) -> None:
    pass


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sabotage")
    return build_setup(folder / "healthy", EASY, WIRE, Parts(demos=2, recorded=0, trained=False), quiet)


def test_every_mistake_has_a_name_of_its_own():
    names = [one.name for one in MISTAKES]
    assert len(set(names)) == len(names) >= 30
    assert all(one.row and one.word or one.catcher.startswith("gripper_cam") for one in MISTAKES)


def test_each_is_caught_by_name(healthy):
    before = sorted(path.name for path in healthy.folder.rglob("*"))
    chosen = [one for one in MISTAKES if one.name in FEW]
    result = run_sabotage(healthy, chosen, quiet)
    assert {one.mistake.name: one.said for one in result.outcomes if not one.caught} == {}
    assert result.to_json()["healthy_green"] is True and len(chosen) == len(FEW)
    assert before == sorted(path.name for path in healthy.folder.rglob("*")), "they are planted in copies"
    assert [path.name for path in healthy.folder.parent.iterdir()] == ["healthy"], "which are thrown away"


@pytest.mark.parametrize("mistake", [one for one in MISTAKES if one.name in FEW], ids=lambda one: one.name)
def test_a_plant_that_changes_nothing_is_missed(mistake):
    harmless = dataclasses.replace(mistake, plant=nothing, trial=Trial("well", lambda _: []))
    assert catch(harmless, []) is None


def test_where_nothing_is_planted_nothing_is_caught(healthy):
    chosen = [
        Mistake("nothing", "-", nothing, SCALE, "action_scale", "mm"),
        Mistake("nothing_in_the_demos", "-", nothing, LEARNER, "TaskMismatch", "scale"),
    ]
    result = run_sabotage(healthy, chosen, quiet)
    assert result.missed == ["nothing", "nothing_in_the_demos"] and not result.sick


def test_another_error_catches_nothing(healthy):
    sliver = in_task(action_scale=0.002)
    right = Mistake("right", "A 8", sliver, CONFIG, "ConfigError", "dead band")
    others = [
        dataclasses.replace(right, name="another_word", word="leash"),
        dataclasses.replace(right, name="another_error", catcher="TaskMismatch"),
        dataclasses.replace(right, name="another_check", catcher="action_scale", trial=SCALE),
    ]
    assert run_sabotage(healthy, [right, *others], quiet).missed == [one.name for one in others]


def test_nothing_counts_where_the_healthy_set_up_is_not_well(healthy):
    sick = healthy.copy(healthy.folder.with_name("sick"))
    in_task(workspace_min=[0.16, -0.11, -0.05])(sick)
    floor = Mistake("floor", "B 32", nothing, doctor("box_floor"), "box_floor", "mm")
    skipped = Mistake("skipped", "C 36", nothing, doctor("camera_bound"), "camera_bound", "")
    result = run_sabotage(sick, [floor, skipped], quiet)
    assert result.missed == ["floor", "skipped"] and len(result.sick) == 3
    assert result.to_json()["healthy_green"] is False


@given(st.lists(st.sampled_from(Status)), st.sampled_from(["", "50 mm"]))
def test_only_a_red_finding_of_that_name_and_word_catches(statuses, value):
    mistake = Mistake("m", "A", nothing, SCALE, "c", "50 mm")
    findings = [Finding("c", status, value) for status in statuses] + [Finding("d", Status.FAIL, "50 mm")]
    assert (catch(mistake, findings) is not None) == (Status.FAIL in statuses and value != "")


@given(st.lists(st.tuples(st.booleans(), st.text()), max_size=5))
def test_the_table_has_a_row_for_each(outcomes):
    mistakes = [Mistake(f"m{i}", "A 1", nothing, SCALE, "c", "") for i in range(len(outcomes))]
    result = Result(
        tuple(
            Outcome(one, caught, said, 0.0) for one, (caught, said) in zip(mistakes, outcomes, strict=True)
        ),
        (),
        1.0,
    )
    rows = table(result).split("\n")[2:]
    assert len(rows) == len(outcomes) and all(row.count("|") == 7 for row in rows)
    assert [("**missed**" in row) for row in rows] == [not caught for caught, _ in outcomes]
    told = json.loads(json.dumps(result.to_json()))
    assert told["caught"] + len(told["missed"]) == told["planted"]


def test_what_was_replaced_is_put_back_also_after_an_error():
    class Place:
        thing = 1

    with pytest.raises(KeyError), replaced(Place, "thing", 2):
        assert Place.thing == 2
        raise KeyError
    assert Place.thing == 1
