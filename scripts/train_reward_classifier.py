"""Train: python scripts/train_reward_classifier.py --config_path FILE --classifier.datasets=FOLDER."""

import sys

from hilserl.cli import main

if __name__ == "__main__":
    sys.exit(main(["classifier", "train", *sys.argv[1:]]))
