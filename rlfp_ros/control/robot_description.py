"""An arm's URDF as XML: names without their prefix, the joints' limits from the arm file, and the pointer."""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.parsers import expat

import numpy as np
import yaml

from rlfp_ros.control.arm import MESH_NAME, Arm, data_folder
from rlfp_ros.control.arm_parts import Pointer
from rlfp_ros.paths import share_directory
from rlfp_ros.schema import ConfigurationError

# Variables with folders in which ROS and Gazebo look for packages and models.
PACKAGE_FOLDERS = ("ROS_PACKAGE_PATH", "AMENT_PREFIX_PATH", "GZ_SIM_RESOURCE_PATH", "GAZEBO_MODEL_PATH")
NEAREST_PARENTS = 4  # folders above the URDF that are searched for the package of a mesh


def read_description(arm: Arm) -> ElementTree.Element:
    """Read the <robot> of an arm's URDF, without the arm's pointer and with the mesh names as they are in the file.

    A prefix of the names is removed. A continuous joint of the arm becomes a revolute one with the arm file's limits.

    Raises
    ------
    ConfigurationError
        If the file is not XML or has no robot, or if the arm's prefix does not fit.
    """
    source = arm.urdf_path
    # Not ElementTree's own parser: it refuses namespace prefixes that are not declared, such as drake:acceleration.
    builder, parser = ElementTree.TreeBuilder(), expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(source.read_bytes(), True)
    except expat.ExpatError as error:
        raise ConfigurationError(f"{source}: not XML ({error}); correct it or name another URDF in the arm") from None
    robot: ElementTree.Element = builder.close()
    if robot.tag != "robot":
        raise ConfigurationError(
            f"{source}: starts with <{robot.tag}>, expected <robot>; name a URDF in the arm (xacro files are expanded "
            "with `xacro file.xacro > file.urdf`)"
        )
    for part in (*robot.findall("link"), *robot.findall("joint")):
        if not part.get("name"):
            raise ConfigurationError(f"{source}: a {part.tag} has no name; add it")
    _remove_prefix(robot, _prefix(robot, arm))
    for joint in robot.findall("joint"):
        if joint.get("type") == "continuous" and joint.get("name") in arm.joint_names:
            _limit(joint, arm)
    return robot


def parent_joints(robot: ElementTree.Element) -> dict[str, tuple[str, ElementTree.Element]]:
    """Return, for each link that has a parent, the name of the parent and the joint between them."""
    found = {}
    for joint in robot.findall("joint"):
        parent, child = joint.find("parent"), joint.find("child")
        if parent is not None and child is not None:
            found[str(child.get("link"))] = str(parent.get("link")), joint
    return found


def with_base_at_origin(robot: ElementTree.Element, arm: Arm) -> ElementTree.Element:
    """Move the whole robot so that the arm's base frame is at the origin, if the URDF has it elsewhere.

    A URDF of a cell often begins at the floor or in the corner of a table. The simulators' world is the base frame.
    """
    above, T_root_base, root = parent_joints(robot), np.eye(4), arm.base_frame
    for _ in range(len(above)):
        if root not in above:
            break
        root, joint = above[root]
        T_root_base = _origin(joint) @ T_root_base
    if np.allclose(T_root_base, np.eye(4), atol=1e-12):
        return robot
    name = "origin"
    while robot.find(f"link[@name='{name}']") is not None:
        name += "_"
    ElementTree.SubElement(robot, "link", {"name": name})
    joint = ElementTree.SubElement(robot, "joint", {"name": f"{name}_fixed", "type": "fixed"})
    ElementTree.SubElement(joint, "parent", {"link": name})
    ElementTree.SubElement(joint, "child", {"link": root})
    place = np.linalg.inv(T_root_base)
    turn = " ".join(str(value) for value in _roll_pitch_yaw(place[:3, :3]))
    ElementTree.SubElement(joint, "origin", {"xyz": " ".join(str(value) for value in place[:3, 3]), "rpy": turn})
    return robot


