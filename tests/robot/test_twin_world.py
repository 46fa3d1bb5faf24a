from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import mujoco
import numpy as np
import pytest

from robot.twin import model
from robot.twin.lift import LiftConfig
from robot.twin.lockstep import LockstepTwin
from robot.twin.operator import PERFECT, Demonstrator
from robot.twin.world import World, arrange_lift
from robot.twin.world_body import WorldBody
from robot.types import GRIPPER
from tests.fakes.body import LIFT, Body, action

SEEDS = 200
CROP = LIFT.crop_params_dict["gripper_cam"]
PADS = (model.FIXED_FINGER, model.MOVING_FINGER)


def compiled() -> mujoco.MjModel:
    return model.twin_spec(640, 480).compile()


def pixel(world: World, xyz: np.ndarray) -> np.ndarray:
    """(column, row) in the gripper camera's 640x480 picture [px]; NaN behind the camera."""
    data, camera = world._data, world._model.camera(model.GRIPPER_CAMERA)
    x, y, z = data.cam_xmat[camera.id].reshape(3, 3).T @ (xyz - data.cam_xpos[camera.id])
    focal = 240 / np.tan(np.radians(camera.fovy[0]) / 2)
    return np.array([320 + focal * x / -z, 240 - focal * y / -z]) if z < 0 else np.full(2, np.nan)


def fingertip(world: World, name: str) -> np.ndarray:
    """(3,) middle of the lower end of a finger [m]: of its long axis, the end at the table."""
    geom = world._model.geom(name)
    length = int(np.argmax(geom.size))
    rotmat = world._data.geom_xmat[geom.id].reshape(3, 3)
    ends = [world._data.geom_xpos[geom.id] + sign * geom.size[length] * rotmat[:, length] for sign in (-1, 1)]
    return min(ends, key=lambda end: end[2])


@dataclass(frozen=True)
class Reset:
    """What was found after one reset of the lift task. cube_px, tips_px: (column, row) [px]."""

    facts: dict[str, float]
    state: np.ndarray
    penetration_m: float
    cube_px: np.ndarray
    tips_px: list[np.ndarray]
    miss_m: float


@pytest.fixture(scope="module")
def resets() -> list[Reset]:
    body, found = Body(), []
    world = body.twin.world
    for seed in range(SEEDS):
        obs, facts = body.env.reset(seed)
        reached = np.array([facts[f"start_{axis}_m"] for axis in "xyz"])
        found.append(
            Reset(
                facts,
                obs.state,
                world.penetration_m(),
                pixel(world, world.cube_xyz_m()),
                [pixel(world, fingertip(world, name)) for name in PADS],
                float(np.linalg.norm(reached - body.env.reset_target(seed))),
            )
        )
    return found


def test_a_reset_leaves_nothing_overlapping_and_the_gripper_open_where_it_was_sent(resets):
    assert max(reset.penetration_m for reset in resets) < 1e-4
    assert max(reset.miss_m for reset in resets) < 0.003
    opening = np.array([reset.state[GRIPPER] for reset in resets])
    assert np.abs(opening - LIFT.reset_gripper).max() < 0.02


def test_the_cube_is_in_the_policys_picture_after_every_reset(resets):
    at = np.array([reset.cube_px for reset in resets])
    margin = 15
    assert (at[:, 0] > CROP.left + margin).all() and (at[:, 0] < CROP.left + CROP.width - margin).all()
    assert (at[:, 1] > CROP.top + margin).all() and (at[:, 1] < CROP.top + CROP.height - margin).all()


def test_both_fingertips_are_in_the_native_picture_at_the_reset_opening(resets):
    for reset in resets[:20]:
        for tip in reset.tips_px:
            assert 10 < tip[0] < 630 and 10 < tip[1] < 470


def test_scene_and_start_are_drawn_independently_and_over_the_whole_range(resets):
    names = ("cube_x_m", "cube_y_m", "cube_yaw_rad", "cube_size_m", "start_x_m", "start_y_m", "start_z_m")
    drawn = np.array([[reset.facts[name] for name in names] for reset in resets])
    scene = LIFT.scene
    full = [2 * scene.cube_range_xy] * 2 + [2 * scene.cube_yaw, scene.cube_size_max - scene.cube_size_min]
    full += [2 * LIFT.random_ee_range_xy] * 2 + [2 * LIFT.random_ee_range_z]
    np.testing.assert_allclose(np.ptp(drawn, axis=0), full, rtol=0.06)
    correlation = np.corrcoef(drawn.T) - np.eye(len(names))
    assert np.abs(correlation).max() < 3.5 / np.sqrt(SEEDS)


