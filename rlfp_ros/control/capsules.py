"""Distances between the arm's capsules, and from them to the table and to boxes, compiled.

`distances.py` makes the arrays from the arm's file:

- chain: see `chain.py`;
- capsules [N, 8]: the axis's ends (m, in the frame of the link's joint), radius (m), that joint's row in the chain or
  -1;
- pairs [P, 5]: kind (`OTHER`, `TABLE` or `BOX`), first capsule, second capsule or box, margin (m), half the sum of the
  lengths of the axes and of the box's diagonal (m), for a bound;
- boxes [B, 15]: see `boxes.py`.

Placed capsules are [N, 6]: the ends in the base frame. A spare distance is the distance less radii and margin, m; it is
negative if the pair is nearer than its margin, and NaN if the joints are.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from rlfp_ros.control.boxes import TINY_M, Vector, box_direction, nearest_to_box
from rlfp_ros.control.chain import JOINT, KIND, PARENT, REVOLUTE, TRANSLATION, find_poses, joint_axis
from rlfp_ros.control.compiled import compiled, entry_point

OTHER, TABLE, BOX = 0, 1, 2
RADIUS, LINK = 6, 7  # columns of capsules
SECOND, MARGIN, HALF_LENGTHS = 2, 3, 4  # columns of pairs
PARALLEL = 1e-12  # of the squared sine between two axes


class Body(NamedTuple):
    """The shapes of one arm and what it may not touch; the arrays are described above.

    Attributes
    ----------
    chain, capsules, pairs, boxes
        Arrays.
    table
        Height of the table in the base frame, m.
    """

    chain: np.ndarray
    capsules: np.ndarray
    pairs: np.ndarray
    boxes: np.ndarray
    table: float


@compiled
def place_capsules(capsules: np.ndarray, poses: np.ndarray, placed: np.ndarray) -> None:
    """Set the `placed` capsules [N, 6] from the `poses` of the joints."""
    for index in range(len(capsules)):
        link = int(capsules[index, LINK])
        for end in (0, 3):
            x, y, z = capsules[index, end], capsules[index, end + 1], capsules[index, end + 2]
            if link < 0:
                placed[index, end], placed[index, end + 1], placed[index, end + 2] = x, y, z
                continue
            for axis in range(3):
                at = 3 * axis
                turned = poses[link, at] * x + poses[link, at + 1] * y + poses[link, at + 2] * z
                placed[index, end + axis] = turned + poses[link, TRANSLATION + axis]


@compiled
def nearest_on_axes(placed: np.ndarray, i: int, j: int) -> tuple[float, float]:
    """Return where the axes of two placed capsules are nearest, as shares of their lengths.

    References
    ----------
    Ericson, Real-Time Collision Detection, 5.1.9.
    """
    px, py, pz = placed[i, 0], placed[i, 1], placed[i, 2]
    qx, qy, qz = placed[j, 0], placed[j, 1], placed[j, 2]
    ux, uy, uz = placed[i, 3] - px, placed[i, 4] - py, placed[i, 5] - pz
    vx, vy, vz = placed[j, 3] - qx, placed[j, 4] - qy, placed[j, 5] - qz
    rx, ry, rz = px - qx, py - qy, pz - qz
    a, e = ux * ux + uy * uy + uz * uz, vx * vx + vy * vy + vz * vz
    f = vx * rx + vy * ry + vz * rz
    if a <= TINY_M**2 and e <= TINY_M**2:
        return 0.0, 0.0
    if a <= TINY_M**2:
        return 0.0, min(max(f / e, 0.0), 1.0)
    c = ux * rx + uy * ry + uz * rz
    if e <= TINY_M**2:
        return min(max(-c / a, 0.0), 1.0), 0.0
    b = ux * vx + uy * vy + uz * vz
    denominator = a * e - b * b
    s = min(max((b * f - c * e) / denominator, 0.0), 1.0) if denominator > PARALLEL * a * e else 0.0
    t = (b * s + f) / e
    if t < 0.0:
        return min(max(-c / a, 0.0), 1.0), 0.0
    if t > 1.0:
        return min(max((b - c) / a, 0.0), 1.0), 1.0
    return s, t


@compiled
def _point(placed: np.ndarray, i: int, share: float) -> Vector:
    x, y, z = placed[i, 0], placed[i, 1], placed[i, 2]
    return x + share * (placed[i, 3] - x), y + share * (placed[i, 4] - y), z + share * (placed[i, 5] - z)


@compiled
def _apart(p: Vector, q: Vector) -> float:
    x, y, z = q[0] - p[0], q[1] - p[1], q[2] - p[2]
    return math.sqrt(x * x + y * y + z * z)


@compiled
def spare_distance(body: Body, pair: int, placed: np.ndarray) -> float:
    """Return the spare distance of one pair, m."""
    capsules, pairs = body.capsules, body.pairs
    kind, first, second = int(pairs[pair, 0]), int(pairs[pair, 1]), int(pairs[pair, SECOND])
    spare = -capsules[first, RADIUS] - pairs[pair, MARGIN]
    if kind == OTHER:
        s, t = nearest_on_axes(placed, first, second)
        return spare - capsules[second, RADIUS] + _apart(_point(placed, first, s), _point(placed, second, t))
    if kind == TABLE:
        return spare + min(placed[first, 2], placed[first, 5]) - body.table
    return spare + nearest_to_box(placed, first, body.boxes, second)[1]


@compiled
def least_spare_distance(body: Body, pair: int, placed: np.ndarray) -> float:
    """Return a lower bound on the spare distance of a pair, m, from the middles of the two."""
    capsules, pairs, boxes = body.capsules, body.pairs, body.boxes
    kind, first, second = int(pairs[pair, 0]), int(pairs[pair, 1]), int(pairs[pair, SECOND])
    if kind == TABLE:
        return -math.inf
    spare = -capsules[first, RADIUS] - pairs[pair, MARGIN] - pairs[pair, HALF_LENGTHS]
    middle = _point(placed, first, 0.5)
    if kind == OTHER:
        return spare - capsules[second, RADIUS] + _apart(middle, _point(placed, second, 0.5))
    return spare + _apart(middle, (boxes[second, 9], boxes[second, 10], boxes[second, 11]))


@compiled
def closest(body: Body, placed: np.ndarray, exact_below: float) -> float:
    """Return the smallest spare distance of all pairs, m, infinite without pairs.

    If it is above `exact_below` (m), the result may be a lower bound instead, which is faster.
    """
    found = math.inf
    for pair in range(len(body.pairs)):
        spare = least_spare_distance(body, pair, placed)
        if not spare > exact_below:
            spare = spare_distance(body, pair, placed)
        if not spare >= found:  # a NaN is kept
            found = spare
    return found


@compiled
def keep_nearest(body: Body, placed: np.ndarray, influence: float, nearest: np.ndarray, spares: np.ndarray) -> int:
    """Find the pairs with spare distances below `influence` (m), nearest first.

    Parameters
    ----------
    nearest, spares
        [n], set to the numbers of the n nearest pairs and to their spare distances, m.

    Returns
    -------
    int
        How many were found, at most n.
    """
    count, most = 0, len(nearest)
    for pair in range(len(body.pairs)):
        if least_spare_distance(body, pair, placed) >= influence:
            continue
        spare = spare_distance(body, pair, placed)
        if not spare < influence or (count == most and spare >= spares[most - 1]):
            continue
        if count < most:
            count += 1
        at = count - 1
        while at > 0 and spares[at - 1] > spare:
            nearest[at], spares[at] = nearest[at - 1], spares[at - 1]
            at -= 1
        nearest[at], spares[at] = pair, spare
    return count


@compiled
def _add_speed(
    body: Body, poses: np.ndarray, link: int, point: Vector, direction: Vector, sign: float, rows: np.ndarray, row: int
) -> None:
    """Add to a row the speed of a point on a link along a direction, times `sign`, per unit velocity of each joint."""
    chain = body.chain
    while link >= 0:
        axis = joint_axis(chain, poses, link)
        if int(chain[link, KIND]) == REVOLUTE:
            dx = point[0] - poses[link, TRANSLATION]
            dy = point[1] - poses[link, TRANSLATION + 1]
            dz = point[2] - poses[link, TRANSLATION + 2]
            speed = direction[0] * (axis[1] * dz - axis[2] * dy)
            speed += direction[1] * (axis[2] * dx - axis[0] * dz)
            speed += direction[2] * (axis[0] * dy - axis[1] * dx)
        else:
            speed = direction[0] * axis[0] + direction[1] * axis[1] + direction[2] * axis[2]
        rows[row, int(chain[link, JOINT])] += sign * speed
        link = int(chain[link, PARENT])


@compiled
def separation_rates(body: Body, poses: np.ndarray, pair: int, placed: np.ndarray, rows: np.ndarray, row: int) -> None:
    """Set a row [J]: its product with joint velocities is the speed at which a pair separates, m/s."""
    rows[row] = 0.0
    kind, first, second = int(body.pairs[pair, 0]), int(body.pairs[pair, 1]), int(body.pairs[pair, SECOND])
    if kind == OTHER:
        s, t = nearest_on_axes(placed, first, second)
        point, other = _point(placed, first, s), _point(placed, second, t)
        size = max(_apart(point, other), TINY_M)
        direction = (other[0] - point[0]) / size, (other[1] - point[1]) / size, (other[2] - point[2]) / size
        _add_speed(body, poses, int(body.capsules[second, LINK]), other, direction, 1.0, rows, row)
    elif kind == TABLE:
        point = _point(placed, first, 0.0 if placed[first, 2] <= placed[first, 5] else 1.0)
        direction = 0.0, 0.0, -1.0
    else:
        point = _point(placed, first, nearest_to_box(placed, first, body.boxes, second)[0])
        direction = box_direction(body.boxes, second, point)
    _add_speed(body, poses, int(body.capsules[first, LINK]), point, direction, -1.0, rows, row)


@compiled
def place(body: Body, joints: np.ndarray, poses: np.ndarray, placed: np.ndarray) -> None:
    """Set the `poses` of the joints [J + 1, 12] and the `placed` capsules [N, 6] at `joints` [J]."""
    find_poses(body.chain, joints, poses)
    place_capsules(body.capsules, poses, placed)


@compiled
def find_spare_distances(
    body: Body, joints: np.ndarray, poses: np.ndarray, placed: np.ndarray, spares: np.ndarray
) -> None:
    """Set the spare distances [P] m of all pairs at `joints` [J], and `poses` and `placed` capsules."""
    place(body, joints, poses, placed)
    for index in range(len(body.pairs)):
        spares[index] = spare_distance(body, index, placed)


@compiled
def find_closing(
    body: Body,
    poses: np.ndarray,
    placed: np.ndarray,
    influence: float,
    nearest: np.ndarray,
    rows: np.ndarray,
    spares: np.ndarray,
) -> int:
    """Find the pairs nearer than `influence` (m), nearest first; return how many.

    Sets the numbers `nearest` [n], `rows` [n, J] (see `separation_rates`) and `spares` [n] m of the n nearest.
    """
    count = keep_nearest(body, placed, influence, nearest, spares)
    for index in range(count):
        separation_rates(body, poses, nearest[index], placed, rows, index)
    return count


ARRAYS = "f8[:,::1], f8[:,::1], f8[:,::1], f8[:,::1], f8"  # of a `Body`
PLACES = "f8[::1], f8[:,::1], f8[:,::1]"  # joints, poses and placed capsules


@entry_point(f"void({ARRAYS}, {PLACES}, f8[::1])")
def spare_distances(
    chain: np.ndarray,
    capsules: np.ndarray,
    pairs: np.ndarray,
    boxes: np.ndarray,
    table: float,
    joints: np.ndarray,
    poses: np.ndarray,
    placed: np.ndarray,
    spares: np.ndarray,
) -> None:
    """`find_spare_distances` for Python."""
    find_spare_distances(Body(chain, capsules, pairs, boxes, table), joints, poses, placed, spares)


@entry_point(f"i8({ARRAYS}, {PLACES}, f8, i8[::1], f8[:,::1], f8[::1])")
def closing_pairs(
    chain: np.ndarray,
    capsules: np.ndarray,
    pairs: np.ndarray,
    boxes: np.ndarray,
    table: float,
    joints: np.ndarray,
    poses: np.ndarray,
    placed: np.ndarray,
    influence: float,
    nearest: np.ndarray,
    rows: np.ndarray,
    spares: np.ndarray,
) -> int:
    """`find_closing` for Python, at `joints` [J]."""
    body = Body(chain, capsules, pairs, boxes, table)
    place(body, joints, poses, placed)
    return find_closing(body, poses, placed, influence, nearest, rows, spares)


@entry_point(f"f8({ARRAYS}, {PLACES}, f8)")
def closest_pair(
    chain: np.ndarray,
    capsules: np.ndarray,
    pairs: np.ndarray,
    boxes: np.ndarray,
    table: float,
    joints: np.ndarray,
    poses: np.ndarray,
    placed: np.ndarray,
    exact_below: float,
) -> float:
    """`closest` for Python, at `joints` [J]."""
    body = Body(chain, capsules, pairs, boxes, table)
    place(body, joints, poses, placed)
    return closest(body, placed, exact_below)
