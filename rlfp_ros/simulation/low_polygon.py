"""URDFs that render fast: an arm's collision meshes drawn in place of its detailed visual ones.

TinyRenderer's time goes by triangles: the stock Panda takes 20 ms a frame, with its collision meshes 2 ms.
"""

from __future__ import annotations

import copy
import hashlib
import os
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from rlfp_ros.control.arm import Arm


def cache_directory() -> Path:
    """Where made files are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "rlfp_ros"


def low_polygon_urdf(arm: Arm) -> Path:
    """The arm's URDF with collision meshes as visuals and absolute mesh paths; made once, then cached."""
    source = arm.urdf_path
    if arm.visuals == "visual":
        return source
    text = source.read_text(encoding="utf-8")
    key = hashlib.sha256(f"{source}\0{text}".encode()).hexdigest()[:16]
    made = cache_directory() / f"{arm.name}_{key}.urdf"
    if made.exists():
        return made
    root = ElementTree.fromstring(text)
    for link in root.iter("link"):
        collisions = link.findall("collision")
        if collisions:
            for visual in link.findall("visual"):
                link.remove(visual)
            for collision in collisions:
                visual = ElementTree.SubElement(link, "visual")
                visual.extend(copy.deepcopy(part) for part in collision if part.tag in ("origin", "geometry"))
    for mesh in root.iter("mesh"):
        relative = mesh.attrib["filename"].removeprefix("package://")
        mesh.attrib["filename"] = str((source.parent / relative).resolve())
    made.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=made.parent, suffix=".urdf")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(ElementTree.tostring(root, encoding="unicode"))
    os.replace(scratch, made)  # atomic: several workers may make it at once
    return made
