"""Laws of a calibration: following encoders, judging spans, touch residuals, kept versions."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hilserl.body import build_body
from hilserl.config_loading import load_config
from robot.calibrate import (
    FOLLOWER,
    FULL_TURN,
    JUMP,
    LEADER,
    MIDDLE_OFF_DEG,
    OtherArm,
    Sweep,
    calibration_of,
    expected_spans,
    middle_faults,
    other_faults,
    raw_counts,
    shown,
    span_faults,
    spans_of,
    sweep_faults,
)
from robot.calibrate_touch import (
    OK,
    REFUSE_M,
    REFUSED,
    SHEET_M,
    WARN,
    WARN_M,
    check_touch,
    judge_touch,
    load_touch,
    parse_points,
    save_touch,
    touch_file,
)
from robot.calibrate_versions import find_version, store_version, versions
from robot.calibration import (
    COUNTS_PER_TURN,
    RAD_PER_COUNT,
    Calibration,
    JointCalibration,
    calibration_id,
    calibration_path,
    load_calibration,
    model_limits,
    save_calibration,
)
from robot.errors import CalibrationError, CartesianRefused
from robot.kinematics import Kinematics
from robot.twin.world_body import twin_calibration
from robot.types import GRIPPER, JOINT_NAMES, NUM_JOINTS, WRIST_ROLL

KINEMATICS = Kinematics()
IDS = range(1, 7)
TWIN = twin_calibration()

middles = hnp.arrays(np.int32, NUM_JOINTS, elements=st.integers(0, COUNTS_PER_TURN - 1))
walks = st.integers(1, 30).flatmap(
    lambda length: hnp.arrays(np.int32, (length, NUM_JOINTS), elements=st.integers(-JUMP, JUMP))
)


def swept(middle, places):
    """A sweep that was at these places (N, 6), counts from the middle, whatever the encoder wraps."""
    sweep = Sweep(np.asarray(middle, np.int32))
    for place in places:
        sweep.add(((middle + place) % COUNTS_PER_TURN).astype(np.int32))
    return sweep


def to_both_stops(scale=None):
    """Places of a person who moves every joint to both its stops: (N, 6) counts from the middle pose."""
    low, high = (limit / RAD_PER_COUNT for limit in (model_limits().lower_rad, model_limits().upper_rad))
    middle = np.zeros(NUM_JOINTS)
    middle[GRIPPER] = (low[GRIPPER] + high[GRIPPER]) / 2
    scale = np.ones(NUM_JOINTS) if scale is None else scale
    ends = [np.rint((end - middle) * scale).astype(int) for end in (low, high)]
    back = np.zeros(NUM_JOINTS, int)
    return [np.rint(a + (b - a) * t).astype(int) for a, b in ((back, ends[0]), (ends[0], ends[1]))
            for t in np.linspace(0, 1, 9)]  # fmt: skip


def scaled(name, share):
    return np.array([share if joint == name else 1.0 for joint in JOINT_NAMES])


# --- following the encoders ---------------------------------------------------------------------------------


@given(middles, walks)
def test_a_joint_is_followed_across_the_wrap_any_number_of_times(middle, steps):
    places = np.cumsum(steps, axis=0)
    sweep = swept(middle, places)
    been = np.vstack([np.zeros((1, NUM_JOINTS), int), places])
    np.testing.assert_array_equal(sweep.now, been[-1])
    np.testing.assert_array_equal(sweep.low, been.min(axis=0))
    np.testing.assert_array_equal(sweep.high, been.max(axis=0))
    np.testing.assert_array_equal(sweep.spans, np.ptp(been, axis=0))
    assert sweep.jumped == []


@given(middles, walks, st.integers(0, NUM_JOINTS - 1), st.integers(JUMP + 1, COUNTS_PER_TURN - JUMP - 1))
def test_a_leap_that_may_have_gone_either_way_round_is_remembered(middle, steps, joint, leap):
    steps = steps.copy()
    steps[0, joint] = leap
    sweep = swept(middle, np.cumsum(steps, axis=0))
    assert JOINT_NAMES[joint] in sweep.jumped
    assert "too fast" in sweep_faults(sweep)[JOINT_NAMES[joint]]


# --- what a sweep gives -------------------------------------------------------------------------------------


@given(middles)
def test_wherever_the_horns_sit_the_same_motion_gives_the_same_angles(middle):
    """The encoder's wrap within a joint's range, an offset at its limit: none of it is seen above."""
    places = to_both_stops()
    sweep = swept(middle, places)
    assert sweep_faults(sweep) == {}
    calibration = calibration_of(sweep, IDS, "test")
    limits = model_limits()
    for place in places:
        raw = ((middle + place) % COUNTS_PER_TURN).astype(np.int32)
        seen = shown(raw, calibration)
        np.testing.assert_array_equal(
            raw_counts(seen, np.array([joint.homing_offset for joint in calibration.joints])), raw
        )
        q_rad, wanted = calibration.rad(seen), place * RAD_PER_COUNT
        wanted[GRIPPER] += (limits.lower_rad[GRIPPER] + limits.upper_rad[GRIPPER]) / 2
        centre = (limits.lower_rad + limits.upper_rad) / 2  # zero is mid-range: the model's is nearly there
        centre[[WRIST_ROLL, GRIPPER]] = 0
        np.testing.assert_allclose(q_rad, wanted - centre, atol=3 * RAD_PER_COUNT)
    roll = calibration.joints[WRIST_ROLL]
    assert (roll.range_min, roll.range_max) == (0, COUNTS_PER_TURN - 1)


@pytest.mark.parametrize("name", JOINT_NAMES)
@pytest.mark.parametrize(("share", "good"), [(1.0, True), (0.93, True), (0.87, False), (0.3, False)])
def test_a_joint_short_of_its_stops_is_named(name, share, good):
    sweep = swept(np.full(6, 2000), to_both_stops(scaled(name, share)))
    assert list(sweep_faults(sweep)) == ([] if good else [name])


@pytest.mark.parametrize("name", JOINT_NAMES)
def test_a_joint_that_was_hardly_moved_cannot_be_stored_at_all(name):
    for share in (0.0, 0.4):
        with pytest.raises(CalibrationError, match=f"{name} was moved over .* counts, its stops are about"):
            calibration_of(swept(np.full(6, 2000), to_both_stops(scaled(name, share))), IDS, "test")
    calibration_of(swept(np.full(6, 2000), to_both_stops(scaled(name, 0.6))), IDS, "test")


def test_a_leaders_trigger_may_be_short():
    sweep = swept(np.full(6, 2000), to_both_stops(scaled("gripper", 0.4)))
    assert sweep_faults(sweep, LEADER) == {}
    calibration_of(sweep, IDS, "test", LEADER)


@pytest.mark.parametrize(("off_deg", "good"), [(0, True), (10, True), (-10, True), (20, False), (-90, False)])
def test_a_roll_that_was_not_in_its_middle_is_named(off_deg, good):
    """Roll zero is where it was held: nothing else would ever show a wrist that is turned."""
    off = round(np.radians(off_deg) / RAD_PER_COUNT)
    places = [place + np.eye(6, dtype=int)[WRIST_ROLL] * off for place in to_both_stops()]
    faults = sweep_faults(swept(np.full(6, 2000), places))
    assert list(faults) == ([] if good else ["wrist_roll"])


@pytest.mark.parametrize("name", JOINT_NAMES)
@pytest.mark.parametrize("off_deg", [-20.0, -14.0, 0.0, 14.0, 20.0])
def test_a_joint_off_its_middle_in_the_middle_pose_is_named(name, off_deg):
    q_rad = np.zeros(6, np.float32)
    q_rad[JOINT_NAMES.index(name)] = np.radians(off_deg)
    bad = abs(off_deg) > MIDDLE_OFF_DEG and name != "gripper"
    assert list(middle_faults(q_rad)) == ([name] if bad else [])


def spanning(**spans):
    """A calibration with these spans [counts], the others as the arm model's."""
    joints = []
    for name, joint in zip(JOINT_NAMES, TWIN.joints, strict=True):
        span = spans.get(name, joint.range_max - joint.range_min)
        low = joint.range_min if name == "gripper" else max(0, 2048 - span // 2)
        joints.append(replace(joint, range_min=low, range_max=low + span))
    return Calibration(tuple(joints), "test")


@given(st.sampled_from(JOINT_NAMES[:WRIST_ROLL]), st.floats(0.85, 1.15), st.floats(0.95, 1.05))
def test_spans_are_held_against_the_model_and_the_other_arm(name, share, there):
    expected = expected_spans()[name]
    ours, theirs = (spanning(**{name: round(expected * factor)}) for factor in (share, there))
    mine, other = (spans_of(one)[name] for one in (ours, theirs))
    bad = abs(mine / expected - 1) > 0.1 or abs(mine / other - 1) > 0.1
    found = span_faults(spans_of(ours), FOLLOWER, OtherArm("lead", LEADER, theirs))
    assert list(found) == ([name] if bad else [])


def test_the_field_reports_leader_roll_is_blamed_on_the_leader():
    """Field report 62: the leader's roll over 2129 counts, the follower's over 4095."""
    leader = OtherArm("lead", LEADER, spanning(wrist_roll=2129))
    assert list(other_faults(leader)) == ["wrist_roll"]
    assert span_faults(spans_of(TWIN), FOLLOWER, leader) == {}, "the follower is well"
    least = FULL_TURN * (COUNTS_PER_TURN - 1)
    assert span_faults({"wrist_roll": int(least) - 1}) and not span_faults({"wrist_roll": int(least) + 1})


# --- touch test ---------------------------------------------------------------------------------------------

clouds = hnp.arrays(np.float64, (4, 3), elements=st.floats(-0.4, 0.4))


@given(clouds, clouds)
def test_the_residual_is_the_largest_distance_and_the_fit_never_sums_to_more(points, tips):
    touch = judge_touch(points, tips)
    distances = [np.sqrt(((tip - point) ** 2).sum()) for point, tip in zip(points, tips, strict=True)]
    assert touch.residual_m == pytest.approx(max(distances))
    assert (touch.fit_m**2).sum() <= (touch.error_m**2).sum() + 1e-12
    verdict = OK if max(distances) <= WARN_M else WARN if max(distances) <= REFUSE_M else REFUSED
    assert touch.verdict == verdict


@given(st.floats(-np.pi, np.pi), st.floats(-0.2, 0.2), st.floats(-0.2, 0.2))
def test_points_that_lie_elsewhere_fit_one_shift_and_turn(turn, x, y):
    """Marks moved as one are no fault of the arm; the numbers say by how much they were."""
    cos, sin = np.cos(turn), np.sin(turn)
    tips = SHEET_M.copy()
    tips[:, :2] = SHEET_M[:, :2] @ np.array([[cos, sin], [-sin, cos]]) + (x, y)
    touch = judge_touch(SHEET_M, tips)
    np.testing.assert_allclose(touch.fit_m, 0, atol=1e-9)
    np.testing.assert_allclose(touch.shift_m, (x, y), atol=1e-9)
    assert np.cos(touch.turn_rad - turn) == pytest.approx(1)
    assert any("all points are off alike" in line for line in touch.lines()) == (touch.verdict != OK)


def tips_with(joint, off_deg):
    """Where an arm says its tip is when it touches the sheet's points, one joint read wrong."""
    tips = []
    for point in SHEET_M:
        q_rad = KINEMATICS.ik(point, np.array([-np.arctan2(point[1], point[0]), 0.3, 0.3, 0.9, 0, 0]))
        q_rad[JOINT_NAMES.index(joint)] += np.radians(off_deg)
        tips.append(KINEMATICS.fk(q_rad).xyz_m)
    return np.array(tips)


@pytest.mark.parametrize("joint", ["shoulder_pan", "shoulder_lift", "elbow_flex"])
@pytest.mark.parametrize("sign", [1, -1])
def test_one_joint_off_warns_then_refuses(joint, sign):
    assert judge_touch(SHEET_M, tips_with(joint, 0)).verdict == OK
    assert judge_touch(SHEET_M, tips_with(joint, 3 * sign)).verdict == WARN
    assert judge_touch(SHEET_M, tips_with(joint, 12.5 * sign)).verdict == REFUSED


def test_an_elbow_off_is_told_from_marks_that_lie_elsewhere():
    """Field report 64: the elbow reads 12.5 degrees too bent."""
    lines = judge_touch(SHEET_M, tips_with("elbow_flex", -12.5)).lines()
    assert any("a joint is calibrated or assembled wrong" in line for line in lines)


def test_a_touch_test_speaks_for_its_own_calibration_only(tmp_path):
    other = spanning(shoulder_pan=2400)
    save_touch(judge_touch(SHEET_M, SHEET_M + (0.03, 0, 0)), TWIN, tmp_path, "arm")
    with pytest.raises(CartesianRefused, match=f"{calibration_id(TWIN)}.*30.0 mm off at most, more than 20"):
        check_touch(TWIN, tmp_path, "arm")
    assert "no touch test" in check_touch(other, tmp_path, "arm")
    save_touch(judge_touch(SHEET_M, SHEET_M + (0, 0.011, 0)), other, tmp_path, "arm")
    assert check_touch(other, tmp_path, "arm").startswith("WARNING: ")
    with pytest.raises(CartesianRefused):
        check_touch(TWIN, tmp_path, "arm")
    save_touch(judge_touch(SHEET_M, SHEET_M + (0, 0, 0.004)), TWIN, tmp_path, "arm")
    assert "4.0 mm off at most" in check_touch(TWIN, tmp_path, "arm")


@given(points=clouds, tips=clouds)
@settings(max_examples=30)
def test_a_kept_touch_test_reads_as_it_was(points, tips):
    with tempfile.TemporaryDirectory() as folder:
        touch = judge_touch(points, tips)
        save_touch(touch, TWIN, folder, "arm")
        read, _ = load_touch(TWIN, folder, "arm")
    np.testing.assert_array_equal(read.tips_m, touch.tips_m)
    assert (read.residual_m, read.verdict) == (touch.residual_m, touch.verdict)


def test_a_touch_file_that_was_tampered_with_does_not_pass(tmp_path):
    path = save_touch(judge_touch(SHEET_M, SHEET_M + (0.03, 0, 0)), TWIN, tmp_path, "arm")
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"verdict": OK, "residual_m": 0.0}))
    with pytest.raises(CartesianRefused):
        check_touch(TWIN, tmp_path, "arm")
    for broken in ("{", "[]", json.dumps(told | {"tips_m": [[1, 2]]}), json.dumps(told | {"points_m": None})):
        path.write_text(broken)
        with pytest.raises(CalibrationError, match="is damaged"):
            check_touch(TWIN, tmp_path, "arm")
    path.write_text(json.dumps(told | {"calibration_id": "of another"}))
    with pytest.raises(CalibrationError, match="is of calibration of another"):
        check_touch(TWIN, tmp_path, "arm")


