"""Checks of the demonstrations: what they would teach, and whether the networks would see it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hilserl.acting import PolicyNet
from hilserl.build import build_encoder, with_imported_demos
from hilserl.dataset_motion import STEP_ERROR_M
from hilserl.doctor.context import Context, Missing
from hilserl.doctor.findings import Finding, Picture, Status, judged
from hilserl.doctor.plots import moves_plot
from hilserl.env import RESET_TOLERANCE_M, STATE_NAMES, task_spec
from hilserl.episode import TASK_FILE, load_episode, scan_episodes
from hilserl.state_statistics import state_statistics
from hilserl.task_record import task_differences
from hilserl.types import Episode
from robot.kinematics import F64
from robot.types import F32, JOINT_NAMES, WRIST_ROLL

MIN_CORRELATION = 0.9
SCALE_TIMES = 1.25
"""Those of the twin move 0.9 times as far as they ask: the last steps of a window are on their way."""
MAX_INPUT = 10.0
"""A normalised input beyond this drowns all others."""
MIN_REACTION = 1e-3
"""Least change of the encoder's output when a state component swings by one spread."""
REAL_STATES = 32
"""Moments of the data at which it is swung."""
MOVES_RAD = 0.03
MIN_ANSWERED, ANSWER_STEPS = 0.5, 3
"""A gripper that squeezes its object cannot close further; one that is asked to all the time could."""
OUTSIDE_SHARE = 0.01
HELD = tuple(name for name in STATE_NAMES if name.split(".")[1].startswith(f"{JOINT_NAMES[WRIST_ROLL]}_rad"))
"""The wrist's roll, its angle and its speed: no action turns it, task.wrist_roll says where it stands."""
_XYZ = [STATE_NAMES.index(f"ee_xyz.{axis}_m") for axis in "xyz"]
_GRIPPER = STATE_NAMES.index("joint_pos.gripper_rad")


@dataclass(frozen=True, slots=True)
class Demonstrated:
    """The demonstrations of a configuration, without pictures, and the records they were made under.

    paths: the episodes' files. records: (file, its text).
    """

    episodes: list[Episode]
    paths: list[Path]
    records: list[tuple[str, str]]


def demonstrated(context: Context) -> Demonstrated:
    """Read once. Raises Missing where none are configured."""
    if context.demos is None:
        config = with_imported_demos(context.config, context.say)
        if not config.demos:
            raise Missing("demos names no demonstrations; record some with hilserl record --role demo")
        paths, records = list[Path](), []
        for name in config.demos:
            paths += [info.path for info in scan_episodes(Path(name))]
            file = Path(name) / TASK_FILE
            records.append((str(file), file.read_text()))
        if not paths:
            raise Missing(f"{', '.join(config.demos)} hold no episode")
        context.demos = Demonstrated([load_episode(path, pictures=False) for path in paths], paths, records)
    return context.demos


def record(context: Context) -> list[Finding]:
    """They were made under this task record."""
    config, wrong = context.config, []
    for file, text in demonstrated(context).records:
        differences = task_differences(config.task, text, config.allow_task_difference)
        wrong += [f"{d.field}: here {d.ours}, {file} {d.theirs}" for d in differences]
    value = "; ".join(wrong) or "the same"
    advice = "record again, or accept each difference by name (allow_task_difference)"
    return [judged("demo_task", not wrong, value, "the same record", advice)]


