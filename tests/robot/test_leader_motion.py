"""Laws of turning a leader's poses into actions: nothing of its motion lost, no jump, no gripper guess."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robot.teleop.leader_motion import (
    END_RAD,
    END_SHARE,
    GRAB_RAD_S,
    GRAB_READS,
    PICK_UP_SHARE,
    REST_RAD,
    REST_S,
    STILL_M,
    GripperIntent,
    HandMotion,
    TakeOver,
    turned,
)

LAW = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
"""The machine that runs the tests may stall."""
SCALE_M, LEASH_M, DT_S = 0.02, 0.05, 0.1
SPAN_RAD, BAND_RAD = (-0.17, 0.9), 0.25

coordinate = st.floats(-0.5, 0.5)
points = st.tuples(coordinate, coordinate, coordinate).map(np.array)
small = st.floats(-0.08, 0.08)
paths = st.lists(st.tuples(small, small, small).map(np.array), min_size=1, max_size=30)
"""How far the hand goes between two readings [m]: up to four times what one action holds."""


def travelled(motion: HandMotion, start, moves) -> tuple[list, np.ndarray]:
    """The actions of a walk, and where it ends."""
    at = start
    motion.start(at)
    actions = []
    for move in moves:
        at = at + move
        actions.append(motion.step(at))
    return actions, at


def executed(actions) -> np.ndarray:
    return SCALE_M * np.sum(np.array(actions, np.float64).reshape(-1, 3), axis=0)


# --- the hand -----------------------------------------------------------------------------------------------


@LAW
@given(points, paths)
def test_actions_and_what_is_owed_are_the_leaders_displacement(start, moves):
    motion = HandMotion(SCALE_M, np.inf)
    actions, end = travelled(motion, start, moves)
    np.testing.assert_allclose(executed(actions) + motion.owed_m, end - start, atol=1e-9)
    assert motion.dropped_m == 0.0
    for action in actions:
        assert action.dtype == np.float32 and np.abs(action).max() <= 1.0


@LAW
@given(points, paths)
def test_a_hand_that_stops_is_reached_and_then_asks_for_exactly_nothing(start, moves):
    motion = HandMotion(SCALE_M, np.inf)
    actions, end = travelled(motion, start, moves)
    actions += [motion.step(end) for _ in range(200)]
    assert np.abs(executed(actions) - (end - start)).max() < STILL_M
    assert not actions[-1].any()


@LAW
@given(points, paths)
def test_more_than_the_leash_is_never_owed_and_what_is_missing_is_counted(start, moves):
    motion = HandMotion(SCALE_M, LEASH_M)
    at, owed_before = start, np.zeros(3)
    motion.start(start)
    asked = np.zeros(3)
    for move in moves:
        at = at + move
        before = motion.dropped_m
        action = motion.step(at).astype(np.float64)
        asked += SCALE_M * action
        assert np.linalg.norm(motion.owed_m) <= LEASH_M + 1e-12
        # dropped in this very step, no more and no less than what leaves the leash
        left = np.linalg.norm(owed_before + move - SCALE_M * action)
        assert motion.dropped_m - before == pytest.approx(max(0.0, left - LEASH_M), abs=1e-9)
        owed_before = motion.owed_m.copy()
    missing = np.linalg.norm((at - start) - asked - motion.owed_m)
    assert missing <= motion.dropped_m + 1e-9
    assert motion.dropped_m > 0 or missing < 1e-9


@LAW
@given(points, points, paths)
def test_where_the_leader_stands_does_not_matter(here, there, moves):
    ours, _ = travelled(HandMotion(SCALE_M, LEASH_M), here, moves)
    theirs, _ = travelled(HandMotion(SCALE_M, LEASH_M), there, moves)
    np.testing.assert_allclose(np.array(ours), np.array(theirs), atol=1e-5)


@LAW
@given(points, st.tuples(small, small, small).map(np.array))
def test_an_action_cut_short_still_points_where_the_hand_went(start, move):
    motion = HandMotion(SCALE_M, LEASH_M)
    (action,), _ = travelled(motion, start, [move])
    longest = np.abs(move).max()
    expected = np.zeros(3) if longest < STILL_M else move / max(longest, SCALE_M)
    np.testing.assert_allclose(action, expected, atol=1e-6)


@LAW
@given(points, paths, paths)
def test_a_new_take_over_owes_nothing_of_the_last_one(start, before, moves):
    motion = HandMotion(SCALE_M, LEASH_M)
    travelled(motion, start, before)
    again, _ = travelled(motion, start, moves)
    fresh, _ = travelled(HandMotion(SCALE_M, LEASH_M), start, moves)
    np.testing.assert_array_equal(np.array(again), np.array(fresh))


# --- who has the arm ----------------------------------------------------------------------------------------


class Grip:
    """A leader's joints, moved joint by joint, read every DT_S."""

    def __init__(self) -> None:
        self.take_over, self.q_rad, self.now_s = TakeOver(), np.zeros(6, np.float32), 50.0

    def read(self, rad_s: float = 0.0, *, joint: int = 1, button: bool = False, dt_s: float = DT_S) -> bool:
        self.now_s += dt_s
        self.q_rad[joint] += rad_s * dt_s
        return self.take_over.update(self.q_rad, button, self.now_s)

    def rest(self) -> list[bool]:
        """Readings until the leader counts as at rest, and one more."""
        return [self.read() for _ in range(round(REST_S / DT_S) + 2)]


