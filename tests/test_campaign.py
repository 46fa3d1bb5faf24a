"""Laws of the fault campaign: its plan, its judges (each law, violated, is found), and a small real one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from hilserl.benchmark import campaign_judge as judge
from hilserl.benchmark.campaign import jobs_of, main, summary
from hilserl.benchmark.campaign_data import FRAME_AGE_S, Played, episodes_of, frame_judge, judge_store
from hilserl.benchmark.campaign_plan import KINDS, LANES, Fault, counts, plan
from hilserl.benchmark.campaign_stage import read_numbers, write_number
from hilserl.benchmark.campaign_told import ALWAYS, WORDS, cause, told, untold
from hilserl.config import CropConfig
from hilserl.env import policy_image
from hilserl.episode import save_episode
from hilserl.types import End, Episode, Role
from robot.parking import REST_RAD

ROOT = Path(__file__).resolve().parents[1]
TICK_S = 0.016
LOW_M, HIGH_M = (0.1, -0.15, 0.0), (0.35, 0.15, 0.25)


# --- the plan -----------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_plan_and_another_seed_another():
    assert plan(5, 300) == plan(5, 300)
    assert plan(5, 300) != plan(6, 300)


@pytest.mark.parametrize("faults", [1, 30, 100, 1000, 1500])
def test_every_kind_is_there_and_none_too_many(faults):
    lanes = plan(0, faults)
    drawn = [fault for lane in lanes.values() for fault in lane]
    assert {fault.kind for fault in drawn} == set(KINDS)
    assert len(drawn) == sum(counts(faults).values()) >= min(faults, len(KINDS))
    assert len(drawn) == faults or faults < 100
    assert sorted(fault.index for fault in drawn) == list(range(len(drawn)))
    assert all(fault.kind in LANES[lane] for lane, mine in lanes.items() for fault in mine)


def test_a_thousand_faults_kill_the_actor_two_hundred_times_at_different_moments():
    kills = [f for f in plan(0, 1000)["kill"] if f.kind.startswith("kill")]
    assert len(kills) == 200 and len({(f.wait_s, *f.numbers.values()) for f in kills}) > 190


def test_plans_survive_json_and_jobs_hold_each_fault_once():
    lanes = plan(3, 700)
    for fault in lanes["wire"]:
        assert Fault.of(json.loads(json.dumps(fault.plain()))) == fault
    jobs = jobs_of(lanes, 3)
    indices = [fault["index"] for job in jobs for fault in job["faults"]]
    assert sorted(indices) == list(range(len(indices))) and len({job["name"] for job in jobs}) == len(jobs)


def test_an_unknown_kind_is_refused_by_name():
    with pytest.raises(ValueError, match="no such fault: gremlins"):
        plan(0, 10, ("gremlins",))


# --- the arm ------------------------------------------------------------------------------------------------


def trace(q_rad=None, seconds=3.0, **changes):
    """An arm that lies folded and holds, its hand in the box, with what else is said of it."""
    count = round(seconds / TICK_S)
    t_s = 100 + TICK_S * np.arange(count)
    rest = np.tile(np.array([*REST_RAD, 0.5], np.float32), (count, 1))
    on, hand = np.ones((count, 6), bool), np.tile([0.2, 0.0, 0.1], (count, 1))
    whole = judge.Trace(t_s, t_s - 40, rest, on, rest, hand, np.zeros(count))
    return replace(whole, **changes) if q_rad is None else replace(whole, q_rad=q_rad(whole), **changes)


def moves(speed_rad_s, joint=1, begin=60, end=90):
    """A joint moves at this speed between two ticks."""

    def path(whole):
        q_rad = whole.q_rad.copy()
        ticks = np.clip(np.arange(len(q_rad)) - begin, 0, end - begin)
        q_rad[:, joint] += (TICK_S * speed_rad_s * ticks).astype(np.float32)
        return q_rad

    return path


@pytest.mark.parametrize(("speed", "wrong"), [(3.9, 0), (4.0, 0), (4.5, 1), (-9.0, 1)])
def test_an_energised_joint_that_is_too_fast_is_found_once(speed, wrong):
    found = judge.too_fast(trace(moves(speed)), 4.0)
    assert len(found) == wrong
    assert all("shoulder_lift moved at" in words and 100 < t_s < 103 for t_s, words in found)


def test_a_joint_that_is_driven_too_fast_is_found_where_it_does_not_follow_too():
    whole = trace()
    leap = whole.driven_rad.copy()
    leap[100:, 3] += 0.5
    found = judge.too_fast(replace(whole, driven_rad=leap), 4.0)
    assert [words.partition(" at ")[0] for _, words in found] == ["wrist_flex was driven"]


def test_a_limp_joint_may_fall_and_a_single_tick_is_no_speed():
    limp = np.ones((len(trace().t_s), 6), bool)
    limp[50:100, 1] = False
    assert judge.too_fast(trace(moves(9.0), on=limp), 4.0) == []
    assert judge.too_fast(trace(moves(9.0, begin=60, end=62)), 4.0) == []


def test_after_a_stall_of_the_machine_speed_is_not_judged_but_then_it_is():
    whole = trace(moves(9.0))
    stalled = replace(whole, t_s=whole.t_s + np.where(np.arange(len(whole.t_s)) >= 58, 0.2, 0.0))
    early = replace(stalled, q_rad=moves(9.0, begin=60, end=75)(trace()))
    assert judge.too_fast(early, 4.0) == []
    assert judge.too_fast(replace(stalled, q_rad=moves(9.0, begin=120, end=150)(trace())), 4.0)


def test_a_hand_outside_the_box_is_found_in_an_episode_only():
    hand = np.tile([0.2, 0.0, 0.1], (len(trace().t_s), 1))
    hand[100:120, 1] = 0.2
    out = trace(hand_m=hand)
    assert len(judge.outside(out, [(100.0, 102.9)], LOW_M, HIGH_M)) == 1
    assert judge.outside(out, [(100.0, 101.2), (102.2, 102.9)], LOW_M, HIGH_M) == []
    assert judge.outside(trace(), [(100.0, 102.9)], LOW_M, HIGH_M) == []
    hand[100:120, 1] = HIGH_M[1] + 0.8 * judge.BOX_TOLERANCE_M
    assert judge.outside(trace(hand_m=hand), [(100.0, 102.9)], LOW_M, HIGH_M) == []


def test_an_arm_that_presses_into_the_table_is_found_unless_it_fell():
    depth, limp = np.zeros(len(trace().t_s)), np.ones((len(trace().t_s), 6), bool)
    depth[40:50], limp[40:50, 2] = 0.01, False
    assert len(judge.into_table(trace(depth_m=depth))) == 1
    assert judge.into_table(trace(depth_m=depth, on=limp)) == []


def test_the_end_is_folded_and_without_torque():
    off = np.zeros((len(trace().t_s), 6), bool)
    assert judge.not_parked(trace(on=off)) == []
    left = off.copy()
    left[-1, 5] = True
    assert "still energised at the end: gripper" in judge.not_parked(trace(on=left))[0][1]
    assert "elbow_flex is 0.48 rad" in judge.not_parked(trace(moves(1.0, joint=2), on=off))[0][1]


def test_what_the_arm_did_is_seen():
    off = np.zeros((len(trace().t_s), 6), bool)
    one = ~off
    one[10:20, 0] = False
    assert judge.did(trace()) == "held" and judge.did(trace(on=off)) == "released"
    assert judge.did(trace(on=one)) == "limp" and judge.did(trace(moves(1.0, begin=80, end=190))) == "moved"
    assert judge.moving(trace(), 100.0, 103.0) == []
    assert "it should hold" in judge.moving(trace(moves(1.0)), 100.0, 103.0)[0][1]


# --- the data -----------------------------------------------------------------------------------------------


def picture(number, level=90):
    """A native picture with its number, as the policy sees it, through the camera's codec."""
    native = np.full((480, 640, 3), level, np.uint8)
    write_number(native, number)
    decoded = cv2.imdecode(cv2.imencode(".jpg", native, [cv2.IMWRITE_JPEG_QUALITY, 90])[1], cv2.IMREAD_COLOR)
    return policy_image(np.asarray(decoded, np.uint8), CropConfig(), (128, 128))