def with_pointer(robot: ElementTree.Element, arm: Arm) -> ElementTree.Element:
    """Add the arm's pointer, if it has one: a link at the end of the rod, and the joint that fixes it."""
    pointer = arm.pointer
    if pointer is None:
        return robot

    def add(parent: ElementTree.Element, tag: str, **attributes: object) -> ElementTree.Element:
        return ElementTree.SubElement(parent, tag, {key: str(value) for key, value in attributes.items()})

    link, middle = add(robot, "link", name=arm.tool_frame), f"0 0 {-0.5 * pointer.length}"
    inertial = add(link, "inertial")
    add(inertial, "origin", xyz=middle)
    add(inertial, "mass", value=pointer.mass)
    across = pointer.mass * (pointer.radius**2 / 4 + pointer.length**2 / 12)
    along = pointer.mass * pointer.radius**2 / 2
    add(inertial, "inertia", ixx=across, iyy=across, izz=along, ixy=0, ixz=0, iyz=0)
    for kind in ("visual", "collision"):
        shape = add(link, kind)
        add(shape, "origin", xyz=middle)
        add(add(shape, "geometry"), "cylinder", radius=pointer.radius, length=pointer.length)
    joint = add(robot, "joint", name=f"{arm.tool_frame}_fixed", type="fixed")
    add(joint, "parent", link=pointer.link)
    add(joint, "child", link=arm.tool_frame)
    place = pointer_end(pointer)
    origin = add(joint, "origin", xyz=" ".join(str(value) for value in place[:3, 3].tolist()))
    if not np.array_equal(place[:3, :3], np.eye(3)):
        origin.set("rpy", " ".join(str(value) for value in _roll_pitch_yaw(place[:3, :3])))
    return robot


def pointer_end(pointer: Pointer) -> np.ndarray:
    """Return T_link_tool, 4 x 4: the end of the rod in the link that it is mounted on."""
    place = np.eye(4)
    place[:3, :3] = pointer.rotation()
    place[:3, 3] = (pointer.base + pointer.length) * place[:3, 2]
    return place


def find_mesh(source: Path, link: str, name: str | None) -> Path:
    """Find the file of a mesh of the URDF `source`.

    `file://` and plain paths are files; plain ones are relative to the URDF. `package://` and `model://` names are
    looked for beside the URDF and in the folders above it, then among the Python packages, then in the folders that
    ROS and Gazebo use.

    Raises
    ------
    ConfigurationError
        Naming the URDF, the link and the mesh, if there is no name or no such file.
    """
    if not name:
        raise ConfigurationError(f"{source}: a mesh of link {link!r} has no filename; add it")
    here = f"{source}: mesh {name!r} of link {link!r}"
    scheme, colon, _ = name.partition("://")
    if not colon or scheme == "file":
        path = Path(unquote(urlsplit(name).path)) if colon else source.parent / name
        if not path.is_file():
            raise ConfigurationError(f"{here} is not a file ({path}); correct the name or put the file there")
        return path.resolve()
    if scheme not in ("package", "model"):
        raise ConfigurationError(f"{here} has the scheme {scheme}://, expected a path, file://, package:// or model://")
    inside = name.removeprefix(f"{scheme}://")
    package, _, path_inside = inside.partition("/")
    found = _mesh_nearby(source, name)
    if found is not None:
        return found
    data = data_folder(package)
    candidates = [] if data is None else [data / path_inside]
    for variable in PACKAGE_FOLDERS:
        for folder in filter(None, os.environ.get(variable, "").split(os.pathsep)):
            candidates += [Path(folder) / inside, Path(folder) / "share" / inside]
    found = next((path for path in candidates if path.is_file()), None)
    if found is not None:
        return found
    if data is not None:
        raise ConfigurationError(f"{here} is not a file ({data / path_inside}); correct the name")
    raise ConfigurationError(
        f"{here} is in a package {package!r} that is not beside the URDF, not an installed Python package, and not in "
        f"{' or '.join(PACKAGE_FOLDERS[:2])}; put its folder beside the URDF or use file:// names"
    )


def _mesh_nearby(source: Path, name: str) -> Path | None:
    """Find a mesh by a plain name relative to the URDF, or by a package:// name beside the URDF or in folders above."""
    scheme, colon, inside = name.partition("://")
    if not colon:
        candidates = [source.parent / name]
    elif scheme in ("package", "model"):
        parts = inside, inside.partition("/")[2]
        candidates = [folder / part for folder in (source.parent, *source.parents[:NEAREST_PARENTS]) for part in parts]
    else:
        candidates = []
    return next((path.resolve() for path in candidates if path.is_file()), None)


