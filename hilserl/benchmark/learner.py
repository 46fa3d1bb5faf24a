"""`benchmark.py learner`: what is measured, in which order, and the one dictionary it ends in."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hilserl.benchmark import roofline
from hilserl.benchmark.actors import ingest
from hilserl.benchmark.data import SENSOR_NOISE, make_spec, render
from hilserl.benchmark.growth import growth, lerobot_persistence
from hilserl.benchmark.lerobot_side import save_resnet10
from hilserl.benchmark.sizes import one_episode, sizes
from hilserl.benchmark.timing import Deadline, seconds, spread
from hilserl.benchmark.updates import Contest, Report, all_updates, line
from hilserl.benchmark.weights_out import weights_out_ms
from robot.types import U8

QUICK_S = 40.0
"""When the last round of a quick run must have begun to end, counted from the start of the program."""
HEADLINE, PROJECTED = 512, 64
_COPIES = 2
"""The default of policy.feature_copies."""
BATCHES = (256, 128, 64)
VARIANTS = tuple((channels, copies) for channels in (HEADLINE, PROJECTED) for copies in (1, 4, 8))
GROWTH = (1_000, 10_000, 50_000, 100_000, 200_000)
ACTORS = (1, 2, 4, 8)
_SAVED_EPISODES = 5
"""Of lerobot's buffer: its saving and reopening cost the same for every transition."""


def quick(report: Report, started_s: float) -> dict[str, Any]:
    """The headline within a minute: batch 256, one camera, 512 and 64 channels.

    lerobot's random shift runs uncompiled, and its warm-up is one update of 64.
    """
    deadline = Deadline(QUICK_S, time.monotonic() - started_s)
    renders = render(32)
    with _resnet10() as encoder:
        variants = [(HEADLINE, _COPIES), (PROJECTED, _COPIES)]
        contest = Contest(
            renders, encoder,
            cameras=1, transitions=800, variants=variants, device="cpu", compile_shift=False,
        )  # fmt: skip
        bytes_ = sizes(1, renders, contest.lerobot)
        row = contest.critic_updates(256, 5, deadline, warm_batch=64)
        report(line(row))
        result: dict[str, Any] = {"machine": machine("cpu"), "updates": [row], "sizes": [bytes_]}
    result |= headline(result)
    result["seconds"] = time.monotonic() - started_s
    return result


def measure(device: str, report: Report) -> dict[str, Any]:
    """Everything. Takes about a quarter of an hour on two cores, nearly all of it lerobot's updates."""
    renders = render(256)
    result: dict[str, Any] = {"machine": machine(device), "updates": [], "sizes": []}
    with _resnet10() as encoder:
        for cameras in (1, 2):
            contest = Contest(
                renders, encoder,
                cameras=cameras, transitions=2000, variants=VARIANTS, device=device, compile_shift=True,
            )  # fmt: skip
            result["updates"] += all_updates(contest, BATCHES, Deadline(1e9), report)
            result["sizes"].append(sizes(cameras, renders, contest.lerobot))
            if cameras == 1:
                result |= _one_camera(contest, renders, report)
            del contest
    result["growth"] = growth(renders, GROWTH, device, report)
    episode = one_episode(1, renders, SENSOR_NOISE)
    result["actors"] = ingest(make_spec(1), episode, ACTORS, 16)
    for row in result["actors"]:
        report(f"{row['actors']} actors: {row['learner_cpu_ms']:.2f} ms of the learner's CPU per transition")
    return result | headline(result)


def _one_camera(contest: Contest, renders: U8, report: Report) -> dict[str, Any]:
    """What needs no second camera: encoding, weights, parameters, persistence, roofline."""
    theirs, first = contest.lerobot, contest.ours[HEADLINE, 1]
    counts = {
        "lerobot": theirs.parameters(),
        **{f"ours C={c}": contest.ours[c, 1].parameters() for c in (HEADLINE, PROJECTED)},
    }
    weights = {
        "lerobot": theirs.weight_bytes(),
        "ours": first.weight_bytes(),
        "ours_64": contest.ours[PROJECTED, 1].weight_bytes(),
    }
    found: dict[str, Any] = {
        "encode_ms": contest.encoding(5, Deadline(60)),
        "parameters": counts,
        "weight_bytes": weights,
        "weights_out_ms": spread(weights_out_ms(first, 20)).as_dict(),
    }
    stored = contest.episodes[:_SAVED_EPISODES]
    found["lerobot_persistence"] = lerobot_persistence(theirs, stored)
    report(f"lerobot's saving and reopening: {found['lerobot_persistence']}")
    peak = roofline.measure_peak(contest.device)
    found["peak"] = {"gflops": peak.flops / 1e9, "gbytes_per_s": peak.bandwidth / 1e9}
    found["roofline"] = [_roofline(contest, channels, peak) for channels in (HEADLINE, PROJECTED)]
    return found