def test_no_body_is_built_with_a_calibration_whose_touch_test_refused(tmp_path):
    """Refused before a port is opened: there is none here."""
    save_calibration(TWIN, tmp_path, "arm")
    save_touch(judge_touch(SHEET_M, tips_with("elbow_flex", 12.5)), TWIN, tmp_path, "arm")
    config = load_config(
        "configs/twin_wire_config.json",
        [f"--robot.calibration_dir={tmp_path}", "--robot.id=arm", "--robot.port=/nowhere/port"],
    )
    with pytest.raises(CartesianRefused, match="hilserl calibrate --touch"), build_body(config, print):
        raise AssertionError("a body was built")


@pytest.mark.parametrize(
    "text", ["", "0.2,0.1", "0.2,0.1;0.2,0;a,b", "1,2,3,4;1,2;1,2", "0.2;0.1;0.3", "nan,0;1,2;1,nan"]
)
def test_points_that_are_none_are_refused(text):
    with pytest.raises(CalibrationError):
        judge_touch(points := parse_points(text), points)


def test_points_lie_on_the_table_unless_said_otherwise():
    np.testing.assert_array_equal(
        parse_points("0.2,0.1;.3,-.1,.05;1,2"), [[0.2, 0.1, 0], [0.3, -0.1, 0.05], [1, 2, 0]]
    )


