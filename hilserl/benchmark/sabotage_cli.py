"""The command line of scripts/sabotage.py. Heavy imports wait until it runs."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path


def main(argv: Sequence[str], report: Callable[[str], None]) -> int:
    """Plant every mistake and say what caught it. Exit code 0: all were caught, and all was well before."""
    parser = argparse.ArgumentParser(
        prog="sabotage.py", description="Plant the field report's mistakes: is each caught, by name?"
    )
    parser.add_argument("--quick", action="store_true", help="those that need neither motion nor training")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these mistakes only")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table here")
    parser.add_argument("--config_path", default="configs/twin_lift_train_config.json", metavar="FILE")
    parser.add_argument("--wire_config_path", default="configs/twin_wire_config.json", metavar="FILE")
    arguments = parser.parse_args(argv)

    from hilserl.benchmark.sabotage import run_sabotage, table
    from hilserl.benchmark.sabotage_list import MISTAKES
    from hilserl.benchmark.sabotage_setup import FULL, QUICK, build_setup

    unknown = set(arguments.only or ()) - {one.name for one in MISTAKES}
    if unknown:
        report(
            f"no such mistake: {', '.join(sorted(unknown))}; there are {', '.join(m.name for m in MISTAKES)}"
        )
        return 2
    chosen = [
        one
        for one in MISTAKES
        if (one.quick or not arguments.quick) and one.name in (arguments.only or (one.name,))
    ]
    parts = QUICK if all(one.quick for one in chosen) else FULL
    with tempfile.TemporaryDirectory(prefix="sabotage_") as place:
        healthy = build_setup(
            Path(place) / "healthy",
            Path(arguments.config_path),
            Path(arguments.wire_config_path),
            parts,
            report,
        )
        result = run_sabotage(healthy, chosen, report)
    if arguments.markdown:
        arguments.markdown.write_text(table(result) + "\n", encoding="utf-8")
    told = result.to_json()
    report(json.dumps(told) if arguments.json else f"{told['caught']} of {told['planted']} caught")
    return 1 if result.sick or result.missed else 0
