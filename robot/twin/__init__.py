"""A simulated SO-101: MuJoCo physics, a lock-step arm, and the real servo protocol."""
