"""An arm's URDF as a MuJoCo model: the same file that PyBullet and Pinocchio read."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ElementTree

import numpy as np

from rlfp_ros.control.arm import Arm
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.low_polygon import make_coarse
from rlfp_ros.simulation.mujoco_headless import mujoco
from rlfp_ros.simulation.urdf import read_urdf

# MuJoCo collides two geoms if one's type is in the other's affinity. The arm collides with objects but not with itself,
# as in PyBullet, because the convex hulls of its links overlap at the joints.
ARM_CONTACT, THING_CONTACT = 1, 2
FINGER_STIFFNESS, FINGER_DAMPING = 2000.0, 60.0  # N/m, N s/m


def arm_spec(arm: Arm) -> mujoco.MjSpec:
    """Return the model of the arm alone, with its base fixed in the world and its collision meshes as geometry.

    MuJoCo needs its own <compiler> element. The URDF's visuals have ten times as many triangles and are left out. If
    the arm's `visuals` is low_polygon, its collision meshes are simplified: MuJoCo draws them and collides their convex
    hulls. Raises ConfigurationError if MuJoCo cannot read the file.
    """
    source = arm.urdf_path
    root = read_urdf(arm)
    for link in root.iter("link"):
        for visual in link.findall("visual"):
            link.remove(visual)
    if arm.visuals == "low_polygon":
        make_coarse(root)
    extension = root.find("mujoco")
    if extension is None:
        extension = ElementTree.SubElement(root, "mujoco")
    for old in extension.findall("compiler"):
        extension.remove(old)
    # Links without a joint of their own (flanges, tool frames) must stay, because tasks and tests refer to them.
    settings = {"meshdir": "", "strippath": "false", "fusestatic": "false", "discardvisual": "false"}
    ElementTree.SubElement(extension, "compiler", settings | {"balanceinertia": "true"})
    try:
        spec = mujoco.MjSpec.from_string(ElementTree.tostring(root, encoding="unicode"))
    except ValueError as error:
        raise ConfigurationError(f"{arm.origin}: MuJoCo cannot read {source}: {error}") from None
    for geom in spec.geoms:
        geom.contype, geom.conaffinity = ARM_CONTACT, THING_CONTACT
    _check_names(arm, spec)
    return spec


def _check_names(arm: Arm, spec: mujoco.MjSpec) -> None:
    joints, bodies = [joint.name for joint in spec.joints], [body.name for body in spec.bodies]
    fingers = arm.gripper.joint_names if arm.gripper else ()
    for name in (*arm.joint_names, *fingers):
        if name not in joints:
            raise ConfigurationError(
                f"{arm.origin}: joint {name} is not in {arm.urdf} as MuJoCo reads it; it has: {', '.join(joints)}"
            )
    if arm.tool_frame not in bodies:
        raise ConfigurationError(
            f"{arm.origin}: tool_frame {arm.tool_frame} is not a link of {arm.urdf} as MuJoCo reads it; "
            f"it has: {', '.join(bodies)}"
        )


class MujocoArm:
    """Indices of an arm's joints and links in a compiled model's arrays."""

    def __init__(self, arm: Arm, model: mujoco.MjModel) -> None:
        def addresses(names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
            joints = [model.joint(name).id for name in names]
            return model.jnt_qposadr[joints], model.jnt_dofadr[joints]

        self.positions, self.dofs = addresses(arm.joint_names)  # indices into qpos and qvel, arm's order
        self.finger_positions, self.finger_dofs = addresses(arm.gripper.joint_names if arm.gripper else ())
        self.drives = np.array([model.actuator(name).id for name in arm.joint_names], dtype=int)
        fingers = arm.gripper.joint_names if arm.gripper else ()
        self.finger_drives = np.array([model.actuator(name).id for name in fingers], dtype=int)
        self.bodies = np.flatnonzero(model.body_gravcomp)  # the arm's links
        self.tool = model.body(arm.tool_frame).id


def add_drives(spec: mujoco.MjSpec, arm: Arm) -> None:
    """Add a position drive for every joint; an episode sets the gains of the arm's."""
    efforts = dict(zip(arm.joint_names, arm.limits.effort, strict=True))
    gripper = arm.gripper
    if gripper is not None:
        force = gripper.effort * gripper.width_per_position / len(gripper.joint_names)
        efforts |= dict.fromkeys(gripper.joint_names, force)
    lever = 1.0 if gripper is None else gripper.width_per_position**2  # from the width's stiffness to a jaw's
    for name, effort in efforts.items():
        drive = spec.add_actuator(
            name=name,
            target=name,
            trntype=mujoco.mjtTrn.mjTRN_JOINT,
            forcerange=[-effort, effort],
            gaintype=mujoco.mjtGain.mjGAIN_FIXED,
            biastype=mujoco.mjtBias.mjBIAS_AFFINE,
        )
        stiffness, damping = lever * FINGER_STIFFNESS, lever * FINGER_DAMPING
        drive.gainprm[0], drive.biasprm[1], drive.biasprm[2] = stiffness, -stiffness, -damping
    for body in spec.bodies[1:]:
        body.gravcomp = 1.0  # the drives compensate the arm's weight; the room sets how well


def gear_fingers(spec: mujoco.MjSpec, arm: Arm) -> None:
    """Couple a parallel gripper's fingers and give its pads the friction of rubber."""
    names = arm.gripper.joint_names if arm.gripper else ()
    for name in names:
        for geom in spec.joint(name).parent.geoms:
            geom.condim, geom.friction = 4, [1.0, 0.01, 0.001]
    for first, second in itertools.pairwise(names):
        spec.add_equality(type=mujoco.mjtEq.mjEQ_JOINT, name1=first, name2=second, data=[0, 1] + [0] * 10)
