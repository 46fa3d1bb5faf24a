from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilserl.config import SuccessConfig
from hilserl.reward import ButtonReward, OracleReward
from hilserl.types import End, Obs

OBS = Obs({}, np.zeros(1, np.float32))


def scored(achieved: list[bool], config: SuccessConfig, fps: float = 10.0) -> list[tuple[float, End | None]]:
    """Scores of the steps up to the end of the episode."""
    facts = iter(achieved)
    reward = OracleReward(lambda: next(facts), config, fps)
    reward.reset()
    scores = []
    for _ in achieved:
        scores.append(reward.score(OBS, False))
        if scores[-1][1] is not None:
            break
    return scores


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.sampled_from([0.1, 0.3, 0.5, 1.0]))
def test_success_is_the_end_of_the_first_unbroken_run_that_is_long_enough_and_is_paid_once(achieved, hold_s):
    needed = round(hold_s * 10)
    runs = [i for i in range(needed, len(achieved) + 1) if all(achieved[i - needed : i])]
    scores = scored(achieved, SuccessConfig(kind="oracle", hold_s=hold_s))
    ends = [end for _, end in scores]
    if runs:
        assert len(scores) == runs[0] and ends == [None] * (runs[0] - 1) + [End.SUCCESS]
        assert [value for value, _ in scores] == [0.0] * (runs[0] - 1) + [1.0]
    else:
        assert ends == [None] * len(achieved) and all(value == 0.0 for value, _ in scores)


@pytest.mark.parametrize(("fps", "steps"), [(10.0, 5), (20.0, 10), (1.0, 1)])
def test_half_a_second_is_counted_in_steps_of_the_control_rate(fps, steps):
    assert len(scored([True] * 30, SuccessConfig(kind="oracle", hold_s=0.5), fps)) == steps


def test_what_was_held_in_the_last_episode_does_not_count_in_the_next():
    reward = OracleReward(lambda: True, SuccessConfig(kind="oracle"), 10.0)
    for _ in range(4):
        assert reward.score(OBS, False)[1] is None
    reward.reset()
    for _ in range(4):
        assert reward.score(OBS, False)[1] is None
    assert reward.score(OBS, False)[1] is End.SUCCESS


@given(st.integers(0, 40), st.integers(1, 40), st.floats(0.001, 0.05))
def test_the_shortest_success_has_the_best_return(idle, later, cost):
    config = SuccessConfig(kind="oracle", step_cost=cost)

    def total(steps_before: int) -> float:
        return sum(value for value, _ in scored([False] * steps_before + [True] * 5, config))

    assert total(idle) > total(idle + later)
    assert total(idle) == pytest.approx(1.0 - cost * (idle + 5))


def test_without_an_oracle_only_the_cost_of_time_is_scored():
    reward = ButtonReward(SuccessConfig(step_cost=0.01))
    reward.reset()
    assert [reward.score(OBS, False) for _ in range(3)] == [(-0.01, None)] * 3
