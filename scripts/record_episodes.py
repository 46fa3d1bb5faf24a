"""Record: python scripts/record_episodes.py --config_path FILE --num_episodes N --role demo|reward."""

import sys

from hilserl.cli import main

if __name__ == "__main__":
    sys.exit(main(["record", *sys.argv[1:]]))
