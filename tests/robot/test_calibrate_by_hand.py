"""The program `hilserl calibrate` itself, in real time: a person holds an arm of the twin's physics."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time

import numpy as np

from robot.calibrate_touch import SHEET_M
from robot.calibration import load_calibration, model_limits
from robot.kinematics import Kinematics
from robot.twin.world_body import sweep, twin_calibration
from tests.fakes.physical_arm import PhysicalArm

SPEED_RAD_S, PATIENCE_S = 3.0, 60.0
ABOVE_M = np.array([0, 0, 0.06])


class Program:
    """`hilserl calibrate WORDS`, and what it said so far."""

    def __init__(self, arm, *words):
        place = [f"--robot.port={arm.port}", "--robot.id=arm", f"--robot.calibration_dir={arm.folder}"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hilserl", "calibrate", "--config_path", "configs/twin_wire_config.json"]
            + [*words, *place],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
        )
        self.said = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self._process.stdout:
            self.said += line

    def expects(self, words, times=1):
        end_s = time.monotonic() + PATIENCE_S
        while self.said.count(words) < times:
            assert time.monotonic() < end_s and self._process.poll() is None, self.said
            time.sleep(0.05)

    def types(self, line=""):
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def ends(self):
        status = self._process.wait(PATIENCE_S)
        self._reader.join()
        return status

    def close(self):
        self._process.kill()
        self._process.wait()


def carries(arm, *poses):
    """The hand takes the arm to each pose (6,) [rad], and waits until the joints are there."""
    for pose in poses:
        start, begin_s = arm.q_rad.astype(np.float32), time.monotonic()
        takes_s = max(0.1, float(np.abs(pose - start).max()) / SPEED_RAD_S)
        while (share := (time.monotonic() - begin_s) / takes_s) < 1:
            arm.body.hand_rad = (start + np.float32(share) * (pose - start)).astype(np.float32)
            time.sleep(0.02)
        arm.body.hand_rad = np.asarray(pose, np.float32)
        end_s = time.monotonic() + 3.0
        while np.abs(arm.q_rad - pose).max() > 0.02 and time.monotonic() < end_s:
            time.sleep(0.02)


def test_a_person_calibrates_an_arm_and_touches_the_table(tmp_path):
    kinematics = Kinematics()
    with PhysicalArm(tmp_path) as arm:
        program = Program(arm)
        try:
            middle, *way = sweep()
            carries(arm, middle)
            program.expects("1/3 MIDDLE")
            program.types()
            program.expects("2/3 RANGE")
            carries(arm, *way)
            program.types()
            program.expects("3/3 CHECK")
            program.types()
            assert program.ends() == 0, program.said
        finally:
            program.close()
        found, wanted = load_calibration(tmp_path, "arm").limits, model_limits()
        np.testing.assert_allclose(found.lower_rad, wanted.lower_rad, atol=0.05)
        np.testing.assert_allclose(found.upper_rad, wanted.upper_rad, atol=0.05)
        assert (tmp_path / "arm.001.json").is_file()

        program = Program(arm, "--touch")
        try:
            for number, point in enumerate(SHEET_M, start=1):
                start = np.array([-np.arctan2(point[1], point[0]), 0.3, 0.3, 0.9, 0, wanted.lower_rad[5]])
                carries(arm, kinematics.ik(point + ABOVE_M, start), kinematics.ik(point, start))
                program.expects(f"point {number} of 4")
                program.types()
                program.expects(f"point {number + 1} of 4" if number < 4 else "largest error")
                carries(arm, kinematics.ik(point + ABOVE_M, start))
            assert program.ends() == 0, program.said
        finally:
            program.close()
    residual = re.search(r"largest error ([\d.]+) mm", program.said)
    assert residual and float(residual[1]) < 10, program.said
    assert twin_calibration().joints != load_calibration(tmp_path, "arm").joints
