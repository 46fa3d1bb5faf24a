"""The command line: words in, configuration and arguments out; named errors and interrupts end it cleanly."""

import os
import queue
import signal
import subprocess
import sys
import textwrap
import types
from dataclasses import replace
from pathlib import Path

import pytest

from hilserl.alarms import Alarm
from hilserl.cli import main
from hilserl.config import InferenceArgs
from hilserl.config_loading import config_from_json, load_config
from hilserl.rundir import RunDir
from hilserl.types import Spec
from hilserl.wire import Command, LearnerService
from robot.errors import BusError

ROOT = Path(__file__).resolve().parents[2]
SPEC = Spec(("cam",), (8, 8, 3), ("x_m",))
TRAIN = "configs/grasp_only_hilserl_train_config.json"
TWIN = "configs/twin_lift_train_config.json"


@pytest.fixture
def calls(monkeypatch):
    """What the entry functions were called with; they do nothing."""
    monkeypatch.chdir(ROOT)
    seen = []
    entries = {
        "learner_process": ("run_learner",),
        "actor_process": ("run_actor",),
        "inference": ("run_inference",),
        "demo": ("run_demo",),
    }
    for module_name, names in entries.items():
        module = types.ModuleType(f"hilserl.{module_name}")
        for name in names:
            setattr(module, name, lambda *args, name=name, **options: seen.append((name, args, options)))
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return seen


@pytest.fixture
def checkpoint(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    return str(tmp_path)


@pytest.mark.parametrize("command", ["learner", "actor", "demo"])
def test_overrides_reach_the_entry_in_both_forms(calls, command, capsys):
    words = ["--config_path", TWIN, "--policy.utd_ratio=3", "--policy.target_entropy", "-3", "--seed", "5"]
    assert main([command, *words]) == 0
    ((name, (config,), _),) = calls
    assert name == f"run_{command}"
    assert (config.policy.utd_ratio, config.policy.target_entropy, config.seed) == (3, -3.0, 5)
    assert "policy.utd_ratio = 3   (default 20)" in capsys.readouterr().out


def test_inference_as_typed(calls, checkpoint):
    words = ["inference", "--config_path", TRAIN, "--checkpoint", checkpoint, "--num_episodes", "5"]
    assert main(words) == 0
    assert calls == [("run_inference", (load_config(TRAIN), InferenceArgs(checkpoint, 5)), {})]


def test_inference_options(calls, checkpoint):
    words = ["--device", "cuda:0", "--video_dir", "v", "--temperature", "0.5", "--seed", "9", "--task.fps=5"]
    assert main(["inference", "--config_path", TRAIN, "--checkpoint", checkpoint, *words]) == 0
    _, (config, args), _ = calls[0]
    assert (config.policy.device, config.seed, config.task.fps) == ("cuda:0", 9, 5.0)
    assert args == InferenceArgs(checkpoint, 10, True, "v", True, 0.5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["learner", "--config_path", "configs/none.json"], "no configuration file"),
        (["learner", "--config_path", TWIN, "--policy.utd_ration=4"], "did you mean policy.utd_ratio?"),
        (["demo", "--minute", "3"], "unknown option --minute; did you mean --minutes?"),
        (["inference", "--config_path", TRAIN, "--checkpoint", "nowhere"], "no pretrained_model folder"),
        (["config", "diff", TRAIN, TWIN, "--seed=3"], "takes no --seed=3"),
    ],
)
def test_named_errors_are_one_message_and_code_2(calls, capsys, words, message):
    assert main(words) == 2
    output = capsys.readouterr()
    assert message in output.err and "Traceback" not in output.err
    assert not calls


def test_the_twin_is_served_with_what_the_configuration_says(calls, monkeypatch):
    wire = types.ModuleType("robot.twin.wire")
    wire.serve = lambda scene, **options: calls.append((scene, options)) or 3
    monkeypatch.setitem(sys.modules, "robot.twin.wire", wire)
    words = [
        "--task.scene.cube_range_xy=0.01",
        "--cameras.gripper_cam.port=7000",
        "--seed=2",
        "--seconds",
        "4",
    ]
    assert main(["twin", *words]) == 3
    ((scene, options),) = calls
    del options["report"]
    assert scene.cube_range_xy == 0.01
    assert options == {
        "link": "outputs/twin/servo-bus",
        "camera_name": "gripper_cam",
        "camera_port": 7000,
        "seed": 2,
        "seconds": 4.0,
        "calibration_dir": "calibration",
        "robot_id": "twin",
        "hand": False,
    }


def test_temperature_must_be_positive(calls, capsys, checkpoint):
    words = ["inference", "--config_path", TRAIN, "--checkpoint", checkpoint, "--temperature", "0"]
    assert main(words) == 2
    assert "--temperature is 0.0" in capsys.readouterr().err


def test_errors_of_the_body_are_messages_and_bugs_keep_their_traceback(calls, monkeypatch, capsys):
    def fail(error):
        raise error

    process = sys.modules["hilserl.actor_process"]
    monkeypatch.setattr(process, "run_actor", lambda _: fail(BusError("servo 4 is silent")), raising=False)
    assert main(["actor", "--config_path", TWIN]) == 2
    assert "BusError: servo 4 is silent" in capsys.readouterr().err
    monkeypatch.setattr(process, "run_actor", lambda _: fail(ZeroDivisionError()), raising=False)
    with pytest.raises(ZeroDivisionError):
        main(["actor", "--config_path", TWIN])


