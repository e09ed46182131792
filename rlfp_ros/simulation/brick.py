"""A LEGO brick's mesh: a box with studs, with a twentieth of the triangles of `pybullet_data`'s `lego.obj`."""

from __future__ import annotations

import numpy as np

SIDES = 8  # sides of a stud
STUD_RADIUS, STUD_HEIGHT = 0.15, 0.14  # shares of the brick's width and height
STUD_OFFSET = 0.25  # share of the brick's width, from its middle


def brick(size: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the triangles of a brick with 2 x 2 studs: corners [3 T, 3] m around its box's middle, and normals.

    `size` [m] is the box without the studs on top.
    """
    half = np.array(size) / 2
    faces: list[np.ndarray] = []  # convex polygons [N, 3], anticlockwise from outside
    for axis in range(3):
        for side in (-1.0, 1.0):
            one, two = (axis + 1) % 3, (axis + 2) % 3
            square = np.zeros((4, 3))
            square[:, axis] = side * half[axis]
            square[:, one] = np.array([-1, 1, 1, -1]) * half[one]
            square[:, two] = np.array([-1, -1, 1, 1]) * half[two]
            faces.append(square if side > 0 else square[::-1])
    angle = np.arange(SIDES) * 2 * np.pi / SIDES
    ring = np.column_stack([np.cos(angle), np.sin(angle), np.zeros(SIDES)]) * STUD_RADIUS * min(size[:2])
    for x in (-1, 1):
        for y in (-1, 1):
            low = ring + np.array([x * STUD_OFFSET * size[0], y * STUD_OFFSET * size[1], half[2]])
            high = low + np.array([0.0, 0.0, STUD_HEIGHT * size[2]])
            faces.append(high)
            for i in range(SIDES):
                j = (i + 1) % SIDES
                faces.append(np.array([low[i], low[j], high[j], high[i]]))
    corners, normals = [], []
    for face in faces:
        normal = np.cross(face[1] - face[0], face[2] - face[1])
        normal /= np.linalg.norm(normal)
        for i in range(1, len(face) - 1):
            corners += [face[0], face[i], face[i + 1]]
            normals += [normal] * 3
    return np.array(corners), np.array(normals)
