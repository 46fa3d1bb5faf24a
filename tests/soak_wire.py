"""Soak: learner, actor and gamepad against the wire-level twin in real time.

python -m tests.soak_wire --minutes 10 --folder outputs/soak

Real processes for the twin and the learner; the actor runs here, so that an SDL virtual joystick can be its
gamepad. A thread plays the operator: it takes over for one to three seconds, lets go, and ends episodes with
the face buttons. The last line is one JSON object.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from robot.twin.virtual_pad import VirtualPad

BUMPER, SUCCESS, FAILURE, CLOSE, OPEN = 5, 3, 1, 6, 7
CONFIG = "configs/twin_wire_config.json"


def operate(pad: VirtualPad, stop: threading.Event, counts: dict[str, int]) -> None:
    """A person at the pad: short take-overs with moving sticks, an episode's end now and then."""
    rng = random.Random(0)
    last_end = time.monotonic()
    while not stop.wait(rng.uniform(1.0, 3.0)):
        pad.press(BUMPER)
        counts["take_overs"] += 1
        until = time.monotonic() + rng.uniform(1.0, 3.0)
        while time.monotonic() < until and not stop.is_set():
            for axis in (0, 1, 3):
                pad.axis(axis, rng.uniform(-1, 1))
            button = rng.choice((CLOSE, OPEN))
            pad.press(button)
            stop.wait(0.2)
            pad.release(button)
        pad.release(BUMPER)
        if time.monotonic() - last_end > 8:
            button = rng.choice((SUCCESS, FAILURE))
            pad.press(button)
            stop.wait(0.05)
            pad.release(button)
            last_end = time.monotonic()


def rows(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--folder", type=Path, default=Path("outputs/soak"))
    args = parser.parse_args()
    folder: Path = args.folder
    folder.mkdir(parents=True)
    port = folder / "servo-bus"
    overrides = [
        "--config_path", CONFIG, f"--output_dir={folder}", f"--robot.port={port}",
        f"--robot.calibration_dir={folder / 'calibration'}", "--robot.object_time_s=1.0",
    ]  # fmt: skip
    run = [sys.executable, "-m", "hilserl"]
    logs = {name: (folder / f"{name}.log").open("w") for name in ("twin", "learner")}
    twin = subprocess.Popen([*run, "twin", *overrides], stdout=logs["twin"], stderr=subprocess.STDOUT)
    learner = subprocess.Popen(
        [*run, "learner", *overrides], stdout=logs["learner"], stderr=subprocess.STDOUT
    )
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    counts = {"take_overs": 0}
    over = threading.Event()
    try:
        while not port.exists():
            time.sleep(0.1)
        pad = VirtualPad()
        hand = threading.Thread(target=operate, args=(pad, over, counts), daemon=True)
        hand.start()
        threading.Timer(60 * args.minutes, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        from hilserl.actor_process import run_actor
        from hilserl.config_loading import load_config

        run_actor(load_config(CONFIG, overrides[2:]))
    finally:
        over.set()
        for process in (learner, twin):
            process.send_signal(signal.SIGINT)
        for process in (learner, twin):
            process.wait(30)
    report(folder, counts)


def report(folder: Path, counts: dict[str, int]) -> None:
    from hilserl.episode import load_episode, scan_episodes

    job = folder / "twin_wire"
    played = [row for row in rows(job / "actors" / "actor" / "metrics" / "actor.jsonl")]
    stored = {info.number: info.length for info in scan_episodes(job / "episodes")}
    lost = {
        int(row["episode/index"]): int(row["episode/steps"])
        for row in played
        if stored.get(int(row["episode/index"])) != int(row["episode/steps"])
    }
    helped = [load_episode(info.path).intervention for info in scan_episodes(job / "episodes")]
    steps = sum(int(row["episode/steps"]) for row in played)
    result = {
        "episodes": len(played),
        "steps": steps,
        "loop_hz": float(
            np.average([r["actor/loop_hz"] for r in played], weights=[r["episode/steps"] for r in played])
        ),
        "loop_p99_ms_median": float(np.median([row["actor/loop_p99_ms"] for row in played])),
        "loop_p99_ms_worst": float(max(row["actor/loop_p99_ms"] for row in played)),
        "overruns": int(sum(row["actor/overruns"] for row in played)),
        "pad_take_overs": counts["take_overs"],
        "stored_take_overs": int(sum((np.diff(h.astype(int), prepend=0) == 1).sum() for h in helped)),
        "intervened_steps": int(sum(h.sum() for h in helped)),
        "lost_episodes": lost,
        "lost_steps": sum(lost.values()),
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
