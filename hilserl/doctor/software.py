"""Checks of the computer: what is installed, and what there is room for."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import time
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hilserl.build import build_encoder
from hilserl.doctor.context import Context
from hilserl.doctor.findings import Finding, Status, judged
from hilserl.env import task_spec
from hilserl.replay_size import free_memory
from hilserl.ring_layout import Kept, row_bytes

PYTHON = (3, 12)
IMPORTS = {
    "lerobot": "lerobot",
    "grpc": "grpcio",
    "google.protobuf": "protobuf",
    "torch": "torch",
    "cv2": "opencv-python-headless",
    "scservo_sdk": "feetech-servo-sdk",
    "numpy": "numpy",
    "safetensors": "safetensors",
    "mujoco": "mujoco",
    "mink": "mink",
    "pygame": "pygame",
    "av": "av",
    "nicegui": "nicegui",
    "zmq": "pyzmq",
}
"""{module: the package that brings it}."""
RESULTS_BYTES = 5e9
"""Room for an evening's episodes, checkpoints and films."""
EARLIEST_S = 1.75e9
"""No clock that is set shows a time before this (June 2025)."""


def imports(context: Context) -> list[Finding]:
    """Every package loads, and says its version."""
    broken, found = [], []
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    for module, package in IMPORTS.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what a package thinks of another one's age
                importlib.import_module(module)
            found.append(f"{package} {version(package)}")
        except (ImportError, OSError, PackageNotFoundError) as error:
            broken.append(f"{package} ({error})")
    text = f"cannot be loaded: {'; '.join(broken)}" if broken else ", ".join(found)
    return [judged("imports", not broken, text, "all load", "install the pinned packages: make setup")]


def python(context: Context) -> list[Finding]:
    """The interpreter is new enough."""
    now = sys.version.split()[0]
    least = ".".join(map(str, PYTHON))
    return [judged("python", sys.version_info >= PYTHON, now, f"at least {least}", "make setup finds one")]


def device(context: Context) -> list[Finding]:
    """The device the policy shall run on is there."""
    import torch

    wanted = context.config.policy.device
    kind = wanted.partition(":")[0]
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }.get(kind, False)
    name = torch.cuda.get_device_name(wanted) if kind == "cuda" and there else f"{os.cpu_count()} cores"
    advice = f"policy.device is {wanted}; use cpu, or install the torch build for this GPU"
    return [judged("device", there, f"{wanted}: {name if there else 'not there'}", "present", advice)]


def disk(context: Context) -> list[Finding]:
    """Room for results, beside the replay's files."""
    here = _existing(Path(context.config.output_dir))
    free = shutil.disk_usage(here).free
    needed = RESULTS_BYTES + _replay_bytes(context)
    return [
        judged(
            "disk",
            free >= needed,
            f"{free / 1e9:.1f} GB free in {context.config.output_dir}",
            f"at least {needed / 1e9:.1f} GB",
            "free some, or lower policy.online_buffer_capacity",
        )
    ]


def memory(context: Context) -> list[Finding]:
    """The full replay fits into the memory: updates read all of it at random."""
    needed, free = _replay_bytes(context), free_memory()
    return [
        judged(
            "memory",
            needed <= free,
            f"{free / 1e9:.1f} GB free, the full replay takes {needed / 1e9:.2f} GB",
            f"at most {free / 1e9:.1f} GB",
            "lower policy.online_buffer_capacity, feature_channels or feature_copies",
        )
    ]


def clock(context: Context) -> list[Finding]:
    """The clock is set, and not behind what earlier runs have written."""
    now = time.time()
    root = Path(context.config.output_dir)
    newest = max((path.stat().st_mtime for path in root.glob("*/*")), default=0.0) if root.is_dir() else 0.0
    good = now > EARLIEST_S and newest <= now + 60
    text = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(now))
    if newest > now + 60:
        text += f", {newest - now:.0f} s behind the newest file in {root}"
    return [judged("clock", good, text, "after every earlier run", "set the computer's clock")]


def ports(context: Context) -> list[Finding]:
    """The serial ports there are, by serial number; the configured one among them."""
    from robot.devices import resolve_port, serial_ports

    listed = list(map(str, serial_ports()))
    if context.twin:
        return [Finding("ports", Status.SKIPPED, f"no arm is configured; ports here: {listed or 'none'}")]
    port = resolve_port(context.config.robot.port)
    good = Path(port).exists()
    value = f"{port} {'is there' if good else 'is not there'}; found: {', '.join(listed) or 'none'}"
    advice = "plug the arm in, or set robot.port to where it is"
    if good and not os.access(port, os.R_OK | os.W_OK):
        good, advice = False, f"{port} may not be used by this user: join the group that owns it"
    return [judged("ports", good, value, "the configured port is there", advice)]


def encoder(context: Context) -> list[Finding]:
    """The image encoder loads; its output has the shape everything was made for."""
    loaded = build_encoder(context.config)
    shape = loaded.feature_shape(task_spec(context.config.task).image_shape)
    name = context.config.policy.vision_encoder_name
    known = loaded.complete or context.config.policy.feature_projection == "pca"
    return [judged("encoder", known, f"{name}: features {shape}", "loads", "see policy.vision_encoder_name")]


def _replay_bytes(context: Context) -> float:
    """Of a full replay."""
    policy, spec = context.config.policy, task_spec(context.config.task)
    shape = build_encoder(context.config).feature_shape(spec.image_shape) if policy.cache_features else None
    pad = policy.augmentation_pad if policy.use_augmentation else 0
    copies = policy.feature_copies if pad and policy.cache_features else 1
    kept = Kept(spec, shape, copies, pad, policy.n_obs_steps > 1)
    return float(row_bytes(kept.shapes()) * (policy.online_buffer_capacity + policy.offline_buffer_capacity))


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())
