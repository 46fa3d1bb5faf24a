"""The healthy set-up that mistakes are planted in: a configuration, and everything it names, in one folder.

twin.json, wire.json       configurations of the lock-step twin, and of an arm on a servo bus
demos/                     scripted demonstrations with task.json
recording/, *.labels.json  a recorded dataset and its labels
outputs/                   runs: <job>/checkpoints, classifier/best_model
calibration/arm.json       calibration of the arm on the bus
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hilserl.config import Config
from hilserl.config_loading import load_config
from hilserl.config_tree import merge

if TYPE_CHECKING:
    from hilserl.body import Body
    from robot.twin.faults import Faults
    from robot.twin.servo_bus import ServoBus

Tree = dict[str, Any]
Say = Callable[[str], None]

ARM, LEADER = "arm", "leader"
CLASSIFIER = "classifier"


def _nothing(*_: object) -> None:
    """Nothing is done."""


@dataclass(slots=True)
class Setup:
    """One set-up. base: the lock-step configuration it stands on; wire_base: that of an arm on a bus.

    What cannot stand in a file stands here. room: {dotted name: what takes its place}. servos: what is done
    to the servos before they are looked at. adapter: serial number of the follower's port. leader_rad: how
    far a leader's wrist is turned against the follower's. command: what somebody does with the body.
    """

    folder: Path
    base: Path
    wire_base: Path
    room: dict[str, object] = field(default_factory=dict)
    adapter: str = ARM
    leader_rad: float = 0.0
    servos: Callable[[ServoBus, Faults], None] = _nothing
    command: Callable[[Body], None] = _nothing

    def __post_init__(self) -> None:
        # Relative: a configuration that names a path of one computer is itself a mistake.
        self.folder = Path(os.path.relpath(self.folder))

    @property
    def twin_file(self) -> Path:
        """Configuration of the lock-step twin."""
        return self.folder / "twin.json"

    @property
    def wire_file(self) -> Path:
        """Configuration of the arm on a bus."""
        return self.folder / "wire.json"

    @property
    def demos(self) -> Path:
        """Episode archives."""
        return self.folder / "demos"

    @property
    def recording(self) -> Path:
        """A LeRobotDataset."""
        return self.folder / "recording"

    @property
    def outputs(self) -> Path:
        """Below it the runs."""
        return self.folder / "outputs"

    @property
    def model(self) -> Path:
        """The reward classifier."""
        return self.outputs / CLASSIFIER / "best_model"

    @property
    def calibration(self) -> Path:
        """Folder of the arm's calibration."""
        return self.folder / "calibration"

    @property
    def checkpoints(self) -> Path:
        """Of the run the configuration names."""
        return self.outputs / self.config().job_name / "checkpoints"

    def config(self) -> Config:
        """The lock-step twin's, as a command would load it. Raises ConfigError."""
        return load_config(self.twin_file)

    def wire_config(self, port: str) -> Config:
        """The servo arm's; port: where its bus is now."""
        return load_config(self.wire_file, [f"--robot.port={port}"])

    def copy(self, folder: Path) -> Setup:
        """What its files hold, in another folder; what stands in no file is as in a new one."""
        shutil.copytree(self.folder, folder, symlinks=True)
        other = Setup(folder, self.base, self.wire_base)
        for file, base in ((other.twin_file, self.base), (other.wire_file, self.wire_base)):
            file.write_text(file.read_text().replace(str(self.folder), str(other.folder)))
            edit_json(file, {"base": os.path.relpath(base, other.folder)})
        return other

    def write_configs(self) -> None:
        """Both configurations, naming what lies in this folder."""
        twin = {
            "base": os.path.relpath(self.base, self.folder),
            "output_dir": str(self.outputs),
            "demos": [str(self.demos)],
            "allow_task_difference": ["success"],
            "classifier": {"model": str(self.model), "datasets": [str(self.recording)]},
        }
        wire = {
            "base": os.path.relpath(self.wire_base, self.folder),
            "output_dir": str(self.outputs),
            "robot": {"port": "/dev/null", "id": ARM, "calibration_dir": str(self.calibration)},
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        self.twin_file.write_text(json.dumps(twin, indent=1))
        self.wire_file.write_text(json.dumps(wire, indent=1))


def edit_json(path: Path, changes: Tree) -> None:
    """Lay `changes` over the object in a JSON file, as a person would who edits it."""
    path.write_text(json.dumps(merge(json.loads(path.read_text()), changes), indent=1))


def build_setup(folder: Path, base: Path, wire_base: Path, parts: Parts, say: Say) -> Setup:
    """A healthy set-up in `folder`, anew. parts: how much of it."""
    from hilserl.benchmark.reward import recorded, trained
    from hilserl.benchmark.sabotage_bus import calibrate
    from hilserl.demo import record_demonstrations

    setup = Setup(folder, base, wire_base)
    setup.write_configs()
    config = setup.config()
    record_demonstrations(config, setup.demos, parts.demos)
    calibrate(setup)
    if parts.recorded:
        recorded(config, setup.recording, parts.recorded, _nothing)
    if parts.trained:
        say("training the classifier and the policy of the healthy set-up ...")
        trained(config, setup.recording, setup.outputs, _nothing)
        from hilserl.benchmark.sabotage_policy import save_policy

        save_policy(setup, parts.cloning_steps)
    return setup


@dataclass(frozen=True, slots=True)
class Parts:
    """How much the healthy set-up holds. demos, recorded: episodes. trained: classifier and policy."""

    demos: int
    recorded: int
    trained: bool
    cloning_steps: int = 0


QUICK = Parts(demos=6, recorded=6, trained=False)
FULL = Parts(demos=8, recorded=16, trained=True, cloning_steps=300)