def test_the_demo_has_a_folder_of_its_own(calls):
    assert main(["demo", "--minutes", "3", "--eval_episodes", "7"]) == 0
    ((_, (config,), options),) = calls
    assert (config.output_dir, config.job_name, config.robot.type) == ("outputs", "demo", "twin")
    assert options == {"minutes": 3.0, "eval_episodes": 7}


@pytest.fixture
def service(monkeypatch):
    """A real learner's service on a free port, and the words that name it."""
    monkeypatch.chdir(ROOT)
    config = replace(load_config(TWIN).service, learner_port=0)
    made = LearnerService(config, SPEC, "hash", "{}", print, queue.Queue(), {"robot": 7})
    made.start()
    yield made, ["--config_path", TWIN, f"--service.learner_port={made.port}"]
    made.stop()


@pytest.mark.parametrize("command", list(Command))
def test_control_reaches_the_learner(service, command):
    learner, words = service
    assert main(["control", command.value, *words]) == 0
    assert learner.commands.get_nowait() is command


def test_status_says_what_the_learner_says_and_what_the_folder_holds(service, tmp_path, capsys):
    learner, words = service
    alarm = Alarm("value_above_bound", "the critics are diverging", 9.0, 1.5)
    learner.progress(30, 10)
    learner.set_alarms([alarm], paused=True, updates_per_transition=3.25)
    assert main(["status", *words, f"--output_dir={tmp_path}"]) == 0
    out = capsys.readouterr().out
    for said in ("paused", "30 transitions, 10 critic updates", "3.2", "actor robot: away", "up to 7"):
        assert said in out
    assert "ALARM value_above_bound (9, limit 1.5): the critics are diverging" in out
    assert f"{tmp_path / 'twin_lift'}: none on this machine" in out
    learner.stop()
    with RunDir.create(tmp_path, "twin_lift", "{}", resume=False) as run:
        (run.episodes / "robot_00000003_00012_success.npz").touch()
        assert main(["status", *words, f"--output_dir={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert "no learner runs there" in out and "1, 12 transitions; robot 3" in out and "last: none" in out


@pytest.mark.parametrize("command", ["control", "rollback"])
def test_a_loose_number_is_not_taken_for_an_argument(calls, capsys, command):
    word = "save" if command == "control" else "100"
    assert main([command, word, "--config_path", TWIN, "--seed", "5"]) == 2
    assert "as --key=value only" in capsys.readouterr().err


def test_config_show_prints_what_can_be_loaded_again(calls, capsys):
    assert main(["config", "show", "--config_path", TWIN, "--seed=4"]) == 0
    assert config_from_json(capsys.readouterr().out, "shown") == load_config(TWIN, ["--seed=4"])


def test_config_diff_names_both_values(calls, capsys):
    assert main(["config", "diff", TWIN, TWIN]) == 0
    assert main(["config", "diff", TWIN, "configs/twin_lift_easy_config.json"]) == 1
    assert "task.scene.cube_range_xy: 0.05 | 0.03" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("learner_server", []),
        ("robot_actor", []),
        ("hilserl_inference", ["--checkpoint", "outputs/JOB/checkpoints/003000/pretrained_model"]),
        ("demo", []),
    ],
)
def test_the_doors_work_as_typed(script, words):
    """Each script starts, reads the file it is given and reports what is wrong with it."""
    command = [sys.executable, f"scripts/{script}.py", "--config_path", TRAIN, "--policy.tau=2", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "policy.tau is 2.0" in done.stderr or "is no pretrained_model folder" in done.stderr
    assert "Traceback" not in done.stderr


STUBBORN = """
    import sys, time, types
    process = types.ModuleType("hilserl.actor_process")
    def run_actor(config):
        try:
            print("running", flush=True)
            time.sleep(60)
        finally:
            print("parking", flush=True)
            sys.stdin.read(1)
            print("parked", flush=True)
    process.run_actor = run_actor
    sys.modules["hilserl.actor_process"] = process
    from hilserl.cli import main
    sys.exit(main(["actor", "--config_path", sys.argv[1]]))
"""


@pytest.fixture
def stubborn():
    """A command that takes its time to park: until it is given a character."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(STUBBORN), TWIN],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(process, "running")
    yield process
    process.kill()
    process.communicate()


def wait_for(process, word):
    for line in process.stdout:
        if line.strip() == word:
            return
    raise AssertionError(f"never said {word}: {process.stderr.read()}")


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_one_interrupt_lets_the_arm_park(stubborn, first):
    os.kill(stubborn.pid, first)
    wait_for(stubborn, "parking")
    os.kill(stubborn.pid, signal.SIGTERM)  # a supervisor's request after a person's is not a second interrupt
    output, errors = stubborn.communicate("x")
    assert "parked" in output and "Traceback" not in errors
    assert stubborn.returncode == 130


def test_a_second_interrupt_forces(stubborn):
    os.kill(stubborn.pid, signal.SIGINT)
    wait_for(stubborn, "parking")
    os.kill(stubborn.pid, signal.SIGINT)
    assert stubborn.wait() == 130
    assert "forced" in stubborn.stderr.read() and "parked" not in stubborn.stdout.read()


def test_help_is_quick_because_nothing_is_imported():
    code = (
        "import sys; from hilserl.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print([m for m in ('numpy', 'torch', 'hilserl.config') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")
