"""The MuJoCo model of the SO-101, its table and its cube, built from the arm's data sheet.

The arm's geometry is that of `robot.arm_shape`: capsules and boxes, no meshes. Colliders: the two fingers,
the table and the cube, each exactly once; every other arm geom is visual only.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from robot.arm_shape import FIXED_FINGER as FIXED_FINGER
from robot.arm_shape import LINKS, Box, arm_description, fingers
from robot.arm_shape import MOVING_FINGER as MOVING_FINGER

TIMESTEP_S = 0.001
"""Stiff contacts need it: at 4 ms a gripped cube sank 1.3 mm into the pads, at 2 ms a falling one 0.6 mm."""
TABLE_BIT, CUBE_BIT, ARM_BIT = 1, 2, 4
CUBE, TABLE = "cube", "table"
TCP_SITE = "gripperframe"
GRIPPER_CAMERA, SIDE_CAMERA = "gripper_cam", "side_cam"

GRIPPER_TORQUE_NM = 1.47
"""Half the servo's stall torque: lerobot limits the gripper servo to 50 %."""
PAD_FRICTION = (1.2, 0.02, 0.001)
CUBE_FRICTION = (0.9, 0.02, 0.001)
CONTACT_SOLREF = (0.002, 1.0)
"""Two time steps: the stiffest that the solver takes."""
CONTACT_SOLIMP = (0.98, 0.998, 0.0005, 0.5, 2.0)
MAT, MAT_PIXELS, MAT_DARK, MAT_SQUARE_M = "mat", 256, 0.82, 0.025
"""The mat: size of its picture [px]; its squares: brightness of the dark ones, edge [m]."""
WHITE, DARK = (0.92, 0.90, 0.85, 1.0), (0.15, 0.15, 0.17, 1.0)
COLOURS = (WHITE, DARK, WHITE, DARK, WHITE, DARK, DARK, WHITE)
"""Of the arm's links, in the order of LINKS."""
CUBE_DENSITY = 1100.0
"""kg/m3: 30 g for a 30 mm cube."""


def _add_arm(spec: mujoco.MjSpec, description: dict[str, Any]) -> dict[str, Any]:
    servo = description["servo"]
    joints = {joint["body"]: joint for joint in description["joints"]}
    bodies: dict[str, Any] = {"world": spec.worldbody}
    for part in description["bodies"]:
        body = bodies[part["parent"]].add_body(
            name=part["name"], pos=part["pos_m"], quat=part["quat_wxyz"], explicitinertial=True
        )
        body.mass, body.ipos = part["mass_kg"], part["com_m"]
        body.inertia, body.iquat = part["inertia_diag_kgm2"], part["inertia_quat_wxyz"]
        bodies[part["name"]] = body
        if part["name"] not in joints:
            continue
        joint = joints[part["name"]]
        body.add_joint(
            name=joint["name"],
            axis=joint["axis"],
            range=joint["range_rad"],
            limited=True,
            damping=servo["joint_damping"],
            frictionloss=servo["joint_frictionloss"],
            armature=servo["joint_armature"],
        )
        torque = GRIPPER_TORQUE_NM if joint["name"] == "gripper" else servo["torque_limit_Nm"]
        actuator = spec.add_actuator(
            name=joint["name"], target=joint["name"], trntype=mujoco.mjtTrn.mjTRN_JOINT
        )
        actuator.set_to_position(kp=servo["sim_position_gain_kp"], kv=servo["sim_velocity_gain_kv"])
        actuator.forcerange, actuator.forcelimited = (-torque, torque), True
        actuator.ctrlrange, actuator.ctrllimited = joint["range_rad"], True
    for site in description["sites"]:
        bodies[site["body"]].add_site(name=site["name"], pos=site["pos_m"], quat=site["quat_wxyz"])
    return bodies


def _add_looks(bodies: dict[str, Any]) -> None:
    """Boxes for servos and capsules for links, so that a person recognises the arm. They touch nothing."""
    looks = {"contype": 0, "conaffinity": 0, "mass": 0, "group": 2}
    for part, rgba in zip(LINKS, COLOURS, strict=True):
        if isinstance(part, Box):
            bodies[part.body].add_geom(
                type=mujoco.mjtGeom.mjGEOM_BOX, rgba=rgba, pos=part.pos, size=part.half, **looks
            )
        else:
            bodies[part.body].add_geom(
                type=mujoco.mjtGeom.mjGEOM_CAPSULE,
                rgba=rgba,
                fromto=part.ends,
                size=(part.radius, 0, 0),
                **looks,
            )


