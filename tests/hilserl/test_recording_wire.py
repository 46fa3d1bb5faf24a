"""`hilserl record` on the wire-level twin: real servo bus, camera stream, gamepad, clock and processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hilserl.config_loading import load_config
from hilserl.dataset_schema import ACTION, STATE, open_dataset
from hilserl.env import STATE_NAMES
from hilserl.recording import SEEDS
from hilserl.recording_check import check_recording
from hilserl.recording_record import read_records
from robot.twin.wire import WireTwin
from robot.twin.world import World
from tests.fakes.recordings import digests, lerobot

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "configs/twin_wire_config.json"
CROP = '{"gripper_cam": {"top": 0, "left": 8, "height": 48, "width": 48}}'
SMALL = (
    "--task.camera_width=64",
    "--task.camera_height=48",
    f"--task.crop_params_dict={CROP}",
    "--task.resize_size=[32,32]",
)
PATIENT = (
    "--robot.bus_retries=20",
    "--robot.watchdog_s=5",
    "--robot.max_joint_speed=40",
    "--robot.object_time_s=0.1",
    "--cameras.gripper_cam.max_age_s=10",
)
"""The machine that runs the tests may stall."""
HEIGHT = STATE_NAMES.index("ee_xyz.z_m")


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    with WireTwin(tmp_path_factory.mktemp("calibration"), "arm", world=World(64, 48)) as twin:
        yield twin


def record(twin: WireTwin, root: Path, count: int, script: list[list[str]], *more: str):
    """Run the recorder in a process of its own until it ends; returns it with its output."""
    words = [
        *("--config_path", CONFIG, "--role", "reward", "--num_episodes", str(count), "--root", str(root)),
        *(f"--robot.port={twin.port}", "--robot.id=arm", f"--robot.calibration_dir={twin.calibration_dir}"),
        f"--cameras.gripper_cam.port={twin.camera_address[1]}",
        *(*SMALL, *PATIENT, *more),
    ]
    return subprocess.run(
        [sys.executable, "-m", "tests.fakes.pad_recorder", json.dumps(script), *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "SDL_VIDEODRIVER": "dummy"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


LIFT = ["up"] * 5
FAILED = [*LIFT, "still", "failure"]
HELPED = ["still", *LIFT, "", "success"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_recorder_killed_in_mid_episode_loses_nothing_and_resume_goes_on(twin, tmp_path):
    root = tmp_path / "set"
    killed = record(twin, root, 4, [FAILED, ["up", "up", "discard"], HELPED, ["up", "up", "kill"]])
    assert killed.returncode == -signal.SIGKILL, killed.stdout
    task = load_config(ROOT / CONFIG, SMALL).task
    assert check_recording(root, task).episodes == lerobot(root).num_episodes == 2
    before = digests(root)

    refused = record(twin, root, 4, [])
    assert refused.returncode == 2 and "a recording replaces nothing" in refused.stdout
    assert digests(root) == before

    # The guard holds the arm whenever a person takes longer to place the object than its watchdog waits.
    held = ("--robot.watchdog_s=0.5", "--robot.object_time_s=1")
    resumed = record(twin, root, 4, [["discard"], FAILED, HELPED], "--resume=true", *held)
    assert resumed.returncode == 0, resumed.stdout
    assert before.items() <= digests(root).items()
    assert "checked: 4 episodes (2 successes)" in resumed.stdout
    assert lerobot(root).num_episodes == 4

    records = read_records(root)
    assert [one.end for one in records] == ["failure", "success", "failure", "success"]
    # each attempt has a seed of its own, but for the one that died with its process
    assert [one.seed - SEEDS["reward"] for one in records] == [0, 2, 4, 5]
    for one, episode in zip(records, open_dataset(root).episodes, strict=True):
        head, tail = one.trimmed
        assert head <= (one.end == "success") and tail == 0, "only HELPED begins with an idle step"
        frames = [*(FAILED if one.end == "failure" else HELPED), ""][head:]
        rows, height = episode.rows, episode.rows[STATE][:, HEIGHT]
        np.testing.assert_array_equal(rows[ACTION], [[0, 0, what == "up", 0] for what in frames])
        assert rows["intervention"].ravel().tolist() == [what in ("up", "still") for what in frames]
        assert height[-1] > height[0] + 0.03
        assert np.diff(height).max() < 0.05, "the reset motion is no part of an episode"
