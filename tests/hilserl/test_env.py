from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hilserl.config import CropConfig
from hilserl.env import STATE_NAMES, Env, policy_image, state_vector
from hilserl.types import check_action
from robot.clearance import ROUNDING_M, Clearance
from robot.errors import CameraError, KinematicsError, NoClearWay
from robot.guard import Guard
from robot.kinematics import Kinematics
from robot.twin.lift import LiftConfig
from robot.twin.operator import PERFECT, Demonstrator
from robot.types import GRIPPER, WRIST_ROLL
from tests.fakes.arm_geometry import ArmGeometry
from tests.fakes.body import EMPTY_TABLE, LIFT, MAX_JOINT_SPEED, BlankCamera, Body, Tape, action, at

LOW, HIGH = np.array(LIFT.workspace_min), np.array(LIFT.workspace_max)
NEUTRAL = np.array([0, 0, 0, 0, LIFT.wrist_roll, LIFT.reset_gripper], np.float32)
UNIT_ACTIONS = [(axis, sign) for axis in range(3) for sign in (-1.0, 1.0)]
LOWEST_M = 0.02
"""Fingers reach 0.5 mm below the hand, and more where it tilts: below this they would touch the table."""


CLEAR_M = 0.001


def reachable(kinematics: Kinematics, xyz: np.ndarray) -> bool:
    """Inside the box, solved by the kinematics, and clear of the arm itself."""
    inside = (xyz >= LOW - 1e-9).all() and (xyz <= HIGH + 1e-9).all() and xyz[2] >= LOWEST_M
    q = kinematics.ik(kinematics.fk(kinematics.ik(xyz, NEUTRAL)).xyz_m, NEUTRAL) if inside else NEUTRAL
    clear = Clearance().slack(q).min() > CLEAR_M
    return bool(inside and clear and np.linalg.norm(kinematics.fk(q).xyz_m - xyz) < 1e-3)


@pytest.mark.parametrize("x", [0.10, 0.15, 0.20, 0.25, 0.30, 0.35])
def test_a_unit_action_moves_the_hand_20_mm_straight_wherever_it_can_reach(x):
    body, moves, worst_along, worst_across = Body(at(LIFT, 0.25, 0.0, 0.07)), 0, 0.0, 0.0
    for y, z in ((0.0, 0.03), (0.12, 0.04), (-0.15, 0.07), (0.0, 0.12), (-0.08, 0.18), (0.14, 0.23)):
        place = np.array([x, y, z])
        if not reachable(body.kinematics, place):
            continue
        body = Body(at(LIFT, *place))
        body.env.reset(0)
        for axis, sign in UNIT_ACTIONS:
            if not reachable(body.kinematics, place + 0.02 * sign * np.eye(3)[axis]):
                continue
            start, unit = body.hand(), action(*(sign * np.eye(3)[axis]))
            body.play(unit, rest=7)
            moved = 1000 * (body.hand() - start)
            body.play(-unit, rest=7)  # and back
            along, across = float(moved[axis] * sign), float(np.linalg.norm(np.delete(moved, axis)))
            assert abs(along - 20) < 2 and across < 2, f"{moved} mm from {place}, axis {axis}, sign {sign}"
            assert np.linalg.norm(body.hand() - start) < 0.002
            worst_along, worst_across = max(worst_along, abs(along - 20)), max(worst_across, across)
            moves += 1
    assert moves >= (3 if x < 0.12 else 15), "the reachable part of the box has shrunk"
    assert worst_along < 0.5 and worst_across < 0.5  # what was measured, with room


