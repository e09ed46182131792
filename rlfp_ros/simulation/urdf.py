"""URDF files as the simulators need them: absolute mesh paths, and nothing that a strict XML reader refuses."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from xml.parsers import expat

from rlfp_ros.schema import ConfigurationError


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
