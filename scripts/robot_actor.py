"""The robot's side: python scripts/robot_actor.py --config_path FILE."""

import sys

from hilserl.cli import main

if __name__ == "__main__":
    sys.exit(main(["actor", *sys.argv[1:]]))
