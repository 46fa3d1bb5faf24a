"""The pre-flight: what it says of a healthy twin, of planted faults, and to those who start a run."""

import dataclasses
import json
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilserl.cli import main
from hilserl.config import Config
from hilserl.config_loading import load_config
from hilserl.doctor import demonstrations, learning, motion, plots, software, task
from hilserl.doctor.checks import CHECKS, GROUPS
from hilserl.doctor.context import Check, Context, Declined, Missing
from hilserl.doctor.findings import Finding, Picture, Status, graded, judged, summary_line, worst
from hilserl.doctor.page import page_html
from hilserl.doctor.preflight import run_checks
from hilserl.doctor.result import (
    PreflightError,
    Result,
    check_preflight,
    load_result,
    result_file,
    save_result,
)
from hilserl.sac import SAC
from hilserl.task_record import task_hash
from robot.errors import BusError, CameraError
from tests.fakes.browser import browser, page_errors  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
EASY = ROOT / "configs/twin_lift_easy_config.json"


def quiet(_: str) -> None:
    pass


@pytest.fixture
def config(tmp_path) -> Config:
    return load_config(EASY, [f"--output_dir={tmp_path}", "--policy.vision_encoder_name=random:16:0"])


@pytest.fixture
def context(config, tmp_path):
    with Context(config, tmp_path, quiet, lambda _: True) as context:
        yield context


def status_of(findings: list[Finding], check: str) -> Status:
    return next(one.status for one in findings if one.check == check)


def quiet_finding(_: Finding) -> None:
    pass


STATUSES = st.lists(st.sampled_from(Status), max_size=8)


@given(STATUSES)
def test_the_worst_verdict_wins(statuses):
    found = [Finding(f"c{i}", status, "") for i, status in enumerate(statuses)]
    order = [Status.FAIL, Status.WARN, Status.OK, Status.SKIPPED]
    assert worst(found) is next((one for one in order if one in statuses), Status.SKIPPED)


@given(STATUSES)
def test_the_summary_names_what_is_not_well(statuses):
    line = summary_line(Finding(f"<{i}>", status, "") for i, status in enumerate(statuses))
    for index, status in enumerate(statuses):
        assert (f"<{index}>" in line) == (status in (Status.FAIL, Status.WARN))
    assert f"{statuses.count(Status.OK)} ok" in line and f"{statuses.count(Status.FAIL)} failed" in line


@given(st.floats(allow_nan=True))
def test_what_is_no_number_is_never_well(amount):
    status = graded("drift", amount, 1.0, 2.0, "mm", "").status
    assert (status is Status.OK) == (amount <= 1.0)
    assert (status is Status.FAIL) == (not amount <= 2.0)


def test_a_check_that_cannot_run_is_a_finding_and_the_others_run(context):
    def named(_: Context) -> list[Finding]:
        raise BusError("no answer from elbow_flex")

    def broken(_: Context) -> list[Finding]:
        raise ZeroDivisionError("a bug")

    def missing(_: Context) -> list[Finding]:
        raise Missing("no leader arm")

    def declined(_: Context) -> list[Finding]:
        raise Declined("nobody allowed it")

    def well(_: Context) -> list[Finding]:
        return [judged("well", True, "1", "1", "")]

    checks = [Check(run.__name__, "g", run) for run in (named, broken, missing, declined, well)]
    heard: list[Finding] = []
    result = run_checks(context, checks, heard.append)
    assert [one.status.value for one in result.findings] == ["fail", "fail", "skipped", "skipped", "ok"]
    assert list(result.findings) == heard and {one.group for one in heard} == {"g"}
    assert "no answer from elbow_flex" in heard[0].value and heard[0].advice == ""
    assert "ZeroDivisionError" in heard[1].value and "report" in heard[1].advice


def result_of(config: Config, *findings: Finding) -> Result:
    return Result(task_hash(config.task), "2026-11-21T10:00:00+00:00", 1.5, ("task",), findings)


def test_a_result_is_read_as_it_was_written(config):
    result = result_of(config, Finding("a", Status.WARN, "1 mm", "2 mm", 'say "no"', (), "task"))
    save_result(result, result_file(config))
    assert load_result(result_file(config)) == result
    result_file(config).write_text('{"when": 1}')
    with pytest.raises(PreflightError, match=r"doctor\.json cannot be read"):
        load_result(result_file(config))