def test_zero_action_holds_the_hand_for_ten_seconds_also_after_a_push():
    body = Body(at(LIFT, 0.25, 0.05, 0.10))
    body.env.reset(0)
    body.play(action(0.7, -0.4, 0.5), rest=7)
    start = body.hand()
    body.play(rest=100)
    assert np.linalg.norm(body.hand() - start) < 0.002
    data = body.twin.world._data
    hand = body.twin.world._model.body("gripper").id
    data.xfrc_applied[hand, :3] = (8.0, -8.0, -8.0)  # a person leans on the hand [N]
    body.play(rest=10)
    pushed = np.linalg.norm(body.hand() - start)
    data.xfrc_applied[hand] = 0.0
    body.play(rest=100)
    assert pushed > 0.0005, "the push was too weak to test anything"
    assert np.linalg.norm(body.hand() - start) < 0.002


def test_zero_action_holds_hand_and_gripper_with_a_cube_lifted():
    body = Body(replace(LIFT, random_ee_reset=False, scene=LiftConfig(looks=0.0)))
    operator = Demonstrator(body.twin.world, LIFT.action_scale, PERFECT)
    body.env.reset(3)
    operator.reset(0)
    while not body.twin.lifted():
        body.play(operator.read(body.env.state).action)
    body.play(rest=5)
    start, grip, height = body.hand(), body.gripper(), body.twin.world.cube_xyz_m()[2]
    for _ in range(10):
        body.play(rest=10)
        assert np.linalg.norm(body.hand() - start) < 0.002
        assert abs(body.gripper() - grip) < 1
    assert body.twin.lifted() and body.twin.world.cube_xyz_m()[2] > height - 0.006


def test_a_drop_of_the_gripper_takes_two_steps_however_long_it_was_squeezed():
    body = Body(replace(LIFT, random_ee_reset=False, scene=LiftConfig(looks=0.0)))
    operator = Demonstrator(body.twin.world, LIFT.action_scale, PERFECT)
    body.env.reset(3)
    operator.reset(0)
    while not body.twin.lifted():
        body.play(operator.read(body.env.state).action)
    body.play(*[action(gripper=-1)] * 20)
    body.play(*[action(gripper=1)] * 3, rest=2)
    assert not body.twin.lifted()


def test_commands_never_jump_and_the_reference_stays_on_its_leash_whatever_is_asked():
    """Also in the corners of the box, out of reach, and against the table."""
    body = Body(replace(LIFT, scene=EMPTY_TABLE))
    rng = np.random.default_rng(0)
    for seed in range(8):
        body.env.reset(seed)
        body.arm.commands.clear()
        for step in range(40):
            if step % 10 == 0:
                asked = np.sign(rng.uniform(-1, 1, 4)).astype(np.float32)
            body.play(asked)
            reference = body.env._reference_xyz
            assert (np.abs(reference - body.hand()) < LIFT.leash + 0.005).all()
            assert (reference > LOW - 1e-6).all() and (reference < HIGH + 1e-6).all()
        body.play(rest=10)
        commanded = body.kinematics.fk(body.env._reference_q).xyz_m
        assert np.abs(body.env._reference_xyz - commanded).max() < 0.0016, "the joints never got there"
        steps = np.abs(np.diff(np.array(body.arm.commands), axis=0))
        assert steps.max() < MAX_JOINT_SPEED / LIFT.command_hz


def test_the_hand_turns_round_at_once_after_pressing_into_what_it_cannot_reach():
    body = Body(at(LIFT, 0.16, 0.0, 0.15))
    body.env.reset(0)
    body.play(*[action(x=-1)] * 8, rest=7)
    start = body.hand()
    body.play(action(x=1), rest=7)
    assert body.hand()[0] - start[0] > 0.012


def test_a_blocked_hand_waits_within_the_leash_and_comes_back_soon():
    """Pressed against the table, the command goes no deeper than the leash: back up it takes few steps."""
    body = Body(at(LIFT, 0.22, 0.0, 0.06))
    body.env.reset(0)
    body.play(*[action(z=-1)] * 20)
    assert body.env.clipped_steps > 10
    pressed = body.hand()[2]
    body.play(*[action(z=1)] * 3, rest=5)
    assert body.hand()[2] > pressed + 0.01