def test_a_picture_keeps_its_number_to_the_policys_image_and_a_torn_one_has_two():
    for number in (0, 1, 2, 511, 512, 70_000, 2**20 - 1):
        for level in (0, 90, 255):
            assert read_numbers(picture(number, level)) == (number, number)
    torn = picture(7)
    torn[64:] = picture(8)[64:]
    assert read_numbers(torn) == (7, 8)
    torn[64:] = np.roll(torn[64:], 43, axis=1)
    assert read_numbers(torn)[0] != read_numbers(torn)[1]
    assert read_numbers(np.full((128, 128, 3), 128, np.uint8)) == (-1, -1)


STEPS = 4
TAKEN_S = list(100.0 + np.arange(30) / 30)


def story(number=1, end="timeout"):
    """An episode as its program tells it; its first picture is the third that was taken."""
    times = [100.1 + 0.1 * step for step in range(STEPS + 1)]
    facts = [{"what": "begin", "t_s": times[0]}]
    facts += [{"what": "step", "t_s": t_s, "action": [0.1, 0, 0, 1], "helped": False} for t_s in times[1:]]
    return [*facts, {"what": "end", "t_s": times[-1] + 0.01, "number": number, "end": end, "steps": STEPS}]


def stored(number=1, end=End.TIMEOUT, **changes):
    state = np.zeros((STEPS + 1, 18), np.float32)
    state[:, :6] = [*REST_RAD, 0.5]
    whole = Episode(
        images={"cam": np.stack([picture(3 + 3 * frame) for frame in range(STEPS + 1)])},
        state=state,
        action=np.tile(np.array([0.1, 0, 0, 1], np.float32), (STEPS, 1)),
        reward=np.zeros(STEPS, np.float32),
        intervention=np.zeros(STEPS, bool),
        end=end,
        role=Role.TRAIN,
        actor="a",
        number=number,
        policy_version=1,
        seed=0,
        task_hash="0" * 16,
        info={},
    )
    return replace(whole, **changes)


