"""The fault campaign: more than a thousand faults on the wire-level twin, each judged by the physics.

What was done: `campaign_plan`. To whom: `campaign_actor`, a real actor, and `campaign_full`, the product's
own programs. What the arm, the data and the person had of it: `campaign_judge`, `campaign_data` and
`campaign_told`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from hilserl.benchmark.campaign_plan import KINDS, Fault, plan

PART: Final = 120
"""A longer lane is cut into parts of about so many faults, each with an arm of its own."""
AT_ONCE: Final = 2
Say = Callable[[str], None]


def main(argv: Sequence[str], say: Say) -> int:
    """Run the campaign `argv` asks for; 0 when nothing was violated."""
    parser = argparse.ArgumentParser(prog="fault_campaign.py", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=int, default=1000, metavar="N", help="at least one of each kind")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), metavar="KIND", help="only these")
    parser.add_argument("--at_once", type=int, default=AT_ONCE, metavar="N", help="arms at the same time")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="logs and data stay there (default: gone)")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments = parser.parse_args(argv)
    with ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="faults_")))
        jobs = jobs_of(plan(arguments.seed, arguments.faults, tuple(arguments.kinds)), arguments.seed)
        result = run(jobs, folder, arguments.at_once, say)
    for outcome in result.pop("violated"):
        say(f"VIOLATION {outcome['kind']} (fault {outcome['index']}): {'; '.join(outcome['violations'])}")
    if not arguments.json:
        say(table(result))
    say(json.dumps(result))
    return int(result["violations"] > 0)


def jobs_of(lanes: Mapping[str, Sequence[Fault]], seed: int) -> list[dict[str, Any]]:
    """Lanes cut into parts, long ones first. One job: {"name", "lane", "seed", "faults"}."""
    jobs = []
    for lane, faults in lanes.items():
        parts = max(1, round(len(faults) / PART))
        for part in range(parts):
            name = f"{lane}{part + 1}"
            chosen = [fault.plain() for fault in faults[part::parts]]
            jobs.append({"name": name, "lane": lane, "seed": seed + part, "faults": chosen})
    return sorted(jobs, key=lambda job: -len(job["faults"]))


def run(jobs: Sequence[dict[str, Any]], folder: Path, at_once: int, say: Say) -> dict[str, Any]:
    """Play all jobs, each in a process of its own, and gather what became of every fault."""
    start_s = time.monotonic()

    def play(job: dict[str, Any]) -> dict[str, Any]:
        place = folder / job["name"]
        place.mkdir(parents=True)
        (place / "job.json").write_text(json.dumps(job | {"folder": str(place)}))
        command = [sys.executable, "-m", "hilserl.benchmark.campaign_lanes", str(place / "job.json")]
        with (place / "lane.log").open("w") as log:
            code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
        played = _failed(job, code, place) if code else json.loads((place / "outcomes.json").read_text())
        bad = sum(bool(outcome["violations"]) for outcome in played["outcomes"])
        say(f"{job['name']}: {len(played['outcomes'])} faults, {bad} with violations")
        return played

    with ThreadPoolExecutor(at_once) as pool:
        return summary(list(pool.map(play, jobs)), time.monotonic() - start_s)


def _failed(job: Mapping[str, Any], code: int, place: Path) -> dict[str, Any]:
    """A lane that could not be played: one violation, and no fault of its counts as injected."""
    words = "\n".join((place / "lane.log").read_text().splitlines()[-15:])
    told = {"index": job["faults"][0]["index"], "kind": job["faults"][0]["kind"]}
    told |= {"effect": False, "arm": "unseen", "told": []}
    told["violations"] = [f"lane {job['name']} ended with code {code}: {words}"]
    numbers = dict.fromkeys(("lost_steps", "episodes", "unprovoked", "lost_s", "in_time"), 0)
    return {"outcomes": [told], **numbers}


def summary(played: Sequence[Mapping[str, Any]], seconds: float) -> dict[str, Any]:
    """Counts of all outcomes, by kind; "violated": the outcomes that were.

    unprovoked: episodes that ended early though nothing was injected. physics_lost_s: how far the simulated
    time fell behind; in_time: share of the time in which it did not, where speeds are judged.
    """
    outcomes = [outcome for one in played for outcome in one["outcomes"]]
    by_kind = {}
    for kind in KINDS:
        mine = [outcome for outcome in outcomes if outcome["kind"] == kind]
        if mine:
            told = next((o["told"][0] for o in mine if o["told"]), "")
            by_kind[kind] = {
                "faults": len(mine),
                "violations": sum(len(o["violations"]) for o in mine),
                "with_effect": sum(o["effect"] for o in mine),
                "told": sum(bool(o["told"]) for o in mine),
                "arm": dict(Counter(o["arm"] for o in mine).most_common()),
                "words": told,
            }
    return {
        "faults": len(outcomes),
        "violations": sum(len(o["violations"]) for o in outcomes),
        "lost_steps": sum(one["lost_steps"] for one in played),
        "episodes": sum(one["episodes"] for one in played),
        "unprovoked": sum(one["unprovoked"] for one in played),
        "physics_lost_s": round(sum(one["lost_s"] for one in played), 1),
        "in_time": round(sum(one["in_time"] for one in played) / max(1, len(played)), 3),
        "seconds": round(seconds, 1),
        "by_kind": by_kind,
        "violated": [o for o in outcomes if o["violations"]],
    }


def table(result: Mapping[str, Any]) -> str:
    """The kinds as a Markdown table."""
    lines = ["| kind | faults | violations | with effect | told | the arm |", "|---|---|---|---|---|---|"]
    for kind, one in result["by_kind"].items():
        arm = ", ".join(f"{what} {count}" for what, count in one["arm"].items())
        numbers = f"{one['faults']} | {one['violations']} | {one['with_effect']} | {one['told']}"
        lines.append(f"| {kind} | {numbers} | {arm} |")
    return "\n".join(lines)
