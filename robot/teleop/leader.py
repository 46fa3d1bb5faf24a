"""The SO-101 leader arm as a Teleop: a person moves it, and its motion becomes (4,) in [-1, 1]."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from robot.errors import RobotError
from robot.kinematics import Kinematics
from robot.teleop.leader_arm import LeaderArm
from robot.teleop.leader_motion import GripperIntent, HandMotion, TakeOver
from robot.types import F32, GRIPPER, ArmState, Clock, Operator, Teleop

DROPPED_M = 0.005
"""Less dropped motion than this is not worth a word."""


class Leader:
    """A Teleop: the leader arm, and a device with buttons beside it.

    Take over by grabbing the leader (move it for a moment), or by holding the buttons' own take-over control
    (gamepad: right bumper, keyboard: space bar); see `TakeOver`. Give back by letting the leader rest, or by
    letting go of that control. The buttons' verdicts (success, failure, discard, stop) count always; their
    sticks and arrow keys do nothing.

    The leader never pulls: only its motion since the take-over counts, so the first action is zero wherever
    it stands. Its hand's position is followed, its rotation is not. Motion faster than one unit per step is
    carried over (`HandMotion`); what exceeds the leash is dropped, and said when the take-over ends. The
    gripper follows by position (`GripperIntent`).

    The leader has no torque. Once it is gone `read` raises TeleopError; the next `reset` looks for it again.
    """

    def __init__(
        self,
        arm: LeaderArm,
        buttons: Teleop,
        clock: Clock,
        *,
        action_scale_m: float,
        leash_m: float,
        gripper_span_rad: tuple[float, float],
        gripper_band_rad: float,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Connect to the leader; raises what that raises.

        arm: not connected yet. action_scale_m: what 1 in an action means. gripper_span_rad: the follower's
        gripper, closed and open. gripper_band_rad: a difference of the grippers that is none.
        """
        self._arm, self._buttons, self._clock, self._say = arm, buttons, clock, say
        self._kinematics = Kinematics()
        self._take_over = TakeOver()
        self._motion = HandMotion(action_scale_m, leash_m)
        self._gripper = GripperIntent(gripper_span_rad, gripper_band_rad)
        self._acting = self._lost = False
        try:
            arm.connect()
        except BaseException:
            buttons.close()
            raise

    @property
    def torque(self) -> bool:
        """Whether the leader was found energised when it was last read; it never should be."""
        return self._arm.torque

    def read(self, state: ArmState) -> Operator:
        """What the person says now; state: the follower's. Raises TeleopError once a device is gone."""
        try:
            q_rad = self._arm.read()
            said = self._buttons.read(state)
        except RobotError:
            self._give_back()
            self._take_over.reset()  # what it does while it is away is not seen
            self._lost = True
            raise
        if not self._take_over.update(q_rad, said.action is not None, self._clock.now_s()):
            self._give_back()
            return Operator(None, said.event)
        return Operator(self._action(q_rad, float(state.q_rad[GRIPPER])), said.event)

    def reset(self, seed: int) -> None:
        """A new episode: nobody has taken over; pending events but a STOP are forgotten.

        Looks for a leader that was gone. Raises TeleopError; CalibrationError for another arm in its place.
        """
        self._buttons.reset(seed)
        self._give_back()
        self._take_over.reset()
        if self._lost:
            self._arm.connect()
            self._lost = False

    def stop_asked(self) -> bool:
        """Whether its buttons ask for a stop."""
        return self._buttons.stop_asked()

    def close(self) -> None:
        """Close its port and its buttons. More than once is allowed."""
        self._arm.close()
        self._buttons.close()

    def _action(self, q_rad: F32, follower_rad: float) -> F32:
        xyz_m, share = self._kinematics.fk(q_rad).xyz_m, self._arm.gripper_share(q_rad)
        if not self._acting:
            self._acting = True
            self._motion.start(xyz_m)
            self._gripper.start(share, follower_rad)
            return np.zeros(4, np.float32)
        grip = np.float32(self._gripper.step(share, follower_rad))
        return np.append(self._motion.step(xyz_m), grip)

    def _give_back(self) -> None:
        if self._acting and self._motion.dropped_m > DROPPED_M:
            self._say(
                f"the leader was too far ahead of the arm: {1000 * self._motion.dropped_m:.0f} mm of its"
                " motion were dropped; move it slower"
            )
        self._acting = False
