"""What this learner costs, measured beside lerobot's on the same data. Run by scripts/benchmark.py."""