def test_a_red_check_stops_a_run_unless_it_is_named(config):
    assert "no pre-flight" in check_preflight(config).line and not check_preflight(config).made
    red = result_of(
        config, Finding("unit_actions", Status.FAIL, "3 mm", group="motion"), Finding("disk", Status.OK, "")
    )
    save_result(red, result_file(config))
    with pytest.raises(PreflightError, match=r"(?s)motion/unit_actions: 3 mm.*ignore_checks=unit_actions"):
        check_preflight(config)

    def ignoring(*names: str) -> Config:
        return dataclasses.replace(config, run=dataclasses.replace(config.run, ignore_checks=names))

    assert "ignored: unit_actions" in check_preflight(ignoring("unit_actions")).line
    with pytest.raises(Exception, match="unit_action.*does not know"):
        check_preflight(ignoring("unit_action"))
    other = dataclasses.replace(config, task=dataclasses.replace(config.task, fps=5.0))
    assert "another task record" in check_preflight(other).line and not check_preflight(other).made


GROUP_RESULTS = st.dictionaries(st.sampled_from("abcd"), st.lists(st.sampled_from(Status), min_size=1))


@given(GROUP_RESULTS, GROUP_RESULTS)
def test_a_red_check_stays_red_until_it_is_made_again(before, now):
    """Leaving a group out, or skipping all of it, mends nothing."""

    def result(when: str, groups: dict[str, list[Status]]) -> Result:
        found = [
            Finding(f"{g}{i}", one, when, group=g) for g, many in groups.items() for i, one in enumerate(many)
        ]
        return Result("hash", when, 1.0, tuple(groups), tuple(found))

    earlier, later = result("early", before), result("late", now)
    both = later.after(earlier)
    assert set(both.groups) == set(before) | set(now)
    for group in both.groups:
        mine = {one.value for one in both.findings if one.group == group}
        looked = any(one is not Status.SKIPPED for one in now.get(group, []))
        nothing = group in now and not any(one is not Status.SKIPPED for one in before.get(group, []))
        assert mine == {"late" if looked or nothing else "early"}
        assert (group in both.older) == (mine == {"early"})
    assert both.after(None) == both
    other = dataclasses.replace(earlier, task_hash="another")
    assert later.after(other) == later


@pytest.mark.parametrize("program", ["learner", "actor"])
def test_a_run_does_not_start_on_a_red_check(config, tmp_path, capsys, program):
    """By the program itself, before anything is opened or written; a named error has its exit code."""
    red = result_of(config, Finding("servo_calibration", Status.FAIL, "offset differs", group="arm"))
    save_result(red, result_file(config))
    words = [program, "--config_path", str(EASY), f"--output_dir={tmp_path}"]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "PreflightError" in told and "arm/servo_calibration: offset differs" in told
    assert sorted(path.name for path in result_file(config).parent.iterdir()) == ["doctor.json"]
    result_file(config).write_text("{")
    assert main(words) == 2 and "cannot be read" in capsys.readouterr().err
    save_result(red, result_file(config))
    assert main([*words, "--run.ignore_checks=servo_calibratoin"]) == 2
    assert "servo_calibratoin" in capsys.readouterr().err