def test_proprioception_at_reset_does_not_give_the_cube_away(resets):
    state = np.array([reset.state for reset in resets])
    state = state[:, state.std(axis=0) > 1e-3]
    inputs = np.column_stack([(state - state.mean(0)) / state.std(0), np.ones(SEEDS)])
    for name in ("cube_x_m", "cube_y_m"):
        cube = np.array([reset.facts[name] for reset in resets])
        half = SEEDS // 2
        weights = np.linalg.lstsq(inputs[:half], cube[:half], rcond=1e-3)[0]
        explained = 1 - np.var(cube[half:] - inputs[half:] @ weights) / np.var(cube[half:])
        assert explained < 0.2


def test_looks_are_independent_of_where_the_cube_is():
    world, rows = World(64, 48), []
    for seed in range(SEEDS):
        facts = arrange_lift(world, replace(LIFT.scene, looks=1.0), seed)
        table = world._model.geom(model.TABLE).rgba[:3].mean()
        lamp = world._model.light_diffuse[0, 0]
        scene = [facts["cube_x_m"], facts["cube_y_m"], facts["cube_yaw_rad"]]
        rows.append([*scene, table, lamp, world._exposure])
        cube, ground = world._model.geom(model.CUBE).rgba, world._model.geom(model.TABLE).rgba
        assert cube[0] > 1.5 * cube[1:3].max() and np.abs(cube[:3] - ground[:3]).max() > 0.1
    correlation = np.corrcoef(np.array(rows).T) - np.eye(6)
    assert np.abs(correlation).max() < 3.5 / np.sqrt(SEEDS)


def picture_under(world: World, seed: int, **drift: float) -> np.ndarray:
    arrange_lift(world, replace(LIFT.scene, looks=0.0, **drift), seed)
    return world.render_gripper().astype(float)


def test_light_scales_what_the_gripper_camera_sees_and_does_not_add_up():
    world = World()
    nominal = picture_under(world, 3)
    for light in (0.5, 0.7, 1.05, 0.7):
        lit = picture_under(world, 3, light=light)
        assert (light * nominal).max() < 255, "choose lights at which nothing is clipped"
        np.testing.assert_allclose(lit, light * nominal, atol=1.0)
    np.testing.assert_array_equal(picture_under(world, 3), nominal)


@pytest.mark.parametrize("degrees", [3.0, -8.0])
def test_a_turned_camera_sees_the_picture_turned_about_its_centre(degrees):
    world = World()
    nominal = picture_under(world, 3)
    turned = picture_under(world, 3, camera_turn=np.radians(degrees))
    # cv2 turns a picture counter-clockwise by positive angles; pixel centres lie half a pixel off the edges
    about = cv2.getRotationMatrix2D((319.5, 239.5), -degrees, 1.0)
    expected = cv2.warpAffine(nominal, about, (640, 480), flags=cv2.INTER_LINEAR)
    seen = cv2.warpAffine(np.ones((480, 640)), about, (640, 480)) > 0.999
    off = np.abs(turned - expected)[seen]
    assert off.mean() < 1.0 < 3.0 < np.abs(turned - nominal)[seen].mean()
    np.testing.assert_array_equal(picture_under(world, 3), nominal)


def test_the_same_seed_gives_bit_equal_pictures_and_another_seed_another_scene():
    def picture(seed: int) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
        body = Body(pictures=True)
        obs, facts = body.env.reset(seed)
        native = body.env.frames["gripper_cam"].rgb
        assert native.shape == (480, 640, 3) and native.dtype == np.uint8
        body.twin.close()
        return native, obs.images["gripper_cam"], facts

    first, again, other = picture(3), picture(3), picture(4)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert first[2] == again[2] != other[2]
    assert np.abs(first[1].astype(int) - other[1]).mean() > 2


def test_the_cube_is_where_the_projection_says():
    """Ties the projected footprint to what is really rendered: the reddish pixels lie about the cube."""
    body = Body(pictures=True)
    for seed in range(5):
        body.env.reset(seed)
        rgb = body.env.frames["gripper_cam"].rgb.astype(int)
        reddish = (rgb[..., 0] > 2 * rgb[..., 1]) & (rgb[..., 0] > 2 * rgb[..., 2]) & (rgb[..., 0] > 40)
        rows, columns = np.nonzero(reddish)
        assert len(rows) > 1500
        world = body.twin.world
        assert np.linalg.norm(pixel(world, world.cube_xyz_m()) - (columns.mean(), rows.mean())) < 15
    body.twin.close()


def test_the_gripper_camera_is_640_by_480_and_seventy_degrees_high():
    camera = compiled().camera(model.GRIPPER_CAMERA)
    assert 68 < camera.fovy[0] < 73
    world = World()
    assert world.render_gripper().shape == (480, 640, 3)
    world.close()