def _roofline(contest: Contest, channels: int, peak: roofline.Peak) -> dict[str, Any]:
    ours = contest.ours[channels, 1]
    ours.batch_size = 256
    ours.critic_updates(3)
    update_s = sorted(seconds(lambda: ours.critic_updates(5)) / 5 for _ in range(7))[3]
    costs = roofline.parts(roofline.Shape.of(ours))
    took = roofline.measured_parts(ours, update_s)
    parts = {
        name: {
            "mflop": cost.flops / 1e6,
            "mbyte": cost.bytes / 1e6,
            "least_ms": 1e3 * peak.least_s(cost),
            "ms": 1e3 * took[name],
        }
        for name, cost in costs.items()
    }
    whole = roofline.total(costs)
    return {
        "channels": channels,
        "parts": parts,
        "mflop": whole.flops / 1e6,
        "mflop_counted": roofline.counted_flops(ours) / 1e6,
        "mbyte": whole.bytes / 1e6,
        "least_ms": sum(part["least_ms"] for part in parts.values()),
        "ms": 1e3 * update_s,
    }


def headline(result: dict[str, Any]) -> dict[str, Any]:
    """The numbers the project is held to, lerobot over ours (larger is better), and what is behind them."""
    row = next(r for r in result["updates"] if (r["batch"], r["cameras"], r["utd"]) == (256, 1, 0))
    best = {channels: _fastest(row, channels) for channels in (HEADLINE, PROJECTED)}
    memory, wire = result["sizes"][0]["memory"], result["sizes"][0]["wire"]
    return {
        "critic_updates_per_s_ratio": best[HEADLINE]["ratio"]["median"],
        "critic_updates_per_s_ratio_channels": HEADLINE,
        "critic_updates_per_s_ratio_range": [best[HEADLINE]["ratio"]["low"], best[HEADLINE]["ratio"]["high"]],
        "critic_updates_per_s_ratio_64_channels": best[PROJECTED]["ratio"]["median"],
        "critic_updates_per_s": {
            "lerobot": 1 / row["lerobot_s"]["median"],
            "ours_512_channels": 1 / best[HEADLINE]["s"]["median"],
            "ours_64_channels": 1 / best[PROJECTED]["s"]["median"],
        },
        "memory_per_transition_ratio": memory["lerobot"] / memory["ours"],
        "memory_per_transition_ratio_lerobot_optimised": memory["lerobot_optimised"] / memory["ours"],
        "memory_per_transition_bytes": {
            key: memory[key] for key in ("lerobot", "lerobot_optimised", "ours", "ours_raw")
        },
        "wire_per_transition_ratio": wire["lerobot"] / wire["ours"],
        "wire_per_transition_ratio_lerobot_cpu_policy": wire["lerobot_cpu_policy"] / wire["ours"],
        "wire_per_transition_bytes": wire,
    }


def _fastest(row: dict[str, Any], channels: int) -> dict[str, Any]:
    """Our variant with the fewest copies: the first with these channels."""
    found: dict[str, Any] = next(o for o in row["ours"] if o["channels"] == channels)
    return found


def machine(device: str) -> dict[str, Any]:
    """What the numbers were taken on."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            text.split(":", 1)[1].strip() for text in info.read_text().splitlines() if "model name" in text
        ]
        model = names[0] if names else model
    return {
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        "cpu": model,
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load_at_start": os.getloadavg()[0],
    }


@contextmanager
def _resnet10() -> Iterator[Path]:
    """A folder with a transformers ResNet of the right size, for as long as the benchmark runs."""
    with tempfile.TemporaryDirectory() as folder:
        yield save_resnet10(Path(folder))
