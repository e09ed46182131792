"""URDF files as the simulators need them: absolute mesh paths, and nothing that a strict XML reader refuses."""

from __future__ import annotations

import copy
import hashlib
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from xml.parsers import expat

import numpy as np

from rlfp_ros.control.arm import Arm, Pointer, data_folder
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.low_polygon import FINEST, GRID, cache_directory, make_coarse, write_whole

MASSLESS = 1e-6  # kg; what PyBullet takes a link without an <inertial> for is 1 kg


def read_urdf(arm: Arm) -> ElementTree.Element:
    """The <robot> of an arm's URDF, its meshes named by absolute paths, with the arm's pointer.

    Raises ConfigurationError for what it cannot read.
    """
    source = arm.urdf_path
    # Without namespaces: URDFs carry prefixes that nobody declared (drake:acceleration), which ElementTree refuses.
    builder, parser = ElementTree.TreeBuilder(), expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(source.read_bytes(), True)
    except expat.ExpatError as error:
        raise ConfigurationError(f"{source}: not XML ({error}); correct it or name another URDF in the arm") from None
    robot: ElementTree.Element = builder.close()
    for mesh in robot.iter("mesh"):
        mesh.attrib["filename"] = str(_mesh_path(source, mesh.attrib["filename"]))
    if arm.pointer is not None:
        _add_pointer(robot, arm.tool_frame, arm.pointer)
    return robot


def _add_pointer(robot: ElementTree.Element, name: str, pointer: Pointer) -> None:
    """A link `name` at the end of the rod, and the joint that fixes it."""

    def add(parent: ElementTree.Element, tag: str, **attributes: object) -> ElementTree.Element:
        return ElementTree.SubElement(parent, tag, {key: str(value) for key, value in attributes.items()})

    link, middle = add(robot, "link", name=name), f"0 0 {-0.5 * pointer.length}"
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
    joint = add(robot, "joint", name=f"{name}_fixed", type="fixed")
    add(joint, "parent", link=pointer.link)
    add(joint, "child", link=name)
    add(joint, "origin", xyz=f"0 0 {pointer.base + pointer.length}")


def simulation_urdf(arm: Arm) -> Path:
    """The arm's URDF for PyBullet, with the meshes that `arm.visuals` names and absolute paths; made once, then cached.

    Links without an <inertial> (tool frames) weigh nothing, and moments of inertia that no body can have become their
    mean, as MuJoCo makes them (`balanceinertia`); PyBullet would take the link for one that turns without inertia.
    """
    source = arm.urdf_path
    recipe = f"{source} {arm.visuals} {arm.pointer} {MASSLESS} {GRID} {FINEST} balanced"
    key = hashlib.sha256(source.read_bytes() + recipe.encode()).hexdigest()[:16]
    made = cache_directory() / f"{arm.name}_{key}.urdf"
    if made.exists():
        return made
    root = read_urdf(arm)
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
    """Replace moments that break the triangle inequality."""
    xx, yy, zz, xy, xz, yz = (float(inertia.get(f"i{axes}", "0")) for axes in ("xx", "yy", "zz", "xy", "xz", "yz"))
    moments = np.linalg.eigvalsh([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    if moments[0] + moments[1] < moments[2]:
        mean = f"{moments.mean():g}"
        inertia.attrib.update(ixx=mean, iyy=mean, izz=mean, ixy="0", ixz="0", iyz="0")


def _mesh_path(source: Path, name: str) -> Path:
    """The file of a mesh: beside the URDF; for package:// names below a folder above it, or in a Python package."""
    if not name.startswith("package://"):
        return (source.parent / name).resolve()
    inside = name.removeprefix("package://")
    for folder in (source.parent, *source.parents[:4]):
        for candidate in (folder / inside, folder / inside.partition("/")[2]):
            if candidate.exists():
                return candidate.resolve()
    package, _, path = inside.partition("/")
    data = data_folder(package)
    if data is not None:
        return data / path
    return (source.parent / inside).resolve()
