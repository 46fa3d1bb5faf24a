"""Named alarms: what is going wrong in learning, by which number, against which limit.

`CollapseGuard` hears every episode and every row of metrics; `hilserl.pacing` has the alarms of pace. An
alarm is plain data. It is raised when its number has been beyond the limit for a while and cleared when it
has been well inside for a while, so that a number that trembles at its limit says one thing once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hilserl.config import PolicyConfig
from hilserl.success_record import DROP, Outcome, SuccessRecord
from hilserl.types import ACTION_SIZE, End, Episode, Role

SUCCESS_DROPPED = "success_dropped"
VALUE_ABOVE_BOUND = "value_above_bound"
ACTIONS_SATURATED = "actions_saturated"
INPUTS_OUT_OF_RANGE = "inputs_out_of_range"
ENTROPY_COLLAPSED = "entropy_collapsed"

# For the limits below: in a run of the twin's demo (152 rows, success rising from 25 to 85 %) the largest
# value was 1.015 of its bound, at most 8 % of the action components were saturated, and the entropy was never
# under its target.
VALUE_SLACK, VALUE_CLEAR = 0.5, 0.25
"""Share by which values may exceed their bound. The targets never do, and a fit overshoots them by some per
cent; half as much again is divergence (the "deadly triad" runs of van Hasselt et al. 2018 pass any bound)."""
VALUE_UPDATES = 500
SATURATED, SATURATED_CLEAR = 0.9, 0.75
"""Share of action components beyond 0.98 in size. A gripper held shut and one axis at full speed are half of
them and may be right; nine tenths means a policy that only knows full speed, and there tanh passes on less
than 4 % of the gradient that could bring it back."""
SATURATED_UPDATES = 1000
ENTROPY_NATS, ENTROPY_CLEAR_NATS = 1.5, 1.0
"""Entropy missing to the target, for each action component. SAC's temperature holds the mean entropy at the
target; 1.5 nat less is a spread 4.5 times narrower in every component: nothing is explored any more. Cloning
alone ends about 0.5 nat a component below a target of -2."""
ENTROPY_UPDATES = 5000
"""The temperature, moving by its learning rate of 3e-4, gets this long to repair it."""
LARGE_INPUT_UPDATES, INPUTS_CLEAR_UPDATES = 50, 1000
"""Updates in a row with more than 1 % of a component's normalised values beyond 5 (field report, row 11: a
unit error made inputs 57 times too large). A healthy component has 6e-7 of them there."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """What is wrong, in words, and the number behind it. name: of a fixed set, for programs."""

    name: str
    message: str
    value: float
    limit: float


@dataclass(slots=True)
class Switch:
    """A flag that turns on only after its condition held for `on_after`, off after the other for `off_after`.

    Both are spans of whatever `turn` counts in: updates, seconds.
    """

    on_after: float
    off_after: float
    on: bool = False
    _since: float | None = field(default=None, init=False)

    def turn(self, at: float, *, bad: bool, good: bool) -> None:
        """What is seen at `at`, which never falls. Neither bad nor good: all stays as it is."""
        if not (good if self.on else bad):
            self._since = None
            return
        self._since = at if self._since is None else self._since
        if at - self._since >= (self.off_after if self.on else self.on_after):
            self.on, self._since = not self.on, None


class CollapseGuard:
    """Tells when learning makes things worse.

    guard.episode(episode)            every episode that arrived, evaluation too
    guard.row(values, large_inputs)   every row of metrics
    guard.alarms                      the alarms that stand

    It sees only what it is given: the same episodes and rows give the same alarms.
    """

    def __init__(self, policy: PolicyConfig) -> None:
        self._policy = policy
        self._training, self._evaluation = SuccessRecord(), SuccessRecord()
        self._switches = {
            VALUE_ABOVE_BOUND: Switch(VALUE_UPDATES, VALUE_UPDATES),
            ACTIONS_SATURATED: Switch(SATURATED_UPDATES, SATURATED_UPDATES),
            INPUTS_OUT_OF_RANGE: Switch(0, INPUTS_CLEAR_UPDATES),
            ENTROPY_COLLAPSED: Switch(ENTROPY_UPDATES, ENTROPY_UPDATES),
        }
        self._described: dict[str, Alarm] = {}

    def episode(self, episode: Episode) -> None:
        """Count an episode: training and evaluation apart, demonstrations not at all."""
        if episode.role is Role.DEMO:
            return
        record = self._evaluation if episode.role is Role.EVAL else self._training
        if episode.intervention.any():
            record.add(Outcome.HELPED)
        else:
            record.add(Outcome.SUCCEEDED if episode.end is End.SUCCESS else Outcome.FAILED)

    def row(self, values: Mapping[str, float], large_inputs: Mapping[str, int]) -> None:
        """Judge one row of metrics, by their names in the glossary; one that is missing is not judged.

        values: needs time/updates. large_inputs: {state component: critic updates in a row in which more
        than 1 % of its normalised values in the batch lay beyond 5}.
        """
        updates = values["time/updates"]
        self._judge_value(updates, values)
        self._judge_saturation(updates, values)
        self._judge_entropy(updates, values)
        self._judge_inputs(updates, values, large_inputs)

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """The alarms that stand, each with its number as last seen."""
        standing = [self._described[name] for name, switch in self._switches.items() if switch.on]
        return (*_success_alarms(self._training, self._evaluation), *standing)

    def state(self) -> dict[str, str]:
        """What a checkpoint keeps: the successes so far. The rest is seen anew within some rows."""
        return {"training": self._training.text, "evaluation": self._evaluation.text}

    def load_state(self, state: Mapping[str, str]) -> None:
        """Continue from `state`."""
        self._training = SuccessRecord(state["training"])
        self._evaluation = SuccessRecord(state["evaluation"])

    def _judge_value(self, updates: float, values: Mapping[str, float]) -> None:
        if not values.keys() >= {"train/critic_q_max", "train/critic_q_bound"}:
            return
        largest, bound = values["train/critic_q_max"], values["train/critic_q_bound"]
        if bound <= 0:
            return  # no reward was seen yet: nothing says how large a value may be
        if self._policy.use_backup_entropy:  # no policy on [-1, 1] has more entropy than the uniform one
            most = ACTION_SIZE * math.log(2.0) / (1.0 - self._policy.discount)
            bound += values.get("train/actor_temperature", 0.0) * most
        limit = bound * (1 + VALUE_SLACK)
        self._turn(
            Alarm(
                VALUE_ABOVE_BOUND,
                f"the critics give values up to {largest:.3g}, but no state is worth more than {bound:.3g}: "
                "they are diverging. Go back with `hilserl rollback`; then a lower lr, more critics or a "
                "larger batch",
                largest,
                limit,
            ),
            updates,
            bad=largest > limit,
            good=largest < bound * (1 + VALUE_CLEAR),
        )

    def _judge_saturation(self, updates: float, values: Mapping[str, float]) -> None:
        share = values.get("train/actor_saturated_share")
        if share is not None:
            alarm = Alarm(
                ACTIONS_SATURATED,
                f"{100 * share:.0f} % of the policy's action components are at the end of their range: it "
                "only knows full speed and learns little from there. Check the demonstrations' actions, the "
                "state's units, and that the network is the checkpoint's",
                share,
                SATURATED,
            )
            self._turn(alarm, updates, bad=share > SATURATED, good=share < SATURATED_CLEAR)

    def _judge_entropy(self, updates: float, values: Mapping[str, float]) -> None:
        entropy = values.get("train/actor_entropy")
        if entropy is not None:
            target = self._policy.target_entropy
            limit = target - ENTROPY_NATS * ACTION_SIZE
            alarm = Alarm(
                ENTROPY_COLLAPSED,
                f"the policy's entropy is {entropy:.1f} nat, far under its target of {target:.1f}: it no "
                "longer explores. Raise temperature_init, or lower bc_weight if cloning holds it there",
                entropy,
                limit,
            )
            clear = target - ENTROPY_CLEAR_NATS * ACTION_SIZE
            self._turn(alarm, updates, bad=entropy < limit, good=entropy > clear)

    def _judge_inputs(
        self, updates: float, values: Mapping[str, float], large_inputs: Mapping[str, int]
    ) -> None:
        large = {name: n for name, n in large_inputs.items() if n >= LARGE_INPUT_UPDATES}
        if large:
            counts = ", ".join(f"{name} ({n} updates)" for name, n in sorted(large.items()))
            most = values.get("train/data_state_max")
            size = "" if most is None else f"; the largest normalised component is {most:.3g}"
            self._described[INPUTS_OUT_OF_RANGE] = Alarm(
                INPUTS_OUT_OF_RANGE,
                f"more than 1 % of the normalised values lie beyond 5 in: {counts}{size}. Check that "
                "component's unit and sensor, and that the demonstrations cover where the arm now goes",
                max(large.values()),
                LARGE_INPUT_UPDATES,
            )
        self._switches[INPUTS_OUT_OF_RANGE].turn(updates, bad=bool(large), good=not large)

    def _turn(self, alarm: Alarm, updates: float, *, bad: bool, good: bool) -> None:
        self._described[alarm.name] = alarm
        self._switches[alarm.name].turn(updates, bad=bad, good=good)


def _success_alarms(training: SuccessRecord, evaluation: SuccessRecord) -> list[Alarm]:
    """At most one: both records tell of the same policy, and evaluation, without help, is the fairer one."""
    for record, what in ((evaluation, "held-out success"), (training, "success without help")):
        drop = record.drop
        if drop is not None:
            helped = f", {100 * drop.now_helped:.0f} % of them helped" if drop.now_helped else ""
            message = (
                f"{what} fell from {100 * drop.best:.0f} % (best {drop.best_over} episodes in a row) to "
                f"{100 * drop.now:.0f} % (the last {drop.now_over}{helped}), more than luck explains. Check "
                "light, camera and reset pose; go back to an earlier checkpoint with `hilserl rollback`"
            )
            return [Alarm(SUCCESS_DROPPED, message, drop.now, drop.best - DROP)]
    return []


class AlarmBoard:
    """Which alarms stand, and what changed since it was last looked at: each raise and each clear once."""

    def __init__(self) -> None:
        self.standing: tuple[Alarm, ...] = ()

    def update(self, alarms: Iterable[Alarm]) -> tuple[list[Alarm], list[Alarm]]:
        """Take the alarms that stand now; return those that are new and those that are gone, by name."""
        before, now = {a.name: a for a in self.standing}, {a.name: a for a in alarms}
        self.standing = tuple(now.values())
        raised = [alarm for name, alarm in now.items() if name not in before]
        return raised, [alarm for name, alarm in before.items() if name not in now]
