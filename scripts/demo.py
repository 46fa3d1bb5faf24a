"""Learning on the simulated arm from start to finish: python scripts/demo.py."""

import sys

from hilserl.cli import main

if __name__ == "__main__":
    sys.exit(main(["demo", *sys.argv[1:]]))
