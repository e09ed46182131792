"""URDF files as the simulators need them: absolute mesh paths, and nothing that a strict XML reader refuses."""

from __future__ import annotations

import copy
import hashlib
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from xml.parsers import expat

from rlfp_ros.control.arm import Arm
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.low_polygon import FINEST, GRID, cache_directory, make_coarse, write_whole

MASSLESS = 1e-6  # kg; what PyBullet takes a link without an <inertial> for is 1 kg


def read_urdf(source: Path) -> ElementTree.Element:
    """The <robot> of a URDF, its meshes named by absolute paths. Raises ConfigurationError for what it cannot read."""
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
    return robot


def simulation_urdf(arm: Arm) -> Path:
    """The arm's URDF for PyBullet, with the meshes that `arm.visuals` names and absolute paths; made once, then cached.

    Links without an <inertial> (tool frames) weigh nothing.
    """
    source = arm.urdf_path
    recipe = f"{source} {arm.visuals} {MASSLESS} {GRID} {FINEST}"
    key = hashlib.sha256(source.read_bytes() + recipe.encode()).hexdigest()[:16]
    made = cache_directory() / f"{arm.name}_{key}.urdf"
    if made.exists():
        return made
    root = read_urdf(source)
    for link in root.iter("link"):
        if link.find("inertial") is None:
            inertial, moment = ElementTree.SubElement(link, "inertial"), f"{1e-3 * MASSLESS:g}"
            ElementTree.SubElement(inertial, "mass", {"value": f"{MASSLESS:g}"})
            zeros = dict.fromkeys(("ixy", "ixz", "iyz"), "0")
            ElementTree.SubElement(inertial, "inertia", {"ixx": moment, "iyy": moment, "izz": moment, **zeros})
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


def _mesh_path(source: Path, name: str) -> Path:
    """The file of a mesh: beside the URDF, or below a folder above it for package:// names."""
    if not name.startswith("package://"):
        return (source.parent / name).resolve()
    inside = name.removeprefix("package://")
    for folder in (source.parent, *source.parents[:4]):
        for candidate in (folder / inside, folder / inside.partition("/")[2]):
            if candidate.exists():
                return candidate.resolve()
    return (source.parent / inside).resolve()
