"""The command line of scripts/benchmark.py. Heavy imports wait until a benchmark runs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path


def main(argv: Sequence[str], report: Callable[[str], None], started_s: float) -> int:
    """Run the benchmark `argv` asks for. report prints a line; started_s: monotonic time of the start."""
    parser = argparse.ArgumentParser(prog="benchmark.py", description="Measure this project.")
    commands = parser.add_subparsers(dest="command", required=True)
    learner = commands.add_parser("learner", help="updates, bytes, checkpoints and resume beside lerobot's")
    learner.add_argument("--against", choices=["lerobot"], required=True)
    learner.add_argument("--quick", action="store_true", help="the headline only, within 50 s on two cores")
    learner.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    learner.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    learner.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables here")
    learner.add_argument("--plot", type=Path, metavar="FILE", help="draw critic updates per second (png)")
    arguments = parser.parse_args(argv)

    from hilserl.benchmark.learner import measure, quick
    from hilserl.benchmark.report import draw, markdown

    result = quick(report, started_s) if arguments.quick else measure(arguments.device, report)
    if arguments.markdown:
        arguments.markdown.write_text(markdown(result), encoding="utf-8")
    if arguments.plot:
        draw(result, arguments.plot)
    report(json.dumps(result) if arguments.json else markdown(result))
    return 0
