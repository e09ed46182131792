"""Forward kinematics and Jacobian of a chain of joints, compiled. `kinematics.py` makes the arrays from a URDF.

A chain is an array [J + 1, 18] in the order from the base to the tool; a parent comes before its children, and the last
row is the tool frame. The columns of a row:

- 0 to 8, 9 to 11: rotation (row by row) and translation (m) of the joint's frame in the parent's frame;
- 12 to 14: axis of the joint, of length 1;
- 15: kind, `REVOLUTE`, `PRISMATIC` or `FIXED`;
- 16: row of the parent, or -1 for the base;
- 17: index of the joint in the arm's order.

Poses are [J + 1, 12], with the columns 0 to 11 in the base frame. A located tool is [12 + 6 J]: position [3] m,
rotation [3, 3] and Jacobian [6, J], row by row.
"""

from __future__ import annotations

import math

import numpy as np

from rlfp_ros.control.compiled import compiled, entry_point

COLUMNS, POSE = 18, 12
TRANSLATION, AXIS, KIND, PARENT, JOINT = 9, 12, 15, 16, 17  # columns
REVOLUTE, PRISMATIC, FIXED = 0, 1, 2
Vector = tuple[float, float, float]


@compiled
def find_poses(chain: np.ndarray, joints: np.ndarray, poses: np.ndarray) -> None:
    """Set the `poses` [J + 1, 12] of the joints' frames and of the tool at `joints` [J] rad or m."""
    for row in range(len(chain)):
        _compose(poses, chain, row)
        kind = int(chain[row, KIND])
        if kind == REVOLUTE:
            _turn(poses, chain, row, joints[int(chain[row, JOINT])])
        elif kind == PRISMATIC:
            way = joints[int(chain[row, JOINT])]
            x, y, z = joint_axis(chain, poses, row)
            poses[row, TRANSLATION] += way * x
            poses[row, TRANSLATION + 1] += way * y
            poses[row, TRANSLATION + 2] += way * z


@compiled
def _compose(poses: np.ndarray, chain: np.ndarray, row: int) -> None:
    """Set the pose of a joint's frame at 0 from that of its parent."""
    parent = int(chain[row, PARENT])
    if parent < 0:
        for column in range(POSE):
            poses[row, column] = chain[row, column]
        return
    for axis in range(3):
        at = 3 * axis
        a, b, c = poses[parent, at], poses[parent, at + 1], poses[parent, at + 2]
        for column in range(3):
            poses[row, at + column] = a * chain[row, column] + b * chain[row, 3 + column] + c * chain[row, 6 + column]
        moved = a * chain[row, TRANSLATION] + b * chain[row, TRANSLATION + 1] + c * chain[row, TRANSLATION + 2]
        poses[row, TRANSLATION + axis] = moved + poses[parent, TRANSLATION + axis]


@compiled
def _turn(poses: np.ndarray, chain: np.ndarray, row: int, angle: float) -> None:
    """Turn the pose of a joint about its axis by `angle` rad."""
    x, y, z = chain[row, AXIS], chain[row, AXIS + 1], chain[row, AXIS + 2]
    c, s = math.cos(angle), math.sin(angle)
    v = 1.0 - c
    r00, r01, r02 = c + v * x * x, v * x * y - s * z, v * x * z + s * y
    r10, r11, r12 = v * x * y + s * z, c + v * y * y, v * y * z - s * x
    r20, r21, r22 = v * x * z - s * y, v * y * z + s * x, c + v * z * z
    for axis in range(3):
        at = 3 * axis
        a, b, d = poses[row, at], poses[row, at + 1], poses[row, at + 2]
        poses[row, at] = a * r00 + b * r10 + d * r20
        poses[row, at + 1] = a * r01 + b * r11 + d * r21
        poses[row, at + 2] = a * r02 + b * r12 + d * r22


@compiled
def joint_axis(chain: np.ndarray, poses: np.ndarray, row: int) -> Vector:
    """Return the axis of a joint in the base frame."""
    x, y, z = chain[row, AXIS], chain[row, AXIS + 1], chain[row, AXIS + 2]
    return (
        poses[row, 0] * x + poses[row, 1] * y + poses[row, 2] * z,
        poses[row, 3] * x + poses[row, 4] * y + poses[row, 5] * z,
        poses[row, 6] * x + poses[row, 7] * y + poses[row, 8] * z,
    )


@compiled
def find_tool(chain: np.ndarray, poses: np.ndarray, located: np.ndarray) -> None:
    """Set the located tool [12 + 6 J] from the `poses` of `find_poses`."""
    joints = len(chain) - 1
    for axis in range(3):
        located[axis] = poses[joints, TRANSLATION + axis]
    for index in range(9):
        located[3 + index] = poses[joints, index]
    for index in range(6 * joints):
        located[12 + index] = 0.0  # also of joints that do not move the tool
    row = int(chain[joints, PARENT])
    while row >= 0:
        at = 12 + int(chain[row, JOINT])
        x, y, z = joint_axis(chain, poses, row)
        if int(chain[row, KIND]) == REVOLUTE:
            dx = located[0] - poses[row, TRANSLATION]
            dy = located[1] - poses[row, TRANSLATION + 1]
            dz = located[2] - poses[row, TRANSLATION + 2]
            located[at + 3 * joints], located[at + 4 * joints], located[at + 5 * joints] = x, y, z
            x, y, z = y * dz - z * dy, z * dx - x * dz, x * dy - y * dx
        located[at], located[at + joints], located[at + 2 * joints] = x, y, z
        row = int(chain[row, PARENT])


@entry_point("void(f8[:,::1], f8[::1], f8[:,::1], f8[::1])")
def locate(chain: np.ndarray, joints: np.ndarray, poses: np.ndarray, located: np.ndarray) -> None:
    """Set the `poses` and the located tool at `joints` [J]."""
    find_poses(chain, joints, poses)
    find_tool(chain, poses, located)


@compiled
def rotation_vector(r: np.ndarray) -> Vector:
    """Return axis times angle (rad) of a rotation matrix [3, 3]."""
    x, y, z = r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]  # axis times 2 sin(angle)
    sine, cosine = 0.5 * math.sqrt(x * x + y * y + z * z), 0.5 * (r[0, 0] + r[1, 1] + r[2, 2] - 1.0)
    angle = math.atan2(sine, cosine)
    if cosine > -0.9:
        scale = 0.5 * angle / sine if sine > 1e-9 else 0.5
        return scale * x, scale * y, scale * z
    # Near half a turn the sine vanishes: R = cos I + (1 - cos) a a^T + sin [a] gives the axis's magnitudes.
    v = 1.0 - cosine
    ax = math.sqrt(max((r[0, 0] - cosine) / v, 0.0))
    ay = math.sqrt(max((r[1, 1] - cosine) / v, 0.0))
    az = math.sqrt(max((r[2, 2] - cosine) / v, 0.0))
    xy, xz, yz = r[0, 1] + r[1, 0], r[0, 2] + r[2, 0], r[1, 2] + r[2, 1]  # their signs relate the components'
    if ax >= ay and ax >= az:
        ay, az = math.copysign(ay, xy), math.copysign(az, xz)
    elif ay >= az:
        ax, az = math.copysign(ax, xy), math.copysign(az, yz)
    else:
        ax, ay = math.copysign(ax, xz), math.copysign(ay, yz)
    sign = -1.0 if ax * x + ay * y + az * z < 0.0 else 1.0
    scale = sign * angle / math.sqrt(ax * ax + ay * ay + az * az)
    return scale * ax, scale * ay, scale * az