def test_the_wrist_roll_is_locked_and_the_gripper_stays_in_its_range():
    body = Body(at(LIFT, 0.25, 0.0, 0.08))
    body.env.reset(0)
    rng = np.random.default_rng(1)
    for _ in range(60):
        body.play(action(*rng.uniform(-1, 1, 3), rng.choice([-1, 1])))
        assert abs(body.env.state.q_rad[WRIST_ROLL] - LIFT.wrist_roll) < np.radians(1)
        assert -0.2 < body.env.state.q_rad[GRIPPER] < LIFT.reset_gripper + 0.15


def test_an_observation_is_one_reading_of_the_arm_and_nothing_else():
    body = Body(LIFT)
    tape = Tape()
    tape.begin(body.env.reset(4)[0])
    for gripper in (-1.0, 1.0, 0.0):
        tape.obs.append(body.env.step(action(0.5, -0.5, 0.3, gripper)))
        state = body.env.state
        np.testing.assert_array_equal(tape.obs[-1].state, state_vector(state, Kinematics(), LIFT.wrist_roll))
    at_ee, at_vel = STATE_NAMES.index("ee_xyz.x_m"), STATE_NAMES.index("joint_vel.shoulder_pan_rad_s")
    for obs in tape.obs:
        xyz = Kinematics().fk(obs.state[:6]).xyz_m
        np.testing.assert_array_equal(obs.state[at_ee : at_ee + 3], xyz.astype(np.float32))
    np.testing.assert_array_equal(tape.obs[-1].state[at_vel : at_vel + 6], body.env.state.qd_rad_s)
    assert body.env.spec.state_names == STATE_NAMES and tape.obs[0].state.shape == (len(STATE_NAMES),)


@pytest.mark.parametrize(
    "bad",
    [
        action(1.01),
        action(gripper=-1.5),
        action(np.nan),
        action(y=np.inf),
        np.zeros(3, np.float32),
        np.zeros(6, np.float32),
        np.zeros((1, 4), np.float32),
        np.zeros(4),
    ],
)
def test_an_action_that_is_none_is_refused_before_anything_moves(bad):
    body = Body(at(LIFT, 0.25, 0.0, 0.08))
    body.env.reset(0)
    sent = len(body.arm.commands)
    with pytest.raises(ValueError, match="action"):
        body.env.step(bad)
    assert len(body.arm.commands) == sent
    check_action(action(1, -1, 1, -1))


def test_a_camera_of_another_size_is_named_with_both_sizes():
    body = Body(LIFT, camera=BlankCamera(320, 240))
    with pytest.raises(CameraError, match=r"'gripper_cam' gives \(240, 320, 3\).*\(480, 640, 3\)"):
        body.env.reset(0)


@pytest.mark.parametrize("crop", [CropConfig(1, 80, 480, 480), CropConfig(0, 161, 480, 480)])
def test_a_crop_outside_the_frame_is_refused(crop):
    with pytest.raises(CameraError, match="does not fit a frame of 640x480 pixels"):
        policy_image(np.zeros((480, 640, 3), np.uint8), crop, (128, 128))


def test_the_policys_picture_is_the_crop_shrunk_by_area_with_its_colours_in_order():
    frame = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    frame[:, :80] = frame[:, 560:] = (0, 255, 0)  # outside the crop
    image = policy_image(frame, CropConfig(), (128, 128))
    assert image.shape == (128, 128, 3) and image.dtype == np.uint8
    whole = policy_image(frame, CropConfig(120, 200, 128, 128), (128, 128))
    np.testing.assert_array_equal(whole, frame[120:248, 200:328])
    mean = frame[:, 80:560].reshape(120, 4, 120, 4, 3).mean((1, 3))
    quarter = policy_image(frame, CropConfig(), (120, 120))
    assert np.abs(quarter - mean).max() <= 0.51
    assert policy_image(frame, CropConfig(0, 80, 480, 240), (64, 32)).shape == (64, 32, 3)


