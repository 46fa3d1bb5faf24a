"""Mistakes planted on purpose: python scripts/sabotage.py [--quick] [--json] [--markdown FILE]."""

import sys

if __name__ == "__main__":
    from hilserl.benchmark.sabotage_cli import main

    sys.exit(main(sys.argv[1:], print))