joints = st.integers(0, 5)
fast = st.floats(GRAB_RAD_S * 1.2, 3.0) | st.floats(-3.0, -GRAB_RAD_S * 1.2)
slow = st.floats(-GRAB_RAD_S * 0.8, GRAB_RAD_S * 0.8)


@LAW
@given(joints, fast)
def test_a_leader_moved_for_a_moment_is_taken_over_and_a_knock_is_not(joint, rad_s):
    grip = Grip()
    grip.read()
    seen = [grip.read(rad_s, joint=joint) for _ in range(GRAB_READS)]
    assert seen == [False] * (GRAB_READS - 1) + [True]
    grip = Grip()
    for _ in range(20):
        assert not any(grip.read(rad_s, joint=joint) for _ in range(GRAB_READS - 1))
        assert not grip.read()


@LAW
@given(st.lists(st.tuples(slow, joints), max_size=40), st.lists(st.floats(0.01, 5.0), min_size=1, max_size=5))
def test_slow_motion_takes_nothing_over_however_late_the_readings(moves, periods):
    grip = Grip()
    for index, (rad_s, joint) in enumerate(moves):
        assert not grip.read(rad_s, joint=joint, dt_s=periods[index % len(periods)])


@LAW
@given(st.floats(2 * REST_RAD / REST_S, GRAB_RAD_S), joints, st.integers(1, 60))
def test_a_slow_hand_keeps_the_arm_and_a_resting_one_gives_it_back(rad_s, joint, reads):
    grip = Grip()
    while not grip.read(1.0):
        pass
    assert all(grip.read(rad_s, joint=joint) for _ in range(reads))
    given_back = grip.rest()
    assert given_back[0] and not given_back[-1]
    assert given_back == sorted(given_back, reverse=True), "given back once"
    assert not any(grip.read(rad_s / 100) for _ in range(5))


@LAW
@given(st.lists(st.tuples(st.booleans(), st.floats(-0.2, 0.2)), min_size=1, max_size=60))
def test_the_button_says_it_in_the_same_reading(script):
    grip = Grip()
    for button, rad_s in script:
        assert grip.read(rad_s, button=button) == button


@LAW
@given(fast, joints, st.integers(1, 30), st.booleans())
def test_letting_go_of_the_button_gives_back_until_the_leader_was_at_rest(rad_s, joint, reads, grabbed):
    grip = Grip()
    if grabbed:
        while not grip.read(rad_s, joint=joint):
            pass
    assert grip.read(rad_s, joint=joint, button=True)
    assert not any(grip.read(rad_s, joint=joint) for _ in range(reads))
    assert not any(grip.rest())
    assert any(grip.read(rad_s, joint=joint) for _ in range(GRAB_READS + 1))


def test_a_flickering_count_is_rest_and_a_full_turn_of_the_wrist_no_motion():
    grip = Grip()
    while not grip.read(1.0):
        pass
    for index in range(round(REST_S / DT_S) + 2):
        grip.q_rad[4] = (-1) ** index * np.float32(np.pi - 0.001)
        grip.q_rad[0] = 0.0015 * (index % 2)
        last = grip.read()
    assert not last


