"""The physics of the twin: one arm, one table, one cube, two cameras. Single-threaded."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from robot.pinhole import Pinhole
from robot.twin import model as twin_model
from robot.twin.lift import LiftConfig
from robot.types import F32, NUM_JOINTS, U8, Limits

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Contact:
    """One cube contact. other: name of the touching geom. penetration_m > 0 where bodies overlap."""

    other: str
    penetration_m: float
    friction: float


class World:
    """The simulated SO-101 and its table.

        world.set_goal(q_rad); world.step(0.02); picture = world.render_gripper()

    Torque can be switched off per joint (the joint is then limp). width, height: size of every picture [px].
    """

    def __init__(self, width: int = 640, height: int = 480) -> None:
        self._model = twin_model.twin_spec(width, height).compile()
        self._data = mujoco.MjData(self._model)
        self._size = (height, width)
        self._renderer: mujoco.Renderer | None = None
        self._exposure = self._light = 1.0
        self._geom = {name: self._model.geom(name).id for name in _COLLIDERS}
        self._cube_body = self._model.body(twin_model.CUBE).id
        self._cube_qpos = int(self._model.joint(twin_model.CUBE).qposadr[0])
        self._cube_qvel = int(self._model.joint(twin_model.CUBE).dofadr[0])
        self._site = self._model.site(twin_model.TCP_SITE).id
        self._camera = self._model.camera(twin_model.GRIPPER_CAMERA).id
        self._camera_quat = self._model.cam_quat[self._camera].copy()
        self._gains = (self._model.actuator_gainprm.copy(), self._model.actuator_biasprm.copy())
        self.limits = Limits(
            self._model.jnt_range[:NUM_JOINTS, 0].astype(np.float32),
            self._model.jnt_range[:NUM_JOINTS, 1].astype(np.float32),
        )
        mujoco.mj_forward(self._model, self._data)

    @property
    def time_s(self) -> float:
        """Simulated time [s]."""
        return float(self._data.time)

    def q_rad(self) -> F32:
        """(6,) joint angles [rad]."""
        return np.array(self._data.qpos[:NUM_JOINTS], np.float32)

    def qd_rad_s(self) -> F32:
        """(6,) joint velocities [rad/s]."""
        return np.array(self._data.qvel[:NUM_JOINTS], np.float32)

    def torque_nm(self) -> F32:
        """(6,) torque of each servo [Nm]."""
        return np.array(self._data.actuator_force[:NUM_JOINTS], np.float32)

    def set_goal(self, q_rad: F32) -> None:
        """Set the goal of the six position servos (6,) [rad]."""
        self._data.ctrl[:] = q_rad

    def set_torque(self, enabled: NDArray[np.bool_]) -> None:
        """Switch each servo's torque (6,): a servo without torque neither holds nor pulls."""
        gain, bias = self._gains
        on = np.asarray(enabled, dtype=np.float64)[:, None]
        self._model.actuator_gainprm[:], self._model.actuator_biasprm[:] = gain * on, bias * on

    def step(self, seconds: float) -> None:
        """Advance by the nearest whole number of time steps to `seconds`."""
        mujoco.mj_step(self._model, self._data, round(seconds / twin_model.TIMESTEP_S))

    def set_arm(self, q_rad: F32) -> None:
        """Put the arm at q_rad (6,) [rad] at once, at rest, with the servos' goals there too."""
        self._data.qpos[:NUM_JOINTS], self._data.qvel[:NUM_JOINTS] = q_rad, 0.0
        self.set_goal(q_rad)
        mujoco.mj_forward(self._model, self._data)

    def place_cube(self, x_m: float, y_m: float, yaw_rad: float, size_m: float) -> None:
        """Put a cube of edge `size_m` on the table at (x_m, y_m), at rest."""
        half = size_m / 2
        geom, body = self._geom[twin_model.CUBE], self._cube_body
        mass = twin_model.CUBE_DENSITY * size_m**3
        self._model.geom_size[geom] = half
        self._model.geom_rbound[geom] = half * np.sqrt(3)
        self._model.geom_aabb[geom] = (0, 0, 0, half, half, half)
        self._model.body_mass[body] = mass
        self._model.body_inertia[body] = mass * size_m**2 / 6
        at, speed = self._cube_qpos, self._cube_qvel
        self._data.qpos[at : at + 7] = (x_m, y_m, half, np.cos(yaw_rad / 2), 0, 0, np.sin(yaw_rad / 2))
        self._data.qvel[speed : speed + 6] = 0.0
        mujoco.mj_setConst(self._model, mujoco.MjData(self._model))
        mujoco.mj_forward(self._model, self._data)

    def raise_cube(self, by_m: float) -> None:
        """Put the cube so much higher, at rest; it falls unless something holds it."""
        self._data.qpos[self._cube_qpos + 2] += by_m
        mujoco.mj_forward(self._model, self._data)

    def set_looks(self, rng: np.random.Generator, amount: float) -> None:
        """Draw colours, light and exposure: amount 0 is the nominal scene, 1 the widest range.

        The cube stays reddish and unlike the table.
        """

        def draw(nominal: float, low: float, high: float) -> float:
            return nominal + amount * (rng.uniform(low, high) - nominal)

        grey = draw(0.5, 0.3, 0.7)
        table = [float(np.clip(grey + amount * tint, 0, 1)) for tint in rng.uniform(-0.08, 0.08, 3)]
        cube = [draw(0.8, 0.6, 0.95), draw(0.1, 0.03, 0.25), draw(0.1, 0.03, 0.25)]
        self._model.geom_rgba[self._geom[twin_model.TABLE], :3] = table
        self._model.geom_rgba[self._geom[twin_model.CUBE], :3] = cube
        self._model.light_diffuse[0] = draw(0.6, 0.35, 0.8)
        direction = np.array([draw(-0.05, -0.5, 0.5), draw(0.3, -0.5, 0.5), -1.0])
        self._model.light_dir[0] = direction / np.linalg.norm(direction)
        self._exposure = draw(1.0, 0.8, 1.2)

    def set_drift(self, light: float, camera_turn_rad: float) -> None:
        """How this room and camera differ from the nominal ones, from the next step or placing on.

        See LiftConfig; settings do not add up.
        """
        self._light = light
        about_axis = np.array([np.cos(camera_turn_rad / 2), 0.0, 0.0, np.sin(camera_turn_rad / 2)])
        mujoco.mju_mulQuat(self._model.cam_quat[self._camera], self._camera_quat, about_axis)

    def cube_xyz_m(self) -> F64:
        """(3,) centre of the cube in the base frame [m]."""
        return np.array(self._data.qpos[self._cube_qpos : self._cube_qpos + 3])

    def cube_size_m(self) -> float:
        """Edge of the cube [m]."""
        return 2 * float(self._model.geom_size[self._geom[twin_model.CUBE], 0])

    def cube_yaw_rad(self) -> float:
        """Heading of the cube about the vertical [rad]."""
        w, x, y, z = self._data.qpos[self._cube_qpos + 3 : self._cube_qpos + 7]
        return float(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)))

    def hand_xyz_m(self) -> F64:
        """(3,) the hand (gripperframe) in the base frame [m]."""
        return np.array(self._data.site_xpos[self._site])

    def hand_rotmat(self) -> F64:
        """(3, 3) orientation of the hand in the base frame."""
        return np.array(self._data.site_xmat[self._site]).reshape(3, 3)

    def cube_contacts(self) -> list[Contact]:
        """Everything that touches the cube now."""
        cube = self._geom[twin_model.CUBE]
        names = {index: name for name, index in self._geom.items()}
        found = []
        for contact in self._data.contact[: self._data.ncon]:
            pair = (int(contact.geom1), int(contact.geom2))
            if cube in pair:
                other = names[pair[1] if pair[0] == cube else pair[0]]
                found.append(Contact(other, -float(contact.dist), float(contact.friction[0])))
        return found

    def penetration_m(self) -> float:
        """Deepest overlap of any two bodies [m]; 0 without contact."""
        return max((-float(c.dist) for c in self._data.contact[: self._data.ncon]), default=0.0)

    def lifted(self, lift_height_m: float) -> bool:
        """True while both fingers touch the cube and it is at least lift_height_m above its rest height."""
        touching = {contact.other for contact in self.cube_contacts()}
        pinched = {twin_model.FIXED_FINGER, twin_model.MOVING_FINGER} <= touching
        return pinched and float(self.cube_xyz_m()[2]) - self.cube_size_m() / 2 >= lift_height_m

    def render_gripper(self) -> U8:
        """The gripper camera's picture, uint8 RGB (H, W, 3), as bright as exposure and light make it."""
        return self._render(twin_model.GRIPPER_CAMERA, self._exposure * self._light)

    def render_side(self) -> U8:
        """A picture for people, uint8 RGB (H, W, 3)."""
        return self._render(twin_model.SIDE_CAMERA, 1.0)

    def gripper_view(self, q_rad: F32) -> Pinhole:
        """The gripper camera with the arm at q_rad (6,) [rad], mounted as it is now."""
        data = mujoco.MjData(self._model)
        data.qpos[:NUM_JOINTS] = q_rad
        mujoco.mj_kinematics(self._model, data)
        mujoco.mj_camlight(self._model, data)
        height, width = self._size
        half = np.radians(self._model.cam_fovy[self._camera]) / 2
        return Pinhole(
            data.cam_xpos[self._camera].copy(),
            data.cam_xmat[self._camera].reshape(3, 3).copy(),
            float(height / 2 / np.tan(half)),
            (width, height),
        )

    def cube_pixels(self) -> int:
        """How many pixels of the gripper camera's picture show the cube."""
        renderer = self._renderer_of_this_world()
        renderer.enable_segmentation_rendering()
        renderer.update_scene(self._data, twin_model.GRIPPER_CAMERA)
        ids = renderer.render()[..., 0]
        renderer.disable_segmentation_rendering()
        return int((ids == self._geom[twin_model.CUBE]).sum())

    def _renderer_of_this_world(self) -> mujoco.Renderer:
        if self._renderer is None:
            self._renderer = mujoco.Renderer(self._model, *self._size)
        return self._renderer

    def _render(self, camera: str, exposure: float) -> U8:
        renderer = self._renderer_of_this_world()
        renderer.update_scene(self._data, camera)
        picture: U8 = renderer.render()
        if exposure == 1.0:
            return picture.copy()
        return np.clip(picture * np.float32(exposure), 0, 255).astype(np.uint8)

    def close(self) -> None:
        """Release the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


_COLLIDERS = (twin_model.FIXED_FINGER, twin_model.MOVING_FINGER, twin_model.CUBE, twin_model.TABLE)


def arrange_lift(world: World, config: LiftConfig, seed: int) -> dict[str, float]:
    """Draw one scene of the lift task from `seed` and put it on the table; returns the facts [m, rad]."""
    rng = np.random.default_rng((seed, 0x11F7))
    x_m, y_m = np.array(config.cube_center_xy) + rng.uniform(-config.cube_range_xy, config.cube_range_xy, 2)
    yaw = float(rng.uniform(-config.cube_yaw, config.cube_yaw))
    size = float(rng.uniform(config.cube_size_min, config.cube_size_max))
    world.set_drift(config.light, config.camera_turn)
    world.place_cube(float(x_m), float(y_m), yaw, size)
    world.set_looks(rng, config.looks)
    return {"cube_x_m": float(x_m), "cube_y_m": float(y_m), "cube_yaw_rad": yaw, "cube_size_m": size}
