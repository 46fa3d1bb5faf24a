"""The body: arm, camera, teleoperation and the twin. Knows nothing of learning."""