@LAW
@given(
    st.lists(st.floats(-20, 20), min_size=6, max_size=6), st.lists(st.floats(-20, 20), min_size=6, max_size=6)
)
def test_the_shortest_way_round_arrives(one, other):
    start, end = np.array(one, np.float32), np.array(other, np.float32)
    way = turned(end, start)
    assert np.abs(way).max() <= np.pi + 1e-5
    np.testing.assert_allclose(np.exp(1j * (start + way)), np.exp(1j * end), atol=1e-4)


# --- the gripper --------------------------------------------------------------------------------------------

shares = st.floats(0.0, 1.0)
angles = st.floats(*SPAN_RAD)


def target(share: float) -> float:
    return SPAN_RAD[0] + share * (SPAN_RAD[1] - SPAN_RAD[0])


def picked_up() -> GripperIntent:
    intent = GripperIntent(SPAN_RAD, BAND_RAD)
    intent.start(0.5, target(0.5))
    intent.step(0.5, target(0.5))
    return intent


@LAW
@given(shares, angles)
def test_clearly_more_closed_closes_clearly_more_open_opens_and_agreement_holds(share, follower):
    said = picked_up().step(share, follower)
    difference = target(share) - follower
    if abs(difference) > BAND_RAD:
        assert said == np.sign(difference)
    elif abs(difference) < END_RAD or END_SHARE < share < 1 - END_SHARE:
        assert said == 0.0
    else:
        assert said in (0.0, np.sign(difference))


@LAW
@given(shares, shares, angles, st.integers(1, 200))
def test_slow_and_fast_hands_say_the_same(start, end, follower, readings):
    """What is said in the end depends on where both grippers are, not on how the leader's got there."""
    intent = picked_up()
    for share in np.linspace(start, end, readings + 1)[1:]:
        said = intent.step(float(share), follower)
    assert said == picked_up().step(end, follower)
    assert said == intent.step(end, follower), "a still leader says it again"


@pytest.mark.parametrize(("share", "end"), [(0.0, SPAN_RAD[0]), (1.0, SPAN_RAD[1])])
def test_a_leader_at_its_stop_brings_the_follower_to_its_own(share, end):
    intent, follower = picked_up(), 0.4
    for _ in range(20):
        follower = float(np.clip(follower + 0.25 * intent.step(share, follower), *SPAN_RAD))
    assert abs(follower - end) <= END_RAD


@LAW
@given(shares, angles, st.integers(0, 1))
def test_a_still_leader_moves_the_follower_one_way_and_then_holds(share, follower, lag):
    """The follower's measured gripper comes `lag` steps after what it was told."""
    intent, told, said = picked_up(), follower, []
    measured = deque([follower] * (lag + 1))
    for _ in range(40):
        said.append(intent.step(share, measured[0]))
        told = float(np.clip(told + 0.25 * said[-1], *SPAN_RAD))
        measured.append(told)
        measured.popleft()
    assert said[-5:] == [0.0] * 5
    assert len(set(said) - {0.0}) <= 1, "it swings"


@LAW
@given(shares, angles, st.lists(st.floats(-0.99, 0.99), max_size=20))
def test_taking_over_with_the_gripper_elsewhere_moves_nothing_until_it_is_meant(start, follower, wobble):
    """A cube in the follower's fingers stays there when a person grabs the leader with its own open."""
    intent = GripperIntent(SPAN_RAD, BAND_RAD)
    intent.start(start, follower)
    side = np.sign(target(start) - follower)
    for move in wobble:
        share = float(np.clip(start + move * PICK_UP_SHARE, 0.0, 1.0))
        apart = (target(share) - follower) * side > BAND_RAD
        said = intent.step(share, follower)
        if not apart:
            return
        assert said == 0.0


@LAW
@given(shares, angles, shares)
def test_a_gripper_is_picked_up_when_it_meets_the_followers_or_goes_on_away_from_it(start, follower, to):
    intent = GripperIntent(SPAN_RAD, BAND_RAD)
    intent.start(start, follower)
    side = np.sign(target(start) - follower)
    met = (target(to) - follower) * side <= BAND_RAD
    went_on = (to - start) * side > PICK_UP_SHARE
    said = intent.step(to, follower)
    assert said == (picked_up().step(to, follower) if met or went_on else 0.0)
