"""The import rule of the architecture: who may know whom."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(p for package in ("hilserl", "robot") for p in (ROOT / package).rglob("*.py"))
TORCH_MODULES = {"vision", "replay", "sac", "networks", "acting", "reward", "build", "inference", "pretrain"}
TORCH_MODULES |= {
    f"classifier.{name}"
    for name in ("model", "model_files", "network", "features", "fitting", "crossvalidation", "training")
}
TORCH_MODULES |= {"learner_process", "learner_saving", "actor_process", "sampling"}
TORCH_MODULES |= {
    "adam_state",
    "doctor.demonstrations",
    "doctor.golden",
    "doctor.network_input",
    "encoder",
    "group",
    "noise",
    "parallel",
    "player",
    "running_means",
    "sac_agent",
    "sac_losses",
}
TORCH_MODULES |= {
    f"benchmark.{name}" for name in ("learner", "lerobot_side", "roofline", "timing", "updates")
}
PLAIN_ROBOT_MODULES = ("robot.types", "robot.errors", "robot.kinematics", "robot.timing", "robot.twin.lift")
PLAIN_ROBOT_MODULES += (
    "robot.clearance",
    "robot.planning",
    "robot.joint_units",
    "robot.health",
    "robot.modes",
    "robot.pinhole",
)
COMPOSERS = {"build", "body", "controls", "pretrain", "cli", "cli_arm"}
COMPOSERS |= {"doctor.servos", "doctor.camera", "doctor.arm_pair", "doctor.software", "inventory_arm"}
COMPOSERS |= {f"benchmark.campaign_{name}" for name in ("actor", "judge", "stage")}
COMPOSERS |= {f"benchmark.sabotage_{name}" for name in ("setup", "bus", "servos", "body", "camera")}
"""build, body and controls name the concrete classes; pretrain renders the twin; cli opens the twin's doors,
cli_arm and doctor.servos, .arm_pair and .software the servos', doctor.camera the cameras'; inventory_arm
reads an arm's files."""


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def module_level(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run on import: everything outside functions and `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from module_level(node)


def imported(nodes: Iterator[ast.AST], package: str) -> set[str]:
    """Dotted names of all modules imported; `from a import b` counts as a and a.b."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {package}: {ast.unparse(node)}"
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def anywhere(path: Path) -> set[str]:
    return imported(ast.walk(ast.parse(path.read_text())), name_of(path))


def on_import(path: Path) -> set[str]:
    return imported(module_level(ast.parse(path.read_text())), name_of(path))


def roots(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("path", [p for p in FILES if name_of(p).startswith("robot.")], ids=name_of)
def test_the_body_knows_nothing_of_the_mind(path):
    assert not roots(anywhere(path)) & {"hilserl", "torch", "grpc"}


@pytest.mark.parametrize("path", [p for p in FILES if name_of(p).startswith("hilserl.")], ids=name_of)
def test_the_mind_keeps_to_its_layers(path):
    name = name_of(path).removeprefix("hilserl.")
    found = anywhere(path)
    if not name.startswith(("wire", "_proto")):
        assert "grpc" not in roots(found), "only wire speaks gRPC"
        assert not any(n.startswith("hilserl._proto") for n in found), "only wire knows the generated code"
    if name not in TORCH_MODULES:
        assert not roots(on_import(path)) & {"torch", "torchvision"}, "torch costs seconds to import"
    if name not in COMPOSERS:
        drivers = {n for n in found if n.startswith("robot.") and not n.startswith(PLAIN_ROBOT_MODULES)}
        drivers -= {"robot.twin"}  # from robot.twin.lift import LiftConfig
        assert not drivers, "only build names the classes of the body"


def test_no_pickle_anywhere():
    for path in FILES:
        assert not roots(anywhere(path)) & {"pickle", "cloudpickle", "dill", "joblib"}, path
        text = path.read_text()
        assert "allow_pickle=True" not in text and "torch.load" not in text, path


@pytest.mark.parametrize(
    "modules",
    ["hilserl", "robot", "hilserl.config", "hilserl.config_loading", "hilserl.task_record", "hilserl.cli"],
)
def test_importing_is_cheap(modules):
    heavy = ("torch", "mujoco", "grpc", "cv2", "lerobot", "pygame", "google.protobuf", "nicegui")
    if modules in ("hilserl", "robot"):
        heavy += ("numpy",)
    code = f"import {modules}, sys; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