class References(HTMLParser):
    """Everything a page would load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        values = [value or "" for name, value in attrs if name in ("src", "href")]
        self.found += [value for value in values if not value.startswith(("data:", "#"))]
        assert tag != "script"


def test_the_page_is_whole_by_itself_and_says_everything(config):
    found = Finding(
        "a<b", Status.FAIL, "5 < 6 & 7", "<script>", 'mend "it"', (Picture("p<q", b"\x89PNG"),), "motion"
    )
    page = page_html(result_of(config, found), "task <x>")
    parser = References()
    parser.feed(page)
    assert parser.found == []
    for text in ("a<b", "5 < 6 & 7", "<script>", 'mend "it"', "p<q", "Not ready"):
        assert escape(text) in page


def test_a_browser_fetches_nothing_and_shows_every_picture(config, tmp_path, browser):  # noqa: F811
    png = plots.periods_plot([0.1, 0.11, 0.16], 0.1)
    found = [
        Finding("a", Status.WARN, "1", pictures=(Picture("one", png), Picture("two", png)), group="g"),
        Finding("b", Status.SKIPPED, "no arm", group="h"),
    ]
    result = dataclasses.replace(result_of(config, *found), groups=("g", "h"))
    (tmp_path / "doctor.html").write_text(page_html(result, "a task"))
    browser.get(f"file://{tmp_path}/doctor.html")
    assert browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)") == []
    widths = browser.execute_script("return [...document.images].map(i => i.naturalWidth)")
    assert len(widths) == 2 and min(widths) > 100
    assert browser.execute_script("return document.body.scrollWidth <= window.innerWidth")
    assert page_errors(browser) == []


def test_the_computer_this_runs_on_is_well(context):
    for check in (software.python, software.imports, software.device, software.memory, software.encoder):
        (finding,) = check(context)
        assert finding.status is Status.OK, finding.line()


def with_task(config: Config, **changes) -> Config:
    return dataclasses.replace(config, task=dataclasses.replace(config.task, **changes))


@pytest.mark.parametrize(
    ("check", "name", "changes"),
    [
        (task.reset_pose, "reset_reach", {"reset_xyz": (0.60, 0.0, 0.07)}),
        (task.box, "reset_in_box", {"reset_xyz": (0.40, 0.0, 0.07)}),
        (task.box, "box_size", {"workspace_max": (0.30, 0.09, 0.03)}),
        (task.scale, "action_scale", {"action_scale": 0.001}),
        (task.clearance, "box_floor", {"workspace_min": (0.16, -0.11, -0.01)}),
    ],
)
def test_a_wrong_task_record_is_found(config, tmp_path, check, name, changes):
    wrong = with_task(config, **changes)
    assert status_of(check(Context(config, tmp_path, quiet, bool)), name) is not Status.FAIL
    assert status_of(check(Context(wrong, tmp_path, quiet, bool)), name) is Status.FAIL


def test_a_personal_path_is_found_wherever_it_hides(config, tmp_path):
    assert task.paths(Context(config, tmp_path, quiet, bool))[0].status is Status.OK
    wrong = dataclasses.replace(config, demos=("demos", "/home/someone/demos"))
    (finding,) = task.paths(Context(wrong, tmp_path, quiet, bool))
    assert finding.status is Status.WARN and "demos.1 = /home/someone/demos" in finding.value


def on_a_bus(config: Config) -> Config:
    return dataclasses.replace(config, robot=dataclasses.replace(config.robot, type="so101"))


def moving(context: Context, *before: Check) -> Result:
    """The motion checks, after `before`."""
    return run_checks(
        context, [*before, *(check for check in CHECKS if check.group == "motion")], quiet_finding
    )


def verdict(group: str, status: Status, name: str = "a_check") -> Check:
    return Check(name, group, lambda _: [Finding(name, status, "")])


@pytest.fixture
def built(monkeypatch) -> list[Config]:
    """Each body that was built; none can be."""
    found: list[Config] = []

    def build(config, _message, **_):
        found.append(config)
        raise BusError("no arm here")

    monkeypatch.setattr("hilserl.doctor.context.build_body", build)
    return found


def test_nothing_moves_unless_somebody_allows_it(config, tmp_path, built):
    """On a servo bus the question comes before anything is opened; it comes once."""
    asked: list[str] = []

    def refuse(question: str) -> bool:
        asked.append(question)
        return False

    before = [verdict("task", Status.OK), verdict("arm", Status.OK)]
    with Context(on_a_bus(config), tmp_path, quiet, refuse) as context:
        result = moving(context, *before)
    moved = [one for one in result.findings if one.group == "motion"]
    assert {one.status for one in moved} == {Status.SKIPPED} and len(asked) == 1 and not built


@given(st.tuples(st.sampled_from([None, *Status]), st.sampled_from([None, *Status])))
def test_torque_waits_for_every_check_that_needs_none(tmp_path_factory, verdicts):
    """Both groups made and nothing red, or the body is not built and nobody is even asked."""
    asked, built = [], []

    def allow(question: str) -> bool:
        asked.append(question)
        return True

    def build(config, _message, **_):
        built.append(config)
        raise BusError("no arm here")

    pairs = [(group, one) for group, one in zip(("task", "arm"), verdicts, strict=True) if one is not None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hilserl.doctor.context.build_body", build)
        config = on_a_bus(load_config(EASY, []))
        with Context(config, tmp_path_factory.mktemp("c"), quiet, allow) as context:
            result = moving(context, *(verdict(group, one, f"{group}_check") for group, one in pairs))
    moved = [one for one in result.findings if one.group == "motion"]
    ready = len(pairs) == 2 and Status.FAIL not in verdicts
    assert bool(built) == bool(asked) == ready
    if not ready:
        assert {one.status for one in moved} == {Status.SKIPPED}
        absent = [group for group in ("task", "arm") if group not in dict(pairs)]
        red = [f"{group}_check" for group, one in pairs if one is Status.FAIL]
        for name in absent or red:
            assert name in moved[0].value


def test_no_check_without_torque_comes_after_torque():
    """Those that ask for the body come last: an arm does not wait, energised, for checks that need it not."""
    first = next(i for i, check in enumerate(CHECKS) if check.group == "motion")
    assert not {check.group for check in CHECKS[first:]} & {"software", "task", "arm", "demonstrations"}


def test_a_late_picture_is_told_under_the_camera_not_as_bad_motion(context):
    body = context.body()
    ((_, camera),) = body.env._cameras.items()
    latest, calls = camera.latest, []

    def late():
        calls.append(1)
        if len(calls) % 7 == 0:
            raise CameraError("the newest picture is 0.3 s old")
        return latest()

    camera.latest = late
    for check in (motion.unit_actions, motion.resets):
        (finding,) = check(context)
        assert finding.status is Status.OK, finding.line()
    (finding,) = motion.pictures(context)
    assert finding.status is Status.FAIL and "0.3 s old" in finding.value
    context.late = context.late[:1]
    assert motion.pictures(context)[0].status is Status.WARN
    context.late = []
    assert motion.pictures(context)[0].status is Status.OK


def test_a_healthy_twin_moves_as_it_should(context):
    for check in (motion.joints, motion.unit_actions, motion.gripper, motion.rate):
        for finding in check(context):
            assert finding.status is Status.OK, finding.line()


def crossed(arm, swap):
    """`arm` with its commands spoiled by `swap`."""
    command = arm.command
    arm.command = lambda q: command(swap(q.copy()))
    return arm


def test_an_arm_that_turns_the_wrong_way_is_found(context):
    body = context.body()

    def mirrored(q):
        q[0] = -q[0]
        return q

    crossed(body.arm, mirrored)
    checks = [check for check in CHECKS if check.name in ("joint_motion", "unit_actions")]
    found = run_checks(context, checks, quiet_finding).findings
    assert [one.status for one in found] == [Status.FAIL, Status.FAIL]


def demos_of(context: Context, change=lambda episode: episode) -> None:
    """Scripted demonstrations, spoiled by `change`."""
    folder = context.folder / "demos"
    if not folder.exists():
        from hilserl.demo import record_demonstrations

        record_demonstrations(context.config, folder, 3)
    context.config = dataclasses.replace(context.config, demos=(str(folder),))
    found = demonstrations.demonstrated(context)
    context.demos = dataclasses.replace(found, episodes=[change(one) for one in found.episodes])


def spoiled(**arrays):
    """Replaces arrays of an episode by functions of what they were."""
    return lambda one: dataclasses.replace(
        one, **{name: change(getattr(one, name)).astype(np.float32) for name, change in arrays.items()}
    )


def degrees(state):
    turned = state.copy()
    turned[:, :6] = np.degrees(turned[:, :6])
    return turned


def swapped(action):
    out = action.copy()
    out[:, [0, 1]] = out[:, [1, 0]]
    return out


def flipped(action):
    out = action.copy()
    out[:, 3] = -out[:, 3]
    return out


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Three scripted demonstrations, made once."""
    folder = tmp_path_factory.mktemp("played")
    config = load_config(EASY, ["--policy.vision_encoder_name=random:16:0"])
    with Context(config, folder, quiet, bool) as context:
        demos_of(context)
        return context.config, context.demos


