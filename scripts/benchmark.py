"""Benchmarks: python scripts/benchmark.py learner --against lerobot [--quick] [--json]."""

import sys
import time

STARTED_S = time.monotonic()

if __name__ == "__main__":
    from hilserl.benchmark.cli import main
    from hilserl.headless import render_off_screen

    render_off_screen()
    sys.exit(main(sys.argv[1:], print, STARTED_S))