def actions(context: Context) -> list[Finding]:
    """Actions vary, predict the measured motion, and use the one gripper encoding."""
    episodes, scale = demonstrated(context).episodes, context.config.task.action_scale
    asked, moved = pair_moves(episodes, scale)
    constant = [
        f"{one.actor}/{one.number}" for one in episodes if not np.ptp(one.action[:, :3], axis=0).any()
    ]
    correlation = {
        axis: float(np.corrcoef(asked[:, i], moved[:, i])[0, 1])
        for i, axis in enumerate("xyz")
        if asked[:, i].std() > 1e-4 and moved[:, i].std() > 1e-6
    }
    told = ", ".join(f"{axis} {value:.2f}" for axis, value in correlation.items()) or "nothing moved"
    least = min(correlation.values(), default=0.0)
    times = float((asked * moved).sum() / max((asked**2).sum(), 1e-9))
    off = 1000 * float(np.median(np.linalg.norm(asked - moved, axis=1)))
    return [
        judged(
            "demo_actions",
            not constant,
            f"constant in {', '.join(constant)}" if constant else f"vary in all {len(episodes)}",
            "none constant",
            "these would teach doing nothing: they were recorded without the action, record again",
        ),
        judged(
            "demo_motion",
            least >= MIN_CORRELATION,
            f"actions and measured motion correlate {told}; median difference {off:.1f} mm",
            f"at least {MIN_CORRELATION:g}",
            "actions do not say what moved: another scale, frame, lag, or shifted columns; "
            f"{1000 * STEP_ERROR_M:.0f} mm a step is much",
            pictures=(Picture("asked and measured, over three steps", moves_plot(asked, moved)),),
        ),
        judged(
            "demo_scale",
            1 / SCALE_TIMES <= times <= SCALE_TIMES,
            f"the hand moved {times:.2f} times as far as its actions ask at task.action_scale {scale:g} m",
            f"{1 / SCALE_TIMES:.2f} to {SCALE_TIMES:.2f} times",
            "the actions were stored at another scale, or scaled twice: record again",
        ),
        _gripper(episodes),
    ]


def pair_moves(episodes: list[Episode], scale: float) -> tuple[F64, F64]:
    """Asked and measured moves (N, 3) [m] over windows of three steps, the arm's lag of one step allowed."""
    asked, moved = [], []
    for one in episodes:
        way = np.cumsum(scale * one.action[:, :3].astype(np.float64), axis=0)
        xyz = one.state[1:, _XYZ].astype(np.float64)
        if len(way) > 4:
            asked.append(way[3:-1] - way[:-4])
            moved.append(_best_lag(way, xyz))
    if not asked:
        return np.zeros((1, 3)), np.zeros((1, 3))
    return np.concatenate(asked), np.concatenate(moved)


def _best_lag(way: F64, xyz: F64) -> F64:
    """Measured moves at no lag or one step's, whichever explains more."""
    asked = way[3:-1] - way[:-4]
    now, later = xyz[3:-1] - xyz[:-4], xyz[4:] - xyz[1:-3]
    return now if np.abs(asked - now).sum() <= np.abs(asked - later).sum() else later


def _gripper(episodes: list[Episode]) -> Finding:
    """Where the gripper clearly moved, its action asked for that way; where one began to ask, it moved."""
    asked, turned, answered = [], [], list[tuple[bool, bool]]()
    for one in episodes:
        answered += _answered(one)
        turn = np.diff(one.state[:, _GRIPPER])
        moved = np.abs(turn) > MOVES_RAD
        # it may follow a step late
        wish = np.where(one.action[:, 3] != 0, one.action[:, 3], np.append(0, one.action[:-1, 3]))
        asked.append(wish[moved])
        turned.append(turn[moved])
    every, ways = np.concatenate(asked), np.concatenate(turned)
    share = float((np.sign(every) == np.sign(ways)).mean()) if len(ways) else 0.0
    values = np.concatenate([one.action[:, 3] for one in episodes])
    both = bool((values < 0).any() and (values > 0).any())
    shares = [np.mean([did for way, did in answered if way is opens] or [True]) for opens in (True, False)]
    moved = float(min(shares))
    value = (
        f"{100 * share:.0f} % of {len(ways)} moves asked for their way; values {values.min():+.2f} to "
        f"{values.max():+.2f}; it moved {100 * moved:.0f} % of the times it was newly asked to"
    )
    advice = "gripper actions are of another encoding (is 1 hold, or open?): record again"
    good = share >= MIN_CORRELATION and both and moved >= MIN_ANSWERED
    return judged("demo_gripper", good, value, "90 %, both ways used, half: -1 closes, +1 opens", advice)


def _answered(episode: Episode) -> list[tuple[bool, bool]]:
    """Each time an action newly asked for a way still open: whether it was to open, and it soon moved."""
    angle, ways = episode.state[:, _GRIPPER], np.sign(episode.action[:, 3])
    before = np.append(0, ways[:-1])
    found = []
    for start in np.flatnonzero((ways != 0) & (ways != before)):
        moved = ways[start] * (angle[start : start + ANSWER_STEPS + 1] - angle[start])
        room = angle[start] < angle.max() - MOVES_RAD if ways[start] > 0 else True
        if room:
            found.append((bool(ways[start] > 0), bool(moved.max() > MOVES_RAD)))
    return found