def test_each_body_that_can_be_touched_has_one_collider_and_everything_else_none():
    compiled_model = compiled()
    colliders = [
        compiled_model.geom(geom)
        for geom in range(compiled_model.ngeom)
        if compiled_model.geom(geom).contype[0] or compiled_model.geom(geom).conaffinity[0]
    ]
    assert sorted(geom.name for geom in colliders) == sorted((*PADS, model.CUBE, model.TABLE))
    assert len({int(geom.bodyid[0]) for geom in colliders}) == 4  # no body collides twice

    def touch(first, second) -> bool:
        return bool(first.contype[0] & second.conaffinity[0] or second.contype[0] & first.conaffinity[0])

    for first in colliders:
        for second in colliders:
            if first.name < second.name:
                assert touch(first, second) == ({first.name, second.name} != set(PADS))


class Touches:
    """Deepest overlap and the frictions of every pair of geoms, at every physics step."""

    def __init__(self, world: World) -> None:
        self._world, self._step = world, world.step
        self._names = [world._model.geom(geom).name for geom in range(world._model.ngeom)]
        self.deepest_m: dict[frozenset[str], float] = {}
        self.frictions: dict[frozenset[str], set[float]] = {}
        world.step = self.step

    def step(self, seconds: float) -> None:
        contacts = self._world._data
        for _ in range(round(seconds / model.TIMESTEP_S)):
            self._step(model.TIMESTEP_S)
            for contact in contacts.contact[: contacts.ncon]:
                pair = frozenset(self._names[geom] for geom in contact.geom)
                self.deepest_m[pair] = max(self.deepest_m.get(pair, 0.0), -float(contact.dist))
                self.frictions.setdefault(pair, set()).add(round(float(contact.friction[0]), 6))


def lift(body: Body, size_m: float, yaw_rad: float, steps: int = 35) -> Touches:
    body.env.reset(1)
    body.twin.world.place_cube(0.25, 0.0, yaw_rad, size_m)
    touches = Touches(body.twin.world)
    operator = Demonstrator(body.twin.world, LIFT.action_scale, PERFECT)
    operator.reset(0)
    for _ in range(steps):
        body.play(operator.read(body.env.state).action)
    return touches


@pytest.mark.parametrize("size_m", [0.024, 0.030, 0.036])
@pytest.mark.parametrize("yaw_deg", [0, 20, 45])
def test_a_scripted_grasp_overlaps_less_than_half_a_millimetre_and_slides_as_specified(size_m, yaw_deg):
    body = Body(replace(LIFT, random_ee_reset=False))
    touches = lift(body, size_m, np.radians(yaw_deg))
    assert body.twin.lifted(), "the grasp failed: nothing was measured"
    body.play(rest=10)
    assert body.twin.lifted()
    pads = [frozenset((pad, model.CUBE)) for pad in PADS]
    table = frozenset((model.TABLE, model.CUBE))
    for pair in (*pads, table):
        assert touches.deepest_m[pair] < 0.0005, f"{set(pair)} overlap {touches.deepest_m[pair]:.5f} m"
    assert touches.frictions[pads[0]] == touches.frictions[pads[1]] == {model.PAD_FRICTION[0]}
    assert touches.frictions[table] == {model.CUBE_FRICTION[0]}
    assert frozenset(PADS) not in touches.deepest_m


def test_the_cube_slides_on_the_table_at_the_specified_friction():
    for share, slides in ((0.9, False), (1.1, True)):
        world = World(64, 48)
        world.set_arm(world.q_rad())
        world.place_cube(0.25, 0.1, 0.0, 0.03)
        world.step(0.2)
        weight = model.CUBE_DENSITY * 0.03**3 * 9.81
        body = world._model.body(model.CUBE).id
        start = world.cube_xyz_m()
        world._data.xfrc_applied[body, 1] = share * model.CUBE_FRICTION[0] * weight
        world.step(0.5)
        moved = float(np.linalg.norm(world.cube_xyz_m() - start))
        assert moved > 0.02 if slides else moved < 0.002


def friction_used(world: World, pad: str) -> float:
    """Share of the specified friction the pad's contacts with the cube use now: 1 where they slide."""
    slide, twist, _ = model.PAD_FRICTION
    used, force, data = 0.0, np.zeros(6), world._data
    for index, contact in enumerate(data.contact[: data.ncon]):
        if set(contact.geom) == {world._model.geom(pad).id, world._model.geom(model.CUBE).id}:
            mujoco.mj_contactForce(world._model, data, index, force)
            asked = np.linalg.norm([force[1] / slide, force[2] / slide, force[3] / twist])
            used = max(used, float(asked / force[0])) if force[0] > 0.3 else used
    return used


