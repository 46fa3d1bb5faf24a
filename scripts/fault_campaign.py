"""The fault campaign: python scripts/fault_campaign.py --seed S --faults N --json."""

import sys

if __name__ == "__main__":
    from hilserl.benchmark.campaign import main

    sys.exit(main(sys.argv[1:], lambda line: print(line, flush=True)))