@pytest.mark.parametrize(
    ("check", "name", "change"),
    [
        (demonstrations.actions, "demo_actions", spoiled(action=np.zeros_like)),
        (demonstrations.actions, "demo_motion", spoiled(action=swapped)),
        (demonstrations.actions, "demo_motion", spoiled(action=lambda a: np.roll(a, 5, axis=0))),
        (demonstrations.actions, "demo_gripper", spoiled(action=flipped)),
        (demonstrations.places, "demo_box", spoiled(state=lambda s: s + 0.1)),
        (demonstrations.places, "demo_start", spoiled(state=lambda s: s + 0.03)),
        (demonstrations.inputs, "state_reaches_policy", None),
    ],
    ids=["zeros", "axes swapped", "shifted", "gripper flipped", "outside", "other start", "blind"],
)
def test_wrong_demonstrations_are_found(played, tmp_path, monkeypatch, check, name, change):
    config, found = played
    with Context(config, tmp_path, quiet, bool) as context:
        context.demos = found
        assert status_of(check(context), name) is Status.OK
        if change is not None:
            context.demos = dataclasses.replace(found, episodes=[change(one) for one in found.episodes])
        else:  # a spread so wide that no motion shows
            narrow = np.full(len(demonstrations.STATE_NAMES), 1e-3, np.float32)
            monkeypatch.setattr(demonstrations, "state_statistics", lambda s, _: (s.mean(0), narrow))
            monkeypatch.setattr("hilserl.networks.DEGENERATE_STD", 1.0)
        assert status_of(check(context), name) is Status.FAIL


