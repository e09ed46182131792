"""The arm in PyBullet: loads its URDF and finds joints and links by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlfp_ros.control.arm import Arm
from rlfp_ros.simulation.tasks.task_scene import Body
from rlfp_ros.simulation.urdf import load_arm_body

# Without a gear between them the two fingers would slide sideways together with the object that they hold.
FINGER_GEAR_ERP, FINGER_GEAR_FORCE = 0.1, 50.0  # fraction of the error removed per step; N
FINGER_SPINNING_FRICTION = 0.01


@dataclass(frozen=True)
class BulletArm:
    """Indices of a loaded arm in the physics server."""

    body: Body
    joints: list[int]  # in the arm's order
    fingers: list[int]  # the gripper's joints
    tool: int  # link of the tool frame
    links: list[int]  # all, the base (-1) first


def load_bullet_arm(client: Any, arm: Arm, gripping: bool) -> BulletArm:
    """Load an arm, fixed to the base frame.

    Parameters
    ----------
    client
        The physics server's client.
    arm
        The arm.
    gripping
        Whether its fingers grip an object. If so, they are coupled.

    Raises
    ------
    ConfigurationError
        If PyBullet cannot load the URDF, or it lacks a joint or the tool frame.
    """
    flags = client.URDF_USE_INERTIA_FROM_FILE | client.URDF_MAINTAIN_LINK_ORDER
    loaded = load_arm_body(client, arm, flags)
    body, joints, links = loaded.body, loaded.joints, loaded.links
    finger_names = arm.gripper.joint_names if arm.gripper else ()
    fingers = [joints[name] for name in finger_names]
    for finger in fingers:
        client.changeDynamics(body, finger, spinningFriction=FINGER_SPINNING_FRICTION)
    if gripping and len(fingers) == 2:
        gear = client.createConstraint(
            body,
            fingers[0],
            body,
            fingers[1],
            client.JOINT_GEAR,
            jointAxis=(1, 0, 0),
            parentFramePosition=(0, 0, 0),
            childFramePosition=(0, 0, 0),
        )
        client.changeConstraint(gear, gearRatio=-1, erp=FINGER_GEAR_ERP, maxForce=FINGER_GEAR_FORCE)
    joints_in_order = [joints[name] for name in arm.joint_names]
    return BulletArm(body, joints_in_order, fingers, links[arm.tool_frame], [-1, *links.values()])