def verdict(folder, episodes, stories):
    for episode in episodes:
        save_episode(folder, episode)
    told_of = [played for facts in stories for played in episodes_of(facts)]
    found, lost = judge_store(folder, told_of, frame_judge(TAKEN_S, read_numbers, trace()), trace())
    return [words for _, words in found], lost


def test_what_was_played_and_stored_is_right(tmp_path):
    assert verdict(tmp_path, [stored(1), stored(2)], [story(1) + story(2), story(3, "discarded")]) == ([], 0)


def test_an_episode_that_is_lost_is_found_with_its_steps(tmp_path):
    found, lost = verdict(tmp_path, [stored(1)], [story(1), story(2)])
    assert lost == STEPS and found == ["episode 2 was finished and is not stored"]


def test_a_discarded_episode_that_is_stored_is_found(tmp_path):
    assert "was discarded and is stored" in verdict(tmp_path, [stored(1)], [story(1, "discarded")])[0][0]


def test_an_episode_that_is_stored_twice_is_found(tmp_path):
    save_episode(tmp_path, stored(1))
    (file,) = tmp_path.glob("*.npz")
    file.with_name(file.name.replace("timeout", "failure")).write_bytes(file.read_bytes())
    assert "is the same episode as" in verdict(tmp_path, [], [story(1)])[0][0]


def test_a_damaged_file_is_found(tmp_path):
    save_episode(tmp_path, stored(1))
    (file,) = tmp_path.glob("*.npz")
    file.write_bytes(file.read_bytes()[:-500])
    assert "cannot be read" in verdict(tmp_path, [], [story(1)])[0][0]


def test_other_actions_steps_and_poses_than_were_played_are_found(tmp_path):
    other = np.tile(np.array([0.2, 0, 0, 1], np.float32), (STEPS, 1))
    pose = stored().state.copy()
    pose[2, 1] += 0.1
    wrong = [stored(1, action=other), stored(2, intervention=np.ones(STEPS, bool)), stored(3, state=pose)]
    wrong.append(stored(4, End.FAILURE))
    found, _ = verdict(tmp_path, wrong, [story(number) for number in (1, 2, 3, 4)])
    wanted = ["stored actions are not", "stored interventions are not", "0.100 rad from every real one"]
    for words, part in zip(found, [*wanted, "4 steps, failure; played were 4 steps, timeout"], strict=True):
        assert part in words