def test_the_arm_arrives_from_twenty_reachable_starts_and_from_any_opening():
    """Judged from measured joints; and on its way it comes too near to nothing, unless it begins there."""
    body, clearance = Body(replace(LIFT, scene=EMPTY_TABLE)), Clearance()
    for seed, start in enumerate(ArmGeometry().free_poses(5, 20)):
        body.twin.world.set_arm(start)
        body.arm.commands.clear()
        _, facts = body.env.reset(seed)  # raises where it does not arrive
        target = body.env.reset_target(seed)
        assert np.linalg.norm([facts[f"start_{axis}_m"] for axis in "xyz"] - target) < 0.003
        assert abs(body.env.state.q_rad[GRIPPER] - LIFT.reset_gripper) < 0.02
        assert np.abs(body.env.state.qd_rad_s).max() < 0.02  # it stands
        slack = clearance.slack(np.array(body.arm.commands))
        assert (slack >= np.minimum(clearance.slack(start), 0.0) - ROUNDING_M).all()


def test_a_reset_without_a_clear_way_names_what_is_in_the_way_and_moves_nothing():
    body = Body(at(LIFT, 0.25, 0.0, 0.08), table_z_m=0.12)
    with pytest.raises(NoClearWay, match=r"the goal .* not clear: the fingers -4\d\.\d mm above the table"):
        body.env.reset(0)
    assert not body.arm.commands


def test_whatever_is_asked_the_steps_stay_clear_of_table_and_arm():
    """In a box that reaches into both: the guard refuses nothing, for nothing of the sort is sent."""
    task = replace(LIFT, scene=EMPTY_TABLE, workspace_min=(0.05, -0.15, -0.03))
    body, clearance = Body(task), Clearance()
    guard = Guard(
        body.arm,
        body.twin.clock,
        max_joint_speed_rad_s=MAX_JOINT_SPEED,
        watchdog_s=10.0,
        clearance=clearance,
    )
    body.env._arm = guard
    rng, nearest = np.random.default_rng(2), np.full(2, np.inf)
    for seed in range(10):
        body.env.reset(seed)
        body.arm.commands.clear()
        for step in range(50):
            if step % 12 == 0:
                asked = np.sign(rng.uniform(-1, 1, 4) - (0.5, 0, 0.5, 0)).astype(np.float32)
            body.play(asked)
        nearest = np.minimum(nearest, clearance.slack(np.array(body.arm.commands)).min(axis=0))
    guard.close()
    assert (nearest > -ROUNDING_M).all()
    assert (nearest < 0.003).all(), "it was never near to anything"


@pytest.mark.parametrize("speed_rad_s", [0.5, 1.2])
def test_a_slow_arm_resets_and_steps_slowly(speed_rad_s):
    """A person who gives an arm a low limit gets a slow reset, not one that its guard refuses."""
    body = Body(replace(LIFT, scene=EMPTY_TABLE))
    guard = Guard(body.arm, body.twin.clock, max_joint_speed_rad_s=speed_rad_s, watchdog_s=10.0)
    env = Env(
        task=body.task,
        arm=guard,
        cameras={"gripper_cam": BlankCamera()},
        clock=body.twin.clock,
        kinematics=body.kinematics,
        scene=body.twin,
        max_joint_speed=speed_rad_s,
    )
    env.reset(0)
    for _ in range(20):
        env.step(action(x=1, z=1))
    env.reset(1)
    guard.close()


def test_a_reset_that_is_obstructed_says_by_how_much_it_missed():
    body = Body(at(LIFT, 0.25, 0.0, 0.08))
    data = body.twin.world._data
    data.xfrc_applied[body.twin.world._model.body("gripper").id, :3] = (0.0, 60.0, 0.0)
    with pytest.raises(KinematicsError, match=r"missed by \d+\.\d mm \(limit 3 mm\)"):
        body.env.reset(0)
