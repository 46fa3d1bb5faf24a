"""`hilserl status`: at each stage on the way to a policy it says what is there and what comes next."""

import hashlib
import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hilserl import cli
from hilserl.checkpoint import save_checkpoint
from hilserl.cli_parsers import parser_of
from hilserl.config import Config
from hilserl.config_loading import load_config
from hilserl.demo import record_demonstrations
from hilserl.doctor.findings import Finding, Status
from hilserl.doctor.result import Result, result_file, save_result
from hilserl.inventory import take_inventory
from hilserl.labels import Label, write_labels
from hilserl.next_step import Advisor, NextStep
from hilserl.recording import record_episodes
from hilserl.recording_record import read_records
from hilserl.rundir import RunDir
from hilserl.task_record import task_hash
from hilserl.wire import LearnerStatus
from robot.calibrate_touch import judge_touch, save_touch
from robot.calibration import calibration_id, save_calibration
from robot.twin.world_body import twin_calibration
from tests.fakes.classifiers import save_classifier

ROOT = Path(__file__).resolve().parents[2]
EASY = str(ROOT / "configs/twin_lift_easy_config.json")
WIRE = str(ROOT / "configs/twin_wire_config.json")


class Place:
    """A folder of results, and the words that lead to it."""

    def __init__(self, folder: Path, *words: str, path: str = EASY) -> None:
        self.path = path
        self.words = [
            f"--output_dir={folder}", "--job_name=job", "--policy.vision_encoder_name=random:16:0",
            "--service.learner_port=1", *words,
        ]  # fmt: skip
        self.folder, self.job = folder, folder / "job"

    @property
    def config(self) -> Config:
        return load_config(self.path, self.words)

    def next(self, learner: LearnerStatus | None = None) -> NextStep:
        """The next step; its command is one that this program takes, and asking changes nothing."""
        before = digest(self.folder)
        found = take_inventory(self.config)
        step = Advisor(self.config, found, learner, self.path, self.words).advise()
        assert digest(self.folder) == before
        name, *rest = shlex.split(step.command)
        assert name == "hilserl" and tuple(rest) == step.words
        args, overrides = parser_of(cli._COMMANDS, cli._MORE).parse_known_args(rest)
        if step.words[0] != "label":
            load_config(args.config_path, overrides)
        return step

    def checked(self, *found: Finding) -> None:
        """A pre-flight of this task that found so."""
        config = self.config
        groups = tuple(dict.fromkeys(one.group for one in found))
        result = Result(task_hash(config.task), "2026-11-21T10:00:00+00:00", 1.0, groups, found)
        save_result(result, result_file(config))


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


def well(group: str) -> Finding:
    return Finding("a_check", Status.OK, "1", group=group)


def running(place: Place, **changes: object) -> LearnerStatus:
    status = LearnerStatus(task_hash(place.config.task), 3, 100, 50, {"robot": (True, 4)}, (), 1.0, False)
    return replace(status, **changes)


def test_from_nothing_to_a_judged_policy(tmp_path):
    place = Place(tmp_path)
    step = place.next()
    assert step.words[0] == "doctor" and "no pre-flight" in step.why

    place.checked(Finding("disk", Status.FAIL, "no room", advice="free some", group="software"), well("task"))
    step = place.next()
    assert step.words[0] == "doctor" and "disk" in step.why and "free some" in step.why
    ignoring = Place(tmp_path, "--run.ignore_checks=disk")
    assert ignoring.next().words[0] == "record"

    place.checked(well("task"))
    step = place.next()
    assert step.words[0] == "record" and "--role=demo" in step.words

    root = place.job / "recordings/demo_1"
    record_episodes(place.config, 1, "demo", root, lambda _: None)
    step = place.next()
    assert step.words[0] == "doctor" and f"--demos={root}" in step.words and "demonstrations" in step.why

    place.checked(well("task"), well("demonstrations"))
    step = place.next()
    assert step.words[0] == "learner" and f"--demos={root}" in step.words
    named = Place(tmp_path, f"--demos={root}")
    assert named.next().words.count(f"--demos={root}") == 1

    RunDir.create(place.folder, "job", "{}", resume=False).close()
    step = place.next()
    assert step.words[0] == "learner" and "--resume=true" in step.words

    save_checkpoint(
        place.job / "checkpoints", 30, model={"a": np.zeros(1)}, contract={}, training_tensors={},
        training_state={}, keep=2,
    )  # fmt: skip
    step = place.next()
    assert step.words[0] == "inference"
    (checkpoint,) = [word for word in step.words if word.startswith("--checkpoint=")]
    played = checkpoint.removeprefix("--checkpoint=")
    summary = place.job / "inference/1/summary.json"
    summary.parent.mkdir(parents=True)
    summary.write_text(json.dumps({"settings": {"checkpoint": played}}))
    step = place.next()
    assert step.words[0] == "learner" and "--resume=true" in step.words

    save_checkpoint(
        place.job / "checkpoints", 60, model={"a": np.zeros(1)}, contract={}, training_tensors={},
        training_state={}, keep=2, best=True,
    )  # fmt: skip
    assert place.next().words[0] == "inference" and "checkpoints/000060" in place.next().command


@pytest.mark.parametrize(
    ("changes", "command"),
    [
        ({"task_hash": "another"}, ("control", "stop")),
        ({"paused": True}, ("control", "resume")),
        ({"actors": {"robot": (False, 4)}}, ("actor",)),
        ({"actors": {}}, ("actor",)),
        ({}, ("status",)),
    ],
)
def test_while_a_learner_runs(tmp_path, changes, command):
    place = Place(tmp_path)
    assert place.next(running(place, **changes)).words[: len(command)] == command