def _add_fingers(bodies: dict[str, Any], description: dict[str, Any]) -> None:
    for name, finger in fingers(description).items():
        bodies[finger.body].add_geom(
            name=name,
            type=mujoco.mjtGeom.mjGEOM_BOX,
            rgba=WHITE,
            pos=finger.pos,
            quat=(np.cos(finger.turn_rad / 2), 0, 0, np.sin(finger.turn_rad / 2)),
            size=finger.half,
            contype=ARM_BIT,
            conaffinity=TABLE_BIT | CUBE_BIT,
            condim=4,
            friction=PAD_FRICTION,
            solref=CONTACT_SOLREF,
            solimp=CONTACT_SOLIMP,
            mass=0,
        )


def _add_scene(spec: mujoco.MjSpec) -> None:
    world = spec.worldbody
    # The arm stands on a mat: on a bare table nothing in the gripper camera's picture tells how high it is.
    spec.add_texture(
        name=MAT,
        type=mujoco.mjtTexture.mjTEXTURE_2D,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER,
        width=MAT_PIXELS,
        height=MAT_PIXELS,
        rgb1=(1, 1, 1),
        rgb2=(MAT_DARK, MAT_DARK, MAT_DARK),
    )
    mat = spec.add_material(name=MAT, texrepeat=(0.5 / MAT_SQUARE_M, 0.5 / MAT_SQUARE_M), texuniform=True)
    mat.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = MAT
    world.add_geom(
        name=TABLE,
        material=MAT,
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=(0.6, 0.6, 0.1),
        rgba=(0.55, 0.5, 0.45, 1),
        contype=TABLE_BIT,
        conaffinity=CUBE_BIT | ARM_BIT,
        friction=CUBE_FRICTION,
        solref=CONTACT_SOLREF,
        solimp=CONTACT_SOLIMP,
    )
    cube = world.add_body(name=CUBE, pos=(0.25, 0, 0.015))
    cube.add_freejoint(name=CUBE)
    cube.add_geom(
        name=CUBE,
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=(0.015, 0.015, 0.015),
        rgba=(0.8, 0.1, 0.1, 1),
        density=CUBE_DENSITY,
        contype=CUBE_BIT,
        conaffinity=TABLE_BIT | ARM_BIT,
        condim=4,
        friction=CUBE_FRICTION,
        solref=CONTACT_SOLREF,
        solimp=CONTACT_SOLIMP,
    )
    world.add_light(
        name="lamp",
        pos=(0.3, -0.3, 1.0),
        dir=(-0.05, 0.3, -1.0),
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
        castshadow=False,
        diffuse=(0.6, 0.6, 0.6),
        specular=(0.1, 0.1, 0.1),
    )
    world.add_camera(
        name=SIDE_CAMERA, pos=(0.62, -0.42, 0.36), xyaxes=(0.64, 0.77, 0, -0.36, 0.3, 0.88), fovy=42
    )


def arm_spec() -> mujoco.MjSpec:
    """The bare arm, as kinematics uses it: bodies, joints, actuators and sites, no table and no cube."""
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    spec.compiler.inertiafromgeom = mujoco.mjtInertiaFromGeom.mjINERTIAFROMGEOM_AUTO
    _add_arm(spec, arm_description())
    return spec


def twin_spec(width: int, height: int) -> mujoco.MjSpec:
    """Arm, fingers, table, cube, gripper and side camera. width, height: largest picture to render [px]."""
    description = arm_description()
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    spec.option.timestep = TIMESTEP_S
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    # Without these two a gripped cube creeps, 9 mm in 10 s, and the gripper with it.
    spec.option.impratio = 100
    spec.option.noslip_iterations = 2
    spec.visual.quality.shadowsize = 0
    spec.visual.quality.offsamples = 0
    spec.visual.map.znear = 0.01
    spec.visual.map.zfar = 10.0
    spec.visual.headlight.ambient = (0.35, 0.35, 0.35)
    spec.visual.headlight.diffuse = (0.25, 0.25, 0.25)
    spec.visual.headlight.specular = (0, 0, 0)
    bodies = _add_arm(spec, description)
    _add_looks(bodies)
    _add_fingers(bodies, description)
    # Mounted behind the fingers, tipped forward, looking down past them (innoMaker-like 70.5 deg vertical).
    bodies["gripper"].add_camera(
        name=GRIPPER_CAMERA, pos=(0.008, -0.065, -0.019), euler=(0.398, 0, np.pi), fovy=70.5
    )
    _add_scene(spec)
    spec.visual.global_.offwidth, spec.visual.global_.offheight = width, height
    return spec
