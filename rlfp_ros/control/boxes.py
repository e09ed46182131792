"""Distances and directions from points and capsules to boxes, compiled.

Boxes are [B, 15]: rotation, translation in the base frame and half the sizes (m), as `distances.py` makes them.
"""

from __future__ import annotations

import math

import numpy as np

from rlfp_ros.control.compiled import compiled

GOLDEN = 0.5 * (math.sqrt(5.0) - 1.0)
SEARCH_STEPS = 40  # narrows a share to 4e-9
TINY_M = 1e-12
Vector = tuple[float, float, float]


@compiled
def beyond_faces(boxes: np.ndarray, box: int, x: float, y: float, z: float) -> Vector:
    """Return how far a point in the box's frame is beyond the faces of each axis, m; negative inside."""
    return abs(x) - boxes[box, 12], abs(y) - boxes[box, 13], abs(z) - boxes[box, 14]


@compiled
def to_box(boxes: np.ndarray, box: int, x: float, y: float, z: float) -> float:
    """Return the signed distance (m) of a point in the box's frame: inside, minus the depth below the nearest face."""
    dx, dy, dz = beyond_faces(boxes, box, x, y, z)
    if dx <= 0.0 and dy <= 0.0 and dz <= 0.0:
        return max(dx, dy, dz)
    ox, oy, oz = max(dx, 0.0), max(dy, 0.0), max(dz, 0.0)
    return math.sqrt(ox * ox + oy * oy + oz * oz)


@compiled
def in_box_frame(boxes: np.ndarray, box: int, x: float, y: float, z: float) -> Vector:
    """Return a point of the base frame in the box's frame."""
    dx, dy, dz = x - boxes[box, 9], y - boxes[box, 10], z - boxes[box, 11]
    return (
        boxes[box, 0] * dx + boxes[box, 3] * dy + boxes[box, 6] * dz,
        boxes[box, 1] * dx + boxes[box, 4] * dy + boxes[box, 7] * dz,
        boxes[box, 2] * dx + boxes[box, 5] * dy + boxes[box, 8] * dz,
    )


@compiled
def box_direction(boxes: np.ndarray, box: int, point: Vector) -> Vector:
    """Return the direction in the base frame from a point to the box, of length 1."""
    x, y, z = in_box_frame(boxes, box, point[0], point[1], point[2])
    dx, dy, dz = beyond_faces(boxes, box, x, y, z)
    if dx <= 0.0 and dy <= 0.0 and dz <= 0.0:  # inside: away from the nearest face
        deepest = max(dx, dy, dz)
        dx = 1.0 if dx == deepest else 0.0
        dy = 1.0 if dy == deepest else 0.0
        dz = 1.0 if dz == deepest else 0.0
    nx = -math.copysign(max(dx, 0.0), x)
    ny = -math.copysign(max(dy, 0.0), y)
    nz = -math.copysign(max(dz, 0.0), z)
    size = max(math.sqrt(nx * nx + ny * ny + nz * nz), TINY_M)
    return (
        (boxes[box, 0] * nx + boxes[box, 1] * ny + boxes[box, 2] * nz) / size,
        (boxes[box, 3] * nx + boxes[box, 4] * ny + boxes[box, 5] * nz) / size,
        (boxes[box, 6] * nx + boxes[box, 7] * ny + boxes[box, 8] * nz) / size,
    )


@compiled
def nearest_to_box(placed: np.ndarray, i: int, boxes: np.ndarray, box: int) -> tuple[float, float]:
    """Return where a placed capsule's axis is nearest to a box, as a share of its length, and the signed distance, m.

    The signed distance to a convex body is convex along a line, so a golden-section search finds its minimum.
    """
    ax, ay, az = in_box_frame(boxes, box, placed[i, 0], placed[i, 1], placed[i, 2])
    bx, by, bz = in_box_frame(boxes, box, placed[i, 3], placed[i, 4], placed[i, 5])
    ux, uy, uz = bx - ax, by - ay, bz - az
    low, high = 0.0, 1.0
    left, right = 1.0 - GOLDEN, GOLDEN
    at_left = to_box(boxes, box, ax + left * ux, ay + left * uy, az + left * uz)
    at_right = to_box(boxes, box, ax + right * ux, ay + right * uy, az + right * uz)
    for _ in range(SEARCH_STEPS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - GOLDEN * (high - low)
            at_left = to_box(boxes, box, ax + left * ux, ay + left * uy, az + left * uz)
        else:
            low, left, at_left = left, right, at_right
            right = low + GOLDEN * (high - low)
            at_right = to_box(boxes, box, ax + right * ux, ay + right * uy, az + right * uz)
    share, distance = (left, at_left) if at_left <= at_right else (right, at_right)
    at_start, at_end = to_box(boxes, box, ax, ay, az), to_box(boxes, box, bx, by, bz)
    if at_start < distance:
        share, distance = 0.0, at_start
    if at_end < distance:
        share, distance = 1.0, at_end
    if not math.isfinite(ax + bx + ay + by + az + bz):
        distance = math.nan
    return share, distance