def test_stale_torn_and_flat_frames_that_are_stored_are_found(tmp_path):
    whole = stored().images["cam"]
    late = 1 + int(FRAME_AGE_S * 30)
    stale, torn, flat = whole.copy(), whole.copy(), whole.copy()
    stale[-1] = picture(14 - late)
    torn[2, 64:] = whole[1, 64:]
    flat[3] = 128
    episodes = [stored(n + 1, images={"cam": images}) for n, images in enumerate((stale, torn, flat))]
    found, _ = verdict(tmp_path, episodes, [story(1), story(2), story(3)])
    assert [part in words for part, words in zip(("s old", "torn", "flat"), found, strict=True)] == [True] * 3


def test_an_episode_cut_off_by_a_kill_is_no_loss():
    (played,) = episodes_of(story()[:3])
    assert isinstance(played, Played) and not played.finished and played.span == (100.1, pytest.approx(100.3))


# --- the person ---------------------------------------------------------------------------------------------


def test_every_kind_has_its_words():
    assert set(WORDS) == set(KINDS) and set(ALWAYS) <= set(KINDS)


def test_silence_is_found_where_there_was_an_effect():
    lines = [(10.0, "camera 'cam': the picture is flat (deviation 0)"), (90.0, "the picture is flat")]
    assert told("black", lines, 9.5, 10.0) == [lines[0][1]]
    assert told("black", lines, 20.0, 21.0) == []
    assert "nobody was told" in untold("black", [], effect=True)
    assert untold("black", [], effect=False) == "" == untold("black", ["flat"], effect=True)
    assert untold("heat", [], effect=False)


def test_a_reason_is_the_faults_own_or_anothers_or_unknown():
    assert cause("black", "episode 3 discarded: CameraError: the picture is flat (deviation 0)") == "own"
    assert cause("loss_20", "episode 3 discarded: the newest picture is 0.23 s old, allowed 0.2 s") == "other"
    held = "episode 2 discarded: the arm holds and does not move: gripper: temperature 66 C, at most 65 C"
    assert cause("heat", held) == "own" and cause("overload", held) == "other"
    assert cause("loss_20", "") == "" == cause("loss_20", "episode 3 discarded: ZeroDivisionError")


def test_a_pause_that_stands_is_not_told_twice():
    lines = [(1.0, "PAUSE: gripper: load 0.99 of full torque, at most 0.90")]
    assert told("overload", lines, 5.0, 6.0)
    assert not told("overload", [*lines, (3.0, "gripper: load is 0.10 of full torque, well again")], 5.0, 6.0)


# --- all of it ----------------------------------------------------------------------------------------------


def test_a_summary_counts_every_kind_and_violation():
    good = {"index": 0, "kind": "heat", "effect": True, "arm": "held", "told": ["PAUSE"], "violations": []}
    bad = good | {"index": 1, "kind": "kill", "told": [], "violations": ["too fast", "not parked"]}
    lane = {
        "outcomes": [good, bad],
        "lost_steps": 3,
        "episodes": 2,
        "unprovoked": 0,
        "lost_s": 0,
        "in_time": 1,
    }
    result = summary([lane, lane], 1.0)
    assert (result["faults"], result["violations"], result["lost_steps"]) == (4, 4, 6)
    assert result["by_kind"]["heat"]["faults"] == 2 and result["by_kind"]["kill"]["violations"] == 4
    assert [outcome["index"] for outcome in result["violated"]] == [1, 1]


@pytest.mark.slow
def test_a_small_campaign_violates_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    said: list[str] = []
    kinds = ["loss_20", "heat", "unplugged", "torn", "frozen", "kill"]
    words = ["--seed", "3", "--faults", "1", "--json", "--folder", str(tmp_path), "--kinds", *kinds]
    status = main(words, said.append)
    result = json.loads(said[-1])
    assert status == 0 and result["violations"] == result["lost_steps"] == 0, "\n".join(said)
    assert result["faults"] == len(kinds) and set(result["by_kind"]) == set(kinds)
    assert result["episodes"] > 0
