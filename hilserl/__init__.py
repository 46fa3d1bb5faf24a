"""The mind: human-in-the-loop reinforcement learning. Importing it costs nothing."""