def test_a_classifier_comes_before_what_it_judges(tmp_path):
    place = Place(tmp_path, "--task.success.kind=classifier")
    place.checked(well("task"))
    step = place.next()
    assert step.words[0] == "record" and "--role=reward" in step.words

    root = place.job / "recordings/reward_1"
    record_episodes(place.config, 2, "reward", root, lambda _: None)
    step = place.next()
    assert step.words[:2] == ("label", str(root)) and "2 of its 2" in step.why

    frames = 5
    write_labels(root, {"0": Label(frames, (), "operator")})
    assert "1 of its 2" in place.next().why
    write_labels(root, {str(i): Label(frames, (), "operator") for i in range(2)})
    step = place.next()
    assert step.words[:2] == ("classifier", "train") and f"--classifier.datasets={root}" in step.words

    # one that calls false successes, of as many episodes as there are: more are needed
    model = place.job / "best_model"
    save_classifier(model, place.config, trusted=False)
    told = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(told | {"data": {"episodes": 2}}))
    step = place.next()
    assert step.words[0] == "record" and "--role=reward" in step.words and "not trusted" in step.why
    (model / "config.json").write_text(json.dumps(told | {"data": {"episodes": 1}}))
    step = place.next()
    assert step.words[:2] == ("classifier", "train") and "--job_name=job_1" in step.words

    second = place.folder / "job_1/best_model"
    save_classifier(second, place.config)
    step = place.next()
    assert step.words[0] == "record" and "--role=demo" in step.words
    assert f"--classifier.model={second}" in step.words


def test_demonstrations_of_another_task_do_not_count(tmp_path):
    place = Place(tmp_path)
    folder = tmp_path / "demos"
    record_demonstrations(place.config, folder, 1)
    place.checked(well("task"), well("demonstrations"))
    assert Place(tmp_path, f"--demos={folder}").next().words[0] == "learner"
    other = Place(tmp_path, f"--demos={folder}", "--task.action_scale=0.03")
    other.checked(well("task"), well("demonstrations"))
    step = other.next()
    assert step.words[0] == "record" and "action_scale: here 0.03, there 0.02" in step.why
    (data,) = take_inventory(other.config).data
    assert (data.episodes, data.used) == (1, True) and data.faults
    gone = Place(tmp_path, f"--demos={tmp_path / 'nowhere'}")
    assert take_inventory(gone.config).data[0].faults == ("there is no such folder",)


def test_a_servo_arm_is_calibrated_and_touched_first(tmp_path):
    place = Place(tmp_path, f"--robot.calibration_dir={tmp_path}", path=WIRE)
    step = place.next()
    assert step.words[0] == "calibrate" and "--touch" not in step.words
    calibration = twin_calibration()
    save_calibration(calibration, tmp_path, "twin")
    step = place.next()
    assert step.words[0] == "calibrate" and "--touch" in step.words
    points = np.array([[0.2, -0.1, 0], [0.2, 0.1, 0], [0.3, 0.1, 0], [0.3, -0.1, 0]])
    save_touch(judge_touch(points, points + [0, 0, 0.04]), calibration, tmp_path, "twin")
    step = place.next()
    assert step.words[0] == "calibrate" and "40" in step.why
    save_touch(judge_touch(points, points + [0, 0, 0.002]), calibration, tmp_path, "twin")
    assert place.next().words[0] == "doctor"
    arm = take_inventory(place.config).arm
    assert arm is not None and arm.calibration == calibration_id(calibration) and not arm.faults
    other = Place(
        tmp_path, f"--robot.calibration_dir={tmp_path}", "--task.calibration_id=" + "0" * 16, path=WIRE
    )
    assert other.next().words[0] == "calibrate"


def test_damaged_files_are_told_never_raised(tmp_path):
    place = Place(tmp_path)
    root = place.job / "recordings/demo_1"
    record_episodes(place.config, 1, "demo", root, lambda _: None)
    assert len(read_records(root)) == 1
    for path in (root / "meta/episodes").glob("*/*.parquet"):
        path.write_bytes(b"torn")
    result_file(place.config).write_text("{")
    model = place.job / "best_model"
    model.mkdir()
    (model / "config.json").write_text("[]")
    found = take_inventory(place.config)
    assert "cannot be read" in found.data[0].faults[0] and "cannot be read" in found.preflight.line
    assert "cannot be read" in found.classifiers[0].faults[0]
    assert place.next().words[0] == "doctor"


def test_both_forms_say_the_same_and_need_no_torch(tmp_path):
    place = Place(tmp_path)
    place.checked(Finding("disk", Status.FAIL, "no room", group="software"))
    words = ["status", "--config_path", place.path, *place.words]
    code = (
        "import sys; from hilserl.cli import main; code = main(sys.argv[1:]); "
        "sys.exit(code or 10 * ('torch' in sys.modules))"
    )
    before = digest(tmp_path)
    said, told = (
        subprocess.run(
            [sys.executable, "-c", code, *words, *more], capture_output=True, text=True, check=True, cwd=ROOT
        ).stdout
        for more in ([], ["--json"])
    )
    assert digest(tmp_path) == before
    plain = json.loads(told)
    assert plain["next"]["command"] in said and plain["preflight"]["line"] in said
    assert plain["preflight"]["red"] == ["disk"] and plain["learner"]["running"] is False