@pytest.mark.parametrize("name", demonstrations.STATE_NAMES)
def test_only_what_the_task_holds_may_stand_still(played, tmp_path, name):
    config, found = played
    index = demonstrations.STATE_NAMES.index(name)

    def freeze(state):
        still = state.copy()
        still[:, index] = 0.25
        return still

    with Context(config, tmp_path, quiet, bool) as context:
        episodes = [spoiled(state=freeze)(one) for one in found.episodes]
        context.demos = dataclasses.replace(found, episodes=episodes)
        finding = next(one for one in demonstrations.inputs(context) if one.check == "state_range")
    assert name in finding.value
    assert finding.status is (Status.OK if "wrist_roll" in name else Status.WARN)


def test_degrees_for_radians_make_an_input_huge(played, tmp_path):
    config, found = played
    one, *rest = found.episodes
    with Context(config, tmp_path, quiet, bool) as context:
        many = rest * 20
        wrong = dataclasses.replace(one, state=degrees(one.state))
        context.demos = dataclasses.replace(found, episodes=[*many, wrong])
        assert status_of(demonstrations.inputs(context), "normalised_inputs") is Status.FAIL


def test_demonstrations_of_another_task_are_named(played, tmp_path):
    config, found = played
    other = with_task(config, action_scale=0.03)
    with Context(other, tmp_path, quiet, bool) as context:
        context.demos = found
        (finding,) = demonstrations.record(context)
        assert finding.status is Status.FAIL and "action_scale" in finding.value


def test_a_learner_is_resumed_to_the_last_bit(context, monkeypatch):
    (finding,) = learning.resume(context)
    assert finding.status is Status.OK, finding.line()
    whole = SAC.load_state_dict

    def careless(self, tensors, plain):
        """The moments of one parameter are lost."""
        lost = next(name for name in tensors if "exp_avg" in name)
        whole(self, {**tensors, lost: tensors[lost] * 0}, plain)

    monkeypatch.setattr(SAC, "load_state_dict", careless)
    (finding,) = learning.resume(context)
    assert finding.status is Status.FAIL


def test_the_command_writes_page_and_result_and_says_how_it_went(config, tmp_path, capsys):
    words = ["doctor", "--config_path", str(EASY), f"--output_dir={tmp_path}", "--groups", "task", "--json"]
    code = main(words)
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    red = [one for one in told["findings"] if one["status"] == "fail"]
    assert code == (1 if red else 0)
    run = tmp_path / load_config(EASY, []).job_name
    assert json.loads((run / "doctor.json").read_text()) == told
    assert (run / "doctor.html").read_text().startswith("<!doctype html>")
    assert main([*words[:-3], "--groups", "tusk"]) == 2
    assert "tusk" in capsys.readouterr().err and set(GROUPS) >= {"software", "task", "motion"}
