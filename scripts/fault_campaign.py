"""The fault campaign: python scripts/fault_campaign.py --seed S --faults N --json."""

import sys

if __name__ == "__main__":
    from hilserl.benchmark.campaign import main
    from hilserl.headless import render_off_screen

    render_off_screen()
    sys.exit(main(sys.argv[1:], lambda line: print(line, flush=True)))