def places(context: Context) -> list[Finding]:
    """They stay inside the box, and start where resets end."""
    task, episodes = context.config.task, demonstrated(context).episodes
    low, high = np.array(task.workspace_min), np.array(task.workspace_max)
    xyz = np.concatenate([one.state[:, _XYZ] for one in episodes])
    over = np.maximum(low - xyz, xyz - high).max(axis=1)
    share = float((over > STEP_ERROR_M).mean())
    spread = np.array([task.random_ee_range_xy] * 2 + [task.random_ee_range_z]) * task.random_ee_reset
    first = np.array([one.state[0, _XYZ] for one in episodes])
    off = np.maximum(np.abs(first - np.array(task.reset_xyz)) - spread, 0)
    miss = float(np.linalg.norm(off, axis=1).max())
    limit = RESET_TOLERANCE_M + 0.002
    return [
        judged(
            "demo_box",
            share <= OUTSIDE_SHARE,
            f"{100 * share:.1f} % of frames more than 5 mm outside",
            f"{100 * OUTSIDE_SHARE:.0f} %",
            "the policy could never go there: widen the box and record again",
        ),
        judged(
            "demo_start",
            miss <= limit,
            f"a start lies {1000 * miss:.1f} mm from where resets end",
            f"{1000 * limit:.0f} mm",
            "task.reset_xyz has changed, or recording began late: record again",
        ),
    ]


def inputs(context: Context) -> list[Finding]:
    """Every state dimension has a real range, none is huge, and each reaches the policy."""
    states = np.concatenate([one.state for one in demonstrated(context).episodes])
    mean, spread = state_statistics(states, STATE_NAMES)
    still = [name for name, value in zip(STATE_NAMES, spread, strict=True) if value == 0]
    config = context.config
    spec, encoder = task_spec(config.task), build_encoder(config)
    net = PolicyNet(spec, config.policy, encoder.feature_shape(spec.image_shape), mean, spread)
    normal = net.normalise(torch.from_numpy(states)).numpy()
    largest = np.abs(normal).max(axis=0)
    worst = int(np.argmax(largest))
    findings = [
        _still(still),
        judged(
            "normalised_inputs",
            bool(largest[worst] <= MAX_INPUT),
            f"largest {largest[worst]:.1f} ({STATE_NAMES[worst]})",
            f"{MAX_INPUT:g}",
            "a unit is wrong (degrees for radians?), or one frame is an outlier",
        ),
    ]
    return [*findings, _reaction(net, config.policy.n_obs_steps, states, spread)]


def _still(names: list[str]) -> Finding:
    """Whether what never moves is only what the task record holds still."""
    missed = [name for name in names if name not in HELD]
    told = [f"never move and are dropped: {', '.join(missed)}"] if missed else []
    if held := [name for name in names if name in HELD]:
        told.append(f"held still by the task (task.wrist_roll) and dropped: {', '.join(held)}")
    value = "; ".join(told) or "every component moves"
    status = Status.WARN if missed else Status.OK
    advice = "demonstrate motions that use them"
    return Finding("state_range", status, value, "all move that the task does not hold", advice)


def _reaction(net: PolicyNet, frames: int, states: F32, spread: F32) -> Finding:
    """A swing of each component changes what the actor is given, wherever the arm really was.

    At the mean of the data every normalised input is 0, and none could drown the others. frames:
    observations stacked. states: (N, S) of the data.
    """

    def branch(state: F32) -> torch.Tensor:
        seen = net.normalise(torch.from_numpy(state))[:, None].expand(-1, frames, -1)
        out: torch.Tensor = net.actor.branch(seen)
        return out

    real = states[np.linspace(0, len(states) - 1, REAL_STATES).round().astype(int)]
    blind, weakest, least = [], "", np.inf
    with torch.inference_mode():
        still = branch(real)
        for index in np.flatnonzero(spread):
            swung = real.copy()
            swung[:, index] += spread[index]
            change = float((branch(swung) - still).abs().amax(dim=1).min())
            if change < least:
                weakest, least = STATE_NAMES[index], change
            if change < MIN_REACTION:
                blind.append(STATE_NAMES[index])
    value = f"without effect: {', '.join(blind)}" if blind else f"all, the least {least:.3f} ({weakest})"
    advice = "the policy is blind to these: their statistics are degenerate (field report H1)"
    return judged("state_reaches_policy", not blind, value, f"{MIN_REACTION:g} for one spread", advice)
