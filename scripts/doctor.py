"""The pre-flight: python scripts/doctor.py --config_path FILE [--groups A,B] [--list] [--yes] [--json]."""

import sys

from hilserl.cli import main

if __name__ == "__main__":
    sys.exit(main(["doctor", *sys.argv[1:]]))
