"""Labels that need no person: points of the arm, known in every image from the joints and one pose of the camera.

The camera's pose is fitted once per episode to the places at which the encoder sees the arm, by least squares with
weights that ignore gross errors, and kept near the bundle's pose. The fit uses the encoder as it was before the
adaptation. So the reprojection error is lowest for that encoder, and an improvement is not an effect of the fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlfp_ros.contract import CameraContract
from rlfp_ros.control.arm import Arm
from rlfp_ros.control.kinematics import Kinematics, rotation_matrix
from rlfp_ros.simulation.tasks.task import ARM_FOOT, Task
from rlfp_ros.simulation.tasks.task_scene import HAND_BEHIND_TOOL

ROUNDS = 20  # of the fit
TYPICAL_PX = 1.0  # error of a point that is seen well
GROSS_PX = 10.0  # larger errors count as this one
ARM_POINTS = ("tool", "hand", "base")


@dataclass(frozen=True)
class ArmLabels:
    """Points of the arm in N images.

    Attributes
    ----------
    indices
        [P], which feature points of the encoder they are.
    points
        float32 [N, P, 2] on the plane z = 1 of the optical frame.
    visible
        bool [N, P], whether the point lies inside the image.
    """

    indices: np.ndarray
    points: np.ndarray
    visible: np.ndarray


def arm_indices(task: Task) -> tuple[tuple[str, ...], np.ndarray]:
    """Return which of `ARM_POINTS` the encoders of a task are trained to see, and their places among its points."""
    names = tuple(name for name in ARM_POINTS if name in task.keypoints)
    return names, np.array([task.keypoints.index(name) for name in names])


def arm_points(arm: Arm, names: tuple[str, ...], positions: np.ndarray) -> np.ndarray:
    """Return the points [N, P, 3] m, base frame, of an arm at joint positions [N, J] rad."""
    kinematics = Kinematics(arm)
    rows = []
    for joints in positions:
        tool, rotation, _ = kinematics.evaluate(joints)
        known = {"tool": tool, "hand": tool - HAND_BEHIND_TOOL * rotation[:, 2], "base": np.array(ARM_FOOT)}
        rows.append([known[name].copy() for name in names])
    return np.array(rows)


def fit_camera(points: np.ndarray, seen: np.ndarray, camera: CameraContract) -> np.ndarray:
    """Fit T_base_camera, 4 x 4, to points [N, P, 3] m that are seen at [N, P, 2] on the plane z = 1.

    Each point has Cauchy's weight: one that is seen at a wrong place has little influence. The bundle's pose is a
    prior, whose deviation is half of the tolerance that the contract allows.
    """
    given = camera.T_base_camera.matrix()
    T, scale = given.copy(), TYPICAL_PX / camera.intrinsics.fx
    prior = np.repeat([2 / camera.tolerance.xyz_m, 2 / camera.tolerance.angle_rad], 3)
    base, target = points.reshape(-1, 3), seen.reshape(-1, 2)
    moved = np.zeros(6)
    for _ in range(ROUNDS):
        p = (base - T[:3, 3]) @ T[:3, :3]
        error = (target - p[:, :2] / p[:, 2:]) / scale  # [M, 2]
        weights = 1 / (1 + np.sum(error**2, axis=1))
        J = _sensitivity(p) / scale  # [M, 2, 6]
        A = np.einsum("m,mki,mkj->ij", weights, J, J) + np.diag(prior**2)
        b = np.einsum("m,mki,mk->i", weights, J, error) - prior**2 * moved
        change = np.linalg.solve(A, b)
        moved += change
        step = np.eye(4)
        step[:3, :3], step[:3, 3] = rotation_matrix(change[3:]), change[:3]
        T = T @ step
        if np.abs(change).max() < 1e-7:
            break
    return T


def _sensitivity(p: np.ndarray) -> np.ndarray:
    """Return the derivative [M, 2, 6] of points p [M, 3] on the plane z = 1 by a camera motion (v m, w rad)."""
    x, y, z = p.T
    zero = np.zeros_like(z)
    by_point = np.stack([np.stack([1 / z, zero, -x / z**2], 1), np.stack([zero, 1 / z, -y / z**2], 1)], 1)
    # If the camera moves by v and turns by w, a fixed point moves by -v - w x p in its frame.
    turned = -np.stack([np.cross(p, by_point[:, 0]), np.cross(p, by_point[:, 1])], 1)
    return np.concatenate([-by_point, turned], axis=2)


def project(points: np.ndarray, T_base_camera: np.ndarray) -> np.ndarray:
    """Project points [..., 3] m of the base frame onto the plane z = 1 of the optical frame, [..., 2]."""
    p = (points - T_base_camera[:3, 3]) @ T_base_camera[:3, :3]
    return np.asarray(p[..., :2] / p[..., 2:])


def inside(points: np.ndarray, camera: CameraContract) -> np.ndarray:
    """Return whether points [..., 2] on the plane z = 1 lie inside the image."""
    lens = camera.intrinsics
    u, v = points[..., 0] * lens.fx + lens.cx, points[..., 1] * lens.fy + lens.cy
    return np.asarray((u > 0) & (u < camera.width - 1) & (v > 0) & (v < camera.height - 1))


def reprojection_px(features: np.ndarray, labels: ArmLabels, camera: CameraContract) -> float:
    """Return the mean distance, px, of the arm's points in features [N, K, 3] from where the joints put them."""
    error = np.linalg.norm(features[:, labels.indices, :2] - labels.points, axis=-1) * camera.intrinsics.fx
    return float(np.minimum(error, GROSS_PX)[labels.visible].mean())
