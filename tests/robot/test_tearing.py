"""Laws of the torn-picture watch: a lost line is seen, motion is not taken for one."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from robot.tearing import FORGET_S, UNRELATED_S, TearWatch

H, W, TICK_S = 120, 160, 1 / 30


def scene(seed=0):
    """A wide textured picture to look at parts of."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (H // 10, 3 * W // 10, 3)).astype(np.uint8)
    return cv2.resize(coarse, (3 * W, H), interpolation=cv2.INTER_CUBIC)


def view(wide, left, noise=0):
    rng = np.random.default_rng(noise)
    part = wide[:, left : left + W].astype(int) + rng.integers(-2, 3, (H, W, 3))
    return np.clip(part, 0, 255).astype(np.uint8)


def torn(picture, row, shift):
    damaged = picture.copy()
    damaged[row:] = np.roll(picture[row:], shift, axis=1)
    return damaged


@pytest.mark.parametrize("row", [5, 60, 85])
@pytest.mark.parametrize("shift", [40, 53, 80, -45])
def test_a_shift_that_reaches_the_bottom_is_torn_until_it_is_undone(row, shift):
    wide, watch = scene(), TearWatch()
    said = []
    for n in range(30):
        picture = view(wide, 100 + n, n)
        said.append(watch.update(torn(picture, row, shift) if 10 <= n < 20 else picture, n * TICK_S))
    assert said == [10 <= n < 20 for n in range(30)]


@pytest.mark.parametrize("pixels", [0, 3, 10])
def test_motion_is_not_torn(pixels):
    wide, watch = scene(1), TearWatch()
    lefts = [abs((n * pixels + W) % (2 * W) - W) + 50 for n in range(100)]
    assert not any(watch.update(view(wide, left, n), n * TICK_S) for n, left in enumerate(lefts))


def test_unlike_pictures_are_not_torn():
    """A light switched on, a hand before the camera, noise: nothing is like what was before."""
    rng, watch = np.random.default_rng(2), TearWatch()
    pictures = [rng.integers(0, 255, (H, W, 3)).astype(np.uint8) for _ in range(20)]
    pictures += [np.full((H, W, 3), level, np.uint8) for level in (0, 255, 0)]
    pictures += [view(scene(seed), 100) for seed in range(20)]
    assert not any(watch.update(picture, n * TICK_S) for n, picture in enumerate(pictures))


def test_what_lies_far_back_says_nothing_and_a_verdict_is_not_for_ever():
    wide, watch = scene(), TearWatch()
    good = view(wide, 100)
    assert not watch.update(good, 0.0)
    assert not watch.update(torn(good, 60, 50), 2 * UNRELATED_S)
    watch = TearWatch()
    watch.update(good, 10.0)
    times = 10.0 + TICK_S * np.arange(1, 2 + round(FORGET_S / TICK_S) + 2)
    said = [watch.update(torn(good, 60, 50), float(t_s)) for t_s in times]
    assert said[0] and all(said[:80]) and not said[-1]
