"""Mistakes planted on purpose: python scripts/sabotage.py [--quick] [--json] [--markdown FILE]."""

import sys

if __name__ == "__main__":
    from hilserl.benchmark.sabotage_cli import main
    from hilserl.headless import render_off_screen

    render_off_screen()
    sys.exit(main(sys.argv[1:], print))
