"""The learner: python scripts/learner_server.py --config_path FILE."""

import sys

from hilserl.cli import main

if __name__ == "__main__":
    sys.exit(main(["learner", *sys.argv[1:]]))
