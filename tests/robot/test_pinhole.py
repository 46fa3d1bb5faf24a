"""A camera as geometry: there and back, and what the twin renders is where its geometry says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot.pinhole import Pinhole
from robot.twin.lift import LiftConfig
from robot.twin.world import World, arrange_lift

RED_OVER = 60
"""The cube is redder than anything else by so much."""


def looking_down(tilt_rad: float, height_m: float) -> Pinhole:
    cos, sin = np.cos(tilt_rad), np.sin(tilt_rad)
    rotmat = np.array([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])
    return Pinhole(np.array([0.2, -0.1, height_m]), rotmat, 340.0, (640, 480))


@given(
    st.floats(-0.6, 0.6), st.floats(0.05, 0.4), st.tuples(st.floats(0, 640), st.floats(0, 480)),
    st.floats(0, 0.03),
)  # fmt: skip
def test_what_a_pixel_shows_is_seen_at_that_pixel(tilt, height, pixel, above_m):
    camera = looking_down(tilt, height)
    (place,) = camera.on_table(np.array([pixel]), above_m)
    if np.isfinite(place).all():
        (back,) = camera.pixels(np.array([[*place, above_m]]))
        assert np.allclose(back, pixel, atol=1e-6)


def test_what_lies_past_the_table_or_behind_the_camera_is_no_place():
    level = looking_down(np.pi / 2, 0.2)
    seen = level.on_table(np.array([[320.0, 100.0], [320.0, 400.0]]))
    assert np.isnan(seen[0]).all() and np.isfinite(seen[1]).all()
    behind = level.centre_m + level.rotmat[:, 2]
    assert np.isnan(level.pixels(behind[None])).all()


@pytest.mark.parametrize("turn", [0.0, 0.3])
def test_the_twin_renders_its_cube_where_the_geometry_says(turn):
    world = World(320, 240)
    try:
        q = np.array([0.0, -0.35, 0.35, 1.55, 1.57, 0.8], np.float32)
        for seed in range(3):
            arrange_lift(world, LiftConfig(looks=0.0, camera_turn=turn, cube_range_xy=0.02), seed)
            world.set_arm(q)
            picture = world.render_gripper().astype(int)
            red = (picture[..., 0] - picture[..., 1:].max(axis=2)) > RED_OVER
            assert red.sum() > 50
            (right, down) = np.array(np.nonzero(red)).mean(axis=1)[::-1] + 0.5
            (expected,) = world.gripper_view(q).pixels(world.cube_xyz_m()[None])
            half = np.sqrt(red.sum()) / 4  # the middle of what is seen is not the middle of the cube
            assert np.abs(expected - (right, down)).max() < half
    finally:
        world.close()
