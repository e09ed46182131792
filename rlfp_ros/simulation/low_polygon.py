"""Coarse meshes that render fast, derived from an arm's meshes and cached.

TinyRenderer's time is proportional to the triangles: at 64 px the Panda's visual meshes (103,000 triangles) take 20 ms
per frame, its collision meshes (3,500) 0.9 ms and coarse ones (2,000) 0.6 ms.
"""

from __future__ import annotations

import hashlib
import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import coal
import numpy as np

from rlfp_ros.files import write_whole

GRID = 0.015  # m; closer corners are merged; about a pixel of an 84 px image
FINEST = 1 / 12  # share of a mesh's longest edge, so that small parts such as a servo keep their shape


def cache_directory() -> Path:
    """Return the folder of the cache."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "rlfp_ros"


def coarse(corners: np.ndarray, triangles: np.ndarray, grid: float = GRID) -> tuple[np.ndarray, np.ndarray]:
    """Simplify a mesh of [V, 3] corners (m) and [T, 3] indices: the corners in a grid cell become one, their mean.

    Vertex clustering (Rossignac and Borrel 1993). Duplicate and degenerate triangles are removed.
    """
    cells = np.floor(corners / grid).astype(int)
    _, cell = np.unique(cells, axis=0, return_inverse=True)
    cell = cell.ravel()
    count = np.bincount(cell)
    means = np.stack([np.bincount(cell, corners[:, axis]) / count for axis in range(3)], axis=1)
    merged = cell[triangles]
    distinct = (merged[:, 0] != merged[:, 1]) & (merged[:, 1] != merged[:, 2]) & (merged[:, 2] != merged[:, 0])
    merged = merged[distinct]
    _, first = np.unique(np.sort(merged, axis=1), axis=0, return_index=True)
    return means, merged[np.sort(first)]


def make_coarse(shape: ElementTree.Element) -> None:
    """Replace the meshes of a URDF's <visual> or <collision> by coarse ones, which are cached."""
    for mesh in shape.iter("mesh"):
        scale = [float(part) for part in mesh.attrib.pop("scale", "1 1 1").split()]
        mesh.attrib["filename"] = str(_coarse_mesh(Path(mesh.attrib["filename"]), np.array(scale)))


def _coarse_mesh(source: Path, scale: np.ndarray) -> Path:
    key = hashlib.sha256(source.read_bytes() + f"{GRID} {FINEST} {scale.tolist()}".encode()).hexdigest()[:16]
    made = cache_directory() / f"{source.stem}_{key}.obj"
    if not made.exists():
        mesh = coal.MeshLoader().load(str(source), scale)
        indices = [[corner[0], corner[1], corner[2]] for corner in map(mesh.tri_indices, range(mesh.num_tris))]
        vertices = np.array(mesh.vertices())
        grid = min(GRID, FINEST * float(np.ptp(vertices, axis=0).max()))
        corners, triangles = coarse(vertices, np.array(indices), grid)
        lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in corners.tolist()]
        lines += [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in triangles.tolist()]
        write_whole(made, "\n".join(lines) + "\n")
    return made
