"""Devices a person drives the arm with. Each speaks (4,) in [-1, 1]."""
