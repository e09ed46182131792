"""`rlfp arm capsules`: fits capsules around the meshes of an arm's links."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import coal
import numpy as np
import pinocchio as pin
import yaml

from rlfp_ros.control.arm import Arm, load_arm
from rlfp_ros.control.arm_parts import Capsule
from rlfp_ros.files import write_whole
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.urdf import read_urdf

Meshes = Literal["collision", "visual"]

MAX_CAPSULES = 3  # per link
WORTH_IT = 0.93  # another capsule is used if the total volume shrinks to at most this fraction
GRID = 28  # points along each edge of the grid that measures a volume
MIN_TRIANGLES = 4  # per part
CUTS = (0.3, 0.4, 0.5, 0.6, 0.7)  # positions along an axis at which a link may be cut
ROUNDING = 1e-4  # m; resolution of the numbers that are written
ROUND = 32  # points around a sphere, a cylinder or a capsule of the URDF
DIRECTIONS = 600  # only the extreme points in this many directions are used while a capsule is optimised
FIRST_STEPS = np.array([0.2, 0.2, 0.1, 0.1, 0.1])  # of the pattern search: turns (1), shifts (of the size), radius (1)
HALVINGS = 8  # of these steps


@dataclass(frozen=True)
class LinkFit:
    """The capsules of one link."""

    link: str
    capsules: tuple[Capsule, ...]
    outside: float  # m, largest distance of the mesh outside the capsules; at most 0 if they enclose it
    beyond: float  # m, largest distance of a capsule outside the box around the mesh
    volume: float  # m^3, of the capsules together


def fit_arm(arm: Arm, meshes: Meshes = "collision", most: int = MAX_CAPSULES) -> list[LinkFit]:
    """Fit capsules to the meshes of each link of an arm.

    Parameters
    ----------
    arm
        The arm; its own capsules are not used.
    meshes
        Which meshes of the URDF. A link without collision meshes takes its visual ones.
    most
        Capsules per link at most.

    Raises
    ------
    ConfigurationError
        If the URDF or a mesh cannot be read, or no link has a mesh.
    """
    triangles = link_triangles(arm, meshes)
    if not triangles:
        raise ConfigurationError(f"{arm.urdf_path}: no link has a mesh, so there is nothing to fit capsules to")
    near_table = _links_near_the_table(arm)
    return [_fit_link(link, found, most, link not in near_table) for link, found in triangles.items()]


def link_triangles(arm: Arm, meshes: Meshes = "collision") -> dict[str, np.ndarray]:
    """Read the triangles [T, 3, 3] (m, in the link's frame) of each link that has a mesh."""
    robot = read_urdf(arm)
    text = ElementTree.tostring(robot, encoding="unicode")
    model = pin.buildModelFromXML(text)
    found: dict[str, list[np.ndarray]] = {}
    kinds = [pin.GeometryType.COLLISION, pin.GeometryType.VISUAL]
    for kind in kinds if meshes == "collision" else kinds[::-1]:
        try:
            geometry = pin.buildGeomFromUrdfString(model, text, kind)
        except (ValueError, RuntimeError) as error:
            raise ConfigurationError(f"{arm.urdf_path}: a mesh cannot be read ({error}); replace it") from None
        added: dict[str, list[np.ndarray]] = {}
        for part in geometry.geometryObjects:
            frame = model.frames[part.parentFrame]
            in_link = frame.placement.inverse() * part.placement
            corners = _triangles(part.geometry)
            added.setdefault(frame.name, []).append(corners @ in_link.rotation.T + in_link.translation)
        for link, parts in added.items():
            found.setdefault(link, parts)
    return {link: np.concatenate(parts) for link, parts in found.items()}


def fit_capsule(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Fit a capsule of small volume around points.

    The principal axes of the points are tried as its axis; direction, place and radius of the best one are then
    optimised by pattern search (Hooke and Jeeves 1961). For a given line and radius the shortest segment follows in
    closed form.

    Parameters
    ----------
    points
        [N, 3] m.

    Returns
    -------
    start, end, radius
        [3] m, [3] m and m. All points are inside.
    """
    every, points = points, _extreme_points(points)
    centre = points.mean(axis=0)
    axes = np.linalg.svd(points - centre, full_matrices=True)[2]
    tried = []
    for number in range(3):
        frame = np.roll(axes, -number, axis=0)
        across = (points - centre) @ frame[1:].T
        middle = 0.5 * (across.min(axis=0) + across.max(axis=0))
        values = np.array([0.0, 0.0, *middle, 0.0])
        tried.append((_volume(*_segment(points, centre, frame, values)), number, values))
    volume, number, values = min(tried, key=lambda each: each[0])
    frame, size = np.roll(axes, -number, axis=0), float(np.ptp(points, axis=0).max())
    steps = FIRST_STEPS * [1.0, 1.0, size, size, 1.0]
    halved = 0
    while halved < HALVINGS:
        before = volume
        for index in range(len(values)):
            for sign in (1.0, -1.0):
                moved = values.copy()
                moved[index] += sign * steps[index]
                found = _volume(*_segment(points, centre, frame, moved))
                if found < volume:
                    volume, values = found, moved
                    break
        if volume > 0.999 * before:
            steps, halved = 0.5 * steps, halved + 1
    return _segment(every, centre, frame, values)


def outside(points: np.ndarray, capsules: Sequence[Capsule]) -> np.ndarray:
    """Compute how far each point [N, 3] m is outside the nearest capsule, m; negative inside."""
    least = np.full(len(points), np.inf)
    for capsule in capsules:
        start, along = np.array(capsule.start), np.subtract(capsule.end, capsule.start)
        place = np.clip((points - start) @ along / max(float(along @ along), 1e-12), 0, 1)
        distance = np.linalg.norm(points - start - place[:, None] * along, axis=1)
        least = np.minimum(least, distance - capsule.radius)
    return least


def surface_points(triangles: np.ndarray, spacing: float = 0.005) -> np.ndarray:
    """Return points [N, 3] on triangles [T, 3, 3], about `spacing` m apart: the corners, edges and insides."""
    longest = np.linalg.norm(triangles - np.roll(triangles, 1, axis=1), axis=2).max(axis=1)
    points = [triangles.reshape(-1, 3)]
    for steps in range(2, 13):
        lower, upper = (steps - 1) * spacing, steps * spacing if steps < 12 else np.inf
        some = triangles[(longest > lower) & (longest <= upper)]
        if len(some):
            i, j = np.meshgrid(np.arange(steps + 1), np.arange(steps + 1))
            keep = i + j <= steps
            weights = np.stack([i[keep], j[keep], steps - i[keep] - j[keep]], axis=1) / steps
            points.append(np.einsum("wk,tkx->twx", weights, some).reshape(-1, 3))
    return np.concatenate(points)


def as_yaml(fits: Sequence[LinkFit]) -> str:
    """Write the capsules as the section of an arm's file."""
    lines = ["capsules:"]
    for fit in fits:
        for capsule in fit.capsules:
            document = capsule.model_dump(mode="json", exclude_defaults=True)
            lines.append(
                "  - " + yaml.safe_dump(document, default_flow_style=True, sort_keys=False, width=1000).strip()
            )
    return "\n".join(lines) + "\n"


def _fit_link(link: str, triangles: np.ndarray, most: int, table: bool) -> LinkFit:
    parts = [(triangles, fit_capsule(triangles.reshape(-1, 3)))]
    volume = _union_volume([capsule for _, capsule in parts])
    while len(parts) < most:
        cuts = [[*parts[:number], *_halves(part), *parts[number + 1 :]] for number, part in enumerate(parts)]
        volumes = [_union_volume([capsule for _, capsule in cut]) for cut in cuts]
        best = int(np.argmin(volumes))
        if volumes[best] > WORTH_IT * volume:
            break
        parts, volume = cuts[best], volumes[best]
    capsules = tuple(_rounded(link, *capsule, table=table) for _, capsule in parts)
    points = surface_points(triangles)
    ends = np.array([(capsule.start, capsule.end) for capsule in capsules])
    radii = np.array([[[capsule.radius]] for capsule in capsules])
    beyond = max(
        float(((ends + radii).max(axis=(0, 1)) - points.max(axis=0)).max()),
        float((points.min(axis=0) - (ends - radii).min(axis=(0, 1))).max()),
    )
    return LinkFit(link, capsules, float(outside(points, capsules).max()), beyond, volume)


Fitted = tuple[np.ndarray, np.ndarray, float]


Part = tuple[np.ndarray, Fitted]  # triangles and their capsule


def _halves(part: Part) -> list[Part]:
    """Cut a part in two where the halves' capsules are smallest. Triangles stay whole, so that no surface is lost."""
    triangles, _ = part
    middles = triangles.mean(axis=1)
    axes = np.linalg.svd(middles - middles.mean(axis=0), full_matrices=False)[2]
    best: tuple[float, np.ndarray] | None = None
    for axis in axes:
        along = middles @ axis
        for cut in CUTS:
            side = along < along.min() + cut * np.ptp(along)
            if MIN_TRIANGLES <= side.sum() <= len(side) - MIN_TRIANGLES:
                quick = sum(_quick_volume(triangles[each].reshape(-1, 3)) for each in (side, ~side))
                if best is None or quick < best[0]:
                    best = quick, side
    if best is None:
        return [part]
    return [(triangles[each], fit_capsule(triangles[each].reshape(-1, 3))) for each in (best[1], ~best[1])]


def _union_volume(capsules: Sequence[Fitted]) -> float:
    """Return the volume m^3 of the union of the capsules, estimated on a grid of points."""
    lower = np.min([np.minimum(start, end) - radius for start, end, radius in capsules], axis=0)
    upper = np.max([np.maximum(start, end) + radius for start, end, radius in capsules], axis=0)
    axes = [low + (np.arange(GRID) + 0.5) * (high - low) / GRID for low, high in zip(lower, upper, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    inside = np.zeros(len(grid), dtype=bool)
    for start, end, radius in capsules:
        along = end - start
        place = np.clip((grid - start) @ along / max(float(along @ along), 1e-12), 0, 1)
        inside |= np.linalg.norm(grid - start - place[:, None] * along, axis=1) <= radius
    return float(np.prod(upper - lower) * inside.mean())


def _quick_volume(points: np.ndarray) -> float:
    """Return the volume of the capsule along the best principal axis."""
    centre = 0.5 * (points.min(axis=0) + points.max(axis=0))
    axes = np.linalg.svd(np.cov((points - centre).T))[2]
    return min(_volume(*_segment(points, centre, np.roll(axes, -k, axis=0), np.zeros(5))) for k in range(3))


def _segment(points: np.ndarray, centre: np.ndarray, frame: np.ndarray, values: np.ndarray) -> Fitted:
    """Return the shortest capsule around points for a line: [2] turn and [2] shift of the axis, and extra radius."""
    turn_y, turn_z, shift_y, shift_z, extra = values
    along = frame[0] + turn_y * frame[1] + turn_z * frame[2]
    along = along / np.linalg.norm(along)
    origin = centre + shift_y * frame[1] + shift_z * frame[2]
    relative = points - origin
    place = relative @ along
    across = np.einsum("ij,ij->i", relative, relative) - place**2
    radius = float(np.sqrt(max(across.max(), 1e-12))) * (1.0 + abs(extra))
    reach = np.sqrt(np.maximum(radius**2 - across, 0.0))
    first, last = float((place + reach).min()), float((place - reach).max())
    if first > last:
        first = last = 0.5 * (first + last)
    return origin + first * along, origin + last * along, radius


def _volume(start: np.ndarray, end: np.ndarray, radius: float) -> float:
    return float(np.pi * radius**2 * np.linalg.norm(end - start) + 4 / 3 * np.pi * radius**3)


def _rounded(link: str, start: np.ndarray, end: np.ndarray, radius: float, table: bool) -> Capsule:
    """Return the capsule with rounded numbers; the radius compensates the rounding of its ends."""
    first, second = (np.round(point / ROUNDING) * ROUNDING for point in (start, end))
    larger = np.ceil((radius + ROUNDING) / ROUNDING) * ROUNDING
    ends = [tuple(round(float(value), 4) for value in point) for point in (first, second)]
    return Capsule(link=link, start=ends[0], end=ends[1], radius=round(float(larger), 4), table=table)


def _extreme_points(points: np.ndarray) -> np.ndarray:
    """Return the points that are farthest in any of `DIRECTIONS` directions (a Fibonacci sphere)."""
    if len(points) <= DIRECTIONS:
        return points
    number = np.arange(DIRECTIONS) + 0.5
    height, turn = 1 - 2 * number / DIRECTIONS, np.pi * (1 + 5**0.5) * number
    width = np.sqrt(1 - height**2)
    directions = np.stack([width * np.cos(turn), width * np.sin(turn), height], axis=1)
    farthest = np.concatenate([np.argmax(directions[k : k + 50] @ points.T, axis=1) for k in range(0, DIRECTIONS, 50)])
    return points[np.unique(farthest)]


def _triangles(shape: coal.CollisionGeometry) -> np.ndarray:
    """Return the triangles [T, 3, 3] of a mesh, or of a hull that encloses a primitive."""
    if hasattr(shape, "vertices") and hasattr(shape, "tri_indices"):
        vertices = np.array(shape.vertices())
        indices = np.array([(each[0], each[1], each[2]) for each in map(shape.tri_indices, range(shape.num_tris))])
        return vertices[indices.reshape(-1, 3)]
    turn = np.linspace(0, 2 * np.pi, ROUND, endpoint=False)
    wider = 1.0 / np.cos(np.pi / ROUND)  # the polygon's edges touch the circle
    ring = wider * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    if isinstance(shape, coal.Box):
        x, y, z = shape.halfSide
        ring = np.array([(x, y), (-x, y), (-x, -y), (x, -y)])
        rings = [np.column_stack([ring, np.full(4, end)]) for end in (-z, z)]
    elif isinstance(shape, coal.Sphere):
        heights = np.linspace(-1, 1, ROUND // 2 + 1)
        rings = [np.column_stack([ring * np.sqrt(1 - height**2), np.full(ROUND, height)]) for height in heights]
        rings = [shape.radius * each for each in rings]
    elif isinstance(shape, (coal.Cylinder, coal.Capsule)):
        half = shape.halfLength + (shape.radius if isinstance(shape, coal.Capsule) else 0.0)
        rings = [np.column_stack([shape.radius * ring, np.full(ROUND, end)]) for end in (-half, half)]
    else:
        raise ConfigurationError(f"a {type(shape).__name__} in the URDF has no capsule; use a mesh or a primitive")
    return _between(rings)


def _between(rings: Sequence[np.ndarray]) -> np.ndarray:
    """Return the triangles [T, 3, 3] of the surface through stacked rings [N, 3], closed at both ends."""
    triangles = []
    for lower, upper in pairwise(rings):
        following = np.roll(lower, -1, axis=0), np.roll(upper, -1, axis=0)
        triangles += [
            np.stack([lower, following[0], upper], axis=1),
            np.stack([following[0], following[1], upper], axis=1),
        ]
    for end in (rings[0], rings[-1]):
        middle = np.broadcast_to(end.mean(axis=0), end.shape)
        triangles.append(np.stack([middle, end, np.roll(end, -1, axis=0)], axis=1))
    return np.concatenate(triangles)


def _links_near_the_table(arm: Arm) -> set[str]:
    """Return the links that touch things on the table on purpose: the pointer, and the fingers."""
    links = {arm.tool_frame}
    if arm.gripper is not None:
        for joint in read_urdf(arm).findall("joint"):
            child = joint.find("child")
            if joint.get("name") in arm.gripper.joint_names and child is not None:
                links.add(str(child.get("link")))
    return links


def run(name_or_path: str, meshes: Meshes, most: int, out: Path | None) -> int:
    """Print a line per link on standard error, and the section for the arm's file. Returns 0."""
    fits = fit_arm(load_arm(name_or_path), meshes, most)
    for fit in fits:
        print(
            f"{fit.link}: {len(fit.capsules)} capsules, {1e3 * fit.volume:.2f} l, "
            f"mesh outside by {1e3 * max(fit.outside, 0.0):.1f} mm, "
            f"at most {1e3 * fit.beyond:.0f} mm beyond the mesh",
            file=sys.stderr,
        )
    if out is None:
        print(as_yaml(fits), end="")
        return 0
    write_whole(out, as_yaml(fits), "run the command again or choose another --out")
    print(f"{out}: put this section into the arm's file", file=sys.stderr)
    return 0
