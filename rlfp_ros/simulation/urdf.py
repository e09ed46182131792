"""Prepares URDF files for the simulators: absolute mesh paths, the pointer, and bodies that both simulators accept."""

from __future__ import annotations

import copy
import hashlib
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlfp_ros.control.arm import Arm
from rlfp_ros.control.robot_description import (
    find_mesh,
    parent_joints,
    read_description,
    with_base_at_origin,
    with_pointer,
)
from rlfp_ros.files import write_whole
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.low_polygon import FINEST, GRID, cache_directory, make_coarse

MASSLESS = 1e-6  # kg, for a link without an <inertial>; PyBullet would give it 1 kg
MESH_KINDS = (".stl", ".obj", ".dae")  # the formats that PyBullet reads


def read_urdf(arm: Arm) -> ElementTree.Element:
    """Read an arm's URDF with its base frame at the origin, its pointer, and the absolute path of each mesh.

    Raises
    ------
    ConfigurationError
        If the file cannot be read, or a mesh is missing or of a kind that the simulators do not read.
    """
    robot, source = read_description(arm), arm.urdf_path
    for link in robot.findall("link"):
        for mesh in link.iter("mesh"):
            path = find_mesh(source, str(link.get("name")), mesh.get("filename"))
            if path.suffix.lower() not in MESH_KINDS:
                raise ConfigurationError(
                    f"{source}: mesh {mesh.get('filename')!r} of link {link.get('name')!r} is a {path.suffix} file, "
                    f"expected {', '.join(MESH_KINDS)}; convert it"
                )
            mesh.set("filename", str(path))
    robot = with_pointer(with_base_at_origin(robot, arm), arm)
    _sort_links(robot)
    return robot


def _sort_links(robot: ElementTree.Element) -> None:
    """Put each link behind its parent: PyBullet crashes if it must keep an order in which a child comes first."""
    parents = {child: parent for child, (parent, _) in parent_joints(robot).items()}
    waiting = {str(link.get("name")): link for link in robot.findall("link")}
    ordered: list[ElementTree.Element] = []
    for name in list(waiting):
        ancestors = []
        above = name
        while above in waiting:
            ancestors.append(waiting.pop(above))
            above = parents.get(above, "")
        ordered += reversed(ancestors)
    for link in ordered:
        robot.remove(link)
    robot[:0] = ordered


def simulation_urdf(arm: Arm) -> Path:
    """Write the arm's URDF for PyBullet into the cache, unless it is there, and return its path.

    It has the meshes that `arm.visuals` names, by absolute paths. Links without an <inertial> (tool frames) get almost
    no mass. Moments of inertia that are physically impossible become their mean, as in MuJoCo (`balanceinertia`);
    PyBullet would take such a link for one without inertia.
    """
    source = arm.urdf_path
    root = read_urdf(arm)
    recipe = f"{arm.visuals} {MASSLESS} {GRID} {FINEST} balanced"
    key = hashlib.sha256(ElementTree.tostring(root) + recipe.encode()).hexdigest()[:16]
    made = cache_directory() / f"{arm.name}_{key}.urdf"
    if made.exists():
        return made
    for link in root.iter("link"):
        if link.find("inertial") is None:
            inertial, moment = ElementTree.SubElement(link, "inertial"), f"{1e-3 * MASSLESS:g}"
            ElementTree.SubElement(inertial, "mass", {"value": f"{MASSLESS:g}"})
            zeros = dict.fromkeys(("ixy", "ixz", "iyz"), "0")
            ElementTree.SubElement(inertial, "inertia", {"ixx": moment, "iyy": moment, "izz": moment, **zeros})
        for inertia in link.iter("inertia"):
            try:
                _balance(inertia)
            except ValueError as error:
                raise ConfigurationError(f"{source}: inertia of link {link.get('name')!r}: {error}") from None
        collisions = link.findall("collision")
        if collisions and arm.visuals != "visual":
            for visual in link.findall("visual"):
                link.remove(visual)
            for collision in collisions:
                visual = ElementTree.SubElement(link, "visual")
                visual.extend(copy.deepcopy(part) for part in collision if part.tag in ("origin", "geometry"))
    if arm.visuals == "low_polygon":
        for visual in root.iter("visual"):
            make_coarse(visual)
    write_whole(made, ElementTree.tostring(root, encoding="unicode"))
    return made


def _balance(inertia: ElementTree.Element) -> None:
    """Replace moments of inertia that break the triangle inequality by their mean."""
    xx, yy, zz, xy, xz, yz = (float(inertia.get(f"i{axes}", "0")) for axes in ("xx", "yy", "zz", "xy", "xz", "yz"))
    moments = np.linalg.eigvalsh([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    if moments[0] + moments[1] < moments[2]:
        mean = f"{moments.mean():g}"
        inertia.attrib.update(ixx=mean, iyy=mean, izz=mean, ixy="0", ixz="0", iyz="0")


@dataclass(frozen=True)
class LoadedUrdf:
    """A URDF that PyBullet has loaded."""

    body: int
    joints: dict[str, int]  # joint index by the joint's name
    links: dict[str, int]  # joint index by the name of the joint's child link


def load_arm_body(client: Any, arm: Arm, flags: int = 0) -> LoadedUrdf:
    """Load an arm into PyBullet, with its base fixed.

    Raises
    ------
    ConfigurationError
        If PyBullet cannot load the URDF, or a joint or the tool frame is missing in it.
    """
    path = simulation_urdf(arm)
    try:
        body = client.loadURDF(str(path), useFixedBase=True, flags=flags)
    except client.error as error:
        raise ConfigurationError(
            f"{arm.urdf_path}: PyBullet cannot load it ({error}); check that each mesh opens and that each joint's "
            "parent and child are links of the file"
        ) from None
    joints, links = {}, {}
    for index in range(client.getNumJoints(body)):
        info = client.getJointInfo(body, index)
        joints[info[1].decode()], links[info[12].decode()] = index, index
    for name in (*arm.joint_names, *(arm.gripper.joint_names if arm.gripper else ())):
        if name not in joints:
            raise ConfigurationError(f"{arm.origin}: joint {name} is not in {arm.urdf}; it has: {', '.join(joints)}")
    if arm.tool_frame not in links:
        raise ConfigurationError(
            f"{arm.origin}: tool_frame {arm.tool_frame} is not a link of {arm.urdf}; it has: {', '.join(links)}"
        )
    return LoadedUrdf(body, joints, links)