def carried_files(arm: Arm) -> dict[str, bytes]:
    """Return the files that a bundle carries for its arm, by name.

    `arm.yaml` is the whole arm. If the URDF is a file of the user's own, `arm.urdf` is that file; a mesh that is found
    by its place near that file is named by its full path. The meshes themselves are not carried: no robot needs them.
    The mesh of the cell's object is carried as `object.obj` or `object.stl`.
    """
    document = arm.model_dump(mode="json", exclude_defaults=True)
    carried: dict[str, bytes] = {}
    if ":" not in arm.urdf and not arm.urdf_path.is_relative_to(share_directory() / "sim" / "assets"):
        source = arm.urdf_path

        def full_name(found: re.Match[bytes]) -> bytes:
            path = _mesh_nearby(source, found["name"].decode(errors="replace"))
            return found["before"] + (found["name"] if path is None else path.as_uri().encode())

        carried["arm.urdf"] = MESH_NAME.sub(full_name, source.read_bytes())
        document["urdf"] = "arm.urdf"
    mesh = arm.object_mesh
    if mesh is not None:
        name = "object" + mesh.suffix.lower()
        carried[name] = mesh.read_bytes()
        document["workspace"]["objects"][0]["mesh"] = name
    text = yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=120)
    return {"arm.yaml": text.encode(), **carried}


def _prefix(robot: ElementTree.Element, arm: Arm) -> str:
    """Return the prefix of the URDF's names: the arm file's, or else the only one that fits."""
    names = {part.get("name", "") for part in (*robot.findall("link"), *robot.findall("joint"))}
    wanted = [*arm.joint_names, arm.base_frame, *(arm.gripper.joint_names if arm.gripper else ())]
    wanted += [arm.tool_frame] if arm.pointer is None else [arm.pointer.link]
    if arm.urdf_prefix:
        missing = [name for name in wanted if arm.urdf_prefix + name not in names]
        if missing:
            raise ConfigurationError(
                f"{arm.origin}: urdf_prefix is {arm.urdf_prefix!r}, but {arm.urdf_path.name} has no "
                f"{arm.urdf_prefix + missing[0]!r}; correct the prefix or the name"
            )
        return arm.urdf_prefix
    if names.intersection(wanted):
        return ""
    first = wanted[0]
    fitting = {
        name.removesuffix(first)
        for name in names
        if name.endswith(first) and all(name.removesuffix(first) + other in names for other in wanted)
    }
    if len(fitting) > 1:
        raise ConfigurationError(
            f"{arm.origin}: the names in {arm.urdf_path.name} have the prefixes {', '.join(sorted(fitting))}; say "
            "which arm this is with urdf_prefix"
        )
    return fitting.pop() if fitting else ""


def _remove_prefix(robot: ElementTree.Element, prefix: str) -> None:
    if not prefix:
        return
    for part in robot.iter():
        for attribute in ("name", "link", "joint"):
            value = part.get(attribute, "")
            if value.startswith(prefix):
                part.set(attribute, value.removeprefix(prefix))


def _limit(joint: ElementTree.Element, arm: Arm) -> None:
    """Make a continuous joint revolute: Pinocchio gives continuous joints two coordinates, the arm uses one angle."""
    number, limits = arm.joint_names.index(str(joint.get("name"))), arm.limits
    joint.set("type", "revolute")
    limit = joint.find("limit")
    limit = ElementTree.SubElement(joint, "limit") if limit is None else limit
    for name in ("lower", "upper"):
        limit.set(name, str(getattr(limits, name)[number]))
    for name in ("velocity", "effort"):
        limit.attrib.setdefault(name, str(getattr(limits, name)[number]))


def _origin(joint: ElementTree.Element) -> np.ndarray:
    """Return T_parent_child, 4 x 4, of a joint at position 0."""
    place, origin = np.eye(4), joint.find("origin")
    if origin is None:
        return place
    roll, pitch, yaw = (float(value) for value in origin.get("rpy", "0 0 0").split())
    (a, b, c), (d, e, f) = np.cos((roll, pitch, yaw)), np.sin((roll, pitch, yaw))
    place[:3, :3] = [
        [b * c, d * e * c - a * f, a * e * c + d * f],
        [b * f, d * e * f + a * c, a * e * f - d * c],
        [-e, d * b, a * b],
    ]
    place[:3, 3] = [float(value) for value in origin.get("xyz", "0 0 0").split()]
    return place


def _roll_pitch_yaw(rotation: np.ndarray) -> tuple[float, float, float]:
    """Compute the angles of a URDF's rpy: rotations about the fixed x, y and z axes, in this order."""
    pitch = float(np.arctan2(-rotation[2, 0], np.hypot(rotation[0, 0], rotation[1, 0])))
    if np.hypot(rotation[0, 0], rotation[1, 0]) < 1e-9:  # roll and yaw turn about the same axis
        return float(np.arctan2(-rotation[1, 2], rotation[1, 1])), pitch, 0.0
    roll = float(np.arctan2(rotation[2, 1], rotation[2, 2]))
    return roll, pitch, float(np.arctan2(rotation[1, 0], rotation[0, 0]))
