"""A trained policy at work: python scripts/hilserl_inference.py --config_path FILE --checkpoint DIR."""

import sys

from hilserl.cli import main

if __name__ == "__main__":
    sys.exit(main(["inference", *sys.argv[1:]]))