# --- versions -----------------------------------------------------------------------------------------------

calibrations = st.integers(0, 5).map(lambda n: spanning(shoulder_pan=2400 + 2 * n))


@given(st.lists(calibrations, min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_no_calibration_is_ever_lost_and_each_comes_back_as_it_was(stored):
    with tempfile.TemporaryDirectory() as name:
        folder, seen = Path(name), {}
        for calibration in stored:
            before = {path: path.read_bytes() for path in folder.glob("arm.*.json")}
            store_version(calibration, folder, "arm")
            assert all(path.read_bytes() == content for path, content in before.items()), "overwritten"
            seen[calibration_id(calibration)] = calibration
            assert load_calibration(folder, "arm").joints == calibration.joints
        there = versions(folder, "arm")
        assert there[0].number == 0 and {version.id for version in there} == set(seen)
        assert len(there) <= 1 + len(seen), "one that was kept already was kept again"
        for wanted, calibration in seen.items():
            assert find_version(folder, "arm", wanted).joints == calibration.joints
        for version in there[1:]:
            for word in (str(version.number), f"{version.number:03d}"):
                assert find_version(folder, "arm", word).joints == seen[version.id].joints


def test_the_present_file_of_another_program_is_kept_too_even_damaged(tmp_path):
    """lerobot writes the same file; what it wrote must not be lost, and a broken file is evidence."""
    calibration_path(tmp_path, "arm").write_text("{ half")
    store_version(TWIN, tmp_path, "arm")
    damaged = versions(tmp_path, "arm")[1]
    assert (damaged.id, damaged.path.read_text()) == (None, "{ half")
    with pytest.raises(CalibrationError, match="is not JSON"):
        find_version(tmp_path, "arm", "1")


def test_an_unknown_version_lists_what_there_is(tmp_path):
    save_calibration(TWIN, tmp_path, "arm")
    for wanted in ("7", "abc", "0", ""):
        with pytest.raises(
            CalibrationError, match=rf"never had calibration .*{calibration_id(TWIN)} \(arm\.json"
        ):
            find_version(tmp_path, "arm", wanted)


def test_another_arms_files_and_touch_tests_are_no_versions(tmp_path):
    for arm in ("arm", "arm2", "arm.b"):
        for _ in range(2):
            store_version(TWIN, tmp_path, arm)
        store_version(spanning(shoulder_pan=2400), tmp_path, arm)
    save_touch(judge_touch(SHEET_M, SHEET_M), TWIN, tmp_path, "arm")
    assert touch_file(TWIN, tmp_path, "arm").is_file()
    assert [version.path.name for version in versions(tmp_path, "arm")] == ["arm.json", "arm.001.json"]


def test_a_servo_id_is_kept(tmp_path):
    joints = tuple(
        JointCalibration(9 - n, 0, 0, one.range_min, one.range_max) for n, one in enumerate(TWIN.joints)
    )
    store_version(Calibration(joints, "test"), tmp_path, "arm")
    assert [one.id for one in load_calibration(tmp_path, "arm").joints] == [9, 8, 7, 6, 5, 4]