def test_a_cube_torn_from_the_grip_is_held_with_the_specified_friction_and_no_more():
    """Pulled along the jaw's axis, where the pull neither opens nor closes the jaw."""
    body = Body(replace(LIFT, random_ee_reset=False))
    lift(body, 0.030, 0.0)
    world, pull, used = body.twin.world, 0.0, []
    while world.cube_contacts() and pull < 100.0:
        pull += 0.02  # N
        world._data.xfrc_applied[world._model.body(model.CUBE).id, :3] = pull * world.hand_rotmat()[:, 1]
        world.step(0.001)
        used.append([friction_used(world, pad) for pad in PADS])
    assert 5.0 < pull < 100.0
    assert np.max(used[: len(used) // 2]) < 0.98  # it is held ...
    assert np.max(used) == pytest.approx(1.0, abs=0.02)  # ... until it slides


def test_a_cube_at_rest_stays_at_rest():
    world = World(64, 48)
    for seed in range(5):
        arrange_lift(world, replace(LIFT.scene, looks=1.0), seed)
        start, yaw = world.cube_xyz_m(), world.cube_yaw_rad()
        world.step(2.0)
        assert np.linalg.norm(world.cube_xyz_m() - start) < 1e-4
        assert abs(world.cube_yaw_rad() - yaw) < 1e-3


def test_lifted_needs_both_fingers_and_the_height():
    body = Body(replace(LIFT, random_ee_reset=False))
    world = body.twin.world
    lift(body, 0.030, 0.0)
    rise = float(world.cube_xyz_m()[2]) - world.cube_size_m() / 2
    assert world.lifted(rise - 0.001) and not world.lifted(rise + 0.001)
    assert {contact.other for contact in world.cube_contacts()} == set(PADS)
    opened = world.q_rad()
    opened[GRIPPER] = 0.8
    world.set_arm(opened)  # the moving finger is away at once, the cube still leans on the other
    assert {contact.other for contact in world.cube_contacts()} == {model.FIXED_FINGER}
    assert not world.lifted(rise - 0.001)
    body.play(*[action(gripper=1)] * 3, rest=5)
    assert not body.twin.lifted() and {c.other for c in world.cube_contacts()} == {model.TABLE}


def test_a_servo_without_torque_neither_holds_nor_pulls():
    world = World(64, 48)
    world.set_arm(np.array([0, 0, 0, 0, 0, 0.3], np.float32))
    world.step(0.5)
    held = world.q_rad()
    world.set_torque(np.zeros(6, bool))
    world.step(1.0)
    assert np.abs(world.q_rad() - held).max() > 0.3
    world.set_torque(np.ones(6, bool))
    world.step(1.0)
    assert np.abs(world.q_rad() - held).max() < 0.02


@pytest.mark.parametrize("latency_s", [0.0, 0.1])
def test_a_command_takes_effect_after_the_latency_and_in_order(latency_s):
    twin = LockstepTwin(LiftConfig(latency_s=latency_s))
    start = twin.arm.read().q_rad
    goal = start + np.float32(0.2) * np.eye(6, dtype=np.float32)[0]
    twin.arm.command(goal)
    twin.clock.sleep_until(0.096)
    moved = abs(float(twin.arm.read().q_rad[0] - start[0]))
    assert moved < 1e-3 if latency_s else moved > 0.05
    twin.arm.command(start)
    twin.clock.sleep_until(0.19)
    assert twin.arm.read().q_rad[0] - start[0] > 0.05 if latency_s else True
    twin.clock.sleep_until(1.0)
    np.testing.assert_allclose(twin.arm.read().q_rad[0], start[0], atol=0.01)


def test_a_servo_with_a_speed_limit_keeps_to_it_and_one_that_gains_torque_starts_where_it_is():
    driven: list[np.ndarray] = []

    class Watched(World):
        def set_goal(self, q_rad):
            driven.append(np.array(q_rad))
            super().set_goal(q_rad)

    world = Watched()
    world.set_arm(np.array([0, -1.0, 0.8, 0.5, 0, 0.5], np.float32))
    body = WorldBody(world)

    def run():
        driven.clear()
        begin = body.position_rad(0)
        for _ in range(100):
            body.advance(0.01, (2.0,) * 6)
        way = np.diff([begin, *(goal[0] for goal in driven)])
        assert np.abs(way).max() == pytest.approx(0.02, abs=1e-3)

    for joint in range(6):
        body.set_goal_rad(joint, body.position_rad(joint))
    body.set_goal_rad(0, 1.2)
    run()
    assert body.position_rad(0) == pytest.approx(1.2, abs=0.05)
    body.set_goal_rad(0, None)
    body.advance(0.05)
    body.set_goal_rad(0, 0.0)
    run()
    assert body.position_rad(0) == pytest.approx(0.0, abs=0.05)
